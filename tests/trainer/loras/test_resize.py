"""A LoRA file at a lower rank: nearest, as it says, and nothing written over."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.loras.made import SHAPES, changes, norm, tensors, written
from trainer import export
from trainer.errors import ExportError, LoraFileError
from trainer.loras import files, resize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "\u98ce\u683c \u00fc").mkdir()
    return tmp_path / "\u98ce\u683c \u00fc"


def test_every_layer_becomes_the_nearest_of_its_rank(folder: Path) -> None:
    source = written(folder / "a.safetensors", 0, {"modelspec.trigger_phrase": "zwx", "sshs_model_hash": "0"})
    done = resize.resize(source, 3, folder / "small.safetensors")
    before, after = changes(source), changes(folder / "small.safetensors")
    errors = {}
    for key, change in before.items():
        assert after[key].shape == change.shape
        flat = change.flatten(1)
        u, s, v = torch.linalg.svd(flat, full_matrices=False)
        nearest = u[:, :3] * s[:3] @ v[:3]
        assert (after[key].flatten(1) - nearest).norm() < 1e-5 * flat.norm()
        errors[key] = float(s[3:].norm() / s.norm())
        assert errors[key] > 0.1
    assert done.norm == pytest.approx(norm(before), rel=1e-6)
    assert done.kept == pytest.approx(norm(after), rel=1e-6)
    assert done.error == pytest.approx(norm({k: before[k] - after[k] for k in before}), rel=1e-5)
    assert done.worst == max(errors, key=errors.__getitem__)
    assert done.worst_error == pytest.approx(errors[done.worst], rel=1e-5)
    assert (done.layers, done.smaller) == (5, 5)
    lora, header = export.read(folder / "small.safetensors")
    assert {tensor.shape[0] for name, tensor in lora.items() if "lora_down" in name} == {3}
    assert {float(tensor) for name, tensor in lora.items() if name.endswith("alpha")} == {1.5}  # the same scale
    assert header == {
        "modelspec.trigger_phrase": "zwx",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "1.5",
        "ss_output_name": "small",
        "modelspec.title": "small",
        "darkroom.resized": "a.safetensors from rank 8 to 3",
    }


def test_what_is_below_the_rank_stays_and_a_lower_true_rank_loses_nothing(folder: Path) -> None:
    low, high = list(SHAPES)[:2], list(SHAPES)[2:]
    lora = tensors(0, rank=2, keys=low) | tensors(1, rank=8, keys=high)
    for key in high:  # of rank 8 in name, of rank 4 in truth
        lora[f"{key}.lora_up.weight"][:, 4:] = 0
    source = folder / "a.safetensors"
    export.write(source, lora, {})
    done = resize.resize(source, 4, folder / "b.safetensors")
    small, _ = export.read(folder / "b.safetensors")
    assert all(torch.equal(small[name], tensor) for name, tensor in lora.items() if name.startswith(tuple(low)))
    assert done.error < 1e-6 * done.norm
    assert done.smaller == 3
    before, after = changes(source), changes(folder / "b.safetensors")
    assert norm({key: before[key] - after[key] for key in before}) < 1e-6 * done.norm


@pytest.mark.parametrize(
    ("rank", "message", "cure"),
    [
        (8, "{} is of rank 8 already", "give a lower rank"),
        (0, "rank: 0; a rank is 1 or more", ""),
    ],
)
def test_a_rank_that_is_none(folder: Path, rank: int, message: str, cure: str) -> None:
    source = written(folder / "a.safetensors", 0)
    with pytest.raises(LoraFileError) as error:
        resize.resize(source, rank, folder / "b.safetensors")
    assert (error.value.message, error.value.cure) == (message.format(source), cure)
    assert sorted(folder.iterdir()) == [source]


def test_other_methods_are_refused_by_name(folder: Path) -> None:
    key = next(iter(SHAPES))
    lora = {f"{key}.lokr_w1": torch.ones(2, 2), f"{key}.lokr_w2": torch.ones(24, 8)}
    source = folder / "a.safetensors"
    export.write(source, lora, {})
    with pytest.raises(LoraFileError) as error:
        resize.resize(source, 2, folder / "b.safetensors")
    assert error.value.message == f"{source} holds LoKr layers; resize takes files of LoRA alone"


def test_nothing_is_written_over(folder: Path) -> None:
    source, output = written(folder / "a.safetensors", 0), written(folder / "b.safetensors", 1)
    before = output.read_bytes()
    with pytest.raises(LoraFileError) as error:
        resize.resize(source, 2, output)
    assert (error.value.message, error.value.cure) == (f"{output} exists", "give another name, or --overwrite")
    assert output.read_bytes() == before
    resize.resize(source, 2, output, overwrite=True)
    assert output.read_bytes() != before
    resize.resize(source, 4, source, overwrite=True)
    assert {len(t) for n, t in export.read(source)[0].items() if "lora_down" in n} == {4}
    with pytest.raises(LoraFileError, match="there is no folder"):
        resize.resize(source, 2, folder / "none" / "b.safetensors")


@pytest.mark.parametrize("content", [None, b"half a file"])
def test_a_file_that_cannot_be_read(folder: Path, content: bytes | None) -> None:
    source = folder / "a.safetensors"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(LoraFileError) as error:
        resize.resize(source, 2, folder / "b.safetensors")
    expected = f"there is no file {source}" if content is None else f"{source} cannot be read as a LoRA: "
    assert error.value.message.startswith(expected)


def test_a_result_that_breaks_the_law_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(folder / "a.safetensors", 0)
    true = files.truncated

    def wrong(layer: Any, rank: int, energy: float) -> Any:
        found, lost = true(layer, rank, energy)
        found.parts["up"][0] *= 1.01
        return found, lost

    monkeypatch.setattr(resize, "truncated", wrong)
    with pytest.raises(ExportError, match=r"would be .* from what it was made of, instead of "):
        resize.resize(source, 2, folder / "b.safetensors")
    assert sorted(folder.iterdir()) == [source]


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = written(folder / "a.safetensors", 0), folder / "b.safetensors"
    parser = argparse.ArgumentParser()
    resize.add_arguments(parser)
    assert resize.run(parser.parse_args([str(source), "--rank", "4", "-o", str(output)])) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{output}: 5 of 5 layers at a lower rank"
    assert [line.split()[0] for line in told[1:]] == ["size", "norm", "error", "most"]


def test_by_energy_every_layer_gets_the_lowest_rank_that_keeps_it(folder: Path) -> None:
    source = written(folder / "a.safetensors", 0)
    done = resize.resize(source, None, folder / "b.safetensors", energy=0.85)
    before, lora = changes(source), export.read(folder / "b.safetensors")[0]
    ranks = {}
    for key, change in before.items():
        shares = torch.linalg.svdvals(change.flatten(1)).square().cumsum(0)
        ranks[key] = int((shares < 0.85 * shares[-1]).sum()) + 1
        assert len(lora[f"{key}.lora_down.weight"]) == ranks[key] < 8
    assert len(set(ranks.values())) > 1, "the layers should differ"
    assert 0.2 < done.error / done.norm < 0.15**0.5
    both = resize.resize(source, 3, folder / "c.safetensors", energy=0.85)
    assert {len(t) for n, t in export.read(folder / "c.safetensors")[0].items() if "lora_down" in n} <= {1, 2, 3}
    assert both.error >= done.error
    for energy in (0.0, 1.5):
        with pytest.raises(LoraFileError, match="expected more than 0 and at most 1"):
            resize.resize(source, None, folder / "d.safetensors", energy=energy)
