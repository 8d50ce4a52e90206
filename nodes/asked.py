"""What a route may be asked: a schema each, checked before anything is read; what is not in it is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..trainer.errors import HostError

Name = Annotated[str, StringConstraints(max_length=300)]
"""A name of something that is there, or is to be."""
Typed = Annotated[str, StringConstraints(max_length=4096)]
"""A path as typed, which says nothing of whether the client may read there."""
Number = Annotated[int, Field(strict=False, ge=0, le=2**53)]
"""A whole number from 0 on, also as the text of a query."""
CURE = "if a page of ComfyUI asked this, reload it: it may be of an older version"
_T = TypeVar("_T", bound="Asked")


class Asked(BaseModel):
    """Base of all: the query, the path's parts and a POST's JSON in one; or an object in it. Types are strict."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Nothing(Asked):
    """A route that is asked nothing."""


class One(Asked):
    """A run: by its id, its beginning or its name."""

    run: Name


_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not asked for here",
    "string_type": "expected a text, got {input}",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is empty",
    "bool_type": "expected true or false, got {input}",
    "int_type": "{input} is no whole number",
    "int_parsing": "{input} is no whole number",
    "dict_type": "expected an object, got {input}",
    "model_type": "expected an object, got {input}",
    "tuple_type": "expected a list of names, got {input}",
    "list_type": "expected a list, got {input}",
    "too_long": "there are more than {max_length}",
    "literal_error": "{input} is unknown; it is {expected}",
    "greater_than_equal": "{input} is below {ge}",
    "less_than_equal": "{input} is above {le}",
}


def read(kind: type[_T], asked: Mapping[str, Any]) -> _T:
    """What was asked, as its schema.

    Raises:
        HostError: with every fault.
    """
    try:
        return kind.model_validate(dict(asked))
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)]
        raise HostError("; ".join(faults[:5]), CURE) from None


def _fault(found: Any) -> str:
    where = ".".join(str(part)[:80] for part in found["loc"]) or "the request"
    words = _WORDS.get(found["type"])
    if words is None:
        return f"{where}: {found['msg']}"
    shown = f"{found['input']!r:.60}"
    return f"{where}: {words.format(input=shown, **found.get('ctx', {}))}"
