"""YAML as users mean it: ``2e-4`` is a number, a key given twice is an error, and what is written reads back equal."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

from .errors import ConfigError

# YAML 1.1 (PyYAML) wants a dot and a sign in an exponent; 1.2 and everybody's intuition do not.
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$")
# Line breaks to YAML 1.1 but not to us; only between double quotes are they escaped, and so kept.
_BREAKS = re.compile("[\r\x85\u2028\u2029]")


class _Loader(yaml.SafeLoader):
    """See the module."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError([f"{key}: given twice (again in line {line}); keep one"])
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around every text that ``_Loader`` would not read as it is."""

    def represent_text(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if _BREAKS.search(data) else None)


_Dumper.add_representer(str, _Dumper.represent_text)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def loads(text: str) -> Any:
    """The data of a YAML text.

    Raises:
        ConfigError: it is not YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"not YAML: {_first_line(error)}"]) from None


def dumps(data: Any) -> str:
    """Plain data as YAML that ``loads`` to equal data; the order is kept, Chinese stays readable."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def line(data: dict[str, Any] | list[Any]) -> str:
    """A mapping or a list as YAML on one line, such as ``{mid_block: 16}``, that ``loads`` to equal data."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=math.inf)
    # A text with line breaks is folded by YAML's writer; JSON, which is YAML too, escapes them.
    return json.dumps(data, ensure_ascii=False) if "\n" in text.strip() else text.strip()


def _first_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "escape" in problem:  # "C:\data"
        problem += "; write Windows paths with / or without quotes"
    return f"{problem} (line {mark.line + 1})" if mark is not None else problem
