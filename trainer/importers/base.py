"""What every importer works with: a reader of another trainer's settings that forgets none of them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import TrainConfig, parse
from ..errors import ConfigError

NOT_GIVEN = object()
SHUFFLED = "of lists of tags alone (not of sentences), in up to eight orders an image"
_SECRET = ("_token", "api_key", "password")


@dataclass(frozen=True)
class Note:
    """Something that a user should know of one key of the other trainer's file.

    Args:
        key: its name there.
        value: its value there; ``NOT_GIVEN`` where the file does not have it.
        text: why it has no counterpart and what to do, or how its meaning differs.
    """

    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        if self.value is NOT_GIVEN:
            return f"{self.key} (not given): {self.text}"
        hidden = self.key.endswith(_SECRET)
        return f"{self.key} = {'...' if hidden else _shown(self.value)}: {self.text}"


@dataclass
class Imported:
    """What an importer found.

    Args:
        trainer: the other trainer's name.
        config: the settings as ours.
        left_out: keys without a counterpart.
        differing: keys that mean something else here.
    """

    trainer: str
    config: TrainConfig
    left_out: list[Note]
    differing: list[Note]


@dataclass
class Reader:
    """Another trainer's settings, key by key. Every key is taken once; what was not taken is left.

    Args:
        values: the settings, flat. Empty texts are as if they were not there.
        source: the file's name, for errors.
        fields: ours, as they are found.
    """

    values: dict[str, Any]
    source: str
    fields: dict[str, Any] = field(default_factory=dict)
    left_out: list[Note] = field(default_factory=list)
    differing: list[Note] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = {key: value for key, value in self.values.items() if value not in ("", None)}

    def given(self, key: str) -> bool:
        """Whether the file has the key, and something in it; it stays to be taken."""
        return key in self._left

    def number(self, key: str, default: float | None) -> Any:
        """Takes a number; texts that are one (``"1e-4"``) count."""
        value = self._left.pop(key, default)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return self._fault(key, "a number", value, default)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)):
            return value
        return self._fault(key, "a number", value, default)

    def whole(self, key: str, default: int | None) -> Any:
        """Takes a whole number."""
        value = self.number(key, default)
        if value is None or value == int(value):
            return None if value is None else int(value)
        return self._fault(key, "a whole number", value, default)

    def yes(self, key: str, default: bool = False) -> bool:
        """Takes a yes or no."""
        value = self._left.pop(key, default)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        return bool(value) if value in (True, False) else self._fault(key, "true or false", value, default)

    def text(self, key: str, default: str = "") -> str:
        """Takes a text."""
        value = self._left.pop(key, default)
        return value if isinstance(value, str) else self._fault(key, "a text", value, default)

    def take(self, key: str, default: Any = None) -> Any:
        """Takes a value of whatever kind."""
        return self._left.pop(key, default)

    def leave(self, key: str, value: Any, text: str) -> None:
        """Notes a key without a counterpart."""
        self.left_out.append(Note(key, value, text))

    def differs(self, key: str, value: Any, text: str) -> None:
        """Notes a key whose meaning differs."""
        self.differing.append(Note(key, value, text))

    def fault(self, text: str) -> None:
        """Notes a mistake in the file; all are told at once."""
        self.faults.append(text)

    def leave_rest(self, known: Mapping[str, str], names: Iterable[str], on: Container[str] = ()) -> None:
        """Notes what was not taken. Switches that are off are as if they were not there.

        Args:
            known: the other trainer's keys that have no counterpart, each with why.
            names: its other keys, for a did-you-mean.
            on: switches that are on where nobody says otherwise: of these, off is told.
        """
        every = [*known, *names, *self.values]
        for key, value in self._left.items():
            if key in known:
                if key in on or value not in (False, 0, [], {}, "none", "None"):
                    self.leave(key, value, known[key])
                continue
            close = [name for name in difflib.get_close_matches(key, every, n=2, cutoff=0.75) if name != key]
            self.leave(key, value, f"unknown{f'; did you mean {close[0]}?' if close else ''}")
        self._left = {}

    def finish(self, trainer: str) -> Imported:
        """The settings as ours.

        Raises:
            ConfigError: the file has faults, or its values are out of our ranges.
        """
        if self.faults:
            raise ConfigError(self.faults, self.source)
        config = parse(self.fields, source=f"{self.source}, in this program's fields,")
        return Imported(trainer, config, self.left_out, self.differing)

    def _fault(self, key: str, expected: str, value: Any, default: Any) -> Any:
        self.fault(f"{key}: expected {expected}, got {value!r}")
        return default


def nearest_resolution(sides: list[int]) -> int:
    """The side of the square with the area of a rectangle, as a multiple of 64."""
    return max(64, round(math.sqrt(sides[0] * sides[-1]) / 64) * 64)


def looks_like_sdxl(base_model: str, resolution: int) -> bool:
    """Whether a base model is SDXL: by its content where it is there, else by its name and the resolution."""
    if base_model and Path(base_model).exists():
        from .. import families  # torch is loaded only for this
        from ..errors import BaseModelError

        try:
            return families.detect(base_model).name == "sdxl"
        except BaseModelError:
            pass  # told when it is trained on
    return "xl" in Path(base_model).name.lower() or resolution >= 896


def prodigy_rate(reader: Reader) -> None:
    """Prodigy finds the rate by itself: one that is meant as a rate becomes 1."""
    if reader.fields["learning_rate"] >= 0.1:
        return
    text = "1.0 is written: prodigy finds the rate by itself, and multiplies it with this"
    reader.differs("learning_rate", reader.fields["learning_rate"], text)
    reader.fields["learning_rate"] = 1.0
    if reader.fields["train_text_encoder"]:
        reader.fields["text_encoder_learning_rate"] = 1.0


def base_notes(reader: Reader, key: str, base_model: str) -> None:
    """Notes what to do about a base model that is no file of ours."""
    if base_model.lower().endswith((".ckpt", ".pt", ".pth")):
        reader.leave(key, base_model, "a pickle is not read: give base_model as .safetensors")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(?<!\.safetensors)", base_model) and not Path(base_model).exists():
        text = "nothing is downloaded: where this is a name on a hub, give base_model as a file or a folder"
        reader.differs(key, base_model, text)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
