"""LoRA Train Config's inputs and TrainConfig's fields: from the one to the other and back, and YAML between them.

What wins: an input that is wired, then the pasted YAML, then the YAML file, then the widgets. With ``auto`` the widgets
of the fields that may be ``auto`` do not count: the pictures and the card decide, where Train LoRA knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..trainer import config as configs
from ..trainer import yaml_text
from ..trainer.config import AUTO, AUTO_FIELDS, TrainConfig
from ..trainer.errors import ConfigError
from ..trainer.setup import presets, template

SOURCE = "LoRA Train Config"
DECIDED = {
    "task_type": "Load Dataset: images, or text",
    "tokenizer": "the wired CLIP",
    "chat_template": "the wired CLIP",
    "base_model": "the wired MODEL",
    "prediction_type": "the wired MODEL",
    "zero_terminal_snr": "the wired MODEL",
    "clip_skip": "the wired CLIP",
    "train_text_encoder": "the wired CLIP, which is not trained",
    "text_encoder_learning_rate": "the wired CLIP, which is not trained",
    "train_data_dir": "Load Dataset",
    "metadata_path": "Load Dataset",
    "trigger_word": "Load Dataset",
    "caption_source": "Load Dataset",
    "repeats": "Load Dataset",
    "exclude": "Load Dataset",
    "output_dir": "LoRA Darkroom, which keeps the runs",
    "cache_dir": "LoRA Darkroom, which keeps the cache",
    "device": "ComfyUI",
}
"""Fields that the graph decides, and what in it does; they are no inputs."""
EMPTY: dict[str, Any] = {
    "max_steps": 0,
    "lora_alpha": 0.0,
    "min_snr_gamma": -1.0,
    "reg_data_dir": "",
    "init_lora": "",
    "vram_limit": 0.0,
}
"""Fields that may be empty: the input's value that says so."""
BY_ITSELF = -1
"""``warmup_steps: auto`` as a number."""
IN_SIGHT = ("epochs", "lora_rank", "learning_rate", "batch_size", "resolution", "seed")
_ADVANCED = (
    "gradient_accumulation_steps", "max_steps",
    "lora_alpha", "lora_targets", "lora_method", "lora_blocks", "lora_ranks", "lora_alphas", "lora_dropout",
    "lokr_factor", "init_lora",
    "caption_dropout", "caption_shuffle", "keep_tokens", "flip", "mask", "mask_outside", "reg_data_dir", "prior_weight",
    "prior_preservation", "class_prompt",
    "optimizer", "optimizer_args", "lr_scheduler", "lr_cycles", "lr_power", "warmup_steps", "weight_decay",
    "max_grad_norm", "noise_offset", "min_snr_gamma", "loss_type", "huber_delta", "ema_decay",
    "mixed_precision", "gradient_checkpointing",
    "validation_images", "validation_steps", "save_steps", "sample_every", "sample_inference_steps", "sample_guidance",
    "sample_strength", "log_interval", "sample_prompts",
)  # fmt: skip
ADDED = (
    "base_weights", "vram_limit", "early_stopping_patience", AUTO, "max_length", "sample_max_tokens",
)  # fmt: skip
"""Fields whose inputs lie behind the YAML's: saved graphs rely on the order of those that were there first."""
NAMES = {field: field for field in (*IN_SIGHT, *_ADVANCED, *ADDED) if field != AUTO} | {"seed": "training_seed"}
"""Field -> input, in order; auto, which says of others what they are, is none of them. Not called seed: ComfyUI's page
would draw a new one for every run, and train anew."""
PATHS = ("reg_data_dir", "init_lora")
LISTS = ("lora_blocks",)
MAPPINGS = ("lora_ranks", "lora_alphas", "optimizer_args")
_ONLY_AT_THE_END = 1_000_000
# What a preset leaves as it is: the user's own words and folders.
_OWN = ("seed", "sample_prompts", "class_prompt", *PATHS)


class Reader(NamedTuple):
    """How typed texts become files that the client may read.

    Args:
        path: a typed path, and the input's name -> the path, which need not be there; raises HostError.
        folder: a typed path, and the input's name -> the folder; raises HostError.
        lora: the name of a LoRA, or a path -> the file; raises HostError.
    """

    path: Callable[[str, str], Path]
    folder: Callable[[str, str], Path]
    lora: Callable[[str], Path]


@dataclass(frozen=True)
class Resolved:
    """What the inputs say in the end.

    Args:
        config: whole; what the graph decides is as the YAML has it, or the default.
        values: the fields that count, as plain values.
        notes: what became of the YAML, in words.
    """

    config: TrainConfig
    values: dict[str, Any]
    notes: list[str]


def resolve(inputs: Mapping[str, Any], wired: Collection[str], read: Reader) -> Resolved:
    """The config that the node's inputs describe.

    Args:
        inputs: by name; what is missing or None has its default.
        wired: names of the inputs that are links: they win over the YAML.
        read: for ``yaml_file``, ``reg_data_dir`` and ``init_lora``.

    Raises:
        ConfigError: with every fault.
        HostError: a path cannot be read.
    """
    shown = _fields(inputs)
    layers = _layers(inputs, read)
    given = {name: value for layer in layers for name, value in layer.items()}
    kept = {field for field in given if NAMES.get(field, field) in wired}
    values = {**shown, **{name: value for name, value in given.items() if name not in kept}}
    notes = []
    if values["auto"] is True:
        fixed = {*given} | {field for field, name in NAMES.items() if name in wired}
        values |= {field: value for field, value in configs.all_auto().items() if field not in fixed}
    if values["sample_every"] == 0:
        values["sample_every"] = _ONLY_AT_THE_END
        notes.append("sample_every: 0: the samples of the last step are drawn all the same, for Train LoRA's output")
    if values["reg_data_dir"]:
        values["reg_data_dir"] = read.folder(str(values["reg_data_dir"]), "reg_data_dir").as_posix()
    if values["init_lora"]:
        values["init_lora"] = read.lora(str(values["init_lora"])).as_posix()
    config = configs.parse(values, source=f"{SOURCE}, with its YAML," if layers else SOURCE)
    plain = config.to_plain()
    counting = {name: plain[name] for name in NAMES}
    if config.auto:
        names = ", ".join(NAMES[field] for field in configs.all_auto() if plain[field] == AUTO)
        notes.append(f"chosen by the pictures and the card, which Train LoRA knows: {names}")
    return Resolved(config, counting, [*_told(given, kept, shown, counting), *notes])


def widgets(config: TrainConfig) -> dict[str, Any]:
    """The inputs' values for a config, in the order of its fields."""
    plain = config.to_plain()
    shown = {name: _widget(field, plain[field]) for field, name in NAMES.items()}
    return {**shown, "auto": bool(config.auto)}


def preset_widgets() -> dict[str, dict[str, Any]]:
    """By name: what each preset of ``configs/`` fills in. What is the user's own (prompts, folders, seed) it leaves."""
    own = {NAMES[field] for field in _OWN}
    filled = {preset: widgets(configs.load(_preset(preset))) for preset in preset_names()}
    return {preset: {name: one for name, one in every.items() if name not in own} for preset, every in filled.items()}


def preset_names() -> list[str]:
    """The presets of ``configs/``, the smallest card of each family first."""
    own = [f"{family}_{card}gb" for family in presets.FAMILIES for card in presets.CARDS]
    others = sorted(path.stem for path in presets.FOLDER.glob("*.yaml"))
    return list(dict.fromkeys([*(name for name in own if name in others), *others]))


def resolved_yaml(config: TrainConfig) -> str:
    """A config as commented YAML, all fields, for the command line."""
    title = [
        "As LoRA Train Config had it. What the graph decided (base_model, train_data_dir, ...) is to be filled in."
    ]
    return template.write(config, title)


def _preset(name: str) -> Path:
    return presets.FOLDER / f"{name}.yaml"


def _layers(inputs: Mapping[str, Any], read: Reader) -> list[dict[str, Any]]:
    """What the YAML file sets, and what the pasted YAML does; the last wins."""
    layers = []
    if named := _text(inputs, "yaml_file"):
        file = _preset(named) if named in preset_names() else read.path(named, "yaml_file")
        if file.suffix.lower() in (".toml", ".json"):
            raise ConfigError([f"another trainer's file; python -m trainer import {file.name} makes YAML of it"], named)
        layers.append(configs.given(configs.read_text(file), source=f"yaml_file ({named})"))
    if pasted := _text(inputs, "yaml"):
        layers.append(configs.given(pasted, source="yaml"))
    return layers


def _fields(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields' values from the inputs; empty ones are None or empty."""
    found, faults = {}, []
    for field, name in NAMES.items():
        default = _widget(field, TrainConfig.model_fields[field].default)
        try:
            value = _text(inputs, name, default) if isinstance(default, str) else inputs.get(name)
            found[field] = _value(field, default if value is None else value)
        except ConfigError as error:
            faults += [f"{name}: {problem}" for problem in error.problems]
    if faults:
        raise ConfigError(faults, SOURCE)
    return {**found, "auto": bool(inputs.get("auto"))}


def _text(inputs: Mapping[str, Any], name: str, default: str = "") -> str:
    """A text among the inputs, without the blanks around it; programs send what they like, so it is looked at first."""
    value = inputs.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ConfigError([f"expected a text, got {value!r:.60}"], name)
    return value.strip()


def _value(field: str, value: Any) -> Any:
    """From an input's value to a field's."""
    if field == "warmup_steps":
        return AUTO if value == BY_ITSELF else value
    if field == "sample_prompts":
        return [_prompt(line.strip()) for line in value.splitlines() if line.strip()]
    if field in LISTS:
        return yaml_text.loads(_within(value, "[]"))
    if field in MAPPINGS:
        return yaml_text.loads(_within(value, "{}"))
    return None if field in EMPTY and value == EMPTY[field] else value


def _widget(field: str, value: Any) -> Any:
    """From a field's plain value to an input's."""
    if field in AUTO_FIELDS and value == AUTO:
        value = TrainConfig.model_fields[field].default
    if field == "warmup_steps":
        return BY_ITSELF if value == AUTO else value
    if field == "sample_prompts":
        return "\n".join(one if _is_a_line(one) else yaml_text.line(_as_mapping(one)) for one in value)
    if field in LISTS:
        return yaml_text.line(list(value)) if value else ""
    if field in MAPPINGS:
        return yaml_text.line(dict(value)) if value else ""
    return EMPTY[field] if value is None else value


def _within(text: str, brackets: str) -> str:
    """A list or mapping with its brackets, which need not be typed."""
    first, last = brackets
    text = text.strip()
    return text if text.startswith(first) else f"{first}{text}{last}"


def _prompt(line: str) -> Any:
    """A prompt, or a mapping with more than its text, such as ``{prompt: a cat, seed: 5}``."""
    if line.startswith("{"):
        try:
            data = yaml_text.loads(line)
        except ConfigError:
            return line
        if isinstance(data, dict) and "prompt" in data:
            return data
    return line


def _is_a_line(prompt: Any) -> bool:
    return isinstance(prompt, str) and [prompt] == [line.strip() for line in prompt.splitlines()] == [_prompt(prompt)]


def _as_mapping(prompt: Any) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else prompt


def _told(
    given: Mapping[str, Any], kept: Collection[str], shown: Mapping[str, Any], values: Mapping[str, Any]
) -> list[str]:
    """What the YAML replaced, and what of it does not count and why."""
    notes = []
    replaced = [
        f"{NAMES[field]} {_short(given[field])} (instead of {_short(_widget(field, shown[field]))})"
        for field in given
        if field in NAMES and field not in kept and _widget(field, values[field]) != _widget(field, shown[field])
    ]
    if replaced:
        notes.append(f"the YAML wins over the widgets: {', '.join(replaced)}")
    if kept:
        wires = ", ".join(NAMES.get(field, field) for field in given if field in kept)
        notes.append(f"wired inputs win over the YAML: {wires}")
    decided: dict[str, list[str]] = {}
    for field in given:
        if field in DECIDED:
            decided.setdefault(DECIDED[field], []).append(field)
    if decided:
        told = "; ".join(f"{', '.join(names)} ({who})" for who, names in decided.items())
        notes.append(f"ignored in the YAML, because the graph decides: {told}")
    return notes


def _short(value: Any) -> str:
    text = str(value).replace("\n", " / ")
    return (text if len(text) <= 40 else f"{text[:40]}...") or "nothing"
