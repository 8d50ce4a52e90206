"""A JSON schema of configs, for editors: completion, ranges and meanings while typing.

From pydantic's own, made to accept what ``config.loads`` does: fields at the top and in sections, empty values,
``no`` read as false, ``use_fp16``. Draft 7, which YAML's language server knows best.
"""

from __future__ import annotations

from typing import Any

from ..config import AUTO_FIELDS, SECTIONS, TrainConfig

_ARGUMENT = {"type": ["number", "boolean", "string", "array"], "items": {"type": "number"}}
_NOISE = ("title", "identity", "format", "default")
# What pydantic cannot say of fields with validators of their own.
_SHAPES: dict[str, dict[str, Any]] = {
    "warmup_steps": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 1_000_000}, {"enum": ["auto"]}]},
    "optimizer_args": {"type": "object", "additionalProperties": _ARGUMENT},
    "auto": {"type": "boolean"},
}


def build() -> dict[str, Any]:
    """The schema, as plain data."""
    whole = TrainConfig.model_json_schema()
    prompt = {
        name: _empty_too(_plain(shape)) for name, shape in whole["$defs"]["SamplePrompt"]["properties"].items()
    } | {"prompt": {"type": "string"}}
    fields = {name: _field(name, shape) for name, shape in whole["properties"].items()}
    fields["use_fp16"] = {"description": "Another name of mixed_precision: fp16.", "type": ["boolean", "null"]}
    inside = {name: {"$ref": f"#/$defs/{name}"} for name in fields}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "LoRA Darkroom: a training run",
        "type": ["object", "null"],
        "properties": inside | {section: {"$ref": "#/$defs/section"} for section in SECTIONS},
        "additionalProperties": False,
        "$defs": fields
        | {
            "section": {"type": ["object", "null"], "properties": inside, "additionalProperties": False},
            "SamplePrompt": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "object", "properties": prompt, "required": ["prompt"], "additionalProperties": False},
                ]
            },
        },
    }


def _field(name: str, shape: dict[str, Any]) -> dict[str, Any]:
    default = shape.get("default")
    said = shape["description"] + ("" if default in (None, "", [], {}) else f" Default: {_text(default)}.")
    shape = _SHAPES.get(name) or _plain(shape)
    if name in AUTO_FIELDS:
        shape = {"anyOf": [*shape.get("anyOf", [shape]), {"enum": ["auto"]}]}
    return {"description": said, **_empty_too(shape)}


def _plain(shape: Any) -> Any:
    """Without what an editor has no use for; descriptions are kept at the top alone."""
    if isinstance(shape, dict):
        return {key: _plain(value) for key, value in shape.items() if key not in (*_NOISE, "description")}
    return [_plain(item) for item in shape] if isinstance(shape, list) else shape


def _empty_too(shape: dict[str, Any]) -> dict[str, Any]:
    """The same, or nothing: an empty value is as if the line were not there."""
    if "enum" in shape or "const" in shape:
        words = shape.get("enum") or [shape["const"]]
        # YAML 1.1 reads a bare `no` as false.
        return {"enum": [*words, None, *([False] if "no" in words else [])]}
    if "anyOf" in shape:
        rest = [one for one in shape["anyOf"] if one != {"type": "null"}]
        return {**shape, "anyOf": [*rest, {"type": "null"}]}
    return {**shape, "type": [shape["type"], "null"]}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
