"""The command export."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from trainer import checkpoint, export, exporting, validation
from trainer.checkpoint import Position, State
from trainer.errors import ExportError, RunFolderError, UserError
from trainer.files import write_tensors


def lora(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    tensors = {f"lora_unet_x.lora_{part}.weight": torch.randn(4, 4, generator=generator) for part in ("up", "down")}
    return {**tensors, "lora_unet_x.alpha": torch.tensor(4.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with the checkpoints of steps 100 to 300."""
    run = tmp_path / "r\u00fcn \u98ce\u683c"
    for step in (100, 200, 300):
        header = {"ss_output_name": "my st\u00fcle", "ss_steps": str(step)}
        checkpoint.save(run, State(Position(step=step), {}, {}), lora(step), header)
    (run / "job.yaml").write_text("version: 1\n", encoding="utf-8")
    return run


def call(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    return exporting.run(parser.parse_args([str(argument) for argument in arguments]))


def same(path: Path, step: int) -> bool:
    found, header = export.read(path)
    expected = lora(step)
    return header["ss_steps"] == str(step) and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_step_is_copied_out_as_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "\u51fa new" / "a \u00fc.safetensors"
    assert call("--run", folder, "--step", "200", "-o", target) == 0
    assert target.read_bytes() == (folder / "checkpoints" / "step-000200" / "lora.safetensors").read_bytes()
    assert same(target, 200)
    assert capsys.readouterr().out == f"{target}: step 200, 0.0 MB\n"


def test_last_goes_into_the_run_with_its_step_in_the_name(folder: Path) -> None:
    assert call("--run", folder, "--step", "last") == 0
    assert same(folder / "my st\u00fcle-000300.safetensors", 300)


def test_best_is_what_the_validations_say_or_else_the_last(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--run", folder, "--step", "best") == 0
    assert same(folder / "my st\u00fcle-000300.safetensors", 300)
    losses = {100: 3.0, 200: 1.0, 300: 2.0}
    measured = {
        step: {"held_out": {f"{image}@1": loss + number for number, image in enumerate("abcd")}}
        for step, loss in losses.items()
    }
    validation.write(folder, validation.Record(measured))
    capsys.readouterr()
    assert call("--run", folder, "--step", "best") == 0
    assert same(folder / "my st\u00fcle-000200.safetensors", 200)
    assert "step 200, 0.0 MB; the best: held-out loss 2.5000, at step 300 3.5000" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "name"), [("", "my st\u00fcle-000100.safetensors"), ("x.v2", "x.v2.safetensors")])
def test_a_folder_or_a_bare_name_is_understood(folder: Path, tmp_path: Path, given: str, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert call("--run", folder, "--step", "100", "-o", out / given) == 0
    assert [path.name for path in out.iterdir()] == [name]
    assert same(out / name, 100)


def test_another_file_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(UserError) as error:
        call("--run", folder, "--step", "last", "-o", target)
    assert str(error.value) == f"{target} exists already; it is not overwritten\n  -> give another name with -o"
    assert target.read_bytes() == b"mine"


def test_a_step_that_is_not_there(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        call("--run", folder, "--step", "150")
    assert str(error.value) == f"--step 150: {folder} has no checkpoint of that step\n  -> give 100, 200, 300, or last"
    for step in range(1, 40):
        (folder / "checkpoints" / f"step-{step:06d}").mkdir()
        (folder / "checkpoints" / f"step-{step:06d}" / "complete.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError) as error:
        call("--run", folder, "--step", "150")
    assert error.value.cure == "give 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..., 300, or last"


def test_an_unfinished_checkpoint_is_none(folder: Path) -> None:
    (folder / "checkpoints" / "step-000300" / "complete.json").unlink()
    with pytest.raises(UserError, match=r"--step 300: .* has no checkpoint of that step"):
        call("--run", folder, "--step", "300")
    assert call("--run", folder, "--step", "last") == 0
    assert same(folder / "my st\u00fcle-000200.safetensors", 200)


def test_a_folder_without_a_run_or_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as error:
        call("--run", tmp_path / "none", "--step", "last")
    assert error.value.message == f"{tmp_path / 'none'} holds no run (there is no job.yaml in it)"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "job.yaml").write_text("", encoding="utf-8")
    with pytest.raises(RunFolderError) as error:
        call("--run", tmp_path / "none", "--step", "last")
    assert error.value.message == f"{tmp_path / 'none'} has no complete checkpoint yet"


def test_a_broken_lora_is_not_copied(folder: Path, tmp_path: Path) -> None:
    path = folder / "checkpoints" / "step-000300" / "lora.safetensors"
    target = tmp_path / "a.safetensors"
    write_tensors(path, {**lora(3), "lora_unet_x.alpha": torch.tensor(float("nan"))})
    with pytest.raises(ExportError, match=r"^the LoRA is not finite \(lora_unet_x\.alpha\)"):
        call("--run", folder, "--step", "last", "-o", target)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ExportError, match="cannot be read as a LoRA"):
        call("--run", folder, "--step", "last", "-o", target)
    assert not target.exists()


@pytest.mark.parametrize("text", ["two", "-1", "1.5", ""])
def test_what_is_no_step(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("--run", folder, f"--step={text}")
    assert f"argument --step: expected a number of steps, last or best, got {text!r}" in capsys.readouterr().err
    assert json.loads((folder / "checkpoints/step-000100/complete.json").read_text("utf-8"))["step"] == 100
