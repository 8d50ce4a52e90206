"""What a step costs on a GPU: ours beside the floor and a bare PEFT loop, and what compiling it would bring.

    python benchmarks/gpu.py [--families sd15 sdxl] [--ways floor peft launched ours compiled both] [--steps 20]
    python benchmarks/gpu.py --device cpu --toy --steps 2

A JSON line for each case: SD1.5 at 512 x 512, batch 4, and SDXL at 1024 x 1024, batch 1, with and without gradient
checkpointing. Full-size UNets with random weights in bf16, rank-8 LoRA in fp32 on all linear layers of the transformer
blocks; it needs what the trainer needs, and no file.

``floor`` has no adapter: forward, and backward to the activations. ``peft`` is the shortest loop, under autocast, with
AdamW as torch makes it; ``diffusers`` and ``sd-scripts`` are those of ``gpu_peers.py``. ``ours`` is the step of
``trainer/step.py`` itself, recorded as on a card with room enough, and ``launched`` the same without recordings.
``compiled`` and ``both`` are these two with the repeated blocks compiled.

``ms``: median of a step. ``first`` and ``second``: seconds of these two, in which is compiled and recorded. ``peak``:
MiB of tensors; ``taken``: of the card. ``kernels``: launched in a step (on a CPU: operators), one by one or by a graph.
``syncs``: times that a step waits for the card. ``shapes``: seconds for the first two steps of four further shapes;
``compilations``: what was compiled in all, over five shapes of pictures.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import gpu_peers  # noqa: E402
from frozen_cuda import CASES, TARGETS, described, draw, mib  # noqa: E402

from trainer import frozen  # noqa: E402

WAYS = ("floor", "peft", "diffusers", "sd-scripts", "launched", "ours", "compiled", "both")
SHAPES = ((8, 8), (9, 7), (7, 9), (10, 6), (6, 10))  # of pictures, in eighths of a side: buckets of about one size
RATE = 2e-4


class Case:
    """A family's UNet on a device, and what it is trained on."""

    def __init__(
        self, family: str, device: torch.device, *, toy: bool, checkpointing: bool, sd_scripts: Path | None = None
    ) -> None:
        self.family, self.device, self.toy, self.checkpointing = family, device, toy, checkpointing
        self.sd_scripts = sd_scripts
        self.config = described(family, toy=toy)
        self.batch, self.side, self.width = CASES[family]
        if toy:
            self.side, self.width = 16, 32

    def unet(self, *, adapted: bool) -> Any:
        """The model in bf16 with weights at which signals neither vanish nor grow, and fp32 adapters."""
        from diffusers import UNet2DConditionModel
        from peft import LoraConfig, inject_adapter_in_model

        with torch.device("meta"):
            empty: Any = UNet2DConditionModel.from_config(self.config)
        model = empty.to(torch.bfloat16).to_empty(device=self.device).requires_grad_(False)
        if adapted:
            model = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS), model)
        draw(model, self.device)
        if self.checkpointing:
            frozen.checkpointing(model)
        return model.train()

    def inputs(self, shape: tuple[int, int] = SHAPES[0]) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Noisy latents and what is to be predicted, [B, 4, h, w], and what else the UNet is given."""
        generator = torch.Generator(self.device).manual_seed(1)

        def drawn(*size: int) -> torch.Tensor:
            return torch.randn(size, device=self.device, generator=generator)

        height, width = (self.side // 8 * part for part in shape)
        more: dict[str, Any] = {
            "timestep": torch.full((self.batch,), 500, device=self.device),
            "encoder_hidden_states": drawn(self.batch, 77, self.width).bfloat16(),
        }
        if self.family == "sdxl":
            sizes = torch.full((self.batch, 6), 1024.0, device=self.device)
            more["added_cond_kwargs"] = {"text_embeds": drawn(self.batch, 1280), "time_ids": sizes}
        return drawn(self.batch, 4, height, width), drawn(self.batch, 4, height, width), more


class Shown(NamedTuple):
    """A micro-batch, as ``Case.inputs`` gives it."""

    noisy: torch.Tensor
    target: torch.Tensor
    more: dict[str, Any]

    def tensors(self) -> list[torch.Tensor]:
        return [*(leaf for leaf in tree_leaves(tuple(self)) if isinstance(leaf, torch.Tensor))]


Step = Callable[[tuple[int, int]], None]


def floor(case: Case) -> Step:
    unet = case.unet(adapted=False)

    def step(shape: tuple[int, int]) -> None:
        noisy, target, more = case.inputs(shape)
        with torch.autocast(case.device.type, torch.bfloat16):
            predicted = unet(noisy.bfloat16().requires_grad_(), **more).sample
        (predicted.float() - target).square().mean().backward()

    return step


def peft(case: Case) -> Step:
    unet = case.unet(adapted=True)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)

    def step(shape: tuple[int, int]) -> None:
        noisy, target, more = case.inputs(shape)
        with torch.autocast(case.device.type, torch.bfloat16):
            predicted = unet(noisy.bfloat16(), **more).sample
        torch.nn.functional.mse_loss(predicted.float(), target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class _Shown:
    """The task of a run that is shown one batch: ``tasks.base.Task`` as far as a step asks."""

    def __init__(self, case: Case) -> None:
        self.case, self.shape = case, SHAPES[0]

    def size(self, window: Any) -> int:
        return self.case.batch

    def batch(self, shown: Any, epoch: int) -> Any:
        return Shown(*self.case.inputs(self.shape))

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        noisy, target, more = batch
        return (model(noisy.bfloat16(), **more).sample.float() - target).square().mean((1, 2, 3))


def ours(case: Case, *, recorded: bool = True, compiled: bool = False) -> Step:
    from peft.helpers import disable_input_dtype_casting

    from trainer import optim, step
    from trainer.averages import Averages
    from trainer.checkpoint import Position
    from trainer.config import parse
    from trainer.dataset.sampler import Presentation
    from trainer.device import accelerate
    from trainer.gauge import Gauge
    from trainer.recorded import Recorder
    from trainer.training import Training

    unet = case.unet(adapted=True)
    casting = disable_input_dtype_casting(unet)
    casting.__enter__()  # for as long as the step is used
    if compiled:
        unet.compile_repeated_blocks(fullgraph=True)
    config: Any = parse({"base_model": "base", "train_data_dir": "data", "batch_size": case.batch})
    parameters = [p for p in unet.parameters() if p.requires_grad]
    accelerator = accelerate(case.device, "bf16")
    model, optimizer = accelerator.prepare(unet, optim.make(config, parameters, []))
    task: Any = _Shown(case)
    averages, gauge = Averages(parameters, optimizer, 0.0), Gauge(case.device)
    run = Training(config, [], task, model, optimizer, parameters, accelerator, Position(total=1), 1, averages, gauge)
    if recorded and case.device.type == "cuda":
        run.recorder = Recorder(parameters, partial(step.forward_backward, run), gauge, print)
    window: Any = [Presentation(None, number) for number in range(case.batch)]  # type: ignore[arg-type]

    taken: list[step.Taken] = []

    def rate() -> float:
        if taken:
            taken.pop().happened()  # as the loop asks: of the step before
        return RATE

    def once(shape: tuple[int, int], kept: Any = casting) -> None:
        task.shape = shape
        taken.append(step.step(run, window, 0, rate))

    return once


MADE: dict[str, Callable[[Case], Step]] = {
    "floor": floor,
    "peft": peft,
    "diffusers": gpu_peers.diffusers,
    "sd-scripts": gpu_peers.sd_scripts,
    "launched": partial(ours, recorded=False),
    "ours": ours,
    "compiled": partial(ours, recorded=False, compiled=True),
    "both": partial(ours, compiled=True),
}


@contextmanager
def waits(device: torch.device) -> Iterator[list[int]]:
    """Counts how often the host waits for the card."""
    found = [0]
    if device.type != "cuda":
        yield found
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield found
        found[0] = sum("synchroniz" in str(one.message) for one in told)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def launched(step: Step, device: torch.device) -> int:
    """Kernels of a step; on a CPU its operators."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        step(SHAPES[0])
        done(device)
    return sum(not cuda or "memcpy" not in event.name.lower() for event in profiler.events() or [])


def done(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, way: str, steps: int) -> dict[str, Any]:
    """The figures of a way."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    step, cuda = MADE[way](case), case.device.type == "cuda"

    def timed(shape: tuple[int, int] = SHAPES[0]) -> float:
        begin = time.perf_counter()
        step(shape)
        done(case.device)
        return time.perf_counter() - begin

    told: dict[str, Any] = {"first": round(timed(), 2), "second": round(timed(), 2)}
    timed()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    told["ms"] = round(1000 * statistics.median(timed() for _ in range(steps)), 1)
    if cuda:
        told |= {"peak": mib(torch.cuda.max_memory_allocated()), "taken": mib(torch.cuda.memory_reserved())}
    with waits(case.device) as found:
        step(SHAPES[0])
    told |= {"syncs": found[0], "kernels": launched(step, case.device)}
    told["shapes"] = round(sum(timed(shape) for shape in SHAPES[1:] for _ in range(2)), 1)
    if cuda:
        told["taken for all"] = mib(torch.cuda.memory_reserved())
    if way in ("compiled", "both"):
        told["compilations"] = counters["stats"]["unique_graphs"]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=20, help="that are measured")
    parser.add_argument("--checkpointing", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--sd-scripts", type=Path, help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument("--toy", action="store_true", help="small UNets, to try the script")
    args = parser.parse_args()
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(json.dumps({"device": name, "torch": torch.__version__}), flush=True)
    for family in args.families:
        for checkpointing in {"no": (False,), "yes": (True,), "both": (False, True)}[args.checkpointing]:
            for way in args.ways:
                case = Case(family, device, toy=args.toy, checkpointing=checkpointing, sd_scripts=args.sd_scripts)
                told = {"family": family, "checkpointing": checkpointing, "way": way}
                try:
                    told |= measure(case, way, args.steps)
                except Exception as error:  # the others are of interest all the same
                    told["failed"] = f"{type(error).__name__}: {error}"[:400]
                print(json.dumps(told), flush=True)
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
