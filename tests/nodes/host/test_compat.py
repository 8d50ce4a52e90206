"""An older ComfyUI: classes that do not know a later keyword leave it out, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Plain:
    """As ComfyUI's Input of late 2025."""

    def __init__(self, id: str, tooltip: str = ""):
        self.id, self.tooltip = id, tooltip


class Whole(Plain):
    def __init__(self, id: str, tooltip: str = "", min: int = 0):
        super().__init__(id, tooltip)
        self.min = min


class Inherited(Plain):
    pass


class Telling(Plain):
    def __init__(self, id: str, tooltip: str = ""):
        super().__init__(id, tooltip)
        self.extra_dict: dict[str, Any] = {}


class Current:
    def __init__(self, id: str, advanced: bool | None = None):
        self.id, self.advanced = id, advanced


class OldSchema:
    def __init__(self, node_id: str, inputs: Any = None):
        self.node_id, self.inputs = node_id, inputs


@pytest.fixture
def folders() -> SimpleNamespace:
    """A folder_paths without the later functions."""
    return SimpleNamespace(get_user_directory=lambda: "/comfy/user")


@pytest.fixture
def compat(
    load_node_file: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, folders: SimpleNamespace
) -> Any:
    io = SimpleNamespace(Schema=OldSchema)
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.latest", SimpleNamespace(io=io, ComfyAPISync=object))
    monkeypatch.setitem(sys.modules, "folder_paths", folders)
    sys.modules.pop("darkroom_under_test.nodes.host.compat", None)
    return load_node_file("host.compat")


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """comfy_api.latest.io of an old ComfyUI; its classes are as they were afterwards."""
    for cls in (Plain, Whole, Telling, OldSchema):
        monkeypatch.setattr(cls, "__init__", cls.__init__)
    kinds = {name: SimpleNamespace(Input=cls) for name, cls in
             {"Model": Plain, "Int": Whole, "Clip": Inherited, "Combo": Telling, "New": Current}.items()}  # fmt: skip
    return SimpleNamespace(Schema=OldSchema, NodeOutput=object, **kinds)


def test_later_keywords_are_left_out(compat: Any, old: SimpleNamespace):
    assert compat.accept_later_keywords(old) == 4
    assert vars(old.Int.Input("a", "why", min=3, advanced=True)) == {"id": "a", "tooltip": "why", "min": 3}
    assert vars(old.Clip.Input("b", advanced=None)) == {"id": "b", "tooltip": ""}
    assert old.New.Input("c", advanced=True).advanced is True
    schema = old.Schema(node_id="n", inputs=[1], search_aliases=["x"], has_intermediate_output=True)
    assert vars(schema) == {"node_id": "n", "inputs": [1]}


def test_what_an_input_says_for_the_page_reaches_it(compat: Any, old: SimpleNamespace):
    compat.accept_later_keywords(old)
    assert old.Combo.Input("a", advanced=True).extra_dict == {"advanced": True}
    assert old.Combo.Input("a").extra_dict == {}
    assert old.Combo.Input("a", advanced=True, extra_dict={"b": 1}).extra_dict == {"advanced": True, "b": 1}


def test_other_unknown_keywords_are_errors_still(compat: Any, old: SimpleNamespace):
    compat.accept_later_keywords(old)
    for make, keyword in ((old.Int.Input, "search_aliases"), (old.Int.Input, "advancd"), (old.Schema, "advanced")):
        with pytest.raises(TypeError, match="unexpected keyword"):
            make("a", **{keyword: 1})


def test_the_private_folder_of_an_older_comfyui(compat: Any, folders: SimpleNamespace):
    assert Path(compat.system_user_directory("x")) == Path("/comfy/user/__x")
    folders.get_system_user_directory = lambda name: f"/own/{name}"
    assert compat.system_user_directory("x") == "/own/x"


def test_within_a_directory(compat: Any, tmp_path: Path):
    inside, outside = tmp_path / "in \u00fc", tmp_path / "in \u00fc beside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    within = [inside, inside / "a" / "b", inside / "a" / ".." / "b"]
    without = [outside, inside / "..", inside / "link" / "a", tmp_path]
    assert all(compat.is_within_directory(str(inside), str(path)) for path in within)
    assert not any(compat.is_within_directory(str(inside), str(path)) for path in without)
