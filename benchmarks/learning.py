"""Whether every method and every optimizer learns: the held-out loss on the embedded base, before and after.

    python benchmarks/learning.py [--steps 100] [--only dora,prodigy]

Twelve drawn pictures in a style that the base does not know, three of them held out; the loss on these, at four fixed
timesteps with fixed noise, at the start and at the end. The rates are those that suit each way on this small model,
not advice for real ones.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer import run
from trainer.config import parse
from trainer.demo import BASE, world
from trainer.events import HELD_OUT, Event, RunFinished, Validation

RUNS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"lora_method": "rslora", "learning_rate": 2e-3},
    "dora": {"lora_method": "dora"},
    "loha": {"lora_method": "loha"},
    "lokr": {"lora_method": "lokr"},
    "text encoder": {"train_text_encoder": True, "learning_rate": 2e-3},
    "adamw8bit": {"optimizer": "adamw8bit"},
    "adafactor": {"optimizer": "adafactor"},
    "prodigy": {"optimizer": "prodigy", "learning_rate": 1.0},
    "lion": {"optimizer": "lion", "learning_rate": 1e-3},
    "schedulefree": {"optimizer": "schedulefree", "learning_rate": 8e-3},
    "moving average": {"ema_decay": 0.95},
    "min-SNR 5": {"min_snr_gamma": 5.0},
    "huber": {"loss_type": "huber", "huber_delta": 0.5},
}


def measure(folder: Path, steps: int, **fields: Any) -> tuple[float, float, float]:
    """The held-out loss before and after, and the seconds between."""
    data = folder / "data"
    world.write_dataset(data)
    config = parse(
        {
            "base_model": BASE.as_posix(),
            "train_data_dir": data.as_posix(),
            "cache_dir": (folder / "cache").as_posix(),
            "output_dir": (folder / "run").as_posix(),
            "resolution": 128,
            "lora_targets": "conv",
            "batch_size": 4,
            "max_steps": steps,
            "epochs": 1000,
            "learning_rate": 4e-3,
            "lr_scheduler": "constant",
            "warmup_steps": "auto",
            "gradient_checkpointing": False,
            "mixed_precision": "no",
            "validation_images": 3,
            "validation_steps": 100_000,
            "save_steps": 100_000,
            "sample_every": 0,
            **fields,
        }
    )
    losses: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, Validation) and event.signal == HELD_OUT:
            losses.append(event.loss)

    start = time.perf_counter()
    end = run.start(config, [watch])
    if not isinstance(end, RunFinished):
        raise SystemExit(str(end))
    return losses[0], losses[-1], time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", default="", help="names between commas")
    args = parser.parse_args()
    chosen = [name.strip() for name in args.only.split(",") if name.strip()] or list(RUNS)
    print(f"{'':<16}{'before':>8}{'after':>8}{'change':>9}{'time':>7}")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            before, after, seconds = measure(Path(folder), args.steps, **RUNS[name])
        print(f"{name:<16}{before:>8.4f}{after:>8.4f}{after / before - 1:>9.1%}{seconds:>6.0f}s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
