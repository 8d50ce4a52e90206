"""Who may import whom, as docs/architecture.md says it. Read from the source; nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPO


@cache
def levels() -> dict[str, int]:
    """The table of docs/architecture.md: its lines' names, numbered from the bottom up."""
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^```layers\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert table is not None
    lines = reversed(table[1].splitlines())
    return {name.strip(): number for number, line in enumerate(lines) for name in line.split(",")}


def level_of(module: str) -> int | None:
    """The line of a module (`dataset.scan`) in the table, by its longest name there."""
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((levels()[name] for name in names if name in levels()), None)


def imports_of(path: Path) -> Iterator[str]:
    """The trainer's modules that a file of it imports, as `dataset.scan`; others as they stand."""
    package = ["trainer", *path.relative_to(REPO / "trainer").parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(package), f"{path}: climbs out of trainer"
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                whole = REPO.joinpath(*base, alias.name)
                deeper = base[0] == "trainer" and (whole.with_suffix(".py").exists() or whole.is_dir())
                name = ".".join([*base, alias.name] if deeper else base)
                yield name.removeprefix("trainer.")


TRAINER = sorted((REPO / "trainer").rglob("*.py"))


@pytest.mark.parametrize("path", TRAINER, ids=lambda p: p.relative_to(REPO / "trainer").as_posix())
def test_trainer_imports_only_downwards(path: Path):
    name = ".".join(path.relative_to(REPO / "trainer").with_suffix("").parts).removesuffix("__init__").rstrip(".")
    if not name:  # the package itself
        assert not [i for i in imports_of(path) if not i.startswith("__future__")]
        return
    mine = level_of(name)
    assert mine is not None, f"{name} is not in the table of docs/architecture.md"
    for imported in imports_of(path):
        first = imported.partition(".")[0]
        assert not first.startswith("comfy"), f"{name}: {imported}"
        assert first not in {"folder_paths", "server", "nodes"}, f"{name}: {imported}"
        theirs = None if first in sys.stdlib_module_names else level_of(imported)
        if theirs is None or first == name.partition(".")[0]:
            continue
        assert theirs < mine, f"{name} may not import {imported}: docs/architecture.md, 'Who may import whom'"


def test_families_do_not_know_each_other():
    folder = REPO / "trainer" / "families"
    families = {p.stem for p in folder.glob("*.py") if re.search(r"^FAMILY\b", p.read_text("utf-8"), re.MULTILINE)}
    assert families
    for name in families:
        assert not families & {i.split(".")[-1] for i in imports_of(folder / f"{name}.py")} - {name}


HEAVY = {"diffusers", "peft", "transformers", "accelerate", "tensorboard", "matplotlib"}


@pytest.mark.parametrize("path", TRAINER, ids=lambda p: p.relative_to(REPO / "trainer").as_posix())
def test_nothing_heavy_is_imported_at_the_top(path: Path):
    def at_top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield node
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from at_top([n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)])

    for node in at_top(ast.parse(path.read_text(encoding="utf-8")).body):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        assert not HEAVY & {name.partition(".")[0] for name in names}


WORKER = {"run", "loop", "step", "books", "training", "studio", "tasks", "families"}


def used_by_nodes() -> Iterator[str]:
    """The trainer's modules that nodes/ imports."""
    for path in (REPO / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").split(".")[0] == "trainer":
                base = (node.module or "").split(".")[1:]
                yield from (".".join([*base, alias.name]) for alias in node.names)


def test_nodes_do_not_come_to_the_workers_modules_by_a_detour():
    def file_of(module: str) -> Path | None:
        path = REPO.joinpath("trainer", *module.split("."))
        return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)

    # A name of a module (`config.parse`) is looked up as that module.
    waiting = [name if file_of(name) else name.rpartition(".")[0] for name in used_by_nodes()]
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = file_of(module) if module not in reached else None
        if path is not None:
            reached.add(module)
            waiting += imports_of(path)
    assert {"config", "prepare", "files"} <= reached
    assert not {module for module in reached if module.split(".")[0] in WORKER}
