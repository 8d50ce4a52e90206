"""What full-size runs need of a card's memory, beside what was planned, and what they give up to fit into a small one.

    python benchmarks/memory_cuda.py [--work DIR] [--only sd15:6,sdxl:8] [--steps 6]
    python benchmarks/memory_cuda.py --device cpu --toy

Needs a CUDA card, torch, diffusers, peft, accelerate, transformers, and neither a network nor a model: the UNets have
random weights, latents and conditioning are random too (their time and memory are those of real ones). Each run is a
real one of the worker's, in a process of its own that is held to ``vram_limit``: SD1.5 at 512 x 512 in 6 and 12 GB,
SDXL at 1024 x 1024 in 8 and 12 GB, both beginning at 4 images a step without gradient checkpointing. One JSON line a
run: what was given up, the plan part by part, the peak that was seen, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

RUNS = ("sd15:6", "sd15:12", "sdxl:8", "sdxl:12")
SIDES = {"sd15": 512, "sdxl": 1024}
BATCHES = {"sd15": (4, 1), "sdxl": (2, 2)}
TOY_SIDE = 128
IMAGES = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder for the bases and the runs (default: a temporary one)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="models of toy size")
    parser.add_argument("--only", default=",".join(RUNS), help="FAMILY:GB, by commas (default %(default)s)")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="another setting of the runs")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as the worker has it
    if args.run:
        print(json.dumps(measured(args)))
        return 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        args.work = args.work or Path(temporary)
        args.work.mkdir(parents=True, exist_ok=True)
        failed = 0
        for one in args.only.split(","):
            family = one.partition(":")[0]
            write_base(base_of(args, family), family, args.device, args.toy)
            command = [sys.executable, __file__, "--run", one, "--work", str(args.work), "--device", args.device]
            command += ["--steps", str(args.steps), *["--toy"] * args.toy]
            command += [part for setting in args.set for part in ("--set", setting)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            line = done.stdout.strip().splitlines()[-1] if done.returncode == 0 else ""
            failed += not line or json.loads(line)["ended"] != "RunFinished"
            print(line or done.stdout + done.stderr, flush=True)
            print(f"# {time.perf_counter() - began:.0f} s so far", file=sys.stderr, flush=True)
    return int(failed > 0)


def base_of(args: argparse.Namespace, family: str) -> Path:
    return args.work / f"{family}{'-toy' * args.toy}.safetensors"


def write_base(path: Path, family: str, device: str, toy: bool) -> None:
    """A UNet of full size with random weights, drawn on the device; or a toy of the family."""
    if path.exists():
        return
    from trainer import families

    known: Any = families.get(family)
    if toy:
        known.tiny(path, 0)
        return
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    from trainer.families import ldm
    from trainer.families.random_weights import asset
    from trainer.weights import empty_weights

    config = asset(f"{family}/unet/config.json")
    with empty_weights():
        shapes: Any = UNet2DConditionModel.from_config(config)
    torch.manual_seed(0)
    drawn = {}
    for name, tensor in shapes.state_dict().items():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim >= 2 else 0.02
        value = torch.randn(tensor.shape, device=device) * spread
        drawn[name] = (value + float("norm" in name and name.endswith("weight"))).half().cpu()
    state = ldm.unet_state(drawn, config["layers_per_block"])
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


class RandomEncoders:
    """Stands for a VAE and text encoders: noise of their shapes."""

    def __init__(self, hidden: int, pooled: int) -> None:
        self.latents_fingerprint = self.conditioning_fingerprint = f"random {hidden} {pooled}"
        self._hidden, self._pooled = hidden, pooled

    texts_at_once = 1

    def images_at_once(self, pixels: int) -> int:
        """One."""
        return 1

    def encode_images(self, pixels: Any) -> Any:
        """[B, 3, H, W] -> [B, 4, H/8, W/8]."""
        import torch

        return torch.randn(len(pixels), 4, pixels.shape[2] // 8, pixels.shape[3] // 8) * 5

    def encode_texts(self, captions: Any) -> list[dict[str, Any]]:
        """Of each ``hidden`` [1, 77, D], and for SDXL ``pooled``."""
        import torch

        sizes = {"hidden": (1, 77, self._hidden)} | ({"pooled": (1, self._pooled)} if self._pooled else {})
        return [{name: torch.randn(size) for name, size in sizes.items()} for _ in captions]


def encoders(family: str, toy: bool) -> RandomEncoders:
    if toy:
        return RandomEncoders(32, 0) if family == "sd15" else RandomEncoders(80, 48)
    return RandomEncoders(768, 0) if family == "sd15" else RandomEncoders(2048, 1280)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """One run, as the worker does it."""
    import torch

    from trainer import config as configs
    from trainer import prepare, run
    from trainer.cache import Cache
    from trainer.dataset import scan
    from trainer.events import Event, MemoryPlan, Step, Warned
    from trainer.gauge import GB, process_peak
    from trainer.job import Base

    family, _, limit = args.run.partition(":")
    side = TOY_SIDE if args.toy else SIDES[family]
    batch, accumulation = BATCHES[family]
    folder = args.work / f"run-{family}-{limit}-{time.time_ns()}"
    settings = {
        "base_model": base_of(args, family).as_posix(),
        "train_data_dir": pictures(args.work / f"pictures-{side}", side).as_posix(),
        "output_dir": folder.as_posix(),
        "cache_dir": (args.work / "cache").as_posix(),
        "resolution": side,
        "batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": False,
        "mixed_precision": "bf16" if args.device.startswith("cuda") else "no",
        "device": args.device,
        "vram_limit": float(limit),
        "epochs": 1000,
        "max_steps": args.steps,
        "log_interval": 1,
        "validation_steps": args.steps // 2,
        "sample_every": args.steps,
        "sample_inference_steps": 2,
        "sample_prompts": ["a picture"],
    }
    settings |= {name: configs.parse_value(value) for name, _, value in (one.partition("=") for one in args.set)}
    config = configs.parse(settings).resolved()
    encoder, cache = encoders(family, args.toy), Cache(args.work / "cache")
    dataset = scan(config.train_data_dir, resolution=config.resolution)
    base = Base(config.base_model, family, f"random {family}")
    job = prepare.plan(config, dataset, base, encoder, cache.folder)
    prepare.fill(job, dataset, encoder, cache, emit=lambda event: None)
    job.save(folder)

    steps: list[float] = []
    told: list[str] = []
    plans: list[MemoryPlan] = []
    reserved = used = 0

    def sink(event: Event) -> None:
        nonlocal reserved, used
        if args.device.startswith("cuda"):
            free, total = torch.cuda.mem_get_info()
            reserved, used = max(reserved, torch.cuda.memory_reserved()), max(used, total - free)
        match event:
            case Step():
                steps.append(event.seconds)
            case Warned():
                told.append(event.message)
            case MemoryPlan():
                plans.append(event)

    began = time.perf_counter()
    end = run.work(folder, [sink])
    result = json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else {}
    found = result.get("memory", {})
    in_gb = rounded(lambda size: size / GB)
    return {
        "run": args.run,
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "torch": torch.__version__,
        "ended": type(end).__name__,
        "how": plans[-1].how if plans else "",
        "savings": found.get("savings"),
        "plan_gb": in_gb(found.get("plan", {})),
        "planned_gb": in_gb(found.get("planned", 0)),
        "peak_allocated_gb": in_gb(found.get("peak", 0)),
        "peak_reserved_gb": in_gb(reserved),
        "card_used_gb": in_gb(used),
        "plan_over_peak": round(found["planned"] / found["peak"], 3) if found.get("peak") else None,
        "seconds_a_step": round(statistics.median(steps[1:] or steps or [0]), 3),
        "seconds_in_all": round(time.perf_counter() - began, 1),
        "host_ram_peak_gb": in_gb(process_peak()),
        "switches_gb": in_gb(plans[-1].switches) if plans else {},
        "told": told,
        "failed": getattr(end, "message", "") + getattr(end, "details", ""),
    }


def rounded(scale: Callable[[float], float]) -> Callable[[Any], Any]:
    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: whole(inside) for name, inside in value.items()}
        return round(scale(value), 2)

    return whole


def pictures(folder: Path, side: int) -> Path:
    """Pictures of one colour each, with captions."""
    if not folder.exists():
        from PIL import Image

        folder.mkdir(parents=True)
        for number in range(IMAGES):
            Image.new("RGB", (side, side), (20 * number, 100, 200 - 20 * number)).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
