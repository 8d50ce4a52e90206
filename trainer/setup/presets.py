"""The files of ``configs/``: the guide's template, and a preset for each family and card.

``python -m trainer.setup.presets`` writes them anew; a test holds the folder equal to what this writes.

Presets say ``auto`` where the best value depends on the data or the card: the warm-up, because the guide's 100 steps
are most of a small set's run; the number format, because bf16 needs no scaling of gradients but old cards lack it.
The template, and a key that is missing, keep the guide's values. Within a family all presets have the same effective
batch, so the result is the same; a larger card is only faster.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..config import AUTO, AUTO_FIELDS, TEXT, TrainConfig, parse
from . import schema, template

CARDS = (6, 8, 12, 16, 24)
FAMILIES = {"sd15": "Stable Diffusion 1.5", "sdxl": "SDXL"}
FOLDER = Path(__file__).resolve().parents[2] / "configs"
SCHEMA = "schema.json"

_AUTO: dict[str, Any] = {"warmup_steps": AUTO, "mixed_precision": AUTO}
_FAMILY: dict[str, dict[str, Any]] = {
    "sd15": {"learning_rate": 2e-4},
    "sdxl": {
        "base_model": "models/Stable-diffusion/sd_xl_base_1.0.safetensors",
        "resolution": 1024,
        "learning_rate": 1e-4,
    },
}
# Images at a time, batches in a step, gradient checkpointing.
_SIZES = {
    ("sd15", 6): (1, 4, True),
    ("sd15", 8): (1, 4, True),
    ("sd15", 12): (2, 2, True),
    ("sd15", 16): (4, 1, True),
    ("sd15", 24): (4, 1, False),
    ("sdxl", 6): (1, 4, True),
    ("sdxl", 8): (1, 4, True),
    ("sdxl", 12): (1, 4, True),
    ("sdxl", 16): (2, 2, True),
    ("sdxl", 24): (2, 2, True),
}
_WARNINGS = {
    ("sdxl", 6): "The base model alone takes 5.1 GB, so it will be held in int8: see base_weights.",
    ("sdxl", 8): "It fits, but only just: close whatever else uses the card.",
}
# Of a language model of 7 to 8 billion weights, which in bf16 has 14 to 16 GB, and in nf4 4 to 5.
_TEXT: dict[str, dict[str, Any]] = {
    "text_12gb": {"max_length": 1024, "base_weights": "nf4"},
    "text_24gb": {"max_length": 2048},
}
_NOT_RUN = "Not yet run on a card of this size."
_GUIDE: dict[str, Any] = {
    "metadata_path": "data/style_train/metadata.csv",
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
}


def settings(family: str, card: int) -> dict[str, Any]:
    """The fields that a preset sets.

    Args:
        family: a key of ``FAMILIES``.
        card: its memory in GB, one of ``CARDS``.
    """
    batch, accumulation, checkpointing = _SIZES[family, card]
    sizes = {"batch_size": batch, "gradient_accumulation_steps": accumulation}
    return {**_AUTO, **_FAMILY[family], **sizes, "gradient_checkpointing": checkpointing}


def by_itself(family: str) -> dict[str, Any]:
    """The fields of a config whose images and card decide all that they can."""
    return {**_AUTO, **_FAMILY[family], **dict.fromkeys(AUTO_FIELDS, AUTO)}


def title(family: str, card: int) -> list[str]:
    """The first lines of a preset's file."""
    batch, accumulation, _ = _SIZES[family, card]
    warning = [_WARNINGS[family, card]] if (family, card) in _WARNINGS else []
    return [
        f"{FAMILIES[family]} on a card of {card} GB: {batch} x {accumulation}, which trains like a batch of 4.",
        *warning,
        _NOT_RUN,
    ]


def files() -> dict[str, str]:
    """The content of every file of ``configs/``, by name."""

    def written(config: TrainConfig, lines: list[str]) -> str:
        return template.write(config, lines, SCHEMA)

    guide = parse(_GUIDE)
    found = {
        "lora_default.yaml": written(
            guide,
            [
                "The template. Copy it, edit the copy, and train:",
                "  python train.py --config configs/my_lora_config.yaml",
            ],
        ),
        "guide_3090.yaml": written(
            guide,
            [
                "The guide's set for a 3090 or 4090: fp16, gradient checkpointing, batch 2, 512 pixels.",
                _NOT_RUN,
            ],
        ),
    }
    for family, card in _SIZES:
        found[f"{family}_{card}gb.yaml"] = written(parse(settings(family, card)), title(family, card))
    for name, own in _TEXT.items():
        text = {"task_type": TEXT, "base_model": "models/LLM/my_model", "train_data_dir": "data/my_texts", **_AUTO}
        sizes = {"batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": True}
        found[f"{name}.yaml"] = written(
            parse({**text, **sizes, "epochs": 15, **own}),
            [
                f"A language model of 7 to 8 billion weights on a card of {name[5:-2]} GB; "
                f"samples of {own['max_length']:,} tokens.",
                _NOT_RUN,
            ],
        )
    found[SCHEMA] = json.dumps(schema.build(), ensure_ascii=False, indent=1) + "\n"
    return found


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8", newline="\n")
