"""The oldest Python that pyproject.toml allows can read every file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import REPO

OLDEST = (3, 10)
FOLDERS = ("trainer", "nodes", "tools")
FILES = [*REPO.glob("*.py"), *(path for folder in FOLDERS for path in sorted((REPO / folder).rglob("*.py")))]
NEWER = {
    "tomllib", "datetime.UTC", "enum.StrEnum", "typing.Self", "typing.override", "typing.Never", "asyncio.TaskGroup",
    "asyncio.timeout", "itertools.batched", "contextlib.chdir", "warnings.deprecated",
}  # fmt: skip


def test_it_is_what_pyproject_says():
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^requires-python = ">=(.*)"$', project, re.MULTILINE) == [".".join(map(str, OLDEST))]


@pytest.mark.parametrize(
    "path", [REPO / "__init__.py", REPO / "train.py", *FILES], ids=lambda p: p.relative_to(REPO).as_posix()
)
def test_syntax_and_imports(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)
    used = set()
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and not part.level:
            used |= {part.module or "", *(f"{part.module}.{alias.name}" for alias in part.names)}
        elif isinstance(part, ast.Import):
            used |= {alias.name for alias in part.names}
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            used.add(f"{part.value.id}.{part.attr}")
    guarded = {"tomllib"} if path.name == "toml.py" else set()  # with tomli in its place
    assert not (used & NEWER) - guarded
