"""Which fields of a config go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fields import TrainConfig

# What text-generation has no use for, and a user who sets it would wait for in vain.
_IMAGES_ONLY = (
    "train_text_encoder",
    "prior_preservation",
    "reg_data_dir",
    "caption_shuffle",
    "flip",
    "clip_skip",
    "exclude",
)


def faults(config: TrainConfig) -> list[str]:
    """What does not go together, a line each; empty where everything does."""
    faults = []
    if config.prediction_type == "epsilon" and config.zero_terminal_snr:
        faults.append(
            "zero_terminal_snr: true makes no sense with prediction_type: epsilon (there is no signal left to "
            "subtract from); expected v_prediction"
        )
    if config.prior_preservation and not config.class_prompt.strip():
        faults.append("class_prompt: expected a text, such as: a woman; prior_preservation needs it")
    if config.text_encoder_learning_rate is not None and not config.train_text_encoder:
        faults.append("text_encoder_learning_rate: has no effect without train_text_encoder: true")
    prodigy = config.optimizer == "prodigy" and "learning_rate" not in config.auto
    if prodigy and config.learning_rate < 0.1:
        faults.append(
            f"learning_rate: prodigy finds the rate by itself, and multiplies it with this; expected 1.0, got "
            f"{config.learning_rate!r}"
        )
    if prodigy and config.text_encoder_learning_rate not in (None, config.learning_rate):
        faults.append(
            f"text_encoder_learning_rate: prodigy has one rate for all; expected {config.learning_rate!r}, or nothing"
        )
    if config.early_stopping_patience and not config.validation_steps:
        faults.append(
            f"early_stopping_patience: {config.early_stopping_patience} counts validations, of which there are none "
            "with validation_steps: 0; expected 0, or other validation_steps"
        )
    if config.optimizer == "schedulefree" and config.ema_decay:
        faults.append("ema_decay: schedulefree averages by itself; expected 0")
    if config.text:
        faults += [
            f"{name}: is of images, and has no effect with task_type: text-generation; leave it out"
            for name in _IMAGES_ONLY
            if getattr(config, name) != type(config).model_fields[name].default
        ]
        if config.lora_targets == "conv":
            faults.append("lora_targets: a language model has no convolutions; expected linear or attention, got conv")
    return faults
