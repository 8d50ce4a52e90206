"""How soon a LoRA is as good as it must be: steps and CPU seconds to a fixed loss on pictures that are not trained.

    OMP_NUM_THREADS=1 python benchmarks/time_to_quality.py [--only auto,native] [--seeds 3] [--goal 0.04]

The embedded base learns the neon style from the demo's twelve pictures; the loss is the plain one (epsilon, squared) on
twelve other neon pictures at four timesteps, with fixed noise. Ways:

- auto: what ``auto: true`` chooses, nothing else set;
- native: ComfyUI's own Train LoRA as it comes (comfy_extras/nodes_train.py): rank 8, alpha 1, AdamW at a constant 5e-4,
  one picture a step, timesteps drawn uniformly, the squared error of the denoised latents (so that noise weighs by its
  variance), a LoRA on every matrix and kernel, and every bias and norm as it is. Written anew here in fp32;
- kohya: sd-scripts' train_network as it comes: rank 4, alpha 1, AdamW at a constant 1e-4, one picture a step.

These defaults are for models of full size. The embedded one is 1/19 as wide, and ``auto`` knows; so the other two also
run with 19 times their rate (``native x19``, ``kohya x19``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer import advisor, families, loop, optim, prepare
from trainer.advisor import Room
from trainer.averages import Averages
from trainer.cache import Cache
from trainer.checkpoint import Position
from trainer.config import TrainConfig, parse
from trainer.control import Requests
from trainer.dataset import scan
from trainer.dataset.sampler import windows_per_epoch
from trainer.demo import BASE, world
from trainer.device import accelerate
from trainer.gauge import Gauge
from trainer.job import Base, Item, Job
from trainer.own import OwnEncoder
from trainer.tasks.diffusion import Diffusion
from trainer.trained import build
from trainer.training import Training

SIDE = world.SIDE
HELD_OUT, TIMESTEPS = 12, (125, 375, 625, 875)
GOAL = 0.04
"""The loss to reach. The base alone has 0.153; what auto comes to in the end is 0.019."""
_QUIET = {
    "base_model": BASE.as_posix(), "mixed_precision": "no", "save_steps": 10**6, "sample_every": 0,
    "validation_images": 0, "log_interval": 10**6,
}  # fmt: skip
_CONSTANT = {"lr_scheduler": "constant", "warmup_steps": 0, "caption_dropout": 0.0, "batch_size": 1, "epochs": 10**5}
_KOHYA = {**_CONSTANT, "lora_rank": 4, "lora_alpha": 1.0, "resolution": SIDE, "gradient_checkpointing": False}
WAYS: dict[str, dict[str, Any]] = {
    "auto": {"auto": True},
    "kohya": {**_KOHYA, "learning_rate": 1e-4},
    "kohya x19": {**_KOHYA, "learning_rate": 1.9e-3},
    "native": {"learning_rate": 5e-4},
    "native x19": {"learning_rate": 9.5e-3},
}


@dataclass
class Curve:
    """A way's loss by step, and the CPU seconds that the steps took."""

    points: list[tuple[int, float, float]] = field(default_factory=list)

    def reached(self, goal: float) -> tuple[float, float] | None:
        """Steps and seconds until the loss is at a goal, between two points by a straight line; None: it never is."""
        for (step, seconds, loss), (then, later, lower) in zip(self.points, self.points[1:], strict=False):
            if lower <= goal < loss:
                share = (loss - goal) / (loss - lower)
                return step + share * (then - step), seconds + share * (later - seconds)
        return None


class Lab:
    """The pictures, encoded, and the loss on those that are not trained.

    Args:
        folder: for what is drawn and encoded.
        seed: of the run.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.family, self.seed = families.get("sd15"), seed
        self._folder, self.cache = folder, Cache(folder / "cache")
        world.write_dataset(folder / "data")
        (folder / "other").mkdir(exist_ok=True)
        for number in range(HELD_OUT):
            drawing = world.draw(9_000 + number, style=world.UNKNOWN_STYLE)
            drawing.image.save(folder / "other" / f"{number}.png")
            (folder / "other" / f"{number}.txt").write_text(drawing.caption, encoding="utf-8")
        self.base = Base(BASE, "sd15", "the embedded base")
        self._encoder = OwnEncoder(self.family, self.base)
        self._other = self.entries(self.job(parse({**_QUIET, "resolution": SIDE}), "other").items)
        generator = torch.Generator().manual_seed(1)
        shape = (len(TIMESTEPS), *self._other[0].shape)
        self._noise = torch.randn(shape, generator=generator)
        self.alphas = self.family.noise_schedule(False)

    def job(self, config: TrainConfig, name: str) -> Job:
        """A job on one of the two folders, encoded."""
        data = scan(self._folder / name, resolution=config.resolution)
        job = prepare.plan(config, data, self.base, self._encoder, self.cache.folder)
        prepare.fill(job, data, self._encoder, self.cache, emit=lambda event: None)
        return job

    def entries(self, items: tuple[Item, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [N, 4, h, w] as the denoiser sees them, and hidden states [N, 77, D]."""
        latents = torch.cat([self.cache.load("latents", item.latents)["latents"] for item in items])
        hidden = torch.cat([self.cache.load("conditioning", item.conditioning[0])["hidden"] for item in items])
        return (latents - self.family.latent_shift) * self.family.latent_scale, hidden

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Latents [N, 4, h, w] at timesteps [N]."""
        alphas = self.alphas[at].reshape(-1, 1, 1, 1)
        return alphas.sqrt() * latents + (1 - alphas).sqrt() * noise

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """The loss on the pictures that are not trained."""
        latents, hidden = self._other
        found = []
        for timestep, noise in zip(TIMESTEPS, self._noise, strict=True):
            at = torch.full((len(latents),), timestep)
            predicted = self.family.predict(model, self.noisy(latents, noise, at), at, {"hidden": hidden})
            found.append((predicted - noise).square().mean())
        return float(torch.stack(found).mean())


class Watch:
    """Measures now and then, without counting the time that it takes."""

    def __init__(self, lab: Lab, model: nn.Module, goal: float, every: int, most: int) -> None:
        self._lab, self._model, self._goal, self._every, self._most = lab, model, goal, every, most
        self.curve, self._spent, self._since = Curve(), 0.0, time.process_time()

    def __call__(self, step: int) -> bool:
        """After a step, or before the first one: whether the goal is reached, or it has been tried long enough."""
        if step % self._every and step < self._most:
            return False
        self._spent += time.process_time() - self._since
        self._model.eval()
        loss = self._lab.loss(self._model)
        self._model.train()
        self.curve.points.append((step, self._spent, loss))
        self._since = time.process_time()
        return loss <= self._goal or step >= self._most


class Studio:
    """The loop's, which only watches."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def validate(self, position: Position) -> bool:
        """Measures; whether that is enough."""
        return self._watch(position.step)

    def validates(self, step: int) -> bool:
        """At every step: it knows itself when to measure."""
        return True

    def sample(self, position: Position) -> None:
        """Nothing."""

    save = sample

    def pause(self) -> None:
        """Nothing."""


def ours(lab: Lab, settings: dict[str, Any], goal: float, most: int, say: Callable[[str], None]) -> Curve:
    """By this program's loop, as ``run`` puts it together."""
    config = parse({**_QUIET, **settings, "seed": lab.seed})
    base = advisor.model(BASE, "sd15")
    data = scan(lab._folder / "data")
    config, choices = advisor.decide(config, advisor.facts(data.items), base, Room())
    if choices:
        say(", ".join(f"{choice.field} {choice.told[1]}" for choice in choices))
    config = config.but(validation_steps=5 if "auto" in settings else 50)
    job = lab.job(config, "data")
    trained = build(lab.family, lab.base, config, torch.float32)
    accelerator = accelerate(torch.device("cpu"), "no")
    named = trained.parameters()
    optimizer = optim.make(config, *trained.groups())
    averages = Averages(list(named.values()), optimizer, 0.0)
    per_epoch = windows_per_epoch(job.train_items, config.window)
    total = config.epochs * per_epoch
    model, optimizer = accelerator.prepare(trained.model, optimizer)
    task = Diffusion(job, lab.family, lab.cache, accelerator.device)
    run = Training(
        config, job.train_items, task, model, optimizer, list(named.values()), accelerator, Position(total=total),
        per_epoch, averages, Gauge(accelerator.device),
    )  # fmt: skip
    watch = Watch(lab, trained.model, goal, config.validation_steps, min(most, total))
    loop.train(run, Studio(watch), Requests, lambda event: None)
    return watch.curve


class Scaled(nn.Module):
    """A weight and what is learnt of it: up @ down, scaled by alpha / rank (comfy/weight_adapter/lora.py)."""

    def __init__(self, weight: torch.Tensor, rank: int = 8, alpha: float = 1.0) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(len(weight), rank))
        nn.init.kaiming_uniform_(self.up, a=5**0.5)
        self.down = nn.Parameter(torch.zeros(rank, weight[0].numel()))
        self.scale = alpha / rank

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.scale * (self.up @ self.down).reshape(weight.shape)


class Shifted(nn.Module):
    """A bias, or a norm's weight, and what is added to it."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.shift


def adapted(model: nn.Module) -> Iterator[nn.Parameter]:
    """Puts something to learn onto every layer, and gives it."""
    model.requires_grad_(False)
    for layer in [layer for layer in model.modules() if not [*layer.children()]]:
        for name, weight in list(layer.named_parameters(recurse=False)):
            change = Scaled(weight) if weight.ndim > 1 else Shifted(weight)
            parametrize.register_parametrization(layer, name, change)
            yield from change.parameters()


def native(lab: Lab, settings: dict[str, Any], goal: float, most: int, say: Callable[[str], None]) -> Curve:
    """By what ComfyUI's TrainLoraNode does with its inputs as they come."""
    torch.manual_seed(lab.seed)
    latents, hidden = lab.entries(lab.job(parse({**_QUIET, "resolution": SIDE}), "data").items)
    model = lab.family.load_model(BASE, torch.float32)
    optimizer = torch.optim.AdamW(list(adapted(model)), lr=settings["learning_rate"])
    model.train()
    watch = Watch(lab, model, goal, 50, most)
    step, done = 0, watch(0)
    while not done:
        step += 1
        (index,) = torch.randperm(len(latents))[:1].tolist()
        clean, caption = latents[index : index + 1], hidden[index : index + 1]
        at = torch.round((1 - torch.rand(1)) * 999).long()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(lab.seed + step * 1000))
        predicted = lab.family.predict(model, lab.noisy(clean, noise, at), at, {"hidden": caption})
        variance = (1 - lab.alphas[at]) / lab.alphas[at]  # sigma squared: of the denoised latents' error
        loss = variance * (predicted - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        done = watch(step)
    return watch.curve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names between commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=GOAL)
    parser.add_argument("--most", type=int, default=3000, help="steps of the other ways (default %(default)s)")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.only.split(",") if name.strip()] or list(WAYS)
    print(
        f"loss {args.goal:g} on pictures that are not trained\n{'':<12}{'seed':>5}{'steps':>8}{'seconds':>9}{'last':>9}"
    )
    for name in chosen:
        found = []
        for seed in range(1, args.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                way = native if name.startswith("native") else ours
                tell = print if seed == 1 else (lambda text: None)
                curve = way(Lab(Path(folder), seed), WAYS[name], args.goal, args.most, tell)
            reached, (step, _, loss) = curve.reached(args.goal), curve.points[-1]
            found.append(reached)
            told = f"{reached[0]:>8.0f}{reached[1]:>8.1f}s" if reached else f"{'never':>8}{'':>9}"
            print(f"{name:<12}{seed:>5}{told}{loss:>9.4f} after {step}", flush=True)
        if all(found):
            steps, seconds = (median(one[part] for one in found if one) for part in (0, 1))
            print(f"{name:<12}{'all':>5}{steps:>8.0f}{seconds:>8.1f}s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
