"""What saved graphs rely on: of the nodes as they were stored, nothing is renamed, removed or moved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.host.server import ComfyServer

STORED = Path(__file__).with_name("object_info.json")


def signatures(info: dict[str, Any]) -> dict[str, Any]:
    """Of every node of the pack what a saved graph knows of it: inputs and outputs with their types, in order."""
    found = {}
    for node_id, node in sorted(info.items()):
        if not node_id.startswith("Darkroom_"):
            continue
        groups = {
            group: [[name, "COMBO" if isinstance(spec[0], list) else spec[0]] for name, spec in inputs.items()]
            for group, inputs in node["input"].items()
            if group in ("required", "optional")
        }
        outputs = zip(node["output_name"], node["output"], node["output_is_list"], strict=True)
        found[node_id] = {
            "required": groups.get("required", []),
            "optional": groups.get("optional", []),
            "outputs": [list(output) for output in outputs],
            "output_node": node["output_node"],
        }
    return found


def broken_promises(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What would break a graph that was saved with the stored nodes."""
    faults = []
    for node_id, before in stored.items():
        after = now.get(node_id)
        if after is None:
            faults.append(f"{node_id} is gone")
            continue
        for part in ("required", "optional", "outputs"):
            kept = after[part][: len(before[part])]
            if kept != before[part]:
                faults.append(f"{node_id}: {part} were {before[part]}, and are {kept}")
        added = after["required"][len(before["required"]) :]
        if added:
            faults.append(f"{node_id}: {added} are new, and required")
        if before["output_node"] and not after["output_node"]:
            faults.append(f"{node_id} is no output node any more")
    return faults


@pytest.mark.host
def test_saved_graphs_still_load(comfy: ComfyServer):
    stored, now = json.loads(STORED.read_text("utf-8")), signatures(comfy.get("/object_info"))
    assert not broken_promises(stored, now)
    assert now == stored, "new inputs or nodes: python -m tests.host.regenerate object_info"


def test_every_broken_promise_is_seen():
    stored = json.loads(STORED.read_text("utf-8"))
    assert not broken_promises(stored, stored)
    name = "Darkroom_ApplyLoRA"

    def after(change: Any) -> list[str]:
        now = copy.deepcopy(stored)
        change(now)
        return broken_promises(stored, now)

    assert after(lambda now: now.pop(name)) == [f"{name} is gone"]
    assert after(lambda now: now[name]["required"].reverse())
    assert after(lambda now: now[name]["outputs"].pop())
    assert after(lambda now: now[name]["required"][0].__setitem__(0, "renamed"))
    assert after(lambda now: now[name]["required"].append(["new", "INT"]))
    assert not after(lambda now: now[name]["optional"].append(["new", "INT"]))
