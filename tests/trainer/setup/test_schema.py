"""The schema for editors accepts what the program accepts, and marks what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trainer import yaml_text
from trainer.config import SECTIONS, TrainConfig, loads
from trainer.errors import ConfigError
from trainer.setup import presets

SCHEMA = json.loads((presets.FOLDER / presets.SCHEMA).read_text(encoding="utf-8"))
KINDS = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
    "null": type(None),
}  # fmt: skip
LIMITS = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "multipleOf": lambda value, limit: value % limit == 0,
}
UNDERSTOOD = {
    "$schema", "$defs", "title", "description", "$ref", "type", "enum", "anyOf", "pattern", "properties", "required",
    "additionalProperties", "items", *LIMITS,
}  # fmt: skip


def is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, KINDS[kind])


def faults(value: Any, shape: Any, place: str = "") -> list[str]:
    """What JSON Schema (draft 7) finds wrong with a value, by the keywords that the schema uses."""
    if isinstance(shape, bool):
        return [] if shape else [f"{place}: not allowed"]
    assert shape.keys() <= UNDERSTOOD, shape.keys() - UNDERSTOOD
    if "$ref" in shape:
        return faults(value, SCHEMA["$defs"][shape["$ref"].removeprefix("#/$defs/")], place)
    found = []
    if "anyOf" in shape and all(faults(value, one, place) for one in shape["anyOf"]):
        found.append(f"{place}: matches none")
    kinds = shape.get("type", list(KINDS))
    if not any(is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return [*found, f"{place}: is no {kinds}"]
    if "enum" in shape and not any(value == one and type(value) is type(one) for one in shape["enum"]):
        found.append(f"{place}: not one of {shape['enum']}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found += [f"{place}: {name}" for name, fits in LIMITS.items() if name in shape and not fits(value, shape[name])]
    if isinstance(value, str) and "pattern" in shape and not re.search(shape["pattern"], value):
        found.append(f"{place}: pattern")
    if isinstance(value, list) and "items" in shape:
        found += [fault for item in value for fault in faults(item, shape["items"], f"{place}[]")]
    if isinstance(value, dict):
        known = shape.get("properties", {})
        found += [f"{place}.{name}: missing" for name in shape.get("required", []) if name not in value]
        for name, item in value.items():
            found += faults(item, known.get(name, shape.get("additionalProperties", True)), f"{place}.{name}")
    return found


@pytest.mark.parametrize("path", sorted(presets.FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_the_folder_fits_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={presets.SCHEMA}\n")
    assert faults(yaml_text.loads(text), SCHEMA) == []


GOOD = [
    "", "lora_rank: 8", "model_config: {lora_rank: 8}", "train_config:", "use_fp16: true", "mixed_precision: no",
    "mixed_precision: false", "mask: no", "metadata_path:", "warmup_steps: auto", "warmup_steps: 0", "epochs: 3",
    "learning_rate: 2e-4", "lora_alpha: 4", "sample_prompts: [a, {prompt: b, seed: 1, negative: c}]", "device: cuda:1",
    "optimizer_args: {eps: 1e-7, betas: [0.9, 1], decouple: true}", "lora_ranks: {mid_block: 16}",
    "lora_blocks: [mid_block]",
    "auto: true", "lora_rank: auto", "lora_alpha: auto", "gradient_checkpointing: auto", "resolution: auto",
    "train_config: {use_fp16: false}", "model_config: {train_data_dir: x}", "zero_terminal_snr: false",
]  # fmt: skip
BAD = [
    "lora_rnk: 8", "model_config: {lora_rnk: 8}", "lora_rank: 0", "lora_rank: 8.5", "lora_rank: eight",
    "learning_rate: 11", "learning_rate: 0", "resolution: 500", "lr_scheduler: cosin", "warmup_steps: none",
    "warmup_steps: 1.5", "sample_prompts: [{prompt: b, sed: 1}]", "sample_prompts: [{seed: 1}]",
    "sample_prompts: a house", "device: gpu", "model_config: 8", "mixed_precision: fp8", "mixed_precision: true",
    "use_fp16: 1", "lora_ranks: {mid_block: x}", "flip: yes please", "caption_dropout: 1.1", "lora_dropout: 1",
    "task_type: video", "optimizer_args: {betas: [0.9, x]}", "epochs: true", "seed: -1",
    "seed: auto", "lora_rank: automatic", "auto: [lora_rank]",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_the_program_reads_fits(text: str) -> None:
    loads(text)
    assert faults(yaml_text.loads(text), SCHEMA) == []


@pytest.mark.parametrize("text", BAD)
def test_what_the_program_refuses_is_marked(text: str) -> None:
    with pytest.raises(ConfigError):
        loads(text)
    assert faults(yaml_text.loads(text), SCHEMA) != []


def test_every_field_can_be_completed_and_says_what_it_is() -> None:
    known = {*TrainConfig.model_fields, "use_fp16"}
    assert SCHEMA["properties"].keys() == known | set(SECTIONS)
    assert SCHEMA["$defs"]["section"]["properties"].keys() == known
    assert all(len(SCHEMA["$defs"][name]["description"]) > 10 for name in known)
    assert SCHEMA["$defs"]["lora_rank"]["description"].endswith("Default: 8.")
