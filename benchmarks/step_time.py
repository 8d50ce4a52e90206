"""What a step costs, beside what users would pick instead: CPU seconds and peak memory, full-size SD1.5, photographs.

    python benchmarks/step_time.py --work DIR [--ways floor peft ours diffusers sd-scripts node ...] [--rounds 6]
        [--sd-scripts CHECKOUT] [--comfy CHECKOUT] [--base FILE] [--steps 4] [--resolution 256]

The ways are those of ``peers.py``, and ours, a whole run. Each measurement is a process of its own; the ways take
turns, so that a machine whose speed wanders treats all alike; a process's first step is a warm-up and does not count.
A run saves at least five times, so this short one saves after each step: that time is told beside, not in the step.
``ready`` is from the start of the process to its first step: imports, loading, and whatever else a way does before.
Without ``--base`` a full-size checkpoint with random weights is written (2.1 GB): the time is that of real ones.
The node and sd-scripts want their own packages in this Python; ComfyUI's with ours and opencv has all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import peers  # noqa: E402

WAYS = (*peers.PEERS, "ours")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the base, the pictures and the runs")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["floor", "peft", "ours"])
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument("--comfy", type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps that count, in each process")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--profile", choices=list(peers.PEERS), help="only show where a step of this way spends its time"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.base = args.base or args.work / "sd15-random.safetensors"
    if args.way:
        print(json.dumps(measure(args)))
        return 0
    photographs(args.work / "photographs")
    if not args.base.exists():
        from trainer.families import sd15_random

        sd15_random.write_random(args.base)
    if args.profile:
        print(profiled(args))
        return 0
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    call(args, "ours")  # fills the cache
    for number in range(1, args.rounds + 1):
        for way in args.ways:
            found[way].append(call(args, way))
            step = statistics.median(found[way][-1]["seconds"])
            print(f"round {number} {way}: {step:.3f} CPU s a step", flush=True)
    report(found)
    return 0


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """A table: medians over the rounds, and the median of each round's ratio to bare PEFT."""
    steps = {way: [statistics.median(one["seconds"]) for one in rounds] for way, rounds in found.items()}
    print("way             CPU s a step (range)      / peft   ready, CPU s (wall)   peak")
    for way, rounds in found.items():
        ratio = ""
        if "peft" in steps:
            ratio = f"{statistics.median(a / b for a, b in zip(steps[way], steps['peft'], strict=True)):.3f}"
        ready, wall = (statistics.median(one[name] for one in rounds) for name in ("ready", "wall"))
        peak = max(one["peak"] for one in rounds) / 2**30
        spread = f"{min(steps[way]):.2f} to {max(steps[way]):.2f}"
        print(
            f"{way:<15} {statistics.median(steps[way]):6.3f} ({spread})   {ratio:>6}   "
            f"{ready:6.1f} ({wall:.1f})   {peak:.2f} GiB"
        )
    if saving := [second for one in found.get("ours", []) for second in one["saving"]]:
        print(f"a checkpoint of ours: median {statistics.median(saving):.3f} CPU s")


def call(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Measures one way in a process of its own."""
    command = [sys.executable, __file__, "--work", str(args.work), "--base", str(args.base), "--way", way]
    command += ["--steps", str(args.steps), "--resolution", str(args.resolution)]
    for name in ("sd_scripts", "comfy"):
        if path := getattr(args, name):
            command += [f"--{name.replace('_', '-')}", str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """``seconds`` of each step that counts, ``ready`` and ``wall`` before the first, ``peak`` bytes, ``saving``."""
    import psutil  # accelerate's own requirement

    from trainer.gauge import Gauge, process_peak

    def wall() -> float:
        return time.time() - psutil.Process().create_time()

    if args.way == "ours":
        told = ours(settings(args), wall)
    else:
        import torch
        from diffusers import DDPMScheduler, UNet2DConditionModel  # noqa: F401
        from peft import LoraConfig  # noqa: F401

        began = time.process_time(), wall()
        data = given(args)
        inputs = time.process_time() - began[0], wall() - began[1]  # of ours' cache: no peer reads that
        stamps, walls = [], []
        for _ in peers.PEERS[args.way](data):
            if not stamps:  # as our runs do: of loading nothing counts
                Gauge(torch.device("cpu")).begin()
            stamps.append(time.process_time())
            walls.append(wall())
        steps = [after - before for before, after in itertools.pairwise(stamps)]
        told = {"seconds": steps[1:], "ready": stamps[0] - inputs[0], "wall": walls[0] - inputs[1], "saving": []}
    return {**told, "peak": process_peak()}


def profiled(args: argparse.Namespace) -> str:
    """Torch's table of a step, after one that does not count; a run of ours must have been here."""
    from torch.profiler import ProfilerActivity, profile

    steps = peers.PEERS[args.profile](given(args))
    for _ in range(2):
        next(steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        next(steps)
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40)


def settings(args: argparse.Namespace) -> Any:
    """The run that all ways train."""
    return steps_alone(
        args.work, args.base, args.work / "photographs", args.steps + 1, resolution=args.resolution, batch_size=1,
        save_steps=100_000, caption_dropout=0.0,
    )  # fmt: skip


def steps_alone(work: Path, base: Path, pictures: Path, steps: int, **more: Any) -> Any:
    """The config of a run of so many steps in fp32, in folders of ``work``, with nothing between the steps."""
    from trainer import config

    return config.parse(
        {
            "base_model": base.as_posix(),
            "train_data_dir": pictures.as_posix(),
            "output_dir": (work / "run").as_posix(),
            "cache_dir": (work / "cache").as_posix(),
            "max_steps": steps,
            "epochs": 1000,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "log_interval": 1,
            "sample_every": 0,
            "validation_steps": 0,
            **more,
        }
    )


def ours(config: Any, wall: Any) -> dict[str, Any]:
    """An ordinary run, by its events."""
    import shutil

    from trainer import events, run

    shutil.rmtree(config.output_dir, ignore_errors=True)
    told: dict[str, Any] = {"seconds": [], "saving": []}
    since = 0.0

    def sink(event: events.Event) -> None:
        nonlocal since
        now = time.process_time()
        match event:
            case events.RunStarted():
                told.update(ready=now, wall=wall())
            case events.Step():
                told["seconds"].append(now - since)
            case events.Checkpoint():
                told["saving"].append(now - since)
        since = now

    end = run.start(config, [sink])
    assert isinstance(end, events.RunFinished), end
    return {**told, "seconds": told["seconds"][1:]}


def given(args: argparse.Namespace) -> peers.Given:
    """What our run trains, in its order: pictures of another shape take another time."""
    import torch
    from frozen_cuda import described

    from trainer import families, job
    from trainer.cache import Cache
    from trainer.dataset.sampler import windows

    config = settings(args)
    family = families.detect(config.base_model)
    loaded = job.load(config.output_dir)
    cache = Cache(loaded.cache_dir)
    order = (
        w[0].item for epoch in itertools.count() for w in windows(loaded.items, seed=config.seed, epoch=epoch, size=1)
    )
    data = [
        (
            cache.load("latents", item.latents)["latents"] * family.latent_scale,
            cache.load("conditioning", item.conditioning[0])["hidden"],
            item.captions[0],
            args.work / "photographs" / Path(item.path).name,
        )
        for item in itertools.islice(order, args.steps + 1)
    ]
    with torch.device("meta"):
        from diffusers import UNet2DConditionModel

        unet: Any = UNet2DConditionModel.from_config(described(family.name, toy=False))
    names = [name for name, module in unet.named_modules() if family.is_target(name, module, config.lora_targets)]
    return peers.Given(args.base, names, data, args.resolution, args.sd_scripts, args.comfy)


def photographs(folder: Path) -> None:
    """Writes the photographs that scikit-image and scikit-learn carry, with captions."""
    if folder.exists():
        return
    import skimage.data  # pyright: ignore[reportMissingImports]
    from PIL import Image
    from sklearn.datasets import load_sample_images  # pyright: ignore[reportMissingImports]

    pictures = {
        "an astronaut": skimage.data.astronaut(),
        "a cat": skimage.data.chelsea(),
        "a cup of coffee": skimage.data.coffee(),
        "a rocket on its launch pad": skimage.data.rocket(),
        **dict(zip(("a Chinese temple", "a flower"), load_sample_images().images, strict=True)),
    }
    folder.mkdir(parents=True)
    for caption, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{caption}.png")
        (folder / f"{caption}.txt").write_text(f"a photograph of {caption}", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
