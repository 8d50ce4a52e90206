"""Which of a config's fields make two runs different: what means the same is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fields import TrainConfig

GAMMA_V = 5.0
"""min-SNR's gamma for v-prediction, where none is given: the paper's (Hang et al. 2023, arXiv 2303.09556)."""

# What shapes nothing, unless another field says so.
_ONLY_IF: dict[str, Callable[[TrainConfig], Any]] = {
    "keep_tokens": lambda config: config.caption_shuffle,
    "mask_outside": lambda config: config.mask != "no",
    "prior_weight": lambda config: config.reg_data_dir,
    # On regularisation images it is their caption, which is the data set's.
    "class_prompt": lambda config: config.prior_preservation,
    "lokr_factor": lambda config: config.lora_method == "lokr",
    "text_encoder_learning_rate": lambda config: config.train_text_encoder,
    "lr_scheduler": lambda config: config.optimizer != "schedulefree",
    "lr_cycles": lambda config: config.schedule == "cosine_with_restarts",
    "lr_power": lambda config: config.schedule == "polynomial",
    # auto is the same run, whatever the memory was.
    "base_weights": lambda config: config.base_weights not in ("auto", "full"),
    "huber_delta": lambda config: config.loss_type == "huber",
}
# What shapes nothing where a language model is trained.
_OF_IMAGES = {
    "clip_skip", "trigger_word", "caption_dropout", "caption_shuffle", "keep_tokens", "flip", "mask", "mask_outside",
    "prior_weight", "prior_preservation", "class_prompt", "resolution", "train_text_encoder",
    "text_encoder_learning_rate", "noise_offset", "min_snr_gamma", "loss_type", "huber_delta",
}  # fmt: skip
# What a field means where it is empty, by what the base model predicts.
EMPTY_MEANS: dict[str, Callable[[TrainConfig, str], Any]] = {
    # With lora_ranks each layer's alpha is its own rank.
    "lora_alpha": lambda config, _: None if config.lora_ranks else config.lora_rank,
    "text_encoder_learning_rate": lambda config, _: (
        config.learning_rate * (1.0 if config.optimizer == "prodigy" else 0.5)
    ),
    "min_snr_gamma": lambda _, prediction: GAMMA_V if prediction == "v_prediction" else 0.0,
}


def of(config: TrainConfig, prediction: str) -> dict[str, Any]:
    """What shapes the trajectory, as plain values.

    A field that others make void is not there; one that says what its being empty means is empty. Of batch_size and
    accumulation only their product counts: a run goes on with half the batch in half the memory.

    Args:
        config: the settings.
        prediction: what the base model predicts.
    """
    plain, void = config.to_plain(), _OF_IMAGES if config.text else set()
    fields = {
        name: plain[name]
        for name, info in type(config).model_fields.items()
        if isinstance(info.json_schema_extra, dict)
        and info.json_schema_extra["identity"]
        and name not in void
        and (name not in _ONLY_IF or _ONLY_IF[name](config))
    }
    for name, meaning in EMPTY_MEANS.items():
        if name in fields and fields[name] == meaning(config, prediction):
            fields[name] = None
    return {"effective batch (batch_size x gradient_accumulation_steps)": config.window, **fields}
