"""What is trained of a base model, as one thing: the denoiser, and its text encoders where they are trained too; or the
language model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from . import adapters, export, frozen
from .config import TrainConfig
from .errors import CheckpointError, ConfigError
from .families import Encoders
from .job import Base

MAIN = "unet"
"""The first part, and of a language model the only one."""


class Kind(Protocol):
    """What must be known of a base model's kind to put adapters on it: a family's, or a language model's."""

    def load_model(self, path: Path, dtype: torch.dtype) -> nn.Module:
        """The model, frozen, in eval mode, on the CPU."""
        ...

    def is_target(self, name: str, module: nn.Module, which: str, /) -> bool:
        """Whether a module gets an adapter; ``which`` is the config's ``lora_targets``."""
        ...

    def export_key(self, module_name: str, part: str = MAIN) -> str:
        """A module's name in a LoRA file."""
        ...


class Trained:
    """A base model's parts with adapters on them.

    Args:
        kind: of the base model.
        parts: ``unet``, and the names of ``Encoders.text_models``.
        encoders: whose text models the other parts are; None where only the denoiser is trained.
    """

    def __init__(self, kind: Kind, parts: Mapping[str, nn.Module], encoders: Encoders | None = None) -> None:
        self._kind, self.parts, self.encoders = kind, dict(parts), encoders

    @property
    def model(self) -> nn.Module:
        """The denoiser, or the language model."""
        return self.parts[MAIN]

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights by names that a checkpoint uses: the model's own first."""
        return {
            _name(part, name): parameter
            for part, model in self.parts.items()
            for name, parameter in adapters.parameters(model).items()
        }

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The same weights in the same order: the model's own, and the text encoders'."""
        every = list(self.parameters().values())
        own = len(adapters.parameters(self.model))
        return every[:own], every[own:]

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Puts back the weights that ``parameters`` named.

        Raises:
            CheckpointError: names or shapes differ.
        """
        mine: dict[str, dict[str, torch.Tensor]] = {part: {} for part in self.parts}
        for name, tensor in tensors.items():
            part, separator, rest = name.partition(":")
            part, rest = (part, rest) if separator else (MAIN, name)
            if part not in mine:
                raise CheckpointError(f"the checkpoint has a {part}, which this run does not train", "start a new run")
            mine[part][rest] = tensor
        for part, found in mine.items():
            adapters.load(self.parts[part], found)

    def exported(self) -> dict[str, torch.Tensor]:
        """The tensors of a LoRA file."""
        result: dict[str, torch.Tensor] = {}
        for part, model in self.parts.items():
            result |= adapters.exported(model, lambda name, part=part: self._kind.export_key(name, part))
        return result

    @contextmanager
    def strength(self, value: float) -> Iterator[None]:
        """Within it the LoRA acts at a strength, on every part."""
        with ExitStack() as stack:
            for model in self.parts.values():
                stack.enter_context(adapters.strength(model, value))
            yield

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Within it nothing is dropped out."""
        for model in self.parts.values():
            model.eval()
        try:
            yield
        finally:
            for model in self.parts.values():
                model.train()

    def to(self, device: torch.device | str) -> None:
        """Moves every part."""
        for model in self.parts.values():
            model.to(device)

    def held(self) -> int:
        """Bytes of what is not trained, where it is computed."""
        return sum(frozen.bytes_of(model).frozen for model in self.parts.values())

    def frozen(self) -> int:
        """How many numbers are not trained."""
        return sum(frozen.numbers_of(model) for model in self.parts.values())


def build(kind: Kind, base: Base, config: TrainConfig, dtype: torch.dtype, *, begun: bool = False) -> Trained:
    """Loads what is trained, and puts adapters on it.

    Args:
        kind: of the base model; a family where text encoders are trained.
        base: the base model.
        config: method, targets, blocks, ranks, init_lora, train_text_encoder.
        dtype: of the frozen weights.
        begun: a checkpoint holds the adapters' values: ``init_lora`` is not read.

    Raises:
        BaseModelError: it cannot be loaded, or no layer of it is a target.
        ConfigError: a block, a rank's pattern or ``init_lora`` does not fit it.
        ExportError: ``init_lora`` cannot be read.
        LoraFileError: ``init_lora`` is no LoRA of this base model.
    """
    parts: dict[str, nn.Module] = {MAIN: kind.load_model(base.file, dtype)}
    encoders = None
    if config.train_text_encoder:
        family: Any = kind
        encoders = family.load_encoders(base.file, clip_skip=config.clip_skip)
        parts |= {name: model.to(dtype) for name, model in encoders.text_models.items()}
    names = {part: _targets(kind, config, part, model) for part, model in parts.items()}

    def meant(patterns: Mapping[str, Any], part: str) -> dict[str, Any]:
        """The patterns for a part; one that no part knows is left to the model, where it is an error."""
        known = {pattern for pattern in patterns for other in names if _found(pattern, names[other])}
        return {
            pattern: value
            for pattern, value in patterns.items()
            if _found(pattern, names[part]) or (part == MAIN and pattern not in known)
        }

    for part, model in parts.items():
        chosen = set(names[part])
        adapters.inject(
            model,
            lambda name, module, chosen=chosen: name in chosen,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            seed=config.seed,
            method=config.lora_method,
            dropout=config.lora_dropout,
            ranks=meant(config.lora_ranks, part),
            alphas=meant(config.lora_alphas, part),
            lokr_factor=config.lokr_factor,
        )
    trained = Trained(kind, parts, encoders)
    if config.init_lora is not None and not begun:
        tensors = export.beginning(config.init_lora, text=config.train_text_encoder)
        adapters.start_from(parts, tensors, kind.export_key, str(config.init_lora))
    return trained


def _targets(kind: Any, config: TrainConfig, part: str, model: nn.Module) -> list[str]:
    """The modules of a part that get an adapter. Blocks are the model's own."""
    if part != MAIN:
        return [name for name, module in model.named_modules() if kind.text_target(name, module)]
    names = [name for name, module in model.named_modules() if kind.is_target(name, module, config.lora_targets)]
    blocks = config.lora_blocks
    if unknown := [block for block in blocks if not any(_inside(name, block) for name in names)]:
        known = ", ".join(dict.fromkeys(re.sub(r"(_blocks\.\d+).*|\..*", r"\1", name) for name in names))
        raise ConfigError(
            [f"lora_blocks: no layer's name begins with {block!r}; there are {known}" for block in unknown]
        )
    return [name for name in names if not blocks or any(_inside(name, block) for block in blocks)]


def _found(pattern: str, names: Sequence[str]) -> bool:
    try:
        return any(re.search(pattern, name) for name in names)
    except re.error:  # told by ``adapters.inject``
        return False


def _inside(name: str, block: str) -> bool:
    # up_blocks.1 is not up_blocks.10.
    return name == block or name.startswith(block.rstrip(".") + ".")


def _name(part: str, name: str) -> str:
    return name if part == MAIN else f"{part}:{name}"
