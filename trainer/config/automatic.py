"""``auto`` in place of a value: chosen by the images and the card, once they are known (``trainer/advisor``).

A field that is ``auto`` keeps its default, and its name stands in ``TrainConfig.auto`` until it is chosen. So the
fields have the types that they have, and a config that is written says ``lora_rank: auto`` again.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

AUTO = "auto"
Auto = Literal[
    "lora_rank",
    "lora_alpha",
    "learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "resolution",
    "validation_images",
]
NAMES: tuple[Auto, ...] = get_args(Auto)
"""Fields that may be ``auto``."""
BY_ITSELF = ("warmup_steps", "mixed_precision")
"""Fields with an ``auto`` of their own, which the training itself works out. ``auto: true`` means them too."""


def everything() -> dict[str, str]:
    """All that may be ``auto``, as fields of a config."""
    return dict.fromkeys((*NAMES, *BY_ITSELF), AUTO)


def take(flat: dict[str, Any]) -> list[str]:
    """Moves every ``auto`` of a flat config into its ``auto``; returns the faults.

    With ``auto: true`` all that may be ``auto`` is, but for what the config sets.
    """
    wanted = flat.pop("auto", False)
    if not isinstance(wanted, bool):
        return [f"auto: expected true or false, got {wanted!r}; for one field: lora_rank: auto"]
    if wanted:
        flat.update({name: value for name, value in everything().items() if name not in flat})
    flat["auto"] = tuple(name for name in NAMES if flat.get(name) == AUTO)
    for name in flat["auto"]:
        del flat[name]
    return []
