"""LoRA Train Config: the fields of TrainConfig that a user sets, with the texts and bounds of TrainConfig itself."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..trainer import config as configs
from ..trainer.config import TrainConfig
from .payloads import CATEGORY, ConfigFields, ConfigType

FIELDS = TrainConfig.model_fields


class LoRATrainConfig(io.ComfyNode):
    """How to train, as DARKROOM_CONFIG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoRATrainConfig",
            display_name="LoRA Train Config",
            category=CATEGORY,
            description="How to train. The few that matter are in sight; change one at a time.",
            search_aliases=[
                "training settings", "learning rate", "rank", "epochs", "train", "finetune", "hyperparameters",
                "\u8bad\u7ec3\u914d\u7f6e", "\u8bad\u7ec3\u53c2\u6570", "\u5b66\u4e60\u7387",
            ],
            inputs=[
                _int("epochs"),
                _int("lora_rank"),
                _float("learning_rate", 0.0000001),
                _int("batch_size"),
                _int("resolution", 64),
                # Not called seed: ComfyUI's page would draw a new one for every run, and train anew each time.
                _int("training_seed", field="seed", most=2**53 - 1),
                _int("gradient_accumulation_steps", advanced=True),
                _int(
                    "max_steps", advanced=True, default=0, least=0, most=10_000_000,
                    tooltip="At most so many optimizer steps. 0: no limit.",
                ),
                _float(
                    "lora_alpha", 0.5, advanced=True, default=0.0, least=0.0,
                    tooltip="The update is scaled by alpha / rank. 0: as the rank.",
                ),
                _combo("lora_targets"),
                _combo("lr_scheduler"),
                _int("warmup_steps", advanced=True, least=0, most=1_000_000),
                _float("caption_dropout", 0.01),
                _float("noise_offset", 0.01),
                _float("weight_decay", 0.001),
                _float("max_grad_norm", 0.1, most=1000.0),
                _combo("mixed_precision"),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=FIELDS["gradient_checkpointing"].default,
                    tooltip=FIELDS["gradient_checkpointing"].description,
                    advanced=True,
                ),
                _int("validation_images", advanced=True),
                _int("validation_steps", advanced=True, most=1_000_000),
                _int("save_steps", advanced=True, most=1_000_000),
                _int(
                    "sample_every", advanced=True, least=1, most=1_000_000,
                    tooltip="Optimizer steps between two rounds of samples; the last one is always drawn.",
                ),
                _int("sample_inference_steps", advanced=True),
                _float("sample_guidance", 0.1),
                _float("sample_strength", 0.05),
                _int("log_interval", advanced=True, most=1_000_000),
                io.String.Input(
                    "sample_prompts",
                    default="",
                    multiline=True,
                    tooltip="Prompts of the samples, a line each. Empty: three captions, and one prompt without the "
                    "trigger word.",
                    advanced=True,
                ),
            ],
            outputs=[ConfigType.Output(display_name="config", tooltip="For Train LoRA.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Check the fields, all at once."""
        return io.NodeOutput(fields_of(inputs))


def fields_of(inputs: dict[str, Any]) -> ConfigFields:
    """The config's fields from the node's inputs.

    Raises:
        ConfigError: with every fault.
    """
    values = dict(inputs)
    values["seed"] = values.pop("training_seed")
    values["lora_alpha"] = values["lora_alpha"] or None
    values["max_steps"] = values["max_steps"] or None
    prompts = values["sample_prompts"]
    values["sample_prompts"] = [line.strip() for line in prompts.splitlines() if line.strip()]
    configs.parse(values, source="LoRA Train Config")
    return ConfigFields(values)


def _bound(field: str, *names: str) -> Any:
    for item in FIELDS[field].metadata:
        for name in names:
            if hasattr(item, name):
                return getattr(item, name)
    return None


def _int(
    name: str,
    step: int = 1,
    *,
    field: str = "",
    advanced: bool = False,
    default: int | None = None,
    least: int | None = None,
    most: int | None = None,
    tooltip: str = "",
) -> io.Int.Input:
    info = FIELDS[field or name]
    return io.Int.Input(
        name,
        default=info.default if default is None else default,
        min=_bound(field or name, "ge") if least is None else least,
        max=_bound(field or name, "le") if most is None else most,
        step=step,
        tooltip=tooltip or info.description,
        advanced=advanced or None,
    )


def _float(
    name: str,
    step: float,
    *,
    advanced: bool | None = None,
    default: float | None = None,
    least: float | None = None,
    most: float | None = None,
    tooltip: str = "",
) -> io.Float.Input:
    info = FIELDS[name]
    low = _bound(name, "ge", "gt") if least is None else least
    return io.Float.Input(
        name,
        default=info.default if default is None else default,
        min=step if _bound(name, "gt") is not None and least is None else low,
        max=_bound(name, "le", "lt") if most is None else most,
        step=step,
        round=step,
        tooltip=tooltip or info.description,
        advanced=(name != "learning_rate") if advanced is None else advanced,
    )


def _combo(name: str) -> io.Combo.Input:
    info = FIELDS[name]
    return io.Combo.Input(
        name,
        options=list(get_args(info.annotation)),
        default=info.default,
        tooltip=info.description,
        advanced=True,
    )
