"""What is trained and what trains it, put together with what a run gives up for its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import nn

from . import families, frozen, languages, optim
from .averages import Averages
from .cache import Cache
from .checkpoint import Position, State
from .config import Precision, TrainConfig
from .control import Requests
from .dataset.sampler import windows_per_epoch
from .device import DTYPES, accelerate, card_name, precision
from .errors import ConfigError
from .gauge import Gauge, budget, ram_free
from .job import Job
from .memory import Plan, Possible, Savings, Weights
from .ranks import Ranks
from .recorded import Recorder
from .rehearsal import Known, largest
from .step import forward_backward
from .tasks.base import Task
from .tasks.causal_lm import CausalLM
from .tasks.diffusion import Diffusion
from .trained import MAIN, Kind, Trained, build
from .training import Training

NF4_IS_WORTH_IT = ("sdxl",)  # of its weights 87 % are in linear layers, of SD1.5's 31 %; and a language model's
_OF_NO_WEIGHT = {
    "seed", "learning_rate", "text_encoder_learning_rate", "lr_scheduler", "lr_cycles", "lr_power", "warmup_steps",
    "weight_decay", "epochs", "max_steps", "save_steps", "log_interval", "early_stopping_patience", "output_dir",
    "train_data_dir", "metadata_path", "reg_data_dir", "cache_dir", "device", "vram_limit",
}  # fmt: skip
"""Settings that say nothing of what a step takes. (What is trained on counts by itself.)"""
KEPT_WHILE_PAGED = 0.1  # of the base model: on the device ahead of its use


@dataclass
class Standing:
    """Where a run stands before it is put together.

    Args:
        position: where it is.
        state: the weights and all that goes with them; None: it begins.
        saved, due, asked: as in ``Training``.
    """

    position: Position
    state: State | None = None
    saved: int = 0
    due: list[str] = field(default_factory=list)
    asked: Requests = field(default_factory=Requests)


def sixteen_bits(config: TrainConfig, device: torch.device) -> Precision:
    """The number format of 16 bits that a device can train in; ``no`` if there is none."""
    return precision(config.model_copy(update={"mixed_precision": "bf16"}), device)[0]


def begins(config: TrainConfig, mixed: Precision, device: torch.device) -> Savings:
    """What a run gives up by its own settings.

    Raises:
        ConfigError: the device does not know ``base_weights``.
    """
    held: Weights = "plain" if config.base_weights in ("auto", "full") else config.base_weights
    if held != "plain" and held not in frozen.possible(device):
        raise ConfigError([f"base_weights: {held} is not to be had on {device}; expected auto or full"])
    return Savings(mixed != "no", config.batch_size, config.gradient_checkpointing, held)


def possible(job: Job, mixed: Precision, device: torch.device) -> Possible:
    """What else a run could give up. What the user has chosen for the base model stays."""
    config, can = job.config, frozen.possible(device)
    fewer_bits = can if config.base_weights == "auto" else ()
    return Possible(
        half=mixed == "no" and sixteen_bits(config, device) != "no",
        int8="int8" in fewer_bits,
        nf4="nf4" in fewer_bits and (config.text or job.base.family in NF4_IS_WORTH_IT),
        activations_in_ram="ram" in can,
        paged="ram" in can and reading(job, mixed) < ram_free(),
    )


def recorder(run: Training, savings: Savings, plan: Plan, tell: Callable[[str], None]) -> Recorder | None:
    """What computes a run's micro-batches by recordings; None where they cannot be recorded, or keep too much memory.

    Args:
        run: put together.
        savings: with which.
        plan: what it will need.
        tell: takes what a person should know.
    """
    config = run.config
    plain = savings.base == "plain" and not (savings.activations_in_ram or savings.paged or savings.launched)
    # What draws random numbers in a step, or gives it another shape each time, is none to record.
    same = not (config.text or config.lora_dropout or config.train_text_encoder)
    if run.gauge.device.type != "cuda" or not (plain and same and plan.has_room):
        return None
    return Recorder(run.parameters, partial(forward_backward, run), run.gauge, tell)


def known(job: Job, run: Training, savings: Savings, mixed: Precision) -> Known:
    """What trials of the same step have measured before: with the same settings, weights, pictures and device."""
    settings = {name: value for name, value in job.config.to_plain().items() if name not in _OF_NO_WEIGHT}
    device = run.gauge.device
    shown = [(one.item.cost, str(one.item.bucket), one.item.id) for one in largest(run)]
    sizes = sorted({str(item.bucket) for item in job.items})
    how = asdict(savings), mixed, str(device), card_name(device), run.ranks.world
    return Known(job.cache_dir, job.base.content, settings, how, shown, sizes, job.prompts)


def reading(job: Job, mixed: Precision) -> int:
    """Bytes of RAM that the base model takes while it is read."""
    size = languages.size if job.config.text else families.size
    return size(job.base.file) * DTYPES[mixed].itemsize


def put_together(
    job: Job, at: Standing, savings: Savings, mixed: Precision, gauge: Gauge, ranks: Ranks
) -> tuple[Training, Trained]:
    """Loads the base model, puts adapters on it, and everything to where the run stands.

    Args:
        job: what is trained.
        at: where it stands.
        savings: what it gives up.
        mixed: the number format.
        gauge: of the device, which it names.
        ranks: the processes that train it together.

    Raises:
        UserError: as ``trained.build``.
    """
    config, state = job.config, at.state
    trained = build(_kind(job), job.base, config, DTYPES[mixed], begun=state is not None)
    _hold(trained.model, savings, DTYPES[mixed], gauge.device, budget(gauge.device, config.vram_limit))
    if savings.checkpointing:  # of the denoiser: a text encoder's activations are small beside it
        frozen.checkpointing(trained.model, savings.activations_in_ram)
    for model in trained.parts.values():
        model.train()
    accelerator = accelerate(gauge.device, mixed)
    trained.to(accelerator.device)
    named = trained.parameters()
    optimizer = optim.make(config, *trained.groups())
    if state is not None:
        trained.load(state.adapter)
    averages = Averages(list(named.values()), optimizer, config.ema_decay)
    if state is not None:
        optim.load_state(optimizer, list(named), state.optimizer, state.numbers)
        averages.load([state.average[name] for name in named if name in state.average], state.averaged)
    optim.start(optimizer)
    prepared, optimizer = accelerator.prepare(trained.model, optimizer)
    if state is not None and accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)
    task = _task(job, trained, accelerator.device, savings.batch)
    run = Training(
        config,
        job.train_items,
        task,
        prepared,
        optimizer,
        list(named.values()),
        accelerator,
        at.position,
        windows_per_epoch(job.train_items, config.window),
        averages,
        gauge,
        ranks,
        savings.batch,
        at.saved,
        at.due,
        at.asked,
    )
    return run, trained


class _Language:
    """Language models as a ``trained.Kind``."""

    load_model = staticmethod(languages.load)
    is_target = staticmethod(languages.is_target)

    @staticmethod
    def export_key(module_name: str, part: str = MAIN) -> str:
        return languages.export_key(module_name)


def _kind(job: Job) -> Kind:
    return _Language() if job.config.text else families.get(job.base.family)


def _task(job: Job, trained: Trained, device: torch.device, batch: int) -> Task:
    if not job.config.text:
        return Diffusion(job, families.get(job.base.family), Cache(job.cache_dir), device, trained.encoders, batch)
    tokenizer = languages.tokenizer(job.base.file, job.config.tokenizer)

    def answer(model: nn.Module, question: Sequence[int], most: int, seed: int) -> str:
        return languages.answer(model, tokenizer, question, max_new_tokens=most, seed=seed)

    return CausalLM(job, device, answer, batch)


@contextmanager
def computing(trained: Trained, mixed: Precision) -> Iterator[None]:
    """Around all that a run computes."""
    with ExitStack() as stack:
        if mixed != "no":
            # fp32 adapters under autocast: PEFT's own casts would keep a second copy of every input.
            from peft.helpers import disable_input_dtype_casting

            for model in trained.parts.values():
                stack.enter_context(disable_input_dtype_casting(model))
        yield


def _hold(model: nn.Module, savings: Savings, dtype: torch.dtype, device: torch.device, free: int) -> None:
    """Stores the frozen weights as they are to be held, and moves them where they belong."""
    size = frozen.bytes_as(model, savings.base, dtype)
    if savings.base != "plain":
        # On the device, where it is quick, unless it is too small even for that.
        frozen.quantise(model, savings.base, "cpu" if savings.paged and size > free / 2 else device)
    if savings.paged:
        frozen.page(model, device, int(KEPT_WHILE_PAGED * size))
