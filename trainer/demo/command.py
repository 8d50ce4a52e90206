"""``python -m trainer demo``: the whole way on the embedded base, without a download or a GPU.

Draws twelve captioned pictures in a style that the base does not know, trains a LoRA on them by the ordinary path,
and shows what it does: a contact sheet of prompts by strengths, the loss curve, and a score.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import config as configs
from .. import events, preview, run, sheet
from ..config import TrainConfig
from ..events import Event, Phase, RunFinished, Sink
from ..files import write_json
from . import BASE, probe, world

STRENGTHS = (0.0, 0.4, 0.8, 1.0)
SCORED_PROMPTS = 24
SHOWN_PROMPTS = 6
GUIDANCE, STEPS = 4.0, 20


def config(output: Path) -> TrainConfig:
    """The demo's settings: an ordinary YAML file, and the paths below ``output``."""
    return configs.load(
        Path(__file__).with_name("demo.yaml"),
        overrides={
            "base_model": BASE.as_posix(),
            "train_data_dir": (output / "data").as_posix(),
            "output_dir": (output / "neon").as_posix(),
        },
    )


def run_demo(output: Path, sink: Sink, stop: Callable[[], bool]) -> Event:
    """Draws, trains, shows and scores. Returns the run's terminal event.

    Args:
        output: everything is written below it.
        sink: told the run's events.
        stop: polled; a stopped demo goes on when it is started again.
    """
    began = time.perf_counter()
    world.write_dataset(output / "data")
    settings = config(output)
    end = run.start(settings, [sink], stop)
    if not isinstance(end, RunFinished):
        return end
    trained = time.perf_counter() - began
    held_out = world.held_out_prompts(SCORED_PROMPTS)
    pictures = preview.draw(
        BASE,
        settings.output_dir / end.path,
        [prompt for prompt, _ in held_out],
        STRENGTHS,
        width=world.SIDE,
        height=world.SIDE,
        steps=STEPS,
        guidance=GUIDANCE,
        progress=lambda done, total: sink(Phase("drawing the contact sheet", done, total)),
    )
    scores = _scores(pictures, [facts for _, facts in held_out])
    _write_sheet(output / "contact-sheet.png", [prompt for prompt, _ in held_out], pictures)
    history = list(events.history(settings.output_dir / "events.jsonl"))
    sheet.loss_curve(history, output / "loss.png", "LoRA Darkroom demo: twelve neon pictures")
    write_json(output / "scores.json", scores)
    _tell(output, scores, trained, time.perf_counter() - began)
    return end


def _scores(pictures: torch.Tensor, facts: Sequence[world.Facts]) -> dict[str, dict[str, float]]:
    """Share of the pictures, at each strength, that have the asked shape and colour, and that have the new style."""
    result = {}
    for column, strength in enumerate(STRENGTHS):
        judged = probe.judge(pictures[:, column])
        result[f"{strength:g}"] = {
            "style": float(np.mean([style == world.UNKNOWN_STYLE for style in judged["style"]])),
            "shape": float(np.mean([a == f.shape for a, f in zip(judged["shape"], facts, strict=True)])),
            "color": float(np.mean([a == f.color for a, f in zip(judged["color"], facts, strict=True)])),
        }
    return result


def _write_sheet(path: Path, prompts: Sequence[str], pictures: torch.Tensor) -> None:
    rows = [[sheet.to_image(cell) for cell in row] for row in pictures[:SHOWN_PROMPTS]]
    labels = ["base alone" if s == 0 else f"strength {s:g}" for s in STRENGTHS]
    sheet.labelled_grid(rows, prompts[:SHOWN_PROMPTS], labels).save(path)


def _tell(output: Path, scores: dict[str, dict[str, float]], trained: float, whole: float) -> None:
    accuracy = json.loads(probe.header()["accuracy_reconstructed"])
    print(f"\n{SCORED_PROMPTS} prompts that were not trained on, judged by a small network")
    print(
        "(its own answers are right for " + ", ".join(f"{n} {v:.1%}" for n, v in accuracy.items()) + " of drawings):\n"
    )
    print("strength   neon style   shape as asked   colour as asked")
    for strength, row in scores.items():
        print(f"{strength:>8}   {row['style']:>10.0%}   {row['shape']:>14.0%}   {row['color']:>15.0%}")
    print(f"\ntrained in {trained:.0f} s, {whole:.0f} s in all. Look at")
    for name in ("contact-sheet.png", "loss.png", "neon/neon.safetensors"):
        print(f"  {output / name}")
