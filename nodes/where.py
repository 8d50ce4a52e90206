"""Which node of which workflow shows a run: ``shown.json`` in its folder, so that a page finds it after a reload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..trainer.files import read_json, write_json
from . import owners

FILE = "shown.json"
MARK = "darkroom_drawing"


class Where(NamedTuple):
    """A node of a workflow. Args: workflow: its id; empty where it has none. node: the execution id, such as 7:3."""

    workflow: str
    node: str


def of_prompt(extra: Mapping[str, Any] | None, node: str | None) -> Where:
    """A node of the prompt that is being executed.

    Args:
        extra: the prompt's ``extra_pnginfo``, which a program need not send.
        node: the execution id.
    """
    found = _workflow(extra).get("id")
    return Where(found if isinstance(found, str) else "", node or "")


def mark(extra: Mapping[str, Any] | None) -> str:
    """What a page that draws a checkpoint by itself has put into the prompt's workflow; empty where it is none."""
    inner = _workflow(extra).get("extra")
    found = inner.get(MARK) if isinstance(inner, Mapping) else None
    return found if isinstance(found, str) else ""


def _workflow(extra: Any) -> Mapping[str, Any]:
    """The workflow that a page sent with a prompt; a program may send nothing, or anything."""
    found = extra.get("workflow") if isinstance(extra, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def write(folder: Path, where: Where) -> None:
    """Let the node show this run from now on. One that a program queued, of no workflow, is left where it was shown."""
    if where.workflow and where.node:
        write_json(folder / FILE, where._asdict())


def read(folder: Path) -> Where | None:
    """Where a run is shown; None if nowhere."""
    found = read_json(folder / FILE)
    workflow, node = found.get("workflow"), found.get("node")
    return Where(workflow, node) if isinstance(workflow, str) and isinstance(node, str) else None


def runs_of(root: Path, workflow: str, user: str = "") -> dict[str, str]:
    """Which run each node of a workflow shows: {node: the newest that it began or found, of those a profile sees}."""
    found: dict[str, tuple[int, str]] = {}
    for file in root.glob(f"*/{FILE}"):
        where = read(file.parent)
        if where is not None and where.workflow == workflow and owners.sees(file.parent, user):
            mine = file.stat().st_mtime_ns, file.parent.name
            found[where.node] = max(mine, found.get(where.node, mine))
    return {node: run for node, (_, run) in found.items()}
