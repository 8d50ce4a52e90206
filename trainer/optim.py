"""The optimizers, and our own learning-rate schedules as a pure function of the step."""

from __future__ import annotations

import inspect
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

import torch

from .config import TrainConfig
from .errors import ConfigError

REWARM = 0.05  # share of an extension's steps over which the rate rises again
WARMUP = 100  # warm-up in steps where it is `auto`, and at most a twentieth of the run

Make = Callable[..., torch.optim.Optimizer]


def _adamw(parameters: Any, **settings: Any) -> torch.optim.Optimizer:
    # Fused where torch can: one kernel instead of one for each of hundreds of small tensors.
    kinds = {p.device.type for group in parameters for p in group["params"]}
    return torch.optim.AdamW(parameters, fused=kinds <= {"cpu", "cuda", "mps", "xpu"}, **settings)


def _of(package: str, module: str, name: str) -> Callable[[], Make]:
    """The maker of an optimizer that lives in an optional package."""

    def load() -> Make:
        try:
            return getattr(import_module(module), name)
        except Exception as error:  # bitsandbytes without its library for this card fails in many ways
            raise ConfigError(
                [
                    f"optimizer: the package {package} is not installed, or does not work here ({error}); "
                    f"pip install {package}, or take optimizer: adamw"
                ]
            ) from None

    return load


_MAKERS: dict[str, Callable[[], Make]] = {
    # Decoupled weight decay: Loshchilov and Hutter, arXiv 1711.05101.
    "adamw": lambda: _adamw,
    # Its state in 8 bit: Dettmers et al., arXiv 2110.02861.
    "adamw8bit": _of("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    # Its second moment as two vectors: Shazeer and Stern, arXiv 1804.04235. torch's own would multiply the rate with
    # the size of each parameter, and a LoRA's begin at zero.
    "adafactor": _of("transformers", "transformers.optimization", "Adafactor"),
    # Finds the rate by itself: Mishchenko and Defazio, arXiv 2306.06101.
    "prodigy": _of("prodigyopt", "prodigyopt", "Prodigy"),
    # Steps by the sign alone: Chen et al., arXiv 2302.06675. Wants a tenth of AdamW's rate.
    "lion": _of("lion-pytorch", "lion_pytorch", "Lion"),
    # Averages instead of a schedule: Defazio et al., arXiv 2405.15682.
    "schedulefree": _of("schedulefree", "schedulefree", "AdamWScheduleFree"),
}
# What a maker would choose otherwise, and should not.
_SETTINGS: dict[str, dict[str, Any]] = {
    "adafactor": {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    "prodigy": {"decouple": True, "safeguard_warmup": True, "use_bias_correction": True},
}


def make(
    config: TrainConfig, parameters: Sequence[torch.nn.Parameter], text: Sequence[torch.nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimizer of a config.

    Args:
        config: optimizer, optimizer_args, learning_rate, text_encoder_learning_rate, weight_decay.
        parameters: of the denoiser's adapters.
        text: of the text encoders' adapters, which have a rate of their own.

    Raises:
        ConfigError: an optional package is missing, or the optimizer does not know one of its settings.
    """
    maker = check(config)
    groups = [{"params": list(parameters), "rate_scale": 1.0}]
    if text:
        groups.append({"params": list(text), "rate_scale": config.text_rate / config.learning_rate})
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in config.optimizer_args.items()}
    settings = {"weight_decay": config.weight_decay, **_SETTINGS.get(config.optimizer, {}), **given}
    try:
        with redirect_stdout(io.StringIO()):  # Prodigy says on stdout how it decays
            return maker(groups, lr=config.learning_rate, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError([f"optimizer_args: {config.optimizer} cannot use {config.optimizer_args}: {error}"]) from None


def check(config: TrainConfig) -> Make:
    """The maker of a config's optimizer.

    Raises:
        ConfigError: an optional package is missing, or the optimizer does not know one of its settings.
    """
    maker = _MAKERS[config.optimizer]()
    _check_settings(config, maker)
    return maker


def warmup(config: TrainConfig, total: int) -> int:
    """The warm-up in optimizer steps: as configured, at most a tenth of the run; ``auto``: a twentieth, at most 100."""
    if config.warmup_steps == "auto":
        return min(WARMUP, total // 20)
    return min(config.warmup_steps, total // 10)


def rate(config: TrainConfig, step: int, total: int, extended_at: int = 0) -> float:
    """Learning rate of a step.

    Args:
        config: learning_rate, lr_scheduler and its settings, warmup_steps.
        step: optimizer steps done so far: the first step has 0.
        total: optimizer steps of the run.
        extended_at: the step at which the run was given a new length; its rate rises again from there.
    """
    warm = warmup(config, total)
    if step < warm:
        factor = (step + 1) / (warm + 1)
    else:
        progress = (step - warm) / max(1, total - warm)
        factor = _decay(config, progress)
    if extended_at:
        rewarm = max(1, round(REWARM * (total - extended_at)))
        factor *= min(1.0, (step - extended_at + 1) / (rewarm + 1))
    return config.learning_rate * factor


def _decay(config: TrainConfig, progress: float) -> float:
    """The part of the rate that is left after a share of the steps, 0 to 1, that follow the warm-up."""
    match config.schedule:
        case "linear":
            return 1 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "cosine_with_restarts":  # Loshchilov and Hutter, arXiv 1608.03983, with cycles of one length
            return 0.5 * (1 + math.cos(math.pi * (progress * config.lr_cycles % 1.0)))
        case "polynomial":
            return (1 - progress) ** config.lr_power
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("rate_scale", 1.0)


def skip_unless(optimizer: Any, finite: torch.Tensor) -> bool:
    """Has the next step change nothing unless a bool on the device is true, so that nobody needs to wait for it.

    Returns whether the optimizer can do that. It is told as ``torch.amp.GradScaler`` does.

    Args:
        optimizer: any, also in accelerate's wrapping.
        finite: a bool, on the device of the parameters.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    fused = isinstance(inner, torch.optim.AdamW) and all(group["fused"] for group in inner.param_groups)
    if not fused or finite.device.type not in ("cpu", "cuda"):
        return False
    inner.found_inf = (~finite).float()  # type: ignore[attr-defined]
    return True


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Within it the parameters are what an averaging optimizer (ScheduleFree) means them to be.

    With any other nothing changes. Afterwards they are as before, to the bit, which its own way back is not.
    """
    if not _averages(optimizer):
        yield
        return
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)


def start(optimizer: Any) -> None:
    """Makes an averaging optimizer ready to train; others are."""
    if _averages(optimizer):
        optimizer.train()


def _averages(optimizer: Any) -> bool:
    return any("train_mode" in group for group in optimizer.param_groups)


def state(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimizer's state.

    Args:
        optimizer: any.
        names: of the parameters, in their order.

    Returns:
        Its tensors as ``<parameter>|<entry>``, and what is no tensor, as JSON knows it: numbers by the same names, and
        ``groups``, a dict of numbers for each.
    """
    whole = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    numbers: dict[str, Any] = {}

    def flatten(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inside in value.items():
                flatten(f"{path}|{key}", inside)
        elif isinstance(value, torch.Tensor):
            # A table that all share (the 8-bit optimizer's) is a copy for each: a file knows no shared tensors.
            shared = value.data_ptr() in seen and value.numel() > 0
            seen.add(value.data_ptr())
            tensors[path] = value.clone() if shared else value
        else:
            numbers[path] = value

    for index, entries in whole["state"].items():
        flatten(names[int(index)], entries)
    groups = [{key: value for key, value in group.items() if _moves(key, value)} for group in whole["param_groups"]]
    return tensors, {"numbers": numbers, "groups": groups}


def load_state(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    tensors: dict[str, torch.Tensor],
    plain: dict[str, Any],
) -> None:
    """Puts back what ``state`` gave."""
    index = {name: number for number, name in enumerate(names)}
    entries: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *plain.get("numbers", {}).items()):
        parts = name.split("|")  # a parameter's own name may have one in it
        cut = next(n for n in range(len(parts) - 1, 0, -1) if "|".join(parts[:n]) in index)
        place = entries.setdefault(index["|".join(parts[:cut])], {})
        *between, key = parts[cut:]
        for part in between:
            place = place.setdefault(part, {})
        place[key] = value.clone() if isinstance(value, torch.Tensor) else value
    groups = optimizer.state_dict()["param_groups"]
    for group, former in zip(groups, plain.get("groups", []), strict=False):
        group.update(former)
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def kept(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimizer keeps beside the parameters."""
    return sum(value.nbytes for entries in optimizer.state.values() for value in _tensors(entries))


def will_keep(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> int:
    """Bytes that a config's optimizer will keep of parameters once it has stepped, by a step on one of each shape."""
    alike: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(tuple(parameter.shape), []).append(parameter)
    # Copies: what Prodigy keeps depends on whether a parameter is zero.
    stand_ins = [torch.nn.Parameter(same[0].detach().clone()) for same in alike.values()]
    optimizer = make(config, stand_ins)
    start(optimizer)
    for stand_in in stand_ins:
        stand_in.grad = torch.ones_like(stand_in)
    optimizer.step()
    each = [sum(value.nbytes for value in _tensors(optimizer.state[stand_in])) for stand_in in stand_ins]
    return sum(size * len(same) for size, same in zip(each, alike.values(), strict=True))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inside in value.values():
            yield from _tensors(inside)


def _moves(key: str, value: Any) -> bool:
    """Whether an entry of a group is part of the state: a number, but not the rate, which is a function of the step."""
    return isinstance(value, (bool, int, float)) and key not in ("lr", "rate_scale")


def _check_settings(config: TrainConfig, maker: Make) -> None:
    target = torch.optim.AdamW if maker is _adamw else maker
    known = [*list(inspect.signature(target).parameters)[1:]]
    reserved = {"lr", "weight_decay", "fused"}
    for name in config.optimizer_args:
        if name in reserved:
            cure = {"lr": "set learning_rate", "weight_decay": "set weight_decay"}.get(name, "it is chosen by itself")
            raise ConfigError([f"optimizer_args.{name}: cannot be given here; {cure}"])
        if name not in known:
            listed = ", ".join(sorted(set(known) - reserved))
            raise ConfigError([f"optimizer_args.{name}: {config.optimizer} has no such setting; it has {listed}"])
