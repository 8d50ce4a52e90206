"""What the program costs over a bare PEFT loop: CPU seconds a step and peak memory, full-size SD1.5, real photographs.

    python benchmarks/step_time.py --work DIR [--base FILE] [--steps 4] [--rounds 6] [--resolution 256]

Both ways train the same adapter (rank 8, all linear layers of the transformer blocks) on the same cached latents and
conditioning in fp32 with AdamW and clipping, batch 1. Each measurement is a process of its own; the ways take turns,
so that a machine whose speed wanders treats both alike; a process's first step is a warm-up and does not count.
A run saves at least five times, so this short one saves after each step: that time is told beside, not in the step.
Without ``--base`` a full-size checkpoint with random weights is written (2.1 GB): the time is that of real ones.
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

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from trainer import config as configs  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402

WAYS = ("peft", "ours")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the base, the pictures and the runs")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps that count, in each process")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.base = args.base or args.work / "sd15-random.safetensors"
    if args.way:
        from trainer.gauge import process_peak

        config = settings(args)
        seconds, saving = (bare_peft(config, args.steps), []) if args.way == "peft" else ours(config)
        print(json.dumps({"seconds": seconds[1:], "saving": saving, "peak": process_peak()}))
        return 0

    photographs(args.work / "photographs")
    if not args.base.exists():
        from trainer.families import sd15_random

        sd15_random.write_random(args.base)
    measured: dict[str, list[float]] = {way: [] for way in WAYS}
    memory: dict[str, float] = dict.fromkeys(WAYS, 0.0)
    saving: list[float] = []
    call(args, "ours", 0)  # fills the cache
    for number in range(1, args.rounds + 1):
        for way in WAYS:
            result = call(args, way, number)
            measured[way].append(statistics.median(result["seconds"]))
            memory[way] = max(memory[way], result["peak"] / 2**30)
            saving += result["saving"]
            print(f"round {number} {way}: {measured[way][-1]:.3f} CPU s a step", flush=True)
    report(measured, memory)
    print(f"a checkpoint of ours: median {statistics.median(saving):.3f} CPU s")
    return 0


def report(measured: dict[str, list[float]], memory: dict[str, float]) -> None:
    """Prints the medians, their spread, and the ratio of the ways within each round."""
    for way in WAYS:
        values = measured[way]
        print(
            f"{way:>5}: median {statistics.median(values):.3f} CPU s a step "
            f"(from {min(values):.3f} to {max(values):.3f}), peak {memory[way]:.2f} GiB"
        )
    ratios = [ours / bare for ours, bare in zip(measured["ours"], measured["peft"], strict=True)]
    whole = statistics.median(measured["ours"]) / statistics.median(measured["peft"])
    print(f"ours / peft: {whole:.3f} of the medians, {statistics.median(ratios):.3f} median of the rounds' ratios")


def call(args: argparse.Namespace, way: str, number: int) -> dict:
    """Measures one way in a process of its own."""
    command = [sys.executable, __file__, "--work", str(args.work), "--base", str(args.base), "--way", way]
    command += ["--steps", str(args.steps), "--round", str(number), "--resolution", str(args.resolution)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def settings(args: argparse.Namespace) -> TrainConfig:
    """The same run for both ways."""
    return configs.parse(
        {
            "base_model": args.base.as_posix(),
            "train_data_dir": (args.work / "photographs").as_posix(),
            "output_dir": (args.work / f"run-{args.round}").as_posix(),
            "cache_dir": (args.work / "cache").as_posix(),
            "resolution": args.resolution,
            "batch_size": 1,
            "max_steps": args.steps + 1,
            "epochs": 1000,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "log_interval": 1,
            "sample_every": 0,
            "validation_steps": 0,
            "save_steps": 100_000,
            "caption_dropout": 0.0,
        }
    )


def ours(config: TrainConfig) -> tuple[list[float], list[float]]:
    """CPU seconds of each step of an ordinary run, and of each checkpoint between two of them."""
    import shutil

    from trainer import events, run

    shutil.rmtree(config.output_dir, ignore_errors=True)
    steps: list[float] = []
    saving: list[float] = []
    since = 0.0

    def sink(event: events.Event) -> None:
        nonlocal since
        now = time.process_time()
        match event:
            case events.Step():
                steps.append(now - since)
            case events.Checkpoint():
                saving.append(now - since)
        since = now

    end = run.start(config, [sink])
    assert isinstance(end, events.RunFinished), end
    return steps, saving


def bare_peft(config: TrainConfig, steps: int) -> list[float]:
    """CPU seconds of each step of the shortest loop that trains the same adapter on the same data."""
    import torch
    from diffusers import DDPMScheduler
    from peft import LoraConfig, inject_adapter_in_model

    from trainer import families, job
    from trainer.cache import Cache
    from trainer.dataset.sampler import windows

    family = families.detect(config.base_model)
    loaded = job.load(config.output_dir.parent / "run-0")
    cache = Cache(loaded.cache_dir)
    unet = family.load_model(config.base_model, torch.float32)
    names = [n for n, m in unet.named_modules() if family.is_target(n, m, config.lora_targets)]
    unet = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=names), unet)
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, fused=True)
    schedule = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    # In our order: pictures of another shape take another time.
    order = [
        w[0].item for epoch in range(steps + 1) for w in windows(loaded.items, seed=config.seed, epoch=epoch, size=1)
    ]
    data = [
        (
            cache.load("latents", item.latents)["latents"] * family.latent_scale,
            cache.load("conditioning", item.conditioning[0])["hidden"],
        )
        for item in order[: steps + 1]
    ]
    stamps = [time.process_time()]
    for latents, hidden in data:
        noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        noisy = schedule.add_noise(latents, noise, timestep)  # type: ignore[arg-type]
        prediction = unet(noisy, timestep, hidden).sample
        loss = torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stamps.append(time.process_time())
    return [after - before for before, after in itertools.pairwise(stamps)]


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
