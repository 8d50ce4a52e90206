"""A real ComfyUI on a graphics card: trains at full size under a limit and under each memory flag.

    COMFYUI_PATH=... python -m tests.host.card DIR [--only NAME ...] [--toy]

Checkpoints with random weights are written into DIR (SD1.5: 2 GB, SDXL: 7 GB): memory and time are those of real ones,
the pictures are noise. One JSON line a case: how the run ended, what Train LoRA said, and the most memory that was in
use on the card, of ComfyUI and the worker together, beyond what was before: while the worker trained, and in all
(without a worker ComfyUI takes what it likes). Nothing else may use the card meanwhile.
``--toy`` tries the script itself, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.host.checkpoints import add_random_sd15
from tests.host.graphs import Graph, apply_lora, checkpoint_loader, picture, training
from tests.host.server import ComfyServer, PromptFailed
from trainer import events
from trainer.events import Step
from trainer.families import sd15_random, sdxl_random

PICTURES = 8
HOST = 0.8  # GB that ComfyUI keeps on the card for itself: its CUDA context, mostly


class Case(NamedTuple):
    """One training.

    Args:
        name: of the case.
        family: ``sd15`` or ``sdxl``.
        card: GB that both together may take; None: all there is.
        flags: of main.py.
        settings: of LoRA Train Config, where they are others than the pack's own.
    """

    name: str
    family: str
    card: float | None = None
    flags: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


CASES = (
    Case("SD1.5 512, 6 GB", "sd15", 6.0),
    Case("SDXL 1024, 8 GB", "sdxl", 8.0),
    Case("SD1.5 512, bf16", "sd15", settings=(("mixed_precision", "bf16"),)),
    Case("SD1.5 512, --lowvram", "sd15", flags=("--lowvram",)),
    Case("SD1.5 512, --highvram", "sd15", flags=("--highvram",)),
    Case("SD1.5 512, --disable-smart-memory", "sd15", flags=("--disable-smart-memory",)),
)


class OnCard(ComfyServer):
    """A ComfyUI that takes the card it finds."""

    DEVICE = ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of cases, or parts of them")
    parser.add_argument("--front-end", type=Path, help="a folder with a page, where ComfyUI's own is not installed")
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in CASES if not args.only or any(part in case.name for part in args.only)]
    for case in chosen:
        print(json.dumps(tried(case, args), ensure_ascii=False), flush=True)
    return 0


def tried(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Trains a case in a server of its own, draws with the LoRA, and tells how that went."""
    page = ("--front-end-root", str(args.front_end)) if args.front_end else ()
    kind = ComfyServer if args.toy else OnCard
    server = kind(args.folder / case.name.replace(",", ""), (*case.flags, *page), start=False)
    name = checkpoint(server, case.family, args)
    size = 64 if args.toy else 1024 if case.family == "sdxl" else 512
    told: dict[str, Any] = {"case": case.name}
    began = time.perf_counter()
    with watched(args.toy) as used:
        server.start()
        try:
            shown = server.run(graph(server, case, name, size), limit=280)
            told["said"] = shown["train"]["text"]
            told["drawn"] = len(shown["picture"]["images"])
        except PromptFailed as error:
            told["failed"] = error.details.get("exception_message") or error.details
        finally:
            server.stop()
    steps = [event for event in journal(server) if isinstance(event, Step)]
    told["losses"] = [round(event.loss, 4) for event in steps]
    told["worker peak, GB"] = round(max((event.memory for event in steps), default=0) / 1e9, 2)
    told["s a step"] = round(min((event.seconds for event in steps), default=0.0), 3)
    before, (first, last) = min((size for _, size in used), default=0), trained_between(server)
    training = (size for at, size in used if first <= at <= last)
    told["both while it trains, GB"] = round((max(training, default=before) - before) / 1e9, 2)
    told["both at most, GB"] = round((max((size for _, size in used), default=before) - before) / 1e9, 2)
    told["s in all"] = round(time.perf_counter() - began)
    return told


def graph(server: ComfyServer, case: Case, name: str, size: int) -> Graph:
    """Train with the node's own settings, as far as the case does not say otherwise; apply at 0.8, and draw."""
    settings = {
        "resolution": size, "epochs": 4, "max_steps": 8, "mixed_precision": "fp16", "gradient_checkpointing": True,
        "batch_size": 1 if case.family == "sdxl" else 4, "lora_rank": 8, "learning_rate": 1e-4, **dict(case.settings),
    }  # fmt: skip
    if case.card:
        settings["vram_limit"] = case.card - HOST
    whole = {**checkpoint_loader(name), **training(folder=pictures(server, size), **settings)}
    whole["apply"] = apply_lora(0.8)
    return {**whole, **picture(model=["apply", 0], size=size, steps=8)}


def pictures(server: ComfyServer, size: int) -> str:
    """Drawn pictures of noise and a frame, a folder of ComfyUI's input, by its name."""
    folder = server.base / "input" / f"noise {size}"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"noise number {number}", encoding="utf-8")
    return folder.name


def checkpoint(server: ComfyServer, family: str, args: argparse.Namespace) -> str:
    """The name of a checkpoint with random weights, which all servers share."""
    if args.toy:
        return add_random_sd15(server.base).name
    file = args.folder / f"{family}.safetensors"
    if not file.exists():
        module = sdxl_random if family == "sdxl" else sd15_random
        module.write_random(file)
    place = server.base / "models" / "checkpoints" / file.name
    if not place.exists():
        place.symlink_to(file)
    return file.name


def journal(server: ComfyServer) -> list[events.Event]:
    """What the worker told."""
    found = (server.base / "user").glob("__lora_darkroom/runs/*/events.jsonl")
    return [event for path in found for event in events.read(path)[0]]


def trained_between(server: ComfyServer) -> tuple[float, float]:
    """When the worker wrote its first and its last line, by the clock."""
    found = (server.base / "user").glob("__lora_darkroom/runs/*/events.jsonl")
    times = [json.loads(line)["t"] for path in found for line in path.read_text(encoding="utf-8").splitlines()]
    return min(times, default=0.0), max(times, default=0.0)


@contextmanager
def watched(toy: bool) -> Iterator[list[tuple[float, int]]]:
    """(Time, bytes in use) of the first card, ten times a second, while it is open."""
    used: list[tuple[float, int]] = []
    if toy or shutil.which("nvidia-smi") is None:
        yield used
        return
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout
        reader = Thread(target=lambda: used.extend((time.time(), int(line) * 2**20) for line in lines))
        reader.start()
        time.sleep(1)
        try:
            yield used
        finally:
            process.terminate()
            reader.join()


if __name__ == "__main__":
    sys.exit(main())
