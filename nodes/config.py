"""LoRA Train Config: the fields of TrainConfig that a user sets, with the texts and bounds of TrainConfig itself."""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from comfy_api.latest import io

from ..trainer.config import AUTO, TrainConfig
from ..trainer.dataset import fingerprint
from ..trainer.dataset.remembered import content_hash
from ..trainer.errors import DarkroomError, HostError
from .host import links, places
from .payloads import CATEGORY, ConfigFields, ConfigType
from .settings import ADDED, EMPTY, IN_SIGHT, NAMES, PATHS, Reader, resolve, resolved_yaml, widgets

FIELDS = TrainConfig.model_fields
DEFAULTS = widgets(TrainConfig())
# The step of a widget's arrows; what is not here is a whole number.
_STEPS = {
    "learning_rate": 1e-7, "lora_alpha": 0.5, "lora_dropout": 0.01, "caption_dropout": 0.01, "mask_outside": 0.01,
    "prior_weight": 0.05, "prior_preservation": 0.05, "lr_power": 0.1, "weight_decay": 0.001, "max_grad_norm": 0.1,
    "noise_offset": 0.01, "min_snr_gamma": 0.5, "huber_delta": 0.01, "ema_decay": 0.0001, "sample_guidance": 0.1,
    "sample_strength": 0.05, "vram_limit": 0.5,
}  # fmt: skip
# Where the widget's bounds are others than the field's: its own sign for empty, or what a widget can hold.
_LEAST = {"sample_every": 1, "warmup_steps": -1}
_MOST = {"seed": 2**53 - 1, "warmup_steps": 1_000_000, "max_grad_norm": 1000.0, "max_steps": 10_000_000}
_A_LOT = 1_000_000
_TEXTS = {
    "learning_rate": str(FIELDS["learning_rate"].description).replace(" (1e-4 where nothing is set)", ""),
    "sample_every": "Optimizer steps between two rounds of samples; the last one is always drawn.",
    "sample_prompts": "Prompts of the samples, a line each; one in curly brackets sets more than its text (see the "
    "help). Empty: three captions, one prompt without the trigger word, and one that is far from the data set.",
    "init_lora": "A LoRA to start from, of the same method, rank and alpha: its name in ComfyUI's list, or its path. "
    "Empty: from nothing.",
    "reg_data_dir": "A folder of regularisation images, against forgetting the class: ordinary ones of it, shown as "
    "often as yours, without the trigger word. Empty: none.",
}


class LoRATrainConfig(io.ComfyNode):
    """How to train, as DARKROOM_CONFIG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoRATrainConfig",
            display_name="LoRA Train Config",
            category=CATEGORY,
            description="How to train. The few that matter are in sight; change one at a time. YAML of the command "
            "line can be pasted or named: it wins over the widgets, and wired inputs win over it.",
            search_aliases=[
                "training settings", "learning rate", "rank", "epochs", "train", "finetune", "hyperparameters", "yaml",
                "preset", "\u8bad\u7ec3\u914d\u7f6e", "\u8bad\u7ec3\u53c2\u6570", "\u5b66\u4e60\u7387", "\u9884\u8bbe",
            ],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                *(_input(field, name) for field, name in NAMES.items() if field not in ADDED),
                io.String.Input(
                    "yaml_file",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="The path of a YAML config, or the name of a preset, such as sd15_8gb. What it sets wins "
                    "over the widgets, but not over wired inputs.",
                ),
                io.String.Input(
                    "yaml",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="YAML, a line such as lora_rank: 16 for each field. What it sets wins over the widgets and "
                    "over yaml_file, but not over wired inputs.",
                ),
                *(_auto() if field == AUTO else _input(field, NAMES[field]) for field in ADDED),
            ],
            outputs=[
                ConfigType.Output(display_name="config", tooltip="For Train LoRA."),
                io.String.Output(
                    display_name="yaml",
                    tooltip="All settings as YAML, for the command line: python train.py --config FILE.",
                ),
            ],
            hidden=[io.Hidden.dynprompt],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str | float:
        """Changes with the content of whatever files the settings name. A wired name, which ComfyUI gives as None, is
        known only when the graph runs."""
        if any(inputs.get(name, "") is None for name in ("yaml_file", *PATHS)):
            return float("nan")
        try:
            found = resolve(inputs, (), READER)
            values = found.values
            regular = fingerprint(values["reg_data_dir"]) if values["reg_data_dir"] else ""
            begin = content_hash(values["init_lora"]) if values["init_lora"] else ""
        except (DarkroomError, OSError) as error:
            return str(error)
        return f"{values} {regular} {begin}"

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Check the fields, all at once; say what became of the YAML."""
        found = resolve(inputs, links.wired(cls.hidden.dynprompt), READER)
        return io.NodeOutput(
            ConfigFields(found.values), resolved_yaml(found.config), ui={"text": ["\n".join(found.notes)]}
        )


def _lora(text: str) -> Path:
    """A LoRA that was named: one of ComfyUI's list, or a path.

    Raises:
        HostError: there is none, or the client may not read it.
    """
    if text in places.loras():
        return places.lora(text)
    file = places.readable(text, "init_lora")
    if not file.is_file():
        what = "is a folder, expected a file" if file.is_dir() else "is not there, nor is it a LoRA of ComfyUI's list"
        raise HostError(f"init_lora: {file} {what}", "type the name of a LoRA as its loaders show it, or its path")
    return file


READER = Reader(places.readable, places.dataset_folder, _lora)


def _auto() -> io.Input:
    """The switch that puts widgets aside."""
    return io.Boolean.Input(
        AUTO,
        default=False,
        optional=True,
        tooltip="Choose rank, rate, length, batch and resolution by the pictures and the card: Train LoRA says what "
        "and why. What is wired or given by YAML stays; these widgets then do not count.",
    )


def _input(field: str, name: str) -> io.Input:
    """The input of a field, by what the field is."""
    info = FIELDS[field]
    kind, choices = _kind(info.annotation)
    about: dict[str, Any] = {
        "default": DEFAULTS[name],
        "tooltip": _TEXTS.get(field) or _text(field),
        "optional": True,
        "advanced": None if field in IN_SIGHT else True,
    }
    if choices:
        return io.Combo.Input(name, options=choices, **about)
    if kind is bool:
        return io.Boolean.Input(name, **about)
    if kind is str:
        return io.String.Input(name, multiline=field == "sample_prompts", **about)
    bounds = {
        bound: getattr(item, bound)
        for item in info.metadata
        for bound in ("ge", "gt", "le", "lt")
        if hasattr(item, bound)
    }
    least = _LEAST.get(field, EMPTY.get(field, bounds.get("ge")))
    most = _MOST.get(field, bounds.get("le"))
    if kind is int:
        step = int(next((item.multiple_of for item in info.metadata if hasattr(item, "multiple_of")), 1))
        return io.Int.Input(name, min=least, max=_A_LOT if most is None else most, step=step, **about)
    step = _STEPS[field]
    least = step if least is None else least
    most = bounds["lt"] - step if most is None else most
    return io.Float.Input(name, min=least, max=most, step=step, round=step, **about)


def _kind(annotation: Any) -> tuple[type, list[str]]:
    """What an input of a field's type holds, and what can be chosen. Paths, lists and mappings are texts."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return _kind(get_args(annotation)[0])
    if origin is Literal:
        return str, [str(one) for one in get_args(annotation)]
    return annotation if annotation in (bool, int, float) else str, []


def _text(field: str) -> str:
    """The field's own text, with the input's signs for empty and for auto."""
    # Brackets need not be typed, and the page would take curly ones for a name to fill in.
    text = re.sub("[{}]", "", str(FIELDS[field].description))
    empty = EMPTY.get(field)
    if isinstance(empty, (int, float)):
        text = text.replace("Empty:", f"{empty:g}:")
    return text.replace("auto:", "-1:") if field == "warmup_steps" else text
