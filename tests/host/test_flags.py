"""ComfyUI started otherwise: other folders, other caches. Files lie where the flags say, and nothing trains twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.host.graphs import Graph, apply_lora, checkpoint_loader, node, picture, training
from tests.host.measure import run_id
from tests.host.server import ComfyServer
from trainer import events
from trainer.events import RunStarted

pytestmark = pytest.mark.host
CHECKPOINT = "demo \u00fc \u6f2b.safetensors"
FOREIGN_LORA = "of \u00e4nother.safetensors"


class Moved(NamedTuple):
    """A server whose folders lie elsewhere."""

    server: ComfyServer
    output: Path
    input: Path
    user: Path
    models: Path

    @property
    def runs(self) -> Path:
        return self.user / "__lora_darkroom" / "runs"


def begun(folder: Path) -> int:
    """How many times a worker began to train, in all runs of a folder."""
    journals = [events.read(journal)[0] for journal in folder.glob("*/events.jsonl")]
    return sum(isinstance(event, RunStarted) for told in journals for event in told)


def whole(lora: str) -> Graph:
    """Train, save, apply what was trained, and a file by name, and draw."""
    graph = {**checkpoint_loader(CHECKPOINT), **training(epochs=1, training_seed=5)}
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename=lora)
    graph |= {"apply": apply_lora(), **picture(model=["apply", 0])}
    graph["keep"] = node("SaveImage", images=["decode", 0], filename_prefix="kept")
    return graph


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    root = tmp_path_factory.mktemp("flags")
    output, input_, user, models = (root / f"{name} \u00fc \u6f2b" for name in ("out", "in", "user", "models"))
    for folder in (output, input_, user, models / "checkpoints", models / "loras"):
        folder.mkdir(parents=True)
    paths = root / "extra.yaml"
    named = {"base_path": str(models), "checkpoints": "checkpoints", "loras": "loras", "is_default": True}
    paths.write_text(json.dumps({"elsewhere": named}), encoding="utf-8")  # JSON is YAML
    server = ComfyServer(
        root,
        (
            "--cache-none", "--multi-user", "--disable-smart-memory", "--output-directory", str(output),
            "--input-directory", str(input_), "--user-directory", str(user), "--extra-model-paths-config", str(paths),
        ),
        start=False,
    )  # fmt: skip
    shutil.copy(server.pack / "trainer" / "demo" / "base.safetensors", models / "checkpoints" / CHECKPOINT)
    server.start()
    try:
        yield Moved(server, output, input_, user, models)
    finally:
        server.stop()


def test_everything_lies_where_the_flags_say(moved: Moved):
    shown = moved.server.run(whole("styles/m\u00f6ved"))
    assert (moved.models / "loras" / "styles" / "m\u00f6ved.safetensors").is_file()
    assert (moved.models / "loras" / "styles" / "m\u00f6ved.preview.png").is_file()
    assert (moved.input / "darkroom_demo").is_dir()
    assert (moved.runs / run_id(shown) / "result.json").is_file()
    assert list(moved.output.glob("kept*.png"))
    assert shown["picture"]["images"]
    for folder in ("input", "output", "user", "models/loras", "models/checkpoints"):
        left = [path for path in (moved.server.base / folder).rglob("*") if path.is_file()]
        assert not left, f"{folder}: {left}"


def test_without_a_cache_an_unchanged_graph_trains_once(moved: Moved):
    first = moved.server.run(whole("twice"))
    before = begun(moved.runs)
    assert before >= 1
    again = moved.server.run(whole("twice"))
    assert run_id(again) == run_id(first)
    assert begun(moved.runs) == before
    assert [path.name for path in (moved.models / "loras").glob("twice*.safetensors")] == ["twice.safetensors"]


def test_loras_of_another_folder_are_applied(moved: Moved):
    moved.server.run(whole("made"))
    folder = moved.server.base / "models" / "loras"
    shutil.copy(moved.models / "loras" / "made.safetensors", folder / FOREIGN_LORA)
    graph = {**checkpoint_loader(CHECKPOINT), "apply": apply_lora(name=FOREIGN_LORA), **picture(model=["apply", 0])}
    try:
        assert moved.server.run(graph)["picture"]["images"]
    finally:
        (folder / FOREIGN_LORA).unlink()


@pytest.mark.long
def test_a_small_cache_of_results_trains_once(tmp_path: Path):
    server = ComfyServer(tmp_path, ("--cache-lru", "2"), start=False)
    shutil.copy(
        server.pack / "trainer" / "demo" / "base.safetensors", server.base / "models" / "checkpoints" / CHECKPOINT
    )
    server.start()
    try:
        first = server.run(whole("lru"))
        again = server.run(whole("lru"))
        assert begun(server.base / "user" / "__lora_darkroom" / "runs") == 1
        assert again["picture"]["images"]
        assert run_id(first)
    finally:
        server.stop()
