"""Trains the probe on drawn pictures and on the same given back by the autoencoder, and measures it on others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..files import write_tensors
from . import world
from .muon import Muon
from .probe import LABELS, Probe

Reconstruct = Callable[[torch.Tensor], torch.Tensor]
"""Pictures [N, 3, 128, 128] in 0..1 to the autoencoder's, same shape and range."""

_NEON_SHARE = 0.25
_IGNORED = -100


def labelled(seeds: range) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pictures [N, 3, 128, 128] uint8 and their labels; neon's ground is too dark for its word, so not asked for."""
    drawings = []
    for seed in seeds:
        neon = np.random.default_rng([seed, 2]).random() < _NEON_SHARE
        drawings.append(world.draw(seed, style=world.UNKNOWN_STYLE if neon else None))
    pixels = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).contiguous()
    answers = {name: torch.tensor([LABELS[name].index(asdict(d.facts)[name]) for d in drawings]) for name in LABELS}
    neon_rows = answers["style"] == LABELS["style"].index(world.UNKNOWN_STYLE)
    answers["background"][neon_rows] = _IGNORED
    return pixels, answers


def train(path: Path, reconstruct: Reconstruct, *, seconds: float, drawn: int = 12_000, decoded: int = 1_000) -> None:
    """Train for `seconds` and write the network (fp16) with its measured accuracy in the header.

    Args:
        path: Of the file.
        reconstruct: The autoencoder, there and back.
        seconds: Of training, drawing and decoding not counted.
        drawn: Pictures to train on.
        decoded: How many of them also as the autoencoder gives them back.
    """
    torch.manual_seed(0)
    pixels, answers = labelled(range(5_000_000, 5_000_000 + drawn))
    parts = [reconstruct(part.float() / 255) for part in pixels[:decoded].split(16)]
    soft = (torch.cat(parts) * 255).round().to(torch.uint8)
    model = Probe()
    inner = [w for n, w in model.named_parameters() if w.ndim >= 2 and not n.startswith(("features.0.", "heads."))]
    others = [w for w in model.parameters() if not any(w is i for i in inner)]
    optimizers = [Muon(inner, lr=0.02), torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02)]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, step, batch = time.monotonic(), 0, 64
    while (done := (time.monotonic() - began) / seconds) < 1:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - done)
        sharp = torch.randint(0, drawn, (batch // 2,))
        again = torch.randint(0, decoded, (batch // 2,))
        which = torch.cat([sharp, again])
        shown = _roughened(torch.cat([pixels[sharp], soft[again]]).float() / 255)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(shown)
        loss = _loss({name: rows.float() for name, rows in logits.items()}, answers, which)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            print(f"probe: {step} steps, loss {loss.item():.4f}", flush=True)
    state = {n: t.half() if t.is_floating_point() else t for n, t in model.eval().state_dict().items()}
    model.load_state_dict(state)
    pixels, answers = labelled(range(6_000_000, 6_000_800))
    sharp_accuracy = accuracy(model, pixels.float() / 255, answers)
    soft = torch.cat([reconstruct(part.float() / 255) for part in pixels[:320].split(16)])
    soft_accuracy = accuracy(model, soft, {name: rows[:320] for name, rows in answers.items()})
    metadata = {"accuracy": json.dumps(sharp_accuracy), "accuracy_reconstructed": json.dumps(soft_accuracy)}
    write_tensors(path, state, metadata)
    print("probe, as drawn:", sharp_accuracy, "as decoded:", soft_accuracy, flush=True)


@torch.no_grad()
def accuracy(model: Probe, pixels: torch.Tensor, answers: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of the questions answered right, by name; pictures [N, 3, 128, 128] in 0..1."""
    parts = [model(part) for part in pixels.split(64)]
    shares = {}
    for name, right in answers.items():
        asked = right != _IGNORED
        given = torch.cat([part[name] for part in parts]).argmax(1)
        shares[name] = round(float((given == right)[asked].float().mean()), 4)
    return shares


def _loss(logits: dict[str, torch.Tensor], answers: dict[str, torch.Tensor], which: torch.Tensor) -> torch.Tensor:
    losses = [F.cross_entropy(logits[name], answers[name][which], ignore_index=_IGNORED) for name in LABELS]
    return torch.stack(losses).sum()


def _roughened(pixels: torch.Tensor) -> torch.Tensor:
    """Colours off by a few percent, noise, a quarter blurred: sampled pictures are never quite like drawn ones."""
    count = len(pixels)
    tint = 1 + 0.06 * torch.randn(count, 3, 1, 1)
    pixels = pixels * tint + 0.02 * torch.randn(count, 1, 1, 1) + 0.02 * torch.randn_like(pixels)
    blurred = torch.rand(count) < 0.25
    if blurred.any():
        small = F.avg_pool2d(pixels[blurred], 2)
        pixels[blurred] = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    return pixels.clamp(0, 1)
