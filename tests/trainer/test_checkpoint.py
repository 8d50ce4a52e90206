"""Checkpoints are whole or absent, come back exactly, and the next older one is there when the newest is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer import checkpoint, export, files, optim
from trainer.checkpoint import Position, State
from trainer.config import parse
from trainer.errors import CheckpointError, ExportError, RunFolderError

NAMES = ["layer.down", "layer.up"]
SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 3}


class Trained:
    """A LoRA of one layer and its optimizer, a few steps in."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.parameters = [nn.Parameter(torch.randn(2, 5, generator=generator)),
                           nn.Parameter(torch.randn(3, 2, generator=generator))]  # fmt: skip
        self.optimizer = optim.make(parse({"learning_rate": 0.1}), self.parameters)
        self.step = 0

    def train(self, steps: int) -> Trained:
        for _ in range(steps):
            for parameter in self.parameters:
                parameter.grad = (parameter.detach() + 0.1 * self.step).sin()
            self.optimizer.step()
            self.step += 1
        return self

    def state(self, **position: int) -> State:
        adapter = {name: p.detach() for name, p in zip(NAMES, self.parameters, strict=True)}
        return State(
            Position(**{"step": self.step, "cursor": self.step + 1, "skipped": 1, "total": 40, **position}),
            adapter, *optim.state(self.optimizer, NAMES), {n: t / 2 for n, t in adapter.items()}, 3, dict(SCALER),
            "bf16",
        )  # fmt: skip

    def lora(self) -> dict[str, torch.Tensor]:
        down, up = (p.detach().clone() for p in self.parameters)
        return {"x.lora_down.weight": down, "x.lora_up.weight": up, "x.alpha": torch.tensor(2.0)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "r\u00fcn \u8dd1"


def save(run: Path, trained: Trained, **position: int) -> Path:
    return checkpoint.save(run, trained.state(**position), trained.lora(), {"a": "b"})


def leftovers(run: Path) -> list[str]:
    return [p.name for p in (run / "checkpoints").iterdir() if not p.name.startswith("step-")]


def test_a_checkpoint_comes_back_exactly(run: Path) -> None:
    trained = Trained().train(4)
    state = trained.state(extended_at=3)
    folder = checkpoint.save(run, state, trained.lora(), {"a": "b"})
    assert folder == run / "checkpoints" / "step-000004"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "complete.json", "lora.safetensors", "state/adapter.safetensors", "state/average.safetensors",
        "state/optimizer.safetensors", "state/position.json",
    ]  # fmt: skip
    assert json.loads((folder / "complete.json").read_bytes()) == {"format": 2, "step": 4}
    back = checkpoint.load(run, 4)
    assert back.position == Position(step=4, cursor=5, skipped=1, total=40, extended_at=3)
    assert same(back.adapter, state.adapter)
    assert same(back.optimizer, state.optimizer)
    assert (back.scaler, back.averaged, back.precision) == (SCALER, 3, "bf16")
    assert back.numbers == state.numbers
    assert same(back.average, state.average)
    lora, header = export.read(folder / "lora.safetensors")
    assert same(lora, trained.lora())
    assert header == {"a": "b"}


def test_training_goes_on_from_it_bit_for_bit(run: Path) -> None:
    unbroken = Trained().train(9)
    save(run, Trained().train(4))
    back = checkpoint.load(run, 4)
    again = Trained()
    for name, parameter in zip(NAMES, again.parameters, strict=True):
        parameter.data.copy_(back.adapter[name])
    optim.load_state(again.optimizer, NAMES, back.optimizer, back.numbers)
    again.step = back.position.step
    again.train(5)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters, unbroken.parameters, strict=True))


def test_what_was_read_does_not_hold_the_files(run: Path) -> None:
    """A mapped folder could not be renamed or removed on Windows, and would change under its reader."""
    folder = save(run, Trained().train(2))
    back = checkpoint.load(run, 2)
    kept = {name: tensor.clone() for name, tensor in {**back.adapter, **back.optimizer}.items()}
    for path in folder.glob("state/*.safetensors"):
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
    assert same({**back.adapter, **back.optimizer}, kept)


def test_they_are_listed_in_order_and_only_when_complete(run: Path) -> None:
    assert checkpoint.complete(run) == []
    assert checkpoint.latest(run) is None
    trained = Trained()
    for _ in range(3):
        save(run, trained.train(4))
    save(run, trained, step=1_000_000)
    assert checkpoint.complete(run) == [4, 8, 12, 1_000_000]
    (checkpoint.folder_of(run, 1_000_000) / "complete.json").unlink()
    assert checkpoint.complete(run) == [4, 8, 12]
    assert checkpoint.latest(run) == 12


@pytest.mark.parametrize(
    "name", ["step-000008 good", "step-000008 (1)", "step-8", "step-", "step-abcdef", "step-0000_8"]
)
def test_a_user_s_copy_of_one_is_passed_over(run: Path, name: str) -> None:
    folder = save(run, Trained().train(4))
    shutil.copytree(folder, folder.with_name(name))
    assert checkpoint.complete(run) == [4]


# --- fall back


def damage_truncated(folder: Path) -> None:
    path = folder / "state" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_garbage(folder: Path) -> None:
    (folder / "state" / "adapter.safetensors").write_bytes(b"\x00" * 300)


def damage_missing(folder: Path) -> None:
    (folder / "state" / "adapter.safetensors").unlink()


def damage_no_state(folder: Path) -> None:
    shutil.rmtree(folder / "state")


def damage_json(folder: Path) -> None:
    (folder / "state" / "position.json").write_text("{")


def damage_field(folder: Path) -> None:
    path = folder / "state" / "position.json"
    path.write_text(path.read_text().replace("cursor", "curser"))


DAMAGES = [damage_truncated, damage_garbage, damage_missing, damage_no_state, damage_json, damage_field]


def newest(run: Path) -> tuple[State | None, list[str]]:
    said: list[str] = []
    return checkpoint.retry_older(run, lambda step: checkpoint.load(run, step), said.append), said


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_broken_one_is_said_and_the_one_before_it_taken(run: Path, damage: Callable[[Path], None]) -> None:
    trained = Trained()
    for _ in range(3):
        save(run, trained.train(4))
    damage(checkpoint.folder_of(run, 12))
    with pytest.raises(CheckpointError, match="step-000012 cannot be read: ") as error:
        checkpoint.load(run, 12)
    assert ("delete that folder" in error.value.cure) == (damage is not damage_no_state)
    state, said = newest(run)
    assert state is not None
    assert state.position.step == 8
    assert same(state.adapter, Trained().train(8).state().adapter)
    assert ["step-000012" in line and line.endswith("; going on from step 8") for line in said] == [True]


def test_one_of_another_version_is_said_and_nothing_older_is_taken(run: Path) -> None:
    trained = Trained()
    save(run, trained.train(4))
    path = save(run, trained.train(4)) / "state" / "position.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(RunFolderError) as error:
        newest(run)
    assert error.value.message == f"the checkpoint {path.parents[1]} is of format 3, expected 2"
    assert error.value.cure == "train into another output_dir, or use the version of the program that wrote it"


# --- old ones


def with_state(run: Path) -> list[int]:
    return [step for step in checkpoint.complete(run) if (checkpoint.folder_of(run, step) / "state").exists()]


def test_the_newest_two_keep_their_state_and_all_their_lora(run: Path) -> None:
    trained = Trained()
    loras: dict[int, dict[str, torch.Tensor]] = {}
    for step in (4, 8, 12, 16):
        save(run, trained.train(4))
        loras[step] = trained.lora()
    assert checkpoint.complete(run) == [4, 8, 12, 16]
    assert with_state(run) == [12, 16]
    for step, lora in loras.items():
        assert same(export.read(checkpoint.folder_of(run, step) / "lora.safetensors")[0], lora)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(run, 8)
    folder = checkpoint.folder_of(run, 8)
    assert error.value.message == (
        f"the checkpoint {folder} cannot be read: what a run goes on from is kept of the newest 2 alone"
    )
    assert error.value.cure == (
        f"its LoRA is whole: train into another output_dir with init_lora: {folder / 'lora.safetensors'}"
    )


def test_one_that_is_ahead_and_broken_is_not_counted(run: Path) -> None:
    """The newest could not be read, the run went on from the one before it, with more checkpoints than at first."""
    trained = Trained()
    for _ in range(3):
        save(run, trained.train(4))
    damage_truncated(checkpoint.folder_of(run, 12))
    save(run, trained, step=10)
    assert with_state(run) == [8, 10, 12]


def test_a_process_that_is_killed_while_old_ones_are_pruned_leaves_the_newest_two(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    trained = Trained()
    for _ in range(2):
        save(run, trained.train(4))

    def kill(path: Path, **_: Any) -> None:
        if "step-000004" in str(path):
            raise Killed
        shutil_rmtree(path, ignore_errors=True)

    shutil_rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", kill)
        with pytest.raises(Killed):
            save(run, trained.train(4))
    assert [checkpoint.load(run, step).position.step for step in (8, 12)] == [8, 12]
    save(run, trained.train(4))
    assert with_state(run) == [12, 16]


def test_when_none_can_be_read_nothing_begins_anew_in_silence(run: Path) -> None:
    trained = Trained()
    for _ in range(2):
        damage_truncated(save(run, trained.train(4)))
    with pytest.raises(CheckpointError, match="step-000008 cannot be read"):
        newest(run)


def test_without_any_the_run_begins(run: Path) -> None:
    assert newest(run) == (None, [])


def test_an_unfinished_one_is_none(run: Path) -> None:
    trained = Trained()
    save(run, trained.train(4))
    (save(run, trained.train(4)) / "complete.json").unlink()
    state, said = newest(run)
    assert state is not None
    assert state.position.step == 4
    assert said == []


# --- writing


def test_the_same_step_is_written_again_over_a_finished_or_unfinished_one(run: Path) -> None:
    trained = Trained().train(4)
    save(run, trained, cursor=7)
    for unfinished in (False, True):
        if unfinished:
            (checkpoint.folder_of(run, 4) / "complete.json").unlink()
        save(run, trained, cursor=9)
        assert checkpoint.complete(run) == [4]
        assert checkpoint.load(run, 4).position.cursor == 9
    assert leftovers(run) == []


def test_what_a_killed_process_left_is_cleared_away(run: Path) -> None:
    left = run / "checkpoints" / ".0123456789ab.tmp" / "state"
    left.mkdir(parents=True)
    (left / "adapter.safetensors").write_bytes(b"half")
    save(run, Trained().train(4))
    assert leftovers(run) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["adapter", "optimizer", "average", "lora"])
def test_what_is_not_finite_is_not_saved(run: Path, part: str, value: float) -> None:
    trained = Trained()
    save(run, trained.train(4))
    trained.train(4)
    state, lora = trained.state(), trained.lora()
    target: dict[str, torch.Tensor] = lora if part == "lora" else getattr(state, part)
    name = next(n for n in target if target[n].ndim)
    target[name] = target[name].clone().fill_(value)
    with pytest.raises((CheckpointError, ExportError), match="is not finite"):
        checkpoint.save(run, state, lora, {})
    assert checkpoint.complete(run) == [4]
    assert leftovers(run) == []
    assert not checkpoint.folder_of(run, 8).exists()


def test_a_lora_without_effect_is_not_saved(run: Path) -> None:
    trained = Trained().train(1)
    lora = trained.lora()
    lora["x.lora_up.weight"].zero_()
    with pytest.raises(ExportError, match="changes nothing"):
        checkpoint.save(run, trained.state(), lora, {})
    assert leftovers(run) == []


def failing(after: int, kind: int = errno.ENOSPC) -> Callable[..., Any]:
    """An os.fsync that works ``after`` times: the disk fills up in the middle."""
    calls = iter(range(10**6))
    real = os.fsync

    def sync(descriptor: int) -> None:
        if next(calls) >= after:
            raise OSError(kind, os.strerror(kind))
        real(descriptor)

    return sync


@pytest.mark.parametrize("after", range(5))
def test_a_full_disk_leaves_the_last_one_whole(run: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A checkpoint is five files; the disk is full at each of them in turn."""
    trained = Trained()
    save(run, trained.train(4))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", failing(after))
        with pytest.raises((CheckpointError, ExportError), match="No space left on device") as error:
            save(run, trained.train(4))
    assert "free some space" in error.value.cure
    assert checkpoint.complete(run) == [4]
    assert leftovers(run) == []
    state, said = newest(run)
    assert state is not None
    assert state.position.step == 4
    assert said == []
    save(run, trained)
    assert checkpoint.complete(run) == [4, 8]


def test_the_same_step_again_on_a_full_disk_keeps_the_one_that_was_there(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained().train(4)
    save(run, trained, cursor=7)
    real = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).name == "step-000004" and not refused:  # the new one; the former may go back
            refused.append(1)
            raise OSError(errno.EIO, "I/O error")
        real(source, target)

    refused: list[int] = []
    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(CheckpointError, match="I/O error"):
        save(run, trained, cursor=9)
    assert checkpoint.complete(run) == [4]
    assert checkpoint.load(run, 4).position.cursor == 7
    assert leftovers(run) == []


def test_a_disk_that_gives_back_something_else_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained().train(4)
    for change in (
        lambda state: state.adapter[NAMES[0]].add_(1e-6),
        lambda state: state.optimizer[f"{NAMES[1]}|exp_avg"].add_(1e-6),
        lambda state: state.optimizer.popitem(),
        lambda state: setattr(state.position, "cursor", 99),
    ):
        real = checkpoint._read

        def read(folder: Path, change: Any = change, real: Any = real) -> State:
            state = real(folder)
            change(state)
            return state

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_read", read)
            with pytest.raises(CheckpointError, match="reads back differently"):
                save(run, trained)
        assert checkpoint.complete(run) == []
        assert leftovers(run) == []


def test_a_kill_while_saving_leaves_no_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt stands for any end in mid-save."""
    trained = Trained()
    save(run, trained.train(4))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("write_tensors", "_compare", "replace", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                save(run, trained.train(1))
        assert checkpoint.complete(run) == [4]
        assert leftovers(run) == []
