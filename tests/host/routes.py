"""The table of routes, read from the source: the pack itself lives in the server's process."""

from __future__ import annotations

import ast
from typing import NamedTuple

from tests.conftest import REPO


class Entry(NamedTuple):
    """A route of the table. Args: method: GET or POST. path: below ``/darkroom``. schema: whether it has one."""

    method: str
    path: str
    schema: bool


def table() -> list[Entry]:
    """Every route of the pack."""
    tree = ast.parse((REPO / "nodes" / "routes.py").read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Route"]
    return [Entry(*map(ast.literal_eval, call.args[:2]), schema=len(call.args) > 3) for call in calls]
