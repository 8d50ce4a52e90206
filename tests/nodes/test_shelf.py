"""Deleting a run frees what it said, takes nothing else along, and never takes one that is trained or waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trainer.lock import locked

RUN, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
def shelf(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("shelf")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder of two runs, a shorter length of the first, and the cache that they share."""
    folder = tmp_path / "\u00fc \u6f2b\u753b"
    for name in (RUN, OTHER, f"{RUN}-4"):
        run = folder / "runs" / name
        (run / "checkpoints" / "step-000004").mkdir(parents=True)
        (run / "checkpoints" / "step-000004" / "lora.safetensors").write_bytes(b"x" * 1000)
        (run / "job.yaml").write_text("config: {train_data_dir: /somewhere/cats}\n")
    (folder / "cache").mkdir()
    (folder / "cache" / "latents.safetensors").write_bytes(b"y" * 5000)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_takes_the_room_of_its_files_and_of_no_link(shelf: Any, private: Path):
    run = private / "runs" / RUN
    (run / "elsewhere").symlink_to(private / "cache")
    link = (run / "elsewhere").lstat().st_size
    assert shelf.size(run) == 1000 + (run / "job.yaml").stat().st_size + link
    assert shelf.size(private / "nowhere") == 0


def test_deleting_frees_the_room_it_takes_and_leaves_all_else(shelf: Any, private: Path):
    before, takes = everything(private), shelf.size(private / "runs" / RUN)
    assert shelf.delete(private / "runs", RUN) == takes
    assert everything(private) == {name: data for name, data in before.items() if not name.startswith(f"runs/{RUN}/")}


def test_what_a_link_leads_to_stays(shelf: Any, private: Path):
    (private / "runs" / RUN / "elsewhere").symlink_to(private / "cache")
    shelf.delete(private / "runs", RUN)
    assert (private / "cache" / "latents.safetensors").read_bytes() == b"y" * 5000


@pytest.mark.parametrize("lock", ["run.lock", "host.lock"])
def test_a_run_that_is_trained_or_prepared_stays(shelf: Any, private: Path, lock: str):
    folder = private / "runs" / RUN
    with locked(folder, lock), pytest.raises(Exception, match="is being trained") as told:
        shelf.delete(private / "runs", RUN)
    assert str(private) not in str(told.value)
    assert (folder / "checkpoints" / "step-000004" / "lora.safetensors").is_file()
    shelf.delete(private / "runs", RUN)
    assert not folder.exists()


def test_a_run_that_waits_stays(shelf: Any, private: Path):
    with pytest.raises(Exception, match="waits in the queue"):
        shelf.delete(private / "runs", RUN, [OTHER, RUN])
    assert (private / "runs" / RUN).is_dir()


@pytest.mark.parametrize(
    "name", ["", "..", ".", "0123", "latest", "cats", f"../runs/{RUN}", f"{RUN}/", "/", "../cache"]
)
def test_only_a_whole_id_deletes(shelf: Any, private: Path, name: str):
    before = everything(private)
    with pytest.raises(Exception, match="there is no run"):
        shelf.delete(private / "runs", name)
    assert everything(private) == before


def test_what_a_former_deletion_had_to_leave_goes_with_the_next(shelf: Any, private: Path):
    (private / "deleted" / "left" / "over").mkdir(parents=True)
    shelf.delete(private / "runs", RUN)
    assert not any((private / "deleted").iterdir())
