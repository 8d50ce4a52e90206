"""Whether the right checkpoint is called best: runs that are three times too long, judged on pictures they never saw.

    python benchmarks/early_stop.py [--seeds 1,2,3] [--steps 1200]

Sixteen drawn pictures in a style that the embedded base does not know, four of them held out. Every checkpoint is
measured afterwards on sixty-four other pictures of that style, at eight timesteps each: that is what the choice is
judged by, and it knew nothing of them. Beside it: how far it is above the lowest on the run's own held-out pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from trainer import adapters, checkpoint, export, families, own, prepare, run, validation
from trainer.cache import Cache
from trainer.config import TrainConfig, parse
from trainer.dataset import scan
from trainer.dataset.sampler import Presentation
from trainer.demo import BASE, world
from trainer.events import HELD_OUT, RunFinished
from trainer.files import ContentHashes
from trainer.tasks.diffusion import Diffusion
from trainer.trained import build

STYLE = "neon"


@dataclass(frozen=True)
class Outcome:
    """One run.

    Args:
        losses: of every checkpoint on the pictures that it never saw, by step; 0: of the base model.
        chosen: the step that is called best.
        own: of every checkpoint that the run measured, the loss on its own held-out pictures.
        stopped: the step at which ``early_stopping_patience`` would have ended it; 0: at none.
        seconds: of the training.
    """

    losses: dict[int, float]
    chosen: int
    own: dict[int, float]
    stopped: int
    seconds: float

    @property
    def last(self) -> int:
        """The last step."""
        return max(self.losses)

    @property
    def lowest(self) -> int:
        """The checkpoint with the lowest loss of all."""
        return min((step for step in self.losses if step), key=lambda step: self.losses[step])

    @property
    def regret(self) -> float:
        """How much higher the loss of the chosen one is than the lowest, relative, on pictures that it never saw."""
        return self.losses[self.chosen] / self.losses[self.lowest] - 1

    @property
    def own_regret(self) -> float:
        """The same on its own held-out pictures."""
        return self.own[self.chosen] / min(self.own.values()) - 1


def draw(folder: Path, seeds: Sequence[int]) -> Path:
    """Captioned pictures in the style, one a seed."""
    folder.mkdir(parents=True)
    for seed in seeds:
        drawing = world.draw(seed, style=STYLE)
        drawing.image.save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(world.caption_of(drawing.facts), encoding="utf-8")
    return folder


def measure(
    folder: Path, seed: int, *, pictures: int = 16, unseen: int = 64, draws: int = 8, patience: int = 3, **fields: Any
) -> Outcome:
    """Trains a run, and judges its choice.

    Args:
        folder: empty; everything is written there.
        seed: of the run and of its pictures.
        pictures: that it gets, those that it holds out among them.
        unseen: pictures that it is judged by.
        draws: timesteps of each.
        patience: for what early stopping would have done.
        fields: of the config, beside or in place of these.
    """
    settings = {
        "base_model": BASE.as_posix(),
        "train_data_dir": draw(folder / "data", range(1000 * seed, 1000 * seed + pictures)).as_posix(),
        "cache_dir": (folder / "cache").as_posix(),
        "output_dir": (folder / "run").as_posix(),
        "resolution": world.SIDE,
        "lora_targets": "conv",
        "batch_size": 4,
        "epochs": 100_000,
        "learning_rate": 4e-3,
        "lr_scheduler": "cosine",
        "warmup_steps": 20,
        "gradient_checkpointing": False,
        "mixed_precision": "no",
        "validation_images": 4,
        "validation_steps": 60,
        "save_steps": 60,
        "sample_every": 0,
        "log_interval": 100,
        "seed": seed,
        **fields,
    }
    config = parse(settings)
    began = time.perf_counter()
    end = run.start(config, [])
    seconds = time.perf_counter() - began
    if not isinstance(end, RunFinished):
        raise SystemExit(str(end))
    steps = validation.read(config.output_dir).steps
    ended = (step for step in steps if validation.exhausted({s: v for s, v in steps.items() if s <= step}, patience))
    others = draw(folder / "unseen", range(900_000, 900_000 + unseen))
    judged = parse({**settings, "train_data_dir": others.as_posix(), "validation_images": 0, "caption_dropout": 0.0})
    kept = checkpoint.complete(config.output_dir)
    own = {step: fmean(signals[HELD_OUT].values()) for step, signals in steps.items() if step in kept}
    return Outcome(_judge(config, judged, draws), end.best, own, next(ended, 0), seconds)


@torch.no_grad()
def _judge(config: TrainConfig, others: TrainConfig, draws: int) -> dict[int, float]:
    """The loss of every checkpoint of a run on other pictures, each at so many timesteps with noise of its own."""
    cache = Cache(config.cache_dir or Path())
    base = own.base(config, ContentHashes(cache.folder / "hashes.json"))
    family = families.get(base.family)
    encoder = own.OwnEncoder(family, base)
    dataset = scan(others.train_data_dir, resolution=others.resolution)
    job = prepare.plan(others.resolved(), dataset, base, encoder, cache.folder)
    prepare.fill(job, dataset, encoder, cache, emit=lambda event: None)
    task = Diffusion(job, family, cache, torch.device("cpu"))
    batches = [task.batch([Presentation(item, 0) for item in job.items], number) for number in range(draws)]
    trained = build(family, base, config, torch.float32)

    def loss() -> float:
        return torch.cat([task.loss(trained.model, batch) for batch in batches]).mean().item()

    found = {0: loss()}
    for step in checkpoint.complete(config.output_dir):
        tensors, _ = export.read(checkpoint.lora(config.output_dir, step))
        adapters.start_from(trained.parts, tensors, family.export_key, f"step {step}")
        found[step] = loss()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3", help="numbers between commas")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--held-out", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also writes every checkpoint's loss there")
    args = parser.parse_args()
    found = {}
    print(
        "seed   lowest          last            best             above the lowest   of its own   would have stopped at"
    )
    for seed in map(int, args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            one = found[seed] = measure(
                Path(folder),
                seed,
                max_steps=args.steps,
                learning_rate=args.rate,
                pictures=12 + args.held_out,
                validation_images=args.held_out,
            )
        told = [f"{one.losses[step]:.4f} at {step}" for step in (one.lowest, one.last, one.chosen)]
        print(
            f"{seed:<7}{told[0]:<16}{told[1]:<16}{told[2]:<17}{one.regret:<19.1%}"
            f"{one.own_regret:<13.1%}{one.stopped or 'no step'}",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps({seed: one.losses for seed, one in found.items()}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
