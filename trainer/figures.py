"""What training took where it was measured: by these figures other runs are reckoned.

Two sources: the user's own finished runs, and the table below, whose rows are those of docs/measurements.md. There is
no row of a graphics card, because none was measured: ``CARD`` is a published figure, and what is reckoned from it is
said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from . import events, runfolder
from . import job as jobs
from .config import TrainConfig
from .dataset.sampler import windows_per_epoch
from .errors import DarkroomError
from .events import MemoryPlan, RunStarted, Step
from .job import Item, TextItem
from .peek import Peek

GIB = 2**30
BASES = {"sd15": 859_520_964, "sdxl": 2_567_463_684}
"""Family -> weights of its denoiser at full size."""
# TFLOP of a forward pass of one image, by its megapixels p (of 2**20): a p + b p**2; counted by torch's FlopCounterMode
# at 256, 512, 768 and 1024 pixels, within 2 %. The square is attention's.
_FORWARD = {"sd15": (2.762, 1.912), "sdxl": (6.761, 0.0)}
# Bytes of what backward needs of one image of one megapixel in 16 bits, by a count of the saved tensors.
_ACTIVATIONS = {"sd15": 3.45 * GIB, "sdxl": 6.29 * GIB}
# A LoRA's weights for each rank, by its targets.
_PER_RANK = {
    "sd15": {"attention": 199_296, "linear": 423_936, "conv": 1_050_816},
    "sdxl": {"attention": 1_451_520, "linear": 2_659_840, "conv": 3_074_240},
}
_BACKWARD = 2.1  # a step in forward passes: of frozen weights backward costs little more than one
_CHECKPOINTING = 1.36  # times as long: measured on a CPU
_KEPT = 0.25  # of the activations, with checkpointing
_PRIOR = 2.5  # times as long, with prior_preservation
_ADAPTER = 16  # bytes a weight: itself, its gradient and AdamW's two averages, in fp32
_PROCESS = 0.6 * GIB  # Python and torch; on a card its context


@dataclass(frozen=True)
class Figure:
    """A run as it was measured.

    Args:
        family: of the base model.
        parameters: weights of its denoiser.
        device: ``cpu``, ``cuda``, ...
        card: what that is called; empty of a CPU.
        bytes: of a frozen weight: 4, or 2.
        seconds: an optimizer step.
        work: of that step, in TFLOP by ``work``.
        memory: peak bytes; 0: not measured.
        reckoned: what ``memory`` gives for it; 0 of texts.
        run: the id of an own run; else empty.
        pixels: of its largest image; 0 of texts.
        batch: its micro-batch.
        checkpointing: whether it did.
    """

    family: str
    parameters: int
    device: str
    bytes: int
    seconds: float
    work: float
    memory: float = 0.0
    reckoned: float = 0.0
    run: str = ""
    pixels: int = 0
    batch: int = 1
    checkpointing: bool = False
    card: str = ""


def forward(family: str, parameters: int, pixels: int) -> float:
    """TFLOP of one image through the denoiser. One that is larger or smaller than usual costs so much more or less."""
    linear, square = _FORWARD[family]
    megapixels = pixels / 2**20
    return (linear * megapixels + square * megapixels**2) * parameters / BASES[family]


def work(config: TrainConfig, items: Sequence[Item], family: str, parameters: int) -> float:
    """TFLOP of an optimizer step, the mean of an epoch.

    Args:
        config: batch, checkpointing, prior_preservation.
        items: the images that are trained on.
        family: of the base model.
        parameters: weights of its denoiser.
    """
    shown = sum(item.repeats * forward(family, parameters, item.bucket[0] * item.bucket[1]) for item in items)
    factor = _BACKWARD * (_CHECKPOINTING if config.gradient_checkpointing else 1.0)
    return factor * (_PRIOR if config.prior_preservation else 1.0) * shown / windows_per_epoch(items, config.window)


def memory(config: TrainConfig, pixels: int, family: str, parameters: int, size: int) -> float:
    """Bytes that training is reckoned to need: weights, adapters, activations of the largest micro-batch.

    Args:
        config: batch, checkpointing, rank, targets.
        pixels: of the largest image.
        family: of the base model.
        parameters: weights of its denoiser.
        size: bytes of a frozen weight.
    """
    scale = parameters / BASES[family]
    adapters = _PER_RANK[family][config.lora_targets] * config.lora_rank * scale * _ADAPTER
    kept = _KEPT if config.gradient_checkpointing else 1.0
    # Of a smaller model the activations shrink with its width, its weights with the square of it.
    activations = _ACTIVATIONS[family] * (size / 2) * config.batch_size * pixels / 2**20 * kept * scale**0.5
    return parameters * size + adapters + activations + _PROCESS


def text_work(config: TrainConfig, texts: Sequence[TextItem], parameters: int) -> float:
    """TFLOP of an optimizer step on texts, the mean of an epoch, without attention's square: 2 a weight and token.

    Args:
        config: batch, checkpointing.
        texts: that are trained on.
        parameters: weights of the model.
    """
    tokens = sum(text.repeats * len(text.tokens) for text in texts)
    factor = _BACKWARD * (_CHECKPOINTING if config.gradient_checkpointing else 1.0)
    return factor * 2 * parameters / 1e12 * tokens / windows_per_epoch(texts, config.window)


def text_memory(config: TrainConfig, tokens: int, base: Peek, size: int) -> float:
    """Bytes that training on texts is reckoned to need, without adapters: weights, and what a token leaves in a block.

    What a block keeps of a token for the way back is Korthikanti et al.'s (arXiv 2205.05198), without attention's
    square, which is not kept; checkpointed, its input alone.

    Args:
        config: batch, checkpointing.
        tokens: of the longest text.
        base: the language model.
        size: bytes of a frozen weight.
    """
    return size * (
        base.parameters + config.batch_size * tokens * base.flow * (1 if config.gradient_checkpointing else 17)
    )


def _row(family: str, parameters: int, pixels: int, seconds: float, gib: float, **more: object) -> Figure:
    """A row of the table: fp32 on two CPU cores, without checkpointing."""
    plain = {"mixed_precision": "no", "gradient_checkpointing": False, "batch_size": 1, **more}
    config = TrainConfig().model_copy(update=plain)
    return Figure(
        family,
        parameters,
        "cpu",
        4,
        seconds,
        _BACKWARD * config.batch_size * forward(family, parameters, pixels),
        gib * GIB,
        memory(config, pixels, family, parameters, 4),
        pixels=pixels,
        batch=config.batch_size,
    )


TABLE = (
    _row("sd15", 2_458_116, 128 * 128, 0.165, 0.6, batch_size=4, lora_targets="conv"),
    _row("sd15", BASES["sd15"], 256 * 256, 3.56, 5.29),
    _row("sdxl", BASES["sdxl"], 256 * 256, 8.0, 15.7),
)
"""docs/measurements.md: the demo, "A step, beside a bare PEFT loop", "A step of full-size SDXL"."""
CARD = 2.1 * _CHECKPOINTING * forward("sdxl", BASES["sdxl"], 1024 * 1024) / 1.12
"""TFLOP a second: SDXL at 1024 pixels, batch 1, took 1.12 s a step on an RTX 3090 Ti (kohya sd-scripts, issue 827)."""
LAUNCHES = 0.05
"""Seconds that a micro-batch takes at least on a card, however small it is: its thousands of kernels are started one by
one (SDXL: 50 to 70 ms)."""
ENCODING = {"image": 1 / 0.6 / (256 * 256), "caption": 0.12}
"""Seconds on two CPU cores: the VAE of full size for a pixel, CLIP for a caption."""

_known: dict[Path, tuple[object, Figure | None]] = {}
MOST_RUNS = 40


def own(root: Path, device: str, card: str) -> list[Figure]:
    """The figures of the finished runs below a folder on a device, the newest first.

    What was read is remembered until the run's events change. A run that cannot be read has no figure.

    Args:
        root: where runs lie.
        device: ``cpu``, ``cuda``, ...
        card: what that is called: another card is another device.
    """
    finished = [path.parent for path in root.glob("*/result.json")]
    stamped = sorted(((_stamp(folder), folder) for folder in finished), reverse=True)[:MOST_RUNS]
    found = []
    for stamp, folder in stamped:
        known = _known.get(folder)
        if known is None or known[0] != stamp:
            known = _known[folder] = (stamp, _figure(folder))
        if known[1] is not None and (known[1].device, known[1].card) == (device, card):
            found.append(known[1])
    return found


def _stamp(folder: Path) -> tuple[int, int]:
    try:
        found = (folder / "events.jsonl").stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _figure(folder: Path) -> Figure | None:
    last, plan, steps = None, None, []
    for event in events.read(folder / "events.jsonl")[0]:
        if isinstance(event, RunStarted):  # a process before may have had another card, or another batch
            last, plan, steps = event, None, []
        elif isinstance(event, MemoryPlan):
            plan = event
        elif isinstance(event, Step) and event.seconds > 0:
            steps.append(event)
    if last is None or not steps or not runfolder.read_result(folder):
        return None
    try:
        job = jobs.load(folder)
    except DarkroomError:
        return None
    items, family = job.train_items, job.base.family
    if not items or (family not in BASES and not job.texts):
        return None
    size = 4 if last.precision == "fp32" else 2
    config = job.config
    if plan is not None:  # what it came to is not always as configured
        config = config.model_copy(update={"gradient_checkpointing": plan.checkpointing})
    batch = config.batch_size if plan is None else plan.batch
    alone = config.model_copy(update={"batch_size": batch})
    if job.texts:
        pixels, effort, reckoned = 0, text_work(config, items, last.parameters), 0.0
    else:
        pixels, effort = largest(items), work(config, items, family, last.parameters)
        reckoned = memory(alone, pixels, family, last.parameters, size)
    return Figure(
        family,
        last.parameters,
        last.device.partition(":")[0],
        size,
        median(event.seconds for event in steps[1:] or steps),  # the first of a process is slower than the rest
        effort,
        max(event.memory for event in steps),
        reckoned,
        folder.name,
        pixels,
        batch,
        config.gradient_checkpointing,
        last.card,
    )


def largest(items: Sequence[Item]) -> int:
    """Pixels of the largest of some images, as trained."""
    return max(item.bucket[0] * item.bucket[1] for item in items)
