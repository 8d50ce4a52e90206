"""Toy denoisers of the families, with adapters, and a training step of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trainer import adapters, families
from trainer.families.conditioning import stack_conditioning

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Toy:
    """A family, a toy of it, and what it is conditioned on."""

    family: families.Family
    path: Path
    conditioning: Tensors

    def model(self, *, method: str = "lora", which: str = "linear", dtype: torch.dtype = torch.float32) -> nn.Module:
        """The denoiser with adapters that have values as if they had been trained."""
        model = self.family.load_model(self.path, dtype)

        def target(name: str, module: nn.Module) -> bool:
            return self.family.is_target(name, module, which)

        adapters.inject(model, target, rank=2, alpha=2, seed=0, method=method)
        generator = torch.Generator().manual_seed(0)
        for parameter in adapters.parameters(model).values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        return model.train()

    def loss(self, model: nn.Module, seed: int = 0) -> torch.Tensor:
        """Of a step on two images."""
        generator = torch.Generator().manual_seed(seed)
        noisy, target = torch.randn(2, 2, 4, 8, 8, generator=generator)
        predicted = self.family.predict(model, noisy, torch.tensor([100, 900]), self.conditioning)
        return (predicted.float() - target).square().mean()

    def step(self, model: nn.Module, seed: int = 0) -> tuple[torch.Tensor, Tensors]:
        """Loss and gradients."""
        for parameter in model.parameters():
            parameter.grad = None
        loss = self.loss(model, seed)
        loss.backward()
        found: Tensors = {}
        for name, parameter in adapters.parameters(model).items():
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
        return loss.detach(), found


def toy(family: families.Family, folder: Path) -> Toy:
    """A toy of a family, written into a folder."""
    path = family.tiny(folder / "tiny.safetensors", 0)
    sizes = family.size_conditioning((64, 64), (0, 0), (64, 64))
    text = family.load_encoders(path).encode_text(["a photo of a cat", "a painting"])
    return Toy(family, path, stack_conditioning([{**one, **sizes} for one in text]))
