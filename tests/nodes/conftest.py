"""Imports single files of `nodes` without ComfyUI: its package runs only inside it."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.conftest import REPO

PACKAGE = "darkroom_under_test"


@pytest.fixture
def load_node_file() -> Callable[[str], ModuleType]:
    """See ``loader``."""
    return loader()


def loader() -> Callable[[str], ModuleType]:
    """`loader()("runner")`: a file of nodes/ as part of the pack, under another package name, as in ComfyUI."""

    def load(name: str) -> ModuleType:
        for package, folder in ((PACKAGE, REPO), (f"{PACKAGE}.nodes", REPO / "nodes")):
            if package not in sys.modules:
                module = types.ModuleType(package)
                module.__path__ = [str(folder)]
                sys.modules[package] = module
        return importlib.import_module(f"{PACKAGE}.nodes.{name}")

    return load
