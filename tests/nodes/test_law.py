"""Who may touch ComfyUI: only `nodes/host`. Read from the source; nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import REPO

NODES = REPO / "nodes"
FILES = sorted(NODES.rglob("*.py"))
COMFY = {"comfy", "comfy_execution", "execution", "folder_paths", "latent_preview", "nodes", "server", "app", "utils"}
HEAVY = {"diffusers", "peft", "transformers", "accelerate", "tensorboard"}
PRIVATE_TRAINER = {"run", "loop", "step", "books", "training", "studio", "tasks", "families"}


def imports(path: Path) -> list[tuple[str, int]]:
    """(module, level of relative import) of every import statement, wherever it stands."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module or ''}.{alias.name}".strip("."), node.level) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(NODES).as_posix())
def test_imports_of(path: Path):
    in_host = NODES / "host" in path.parents
    for name, level in imports(path):
        first, *rest = name.split(".")
        assert level or first not in HEAVY, f"{name}: heavy"
        assert level or in_host or first not in COMFY, f"{name}: only nodes/host touches ComfyUI"
        assert level or first != "trainer", f"{name}: the pack has another name inside ComfyUI; import it relatively"
        if level and first == "trainer":
            assert not PRIVATE_TRAINER & set(rest[:1]), f"{name}: belongs to the worker"


def test_every_node_id_has_our_prefix():
    ids = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "node_id":
                assert isinstance(node.value, ast.Constant), f"{path.name}: a node id must be a literal"
                ids.append(node.value.value)
    assert len(ids) == len(set(ids)) >= 7
    assert all(str(name).startswith("Darkroom_") for name in ids)
