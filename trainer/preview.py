"""Draws prompts with a base model and a LoRA file at several strengths, as the file stands: what a user would see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import adapters, export, families
from .errors import ExportError


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
        ExportError: the LoRA does not fit it.
    """
    family = families.detect(base)
    model = family.load_denoiser(base, torch.float32)
    if lora is not None:
        put(model, lora, family)
    model.to(device)
    encoders = family.load_encoders(base)
    empty, *conditionings = encoders.encode_text(["", *prompts])
    total, pictures = len(prompts) * len(strengths), []
    with torch.no_grad():
        for index, conditioning in enumerate(conditionings):
            for strength in strengths:
                progress(len(pictures), total)
                with adapters.strength(model, strength):
                    latents = family.sample(
                        model,
                        {name: tensor.to(device) for name, tensor in conditioning.items()},
                        {name: tensor.to(device) for name, tensor in empty.items()},
                        width=width,
                        height=height,
                        steps=steps,
                        guidance=guidance,
                        seed=seed + index,
                    )
                pictures.append(encoders.decode_latents(latents.float().cpu())[0])
    return torch.stack(pictures).unflatten(0, (len(prompts), len(strengths)))


def put(model: torch.nn.Module, lora: Path, family: families.Family) -> None:
    """Puts the LoRA of a file into a denoiser, as adapters.

    Raises:
        ExportError: a key of the file is not of this model, or has another shape.
    """
    tensors, _ = export.read(lora)
    ranks = {name.removesuffix(".lora_down.weight"): t.shape[0] for name, t in tensors.items() if "lora_down" in name}
    names = {family.export_key(name): name for name, _ in model.named_modules()}
    unknown = sorted(ranks.keys() - names.keys())
    if unknown or not ranks:
        raise ExportError(f"{lora} is no LoRA for this base model ({', '.join(unknown[:3]) or 'no layers in it'})")
    targets = {names[key] for key in ranks}
    rank = next(iter(ranks.values()))
    alphas = {float(tensors[f"{key}.alpha"]) for key in ranks}
    if len(set(ranks.values())) > 1 or len(alphas) > 1:
        raise ExportError(f"{lora} has layers of different rank or alpha", "use it in ComfyUI")
    adapters.inject(model, lambda name, _: name in targets, rank=rank, alpha=alphas.pop(), seed=0)
    adapters.load(
        model,
        {
            f"{names[key]}.{part}": tensors[f"{key}.lora_{part}.weight"]
            for key in ranks
            for part in ("down", "up")
        },
    )  # fmt: skip
