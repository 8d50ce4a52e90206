"""kohya's network and optimizer: what is trained of the model, and how its rate goes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from ..errors import UserError
from .base import NOT_GIVEN, Reader, prodigy_rate

# LyCORIS' algorithms and presets of what is trained.
_ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
_PRESETS = {
    "full": "conv", "full-lin": "linear", "attn-mlp": "linear", "unet-transformer-only": "linear",
    "attn-only": "attention",
}  # fmt: skip
_CONVOLUTIONS = ("conv1", "conv2", "downsamplers", "upsamplers")

# Theirs, in lower case -> ours, and what is to be said of it.
_OPTIMIZERS = {
    "adamw": ("adamw", ""),
    "pagedadamw": ("adamw", "its state is not paged"),
    "pagedadamw32bit": ("adamw", "its state is not paged"),
    "adamw8bit": ("adamw8bit", ""),
    "pagedadamw8bit": ("adamw8bit", "its state is not paged"),
    "lion": ("lion", ""),
    "lion8bit": ("lion", "its state is in 32 bit"),
    "pagedlion8bit": ("lion", "its state is in 32 bit"),
    "prodigy": ("prodigy", ""),
    "adafactor": ("adafactor", ""),
    "adamwschedulefree": ("schedulefree", ""),
    "radamschedulefree": ("schedulefree", "AdamW's kind of it, not RAdam's"),
    "prodigyplus.prodigyplusschedulefree": ("prodigy", "without its averaging"),
}
_WEIGHT_DECAY = {"adamw": 0.01, "adamw8bit": 0.01}  # of the packages themselves; the others' is 0
_SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts", "polynomial": "polynomial",
}  # fmt: skip


def network(reader: Reader, path: Path) -> None:
    """What is trained: method, rank, alpha, layers, text encoder."""
    fields = reader.fields
    module = reader.text("network_module", "networks.lora")
    lycoris = module.startswith(("lycoris", "locon"))
    if not lycoris and module.removeprefix("networks.").partition("_")[2] not in ("", "fa"):
        raise UserError(
            f"{path}: network_module {module} is for a model family that this version does not train",
            "expected networks.lora or lycoris.kohya, with SD 1.5 or SDXL",
        )
    if module not in ("networks.lora", "lycoris.kohya", "lycoris.locon", "locon.locon_kohya"):
        reader.leave("network_module", module, "an ordinary LoRA is trained instead")
    rank, alpha = reader.whole("network_dim", 4), reader.number("network_alpha", 1.0)
    fields |= {"lora_rank": rank, "lora_alpha": alpha or None, "lora_targets": "linear"}
    if dropout := reader.number("network_dropout", 0.0):
        fields["lora_dropout"] = dropout
        text = "lora_dropout: of the layers' inputs; there it is of what lies between down and up"
        reader.differs("network_dropout", dropout, text)
    if weights := reader.text("network_weights"):
        fields["init_lora"] = weights
    if reader.yes("dim_from_weights"):
        reader.leave("dim_from_weights", True, "set lora_rank and lora_alpha as init_lora has them")
    arguments = _arguments(reader, "network_args")
    (_lycoris if lycoris else _lora)(reader, arguments, rank, alpha)
    for name, value in arguments.items():
        if value not in ("", False, 0, None, "False", "0"):
            reader.leave(f"network_args {name}", value, "left out")
    _rates(reader)


def _lora(reader: Reader, arguments: dict[str, Any], rank: int, alpha: float) -> None:
    own, own_alpha = _int(reader, arguments, "conv_dim", 0), _float(reader, arguments, "conv_alpha", 1.0)
    if own:
        reader.fields["lora_targets"] = "conv"
        _convolutions(reader, own, own_alpha, rank, alpha)


def _lycoris(reader: Reader, arguments: dict[str, Any], rank: int, alpha: float) -> None:
    fields = reader.fields
    algorithm = str(arguments.pop("algo", "lora") or "lora").lower()
    method = _ALGORITHMS.get(algorithm, "lora")
    if algorithm not in _ALGORITHMS:
        reader.leave("network_args algo", algorithm, "an ordinary LoRA is trained instead")
    preset = str(arguments.pop("preset", "full"))
    fields["lora_targets"] = _PRESETS.get(preset, "conv")
    if preset == "full":
        reader.differs("network_args preset", preset, "conv: all but conv_in, conv_out and the time embedding")
    elif preset not in ("attn-mlp", "attn-only", "unet-transformer-only"):
        reader.leave("network_args preset", preset, f"lora_targets: {fields['lora_targets']} is written")
    if dropout := _float(reader, arguments, "dropout", 0.0):
        fields["lora_dropout"] = dropout
    if _true(arguments.pop("dora_wd", False)):
        if method == "lora":
            method = "dora"
        else:
            reader.leave("network_args dora_wd", True, f"{method} is trained without it")
    if _true(arguments.pop("rs_lora", False)):
        if method == "lora":
            method = "rslora"
        else:
            reader.leave("network_args rs_lora", True, f"{method} is trained without it")
    fields["lora_method"] = method
    factor = _int(reader, arguments, "factor", -1)
    if method == "lokr":
        fields["lokr_factor"] = factor
    own = _int(reader, arguments, "conv_dim", rank) or rank
    own_alpha = _float(reader, arguments, "conv_alpha", alpha) or alpha
    if fields["lora_targets"] == "conv":
        _convolutions(reader, own, own_alpha, rank, alpha)


def _convolutions(reader: Reader, own: int, own_alpha: float, rank: int, alpha: float) -> None:
    """Rank and alpha of the 3 x 3 convolutions, where they are others."""
    if own != rank:
        reader.fields["lora_ranks"] = dict.fromkeys(_CONVOLUTIONS, own)
    if (own_alpha or own) != (alpha or rank):
        reader.fields["lora_alphas"] = dict.fromkeys(_CONVOLUTIONS, float(own_alpha or own))


def _rates(reader: Reader) -> None:
    fields = reader.fields
    common, unet = reader.number("learning_rate", None), reader.number("unet_lr", None)
    if common is None and unet is None:
        text = "2e-6 is written, as there; it moves hardly anything: 1e-4 is usual"
        reader.differs("learning_rate", NOT_GIVEN, text)
    common = 2e-6 if common is None else common
    fields["learning_rate"] = common if unet is None else unet
    if fields["learning_rate"] == 0:
        reader.fault("unet_lr: expected more than 0; a LoRA of the text encoder alone is not trained by this version")
    given = reader.take("text_encoder_lr")
    rates = given if isinstance(given, list) else [given] if given is not None else [common]
    try:
        rates = [float(rate) for rate in rates]
    except (TypeError, ValueError):
        reader.fault(f"text_encoder_lr: expected a number, got {given!r}")
        return
    if len(set(rates)) > 1:
        reader.differs("text_encoder_lr", given, "both text encoders have the first of these rates")
    fields["train_text_encoder"] = not reader.yes("network_train_unet_only") and bool(rates) and rates[0] > 0
    if fields["train_text_encoder"]:
        fields["text_encoder_learning_rate"] = rates[0]


def optimizer(reader: Reader) -> None:
    """Optimizer, schedule, warm-up, clipping."""
    fields = reader.fields
    eight, lion = reader.yes("use_8bit_adam"), reader.yes("use_lion_optimizer")
    given = reader.text("optimizer_type") or ("AdamW8bit" if eight else "Lion" if lion else "AdamW")
    arguments = _arguments(reader, "optimizer_args")
    name, text = _OPTIMIZERS.get(given.lower(), ("", ""))
    if text:
        reader.differs("optimizer_type", given, f"{name}: {text}")
    if not name and given.lower().startswith("dadapt"):
        name = "prodigy"
        reader.differs("optimizer_type", given, "prodigy, which finds the rate by itself, too")
        arguments = {}
    elif not name:
        name, arguments = "adamw", {}
        reader.leave("optimizer_type", given, "adamw is written; check learning_rate")
        if fields["learning_rate"] > 1e-2:
            fields["learning_rate"] = 1e-4
    fields["optimizer"] = name
    _schedule(reader)
    fields["max_grad_norm"] = reader.number("max_grad_norm", 1.0)
    fields["weight_decay"] = _float(reader, arguments, "weight_decay", _WEIGHT_DECAY.get(name, 0.0), "optimizer_args")
    if name == "adafactor":
        if _true(arguments.pop("relative_step", True)):
            reader.differs(
                "optimizer_args relative_step", True, "learning_rate counts; the rate is not found by itself"
            )
        if _true(arguments.pop("warmup_init", False)):
            reader.leave("optimizer_args warmup_init", True, "it goes with relative_step alone")
        # What ours switches off by itself.
        arguments = {"scale_parameter": True, **arguments}
    elif name == "prodigy":
        # What ours switches on by itself.
        arguments = {"use_bias_correction": False, "safeguard_warmup": False, "decouple": True, **arguments}
        prodigy_rate(reader)
    kept = {key: value for key, value in arguments.items() if _is_argument(value)}
    _leave_all(reader, {key: value for key, value in arguments.items() if key not in kept}, "no number, text or list")
    if kept:
        fields["optimizer_args"] = kept


def _is_argument(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(type(one) in (int, float) for one in value)
    return isinstance(value, (bool, int, float, str))


def _schedule(reader: Reader) -> None:
    fields = reader.fields
    given = reader.text("lr_scheduler", "constant")
    if given not in _SCHEDULES:
        reader.leave("lr_scheduler", given, "cosine is written")
    fields["lr_scheduler"] = _SCHEDULES.get(given, "cosine")
    cycles = reader.whole("lr_scheduler_num_cycles", None)
    fields["lr_cycles"] = cycles or reader.whole("lr_restart_cycles", 1) or 1
    fields["lr_power"] = reader.number("lr_scheduler_power", 1.0)
    warmup = reader.number("lr_warmup_steps", 0)
    steps = warmup
    if isinstance(warmup, float) and 0 < warmup < 1:
        total = fields.get("max_steps")
        steps = round(warmup * total) if total else "auto"
        if steps == "auto":
            reader.differs("lr_warmup_steps", warmup, "auto: a twentieth of the run, at most 100 steps")
    if steps not in (0, "auto"):
        reader.differs("lr_warmup_steps", warmup, f"warmup_steps: {int(steps)}, but at most a tenth of the run")
    fields["warmup_steps"] = steps if steps == "auto" else int(steps)


def _arguments(reader: Reader, key: str) -> dict[str, Any]:
    """``["a=1", "b=True"]`` as a mapping."""
    given = reader.take(key) or []
    found: dict[str, Any] = {}
    for text in given if isinstance(given, list) else str(given).split():
        name, equals, value = str(text).partition("=")
        if not equals:
            reader.fault(f"{key}: expected name=value, got {text!r}")
            continue
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def _leave_all(reader: Reader, arguments: dict[str, Any], text: str) -> None:
    for name in list(arguments):
        reader.leave(f"optimizer_args {name}", arguments.pop(name), text)


def _float(reader: Reader, arguments: dict[str, Any], name: str, default: float, key: str = "network_args") -> float:
    value = arguments.pop(name, default)
    try:
        return float(value) if value not in (None, "") else default
    except (TypeError, ValueError):
        reader.fault(f"{key} {name}: expected a number, got {value!r}")
        return default


def _int(reader: Reader, arguments: dict[str, Any], name: str, default: int) -> int:
    return int(_float(reader, arguments, name, default))


def _true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on")
