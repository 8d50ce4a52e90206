"""Reads a config: YAML, flat or in sections, all faults told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import yaml_text
from ..errors import ConfigError
from . import automatic
from .fields import SECTIONS, TEXT, TEXT_RATE, SamplePrompt, TrainConfig
from .kinds import yes_no


def parse_value(text: str) -> Any:
    """One value written as in YAML, such as the ``16`` of ``--set lora_rank=16``.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return yaml_text.loads(text)
    except ConfigError as error:
        raise ConfigError([f"cannot read the value {text!r}: {problem}" for problem in error.problems]) from None


def loads(text: str, *, overrides: Mapping[str, Any] | None = None, source: str = "the config") -> TrainConfig:
    """Reads a config from YAML.

    Args:
        text: YAML, flat or in sections.
        overrides: fields that win over the text.
        source: named in errors.

    Raises:
        ConfigError: with every fault.
    """
    return parse(_mapping(text, source), overrides=overrides, source=source)


def given(text: str, *, source: str = "the config") -> dict[str, Any]:
    """The fields that a YAML text sets, flat, by their names in ``TrainConfig``; the values are not checked yet.

    A name that no field has stays as it is, for ``parse`` to refuse. Empty values are as if the line were not there.

    Raises:
        ConfigError: it is not YAML, or says two things of one field.
    """
    flat, problems = _flatten(_mapping(text, source))
    problems += _use_fp16(flat)
    if problems:
        raise ConfigError(problems, source)
    return flat


def load(path: Path, *, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Reads a config file (UTF-8, with or without a byte-order mark).

    Raises:
        ConfigError: the file is missing, unreadable, or has faults.
    """
    return loads(read_text(path), overrides=overrides, source=str(path))


def read_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: it is missing or unreadable.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError([f"the file {what}; copy configs/lora_default.yaml and edit the copy"], str(path))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"], str(path)
        ) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], str(path)) from None


def parse(
    data: Mapping[Any, Any], *, overrides: Mapping[str, Any] | None = None, source: str = "the config"
) -> TrainConfig:
    """Validates plain data, flat or in sections.

    Raises:
        ConfigError: with every fault.
    """
    flat, problems = _flatten(data)
    # The two names of one setting: an override of either wins over both.
    wins = set(overrides or ())
    if wins & _PRECISION:
        flat = {name: value for name, value in flat.items() if name not in _PRECISION}
    flat.update(overrides or {})
    problems += _use_fp16(flat)
    problems += automatic.take(flat)
    if flat.get("task_type") == TEXT and "learning_rate" not in flat and flat.get("optimizer") != "prodigy":
        flat["learning_rate"] = TEXT_RATE
    try:
        config = TrainConfig.model_validate(flat)
    except ValidationError as error:
        told = [line for one in error.errors() for line in _explain(one).split("\n")]
        raise ConfigError([*problems, *told], source) from None
    if problems:
        raise ConfigError(problems, source)
    return config


REFUSED_METHODS = {
    "oft": (
        "ComfyUI turns a layer's output by what an OFT file holds, and by the square of the strength, while PEFT turns "
        "its input: no file could make it compute what was trained"
    )
}
"""Methods that PEFT has and that are left out: method -> why."""
_PRECISION = {"use_fp16", "mixed_precision"}


def _mapping(text: str, source: str) -> dict[Any, Any]:
    try:
        data = yaml_text.loads(text)
    except ConfigError as error:
        raise ConfigError(error.problems, source) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError([f"expected lines like `lora_rank: 8`, got {type(data).__name__} {data!r:.60}"], source)
    return data


def _flatten(data: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    flat: dict[str, Any] = {}
    problems: list[str] = []
    where: dict[str, str] = {}

    def take(items: Iterable[tuple[Any, Any]], place: str) -> None:
        for key, value in items:
            name = str(key)
            if value is None:  # an empty value (`metadata_path:`) is as if the line were not there
                continue
            if name in flat and flat[name] != value:
                problems.append(f"{name}: {flat[name]!r} {where[name]}, but {value!r} {place}; keep one")
                continue
            flat[name], where[name] = value, place

    take(((k, v) for k, v in data.items() if k not in SECTIONS), "at the top")
    for section in SECTIONS:
        content = data.get(section)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            problems.append(f"{section}: expected fields below it, got {content!r:.60}")
            continue
        take(content.items(), f"in {section}")
    return flat, problems


def _use_fp16(flat: dict[str, Any]) -> list[str]:
    """Turns ``use_fp16``, another name of ``mixed_precision: fp16``, into it; returns the faults."""
    if "use_fp16" not in flat:
        return []
    use_fp16 = flat.pop("use_fp16")
    if not isinstance(use_fp16, bool):
        return [f"use_fp16: expected true or false, got {use_fp16!r}"]
    given = yes_no(flat.setdefault("mixed_precision", "fp16" if use_fp16 else "no"))
    if use_fp16 != (given == "fp16"):
        return [f"use_fp16: {str(use_fp16).lower()} contradicts mixed_precision: {given}; give one of them"]
    return []


def _explain(error: Any) -> str:
    """One line for one pydantic error."""
    name = ".".join(str(part) for part in error["loc"])
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    field = TrainConfig.model_fields.get(name.split(".")[0])
    if kind == "extra_forbidden":
        inside = error["loc"][0] == "sample_prompts"
        known = [*SamplePrompt.model_fields] if inside else [*TrainConfig.model_fields, "use_fp16", *SECTIONS]
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.6)
        if inside and not close:
            return f"{name}: unknown; a prompt has {', '.join(known)}"
        hint = f"did you mean {close[0]}?" if close else "see configs/lora_default.yaml for the known ones"
        return f"{name}: unknown field; {hint}"
    if kind == "value_error":
        text = str(context.get("error", error["msg"]))
        return f"{name}: {text}" if name else text
    if name == "lora_method" and value in REFUSED_METHODS:
        return f"lora_method: {value}: {REFUSED_METHODS[value]}"
    expected = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "multiple_of": "a multiple of {multiple_of}",
        "literal_error": "{expected}",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_pattern_mismatch": "auto, cpu, mps, cuda or cuda:N",
        "tuple_type": "a list of texts",
        "dict_type": "names with values, as in `mid_block: 16`",
        "model_type": "a text, or fields such as `prompt: a house`",
        "missing": "a text",
        "is_instance_of": "a path",
        "path_type": "a path",
    }.get(kind)
    said = f"expected {expected.format(**context)}" if expected else error["msg"]
    default = (
        "" if field is None or "." in name or field.default in (None, "", (), {}) else f" (default {field.default!s})"
    )
    return f"{name}: {said}, got {value!r}{default}"
