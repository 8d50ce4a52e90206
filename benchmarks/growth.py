"""How cost grows: with pictures, resolution, rank, batch and processes. CPU seconds, on the demo's base.

    python benchmarks/growth.py --work DIR [--plot docs/images/growth.png]

One thing at a time is changed from 64 pictures, 128 x 128, rank 8, batch 4. ``step`` is the median of a training step,
``encode`` what encoding a picture and its caption takes, ``start`` what a run with everything encoded takes to its
first step. The pictures are noise, of a size a little above the resolution. Of processes that share each step, of the
batch each, ``step`` is what one of them takes: by what a longer run takes more. The plot wants matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

USUAL = {"images": 64, "resolution": 128, "rank": 8, "batch": 4}
POINTS = {
    "images": (16, 64, 256, 1024),
    "resolution": (64, 128, 192, 256),
    "rank": (4, 8, 16, 32, 64),
    "batch": (1, 2, 4, 8, 16),
}
PROCESSES = (1, 2, 3, 4)
STEPS = 6
SHORT, LONG = 10, 130  # steps


def pictures(folder: Path, count: int, size: int) -> Path:
    """So many pictures of noise, with captions."""
    import numpy as np
    from PIL import Image

    place = folder / f"{count} of {size}"
    if place.exists():
        return place
    place.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"picture number {number}", encoding="utf-8")
    return place


def measure(folder: Path, images: int, resolution: int, rank: int, batch: int) -> dict[str, float]:
    """``step``, ``encode`` and ``start``, in CPU seconds."""
    from step_time import steps_alone

    from trainer import events, run
    from trainer.demo import BASE

    shutil.rmtree(folder / "run", ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    noise = pictures(folder, images, resolution * 9 // 8)
    settings = steps_alone(folder, BASE, noise, STEPS, resolution=resolution, lora_rank=rank, batch_size=batch)
    told: dict[str, float] = {}
    steps: list[float] = []
    since = began = 0.0

    def sink(event: events.Event) -> None:
        nonlocal since
        now = time.process_time()
        if isinstance(event, events.Phase) and event.name.startswith("loading"):
            told.setdefault("encode", (now - began) / images)
        elif isinstance(event, events.RunStarted):
            told["start"] = now - began
        elif isinstance(event, events.Step):
            steps.append(now - since)
        since = now

    for _ in range(2):  # the second time everything is encoded
        steps.clear()
        shutil.rmtree(folder / "run", ignore_errors=True)
        began = time.process_time()
        end = run.start(settings, [sink])
        assert isinstance(end, events.RunFinished), end
    return {**told, "step": statistics.median(steps[1:])}


def shared(folder: Path, processes: int) -> dict[str, float]:
    """``step`` of each of so many processes on this machine, in CPU seconds."""
    from step_time import steps_alone

    from trainer.demo import BASE

    noise = pictures(folder, USUAL["images"], USUAL["resolution"] * 9 // 8)
    rest = {"resolution": USUAL["resolution"], "lora_rank": USUAL["rank"], "batch_size": USUAL["batch"]}
    file = folder / "shared.yaml"
    spent = []
    for steps in (SHORT, LONG):
        shutil.rmtree(folder / "run", ignore_errors=True)
        file.write_text(steps_alone(folder, BASE, noise, steps, **rest).to_yaml(), encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        began = children()
        subprocess.run(
            [*command, "-m", "trainer", "train", "--config", str(file)],
            cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True,
        )  # fmt: skip
        spent.append(children() - began)
    return {"step": round((spent[1] - spent[0]) / (LONG - SHORT) / processes, 4)}


def children() -> float:
    """CPU seconds of all processes that were started here and have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def plot(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports]

    figure, axes = pyplot.subplots(1, len(found), figsize=(3.4 * len(found), 3.2), constrained_layout=True)
    for axis, (what, points) in zip(axes, found.items(), strict=True):
        told = "start" if what == "images" else "step"
        x, y = [one[what] for one in points], [one[told] for one in points]
        axis.plot(x, y, "o-", color="#2563eb", linewidth=2)
        axis.set(xlabel=what, ylim=(0, 1.15 * max(y)), xticks=x)
        unit = "CPU s a step, each process" if what == "processes" else "CPU s a step"
        axis.set_ylabel("CPU s to the first step" if told == "start" else unit)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if what == "images":
            axis.set_xscale("log", base=4)
            axis.set_xticks(x, [str(one) for one in x])
    figure.savefig(file, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    measure(args.work, **{**USUAL, "images": 16})  # imports
    found: dict[str, list[dict[str, Any]]] = {}
    for what, values in POINTS.items():
        for value in values:
            point = {**USUAL, what: value}
            told = {name: round(seconds, 4) for name, seconds in measure(args.work, **point).items()}
            found.setdefault(what, []).append({what: value, **told})
            print(json.dumps(found[what][-1]), flush=True)
    for count in PROCESSES:
        found.setdefault("processes", []).append({"processes": count, **shared(args.work, count)})
        print(json.dumps(found["processes"][-1]), flush=True)
    if args.plot:
        plot(found, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
