"""What each way to save memory costs and saves on a GPU, and whether its gradients are right. A JSON line each.

    python benchmarks/frozen_cuda.py [--families sd15 sdxl] [--steps 3] [--device cuda] [--keep 512]
    python benchmarks/frozen_cuda.py --device cpu --toy

Full-size UNets with random weights in bf16, rank-8 LoRA in fp32 on all linear layers of the transformer blocks, under
autocast: SD1.5 at 512 x 512, batch 4, SDXL at 1024 x 1024, batch 1. It needs torch, diffusers and peft, and no file.

``gradient`` compares with plain layers that hold what is stored, ``noise`` that comparison with itself: kernels that
add in another order each time. ``peak`` and ``held`` are what torch has allocated, in a step and between two.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from trainer import frozen  # noqa: E402
from trainer.frozen import kinds, layers  # noqa: E402

TARGETS = r".*transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))"
CASES = {"sd15": (4, 64, 768), "sdxl": (1, 128, 2048)}  # batch, side of the latents, width of the prompt
TOY = {"block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 4}
TOY |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
TOY |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
Gradients = tuple[float, list[torch.Tensor]]


class Bench:
    """A family's denoiser on a device, and its step."""

    def __init__(self, name: str, device: torch.device, steps: int, keep: int, *, toy: bool) -> None:
        from diffusers import UNet2DConditionModel

        self.name, self.device, self.steps, self.toy = name, device, steps, toy
        self.keep = 50_000 if toy else keep << 20
        self.smallest = 0 if toy else layers.SMALL
        config = described(name, toy=toy)
        self._make = lambda: UNet2DConditionModel.from_config(config)
        batch, side, width = CASES[name]
        side, width = (8, 32) if toy else (side, width)
        generator = torch.Generator(device).manual_seed(1)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, device=device, generator=generator)

        self._noisy, self._target = drawn(batch, 4, side, side), drawn(batch, 4, side, side)
        self._given: dict[str, Any] = {"encoder_hidden_states": drawn(batch, 77, width).bfloat16()}
        self._timestep = torch.full((batch,), 500, device=device)
        if name == "sdxl":
            sizes = torch.full((batch, 6), 1024.0, device=device)
            self._given["added_cond_kwargs"] = {"text_embeds": drawn(batch, 1280), "time_ids": sizes}
        self.model: nn.Module

    def build(self) -> None:
        """A new model; the same weights every time."""
        from peft import LoraConfig, inject_adapter_in_model
        from peft.helpers import disable_input_dtype_casting

        self.model, self._casting = nn.Identity(), None  # the former one is let go of before there is a new one
        gc.collect()
        with torch.device("meta"):
            model: Any = self._make()
        model = model.to(torch.bfloat16).to_empty(device=self.device).requires_grad_(False).train()
        config = LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS)
        self.model = inject_adapter_in_model(config, model)
        self.draw()
        self._casting = disable_input_dtype_casting(self.model)
        self._casting.__enter__()

    def draw(self) -> None:
        draw(self.model, self.device)

    def large(self) -> Iterator[nn.Module]:
        """The layers that ``quantise`` takes."""
        yield from layers._candidates(self.model, self.smallest)

    def stand(self, kind: str) -> None:
        """Gives plain layers the weights that are stored of them."""
        for layer in self.large():
            weight: torch.Tensor = layer.weight.data  # type: ignore[assignment, union-attr]
            own = layers._kind(kind, layer)
            weight.copy_(kinds.unpack(own, kinds.pack(own, weight), weight.shape, weight.dtype))

    def step(self) -> float:
        """Forward and backward of a batch; its loss."""
        with torch.autocast(self.device.type, torch.bfloat16):
            predicted = self.model(self._noisy.bfloat16(), self._timestep, **self._given).sample
        loss = (predicted.float() - self._target).square().mean()
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> Gradients:
        """Loss and gradients of a step."""
        self.clear()
        loss = self.step()
        found = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        self.clear()
        return loss, found

    def clear(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None

    def measure(self, way: str, **more: Any) -> None:
        """Peak memory and time of a step."""
        for _ in range(2):  # allocations, cuDNN's choices, and the order of paging
            self.step()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.steps):
            start = time.perf_counter()
            self.step()  # its loss is read, so it is done
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        self.clear()
        stored = frozen.bytes_of(self.model)
        told: dict[str, Any] = {"way": way, "ms": round(1000 * statistics.median(seconds), 1)}
        if cuda:
            told |= {"peak": mib(torch.cuda.max_memory_allocated()), "held": mib(torch.cuda.memory_allocated())}
        self.tell(**told, base=mib(stored.frozen), ram=mib(stored.ram), **more)

    def tell(self, **what: Any) -> None:
        print(json.dumps({"family": self.name, **what}), flush=True)


def draw(model: nn.Module, device: torch.device) -> None:
    """Weights at which signals neither vanish nor grow; adapters in fp32, and they alone are trained."""
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        trained = "lora_" in name
        if trained and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
        spread = 0.02 if parameter.ndim < 2 or trained else parameter[0].numel() ** -0.5
        parameter.data.normal_(0.0, spread, generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1.0
        parameter.requires_grad_(trained)


def described(family: str, *, toy: bool) -> dict[str, Any]:
    """The config of a family's UNet, or of a small one."""
    config = json.loads((REPO / f"trainer/families/assets/{family}/unet/config.json").read_text("utf-8"))
    if toy:
        config |= TOY | ({"transformer_layers_per_block": 1} if family == "sdxl" else {})
    return config


def mib(size: float) -> float:
    return round(size / 2**20, 1)


def off(one: Gradients, other: Gradients) -> float:
    """How far gradients are from each other, of all weights together."""
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(one[1], other[1], strict=True))
    size = sum(float(b.double().square().sum()) for b in other[1])
    return (apart / size) ** 0.5


def bench(one: Bench) -> None:
    """All ways of a family; a model is built for each number format."""
    one.build()
    one.measure("plain")
    plain, again = one.gradients(), one.gradients()
    one.tell(check="plain", noise=off(again, plain))
    wanted: dict[str, Gradients] = {}
    frozen.checkpointing(one.model)
    one.measure("checkpointing")
    one.tell(check="checkpointing", gradient=off(one.gradients(), plain))
    frozen.checkpointing(one.model, in_ram=True)
    one.measure("activations in RAM")
    one.tell(check="activations in RAM", gradient=off(one.gradients(), plain))
    for kind in kinds.KINDS[1:]:
        one.draw()
        one.stand(kind)
        wanted[kind] = one.gradients()
    one.draw()
    paged(one, "", plain)
    for kind in kinds.KINDS[1:]:
        one.build()
        start = time.perf_counter()
        frozen.quantise(one.model, kind, one.device, smallest=one.smallest)
        if one.device.type == "cuda":
            torch.cuda.synchronize()
        frozen.checkpointing(one.model)
        one.measure(kind, quantised_in=round(time.perf_counter() - start, 2))
        found = one.gradients()
        one.tell(check=kind, gradient=off(found, wanted[kind]), original=off(found, plain), loss=found[0])
        if kind == "int8":
            frozen.checkpointing(one.model, in_ram=True)
            paged(one, f"{kind}, ", wanted[kind])


def paged(one: Bench, prefix: str, wanted: Gradients) -> None:
    frozen.page(one.model, one.device, one.keep, smallest=one.smallest)
    one.measure(f"{prefix}activations and weights in RAM", keep=mib(one.keep))
    one.tell(check=f"{prefix}activations and weights in RAM", gradient=off(one.gradients(), wanted))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=3, help="that are measured, after two that are not")
    parser.add_argument("--keep", type=int, default=512, help="MiB of paged weights on the device")
    parser.add_argument("--toy", action="store_true", help="small UNets, to try the script")
    args = parser.parse_args()
    begin = time.perf_counter()
    device = torch.device(args.device)
    if device.type == "cuda":
        print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    for name in args.families:
        bench(Bench(name, device, args.steps, args.keep, toy=args.toy))
    print(json.dumps({"seconds": round(time.perf_counter() - begin, 1)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
