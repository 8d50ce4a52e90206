"""What a user decides about a run: ``TrainConfig``, with the names and the YAML of the guide.

A config is strict and frozen: unknown keys are refused with a did-you-mean, and all faults are told at once.
Fields may stand at the top of the file or in sections (``model_config:``, ``train_config:``, ``data_config:``).
A missing key means the guide's value.
"""

from __future__ import annotations

from .automatic import AUTO
from .automatic import NAMES as AUTO_FIELDS
from .automatic import everything as all_auto
from .fields import SECTIONS, TEXT, Precision, SamplePrompt, Targets, TrainConfig
from .read import REFUSED_METHODS, given, load, loads, parse, parse_value, read_text

__all__ = [
    "AUTO",
    "AUTO_FIELDS",
    "REFUSED_METHODS",
    "SECTIONS",
    "TEXT",
    "Precision",
    "SamplePrompt",
    "Targets",
    "TrainConfig",
    "all_auto",
    "given",
    "load",
    "loads",
    "parse",
    "parse_value",
    "read_text",
]
