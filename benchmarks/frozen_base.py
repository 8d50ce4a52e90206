"""What a base in fewer bits is: its size, and how far its weights and a LoRA's gradients are from the original's.

    python benchmarks/frozen_base.py [--base trainer/demo/base.safetensors]

The size is that of the full-size UNets of SD1.5 and SDXL in bf16, reckoned on the meta device. Errors are those of a
trained base, by default the embedded one, in fp32: four images of noise at four timesteps, eight times, rank 4 on all
linear layers; the norm of the difference over the norm, of all weights (gradients) together.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from trainer import adapters, families, frozen  # noqa: E402
from trainer.families.conditioning import stack_conditioning  # noqa: E402

CAPTIONS = ("a red circle", "a blue square", "a painting", "a photo of a cat")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=REPO / "trainer/demo/base.safetensors")
    args = parser.parse_args()
    for name in ("sd15", "sdxl"):
        model = full_size(name)
        for kind in frozen.KINDS:
            size = frozen.bytes_as(model, kind, torch.bfloat16)
            print(json.dumps({"unet": name, "kind": kind, "GB": round(size / 1e9, 2)}))
    family = families.detect(args.base)
    encoders = family.load_encoders(args.base)
    sizes = family.size_conditioning((128, 128), (0, 0), (128, 128))
    conditioning = stack_conditioning([{**text, **sizes} for text in encoders.encode_text(CAPTIONS)])
    plain = family.load_model(args.base, torch.float32)
    weights = {name: tensor for name, tensor in plain.named_parameters() if tensor.ndim > 1}
    wanted = gradients(family, plain, conditioning)
    for kind in frozen.KINDS[1:]:
        model = family.load_model(args.base, torch.float32)
        frozen.quantise(model, kind, "cpu", smallest=1 << 12)  # this UNet is small itself
        stored = (model.get_submodule(name.removesuffix(".weight")).weight for name in weights)
        weight = total([a - b for a, b in zip(stored, weights.values(), strict=True)])  # type: ignore[operator]
        weight /= total(list(weights.values()))
        found = gradients(family, model, conditioning)
        gradient = total([a - b for a, b in zip(found, wanted, strict=True)]) / total(wanted)
        print(json.dumps({"kind": kind, "weights": round(weight, 4), "gradients": round(gradient, 4)}))
    return 0


def full_size(name: str) -> nn.Module:
    """A family's UNet without its numbers."""
    from diffusers import UNet2DConditionModel

    config = json.loads((REPO / f"trainer/families/assets/{name}/unet/config.json").read_text("utf-8"))
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(config)
    assert isinstance(model, nn.Module)
    return model.requires_grad_(False)


def gradients(family: families.Family, model: nn.Module, conditioning: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of a LoRA that has been trained a little, whatever it was trained on."""
    adapters.inject(model, lambda name, module: family.is_target(name, module, "linear"), rank=4, alpha=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    parameters = list(adapters.parameters(model).values())
    for parameter in parameters:
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    timestep = torch.tensor([100, 300, 600, 900])
    share = family.noise_schedule()[timestep].view(-1, 1, 1, 1)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        clean, noise = torch.randn(2, 4, family.latent_channels, 16, 16, generator=generator)
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        (family.predict(model, noisy, timestep, conditioning) - noise).square().mean().backward()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def total(tensors: list[torch.Tensor]) -> float:
    """The norm of all of them together."""
    return sum(float(tensor.detach().double().square().sum()) for tensor in tensors) ** 0.5


if __name__ == "__main__":
    raise SystemExit(main())
