"""Draws prompts with a base model and a LoRA file at several strengths, as the file stands: what a user would see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from . import adapters, export, families
from .trained import MAIN, Trained


def draw(
    base: Path,
    lora: Path | None,
    prompts: Sequence[str],
    strengths: Sequence[float],
    *,
    width: int,
    height: int,
    steps: int = 20,
    guidance: float = 7.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """Pictures [prompts, strengths, 3, H, W] in 0..1; a prompt has the same noise at every strength.

    Args:
        base: the base model.
        lora: a LoRA file for it, in kohya's naming; None to draw the base alone.
        prompts: what to draw.
        strengths: 0 is the base alone.
        width: in pixels.
        height: in pixels.
        steps: denoising steps.
        guidance: classifier-free guidance.
        seed: prompt ``i`` is drawn from ``seed + i``.
        device: where the denoiser works.
        progress: told (done, total) pictures.

    Raises:
        BaseModelError: the base cannot be loaded.
        ExportError: the LoRA cannot be read.
        LoraFileError: the LoRA does not fit the base.
    """
    family = families.detect(base)
    prediction, terminal = families.prediction(base)
    encoders = family.load_encoders(base)
    parts = {MAIN: family.load_model(base, torch.float32), **encoders.text_models}
    if lora is not None:
        put(parts[MAIN], lora, family, encoders.text_models)
    whole = Trained(family, parts, encoders)
    parts[MAIN].to(device)

    def moved(conditioning: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(device) for name, tensor in conditioning.items()}

    total, columns = len(prompts) * len(strengths), []
    for strength in strengths:
        column = []
        with torch.no_grad(), whole.strength(strength):
            empty, *conditionings = encoders.encode_text(["", *prompts])
            for index, conditioning in enumerate(conditionings):
                progress(len(columns) * len(prompts) + index, total)
                latents = family.sample(
                    parts[MAIN],
                    moved(conditioning),
                    moved(empty),
                    width=width,
                    height=height,
                    steps=steps,
                    guidance=guidance,
                    seed=seed + index,
                    prediction=prediction,
                    zero_terminal_snr=terminal,
                )
                column.append(encoders.decode_latents(latents.float().cpu())[0])
        columns.append(torch.stack(column))
    return torch.stack(columns, 1)


def put(
    model: torch.nn.Module,
    lora: Path,
    family: families.Family,
    text_models: Mapping[str, torch.nn.Module] | None = None,
) -> None:
    """Puts the LoRA of a file into a denoiser, as adapters, and into text encoders, if any are given.

    Raises:
        ExportError: the file cannot be read.
        LoraFileError: a layer of it is not of these models, or has another shape.
    """
    tensors, _ = export.read(lora)
    adapters.from_file({MAIN: model, **(text_models or {})}, tensors, family.export_key, str(lora))
