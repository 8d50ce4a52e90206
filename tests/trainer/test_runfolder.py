"""Whose a run folder is, how long its run is, and what it finished with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer import runfolder
from trainer.config import parse
from trainer.errors import RunFolderError
from trainer.files import write_bytes, write_json
from trainer.job import Base, Item, Job


def make(folder: Path, **config: Any) -> Job:
    items = tuple(
        Item(f"{n:032x}", "", ("",), (200, 200), (64, 64 if n < 5 else 128), 2, "l", ("c",), held_out=n == 6)
        for n in range(7)
    )
    settings = parse({"output_dir": folder.as_posix(), "batch_size": 4, "epochs": 3, **config})
    return Job(settings, Base(Path("/b"), "sd15", "c0ffee"), items, (), "e", Path("/c"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out put" / "st\u00fcle \u98ce"


def saved(folder: Path) -> None:
    write_bytes(folder / "checkpoints" / "step-000004" / "complete.json", b"{}")


@pytest.mark.parametrize(
    ("config", "total"),
    [({}, 12), ({"epochs": 1}, 4), ({"batch_size": 1}, 36), ({"max_steps": 5}, 5), ({"max_steps": 50}, 12),
     ({"batch_size": 2, "gradient_accumulation_steps": 2}, 12)],
)  # fmt: skip
def test_the_length_of_a_run(folder: Path, config: dict[str, Any], total: int) -> None:
    """Five images twice in one bucket are three windows of four; one more, twice, in another is a fourth."""
    assert runfolder.total_steps(make(folder, **config)) == total


def test_a_free_folder_is_anybody_s(folder: Path) -> None:
    runfolder.check_folder(folder, make(folder))
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    runfolder.check_folder(folder, make(folder))


def test_what_is_of_no_run_is_not_overwritten(folder: Path) -> None:
    write_bytes(folder / f"{folder.name}.safetensors", b"mine")
    with pytest.raises(RunFolderError, match="exists, but is of no run"):
        runfolder.check_folder(folder, make(folder))


def test_a_file_is_no_folder(folder: Path) -> None:
    write_bytes(folder, b"")
    with pytest.raises(RunFolderError, match=r"output_dir: .* is a file, expected a folder"):
        runfolder.check_folder(folder, make(folder))


def test_the_same_run_may_come_back_longer_or_otherwise_shown(folder: Path) -> None:
    make(folder).save(folder)
    saved(folder)
    runfolder.check_folder(folder, make(folder, epochs=9, save_steps=3, sample_prompts=["x"]))


@pytest.mark.parametrize("work", ["checkpoint", "result"])
def test_another_run_is_refused_with_both_cures_where_there_is_work_to_lose(folder: Path, work: str) -> None:
    make(folder).save(folder)
    other = replace(make(folder, lora_rank=4), base=Base(Path("/b"), "sd15", "decaf"))
    runfolder.check_folder(folder, other)
    if work == "checkpoint":
        saved(folder)
    else:
        write_json(folder / "result.json", {"total": 12})
    with pytest.raises(RunFolderError) as error:
        runfolder.check_folder(folder, other)
    assert error.value.message == (
        f"{folder} holds another run; it differs in\n  - base_model: another file, or other content\n"
        "  - lora_rank: 8 there, 4 now"
    )
    assert "another output_dir" in error.value.cure
    assert f'--resume "{folder}"' in error.value.cure


def test_an_unfinished_checkpoint_is_no_work(folder: Path) -> None:
    make(folder).save(folder)
    write_bytes(folder / "checkpoints" / "step-000004" / "lora.safetensors", b"")
    runfolder.check_folder(folder, make(folder, lora_rank=4))


def test_what_a_run_finished_with(folder: Path) -> None:
    assert runfolder.finished(folder, 12) is None
    write_json(folder / "result.json", {"total": 12, "step": 11, "path": "x.safetensors"})
    assert runfolder.finished(folder, 12) is None  # its file is gone
    write_bytes(folder / "x.safetensors", b"")
    assert runfolder.finished(folder, 12) == folder / "x.safetensors"
    assert runfolder.finished(folder, 13) is None
    assert runfolder.read_result(folder)["step"] == 11


def test_a_run_that_was_stopped_early_has_finished_for_whoever_is_no_more_patient(folder: Path) -> None:
    write_json(
        folder / "result.json",
        {"total": 12, "step": 7, "path": "x.safetensors", "stopped": {"reason": "", "patience": 3}},
    )
    write_bytes(folder / "x.safetensors", b"")
    done = {patience: runfolder.finished(folder, 12, patience) is not None for patience in (0, 1, 3, 4)}
    assert done == {0: False, 1: True, 3: True, 4: False}
    assert runfolder.finished(folder, 24, 3) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_broken_result_is_none(folder: Path, content: bytes) -> None:
    write_bytes(folder / "result.json", content)
    assert runfolder.read_result(folder) == {}
    assert runfolder.finished(folder, 12) is None
