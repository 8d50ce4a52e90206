"""Several LoRA files as one: the sum of their changes, at their strengths."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from tests.trainer.loras.made import SHAPES, changes, norm, tensors, written
from trainer import export
from trainer.errors import ExportError, LoraFileError
from trainer.loras import merge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "\u98ce\u683c \u00fc").mkdir()
    return tmp_path / "\u98ce\u683c \u00fc"


def summed(*files: tuple[Path, float]) -> dict[str, torch.Tensor]:
    result: dict[str, torch.Tensor] = {}
    for path, strength in files:
        for key, change in changes(path).items():
            result[key] = result.get(key, torch.zeros_like(change)) + strength * change
    return result


def test_the_sum_is_exact_and_its_ranks_add_up(folder: Path) -> None:
    a = written(folder / "a.safetensors", 0, rank=8, alpha=4.0)
    b = written(folder / "b.safetensors", 1, rank=3, alpha=None, keys=list(SHAPES)[1:])
    c = written(folder / "c.safetensors", 2, rank=1, alpha=7.0, keys=list(SHAPES)[:1])
    parts = ((a, 0.8), (b, -0.5), (c, 1.0))
    done = merge.merge(parts, folder / "all.safetensors")
    wanted, found = summed(*parts), changes(folder / "all.safetensors")
    assert found.keys() == wanted.keys() == SHAPES.keys()
    for key, change in wanted.items():
        assert found[key].shape == change.shape
        assert (found[key] - change).abs().max() < 1e-5 * change.abs().max()
    lora, header = export.read(folder / "all.safetensors")
    assert {len(t) for n, t in lora.items() if "lora_down" in n} == {9, 11}
    assert (done.layers, done.rank, done.error) == (5, 11, 0.0)
    assert done.norm == pytest.approx(norm(wanted), rel=1e-6)
    assert header["ss_network_dim"] == "Dynamic"
    assert json.loads(header["darkroom.merged"]) == [
        {"file": "a.safetensors", "strength": 0.8},
        {"file": "b.safetensors", "strength": -0.5},
        {"file": "c.safetensors", "strength": 1.0},
    ]


def test_the_text_encoder_has_two_names(folder: Path) -> None:
    """Else the sum would hold a layer twice, of which programs use one."""
    first, *others = SHAPES
    a = written(folder / "a.safetensors", 0)
    renamed = {name.replace("lora_te_", "lora_te1_"): tensor for name, tensor in tensors(1).items()}
    export.write(folder / "b.safetensors", renamed, {})
    merge.merge(((a, 0.8), (folder / "b.safetensors", 0.5)), folder / "all.safetensors")
    found, other = changes(folder / "all.safetensors"), changes(folder / "b.safetensors")
    assert found.keys() == {first, *others}
    wanted = 0.8 * changes(a)[first] + 0.5 * other[first.replace("lora_te_", "lora_te1_")]
    assert (found[first] - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_cut_to_a_rank_it_is_the_nearest(folder: Path) -> None:
    parts = ((written(folder / "a.safetensors", 0), 0.8), (written(folder / "b.safetensors", 1), 0.5))
    done = merge.merge(parts, folder / "all.safetensors", rank=5)
    wanted, found = summed(*parts), changes(folder / "all.safetensors")
    for key, change in wanted.items():
        u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
        assert (found[key].flatten(1) - u[:, :5] * s[:5] @ v[:5]).norm() < 1e-5 * s.norm()
    assert done.rank == 5
    assert done.error == pytest.approx(norm({key: wanted[key] - found[key] for key in wanted}), rel=1e-5)
    assert done.error > 0.05 * done.norm


def test_files_of_different_naming_meet_in_one_layer(folder: Path) -> None:
    """Two names for one layer would be two patches, of which ComfyUI takes the last."""
    names = {
        "lora_unet_up_blocks_2_resnets_1_conv2": "lora_unet_output_blocks_7_0_out_layers_3",
        "lora_unet_down_blocks_1_attentions_0_proj_in": "lora_unet_input_blocks_4_1_proj_in",
    }
    a = written(folder / "a.safetensors", 0, keys=list(names))
    other = tensors(1, keys=list(names))
    other = {names[n.partition(".")[0]] + "." + n.partition(".")[2]: t for n, t in other.items()}
    for name in [n for n in other if "proj_in" in n and "alpha" not in n]:
        other[name] = other[name].flatten(1)  # a linear layer in that file
    export.write(folder / "b.safetensors", other, {})
    export.write(folder / "b2.safetensors", tensors(1, keys=list(names)), {})
    merge.merge(((a, 1.0), (folder / "b.safetensors", 1.0)), folder / "all.safetensors")
    wanted, found = summed((a, 1.0), (folder / "b2.safetensors", 1.0)), changes(folder / "all.safetensors")
    assert found.keys() == names.keys()
    assert all((found[key] - wanted[key]).norm() < 1e-6 * wanted[key].norm() for key in names)
    assert all(found[key].shape == wanted[key].shape for key in names)


def test_the_header_says_what_all_say_and_every_trigger_word(folder: Path) -> None:
    common = {"ss_base_model_version": "sd_v1", "ss_steps": "100"}
    a = written(folder / "a.safetensors", 0, {**common, "modelspec.trigger_phrase": "zwx", "ss_seed": "1"})
    b = written(folder / "b.safetensors", 1, {**common, "modelspec.trigger_phrase": "qpy", "ss_seed": "2"})
    c = written(folder / "c.safetensors", 2, {**common, "modelspec.trigger_phrase": "zwx", "ss_seed": "2"})
    merge.merge(((a, 1.0), (b, 1.0), (c, 1.0)), folder / "all.safetensors")
    _, header = export.read(folder / "all.safetensors")
    assert header["modelspec.trigger_phrase"] == "zwx, qpy"
    assert {name: header.get(name) for name in (*common, "ss_seed")} == {**common, "ss_seed": None}
    assert header["modelspec.title"] == header["ss_output_name"] == "all"
    assert header["ss_network_dim"] == "24"


def test_what_cannot_be_merged(folder: Path) -> None:
    a, out = written(folder / "a.safetensors", 0), folder / "out.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2"
    export.write(
        folder / "xl.safetensors",
        {f"{key}.lora_down.weight": torch.ones(2, 80), f"{key}.lora_up.weight": torch.ones(20, 2)},
        {},
    )
    scales = {f"{key}.dora_scale": torch.ones(shape[0]) for key, shape in SHAPES.items()}
    export.write(folder / "dora.safetensors", tensors(0) | scales, {})
    cases = [
        ([(a, 1.0)], "merge takes at least two files"),
        (
            [(a, 1.0), (folder / "xl.safetensors", 1.0)],
            f"{a} and {folder / 'xl.safetensors'} are for different base models: "
            f"{key} is 20 x 40 in one, 20 x 80 in the other",
        ),
        (
            [(a, 1.0), (folder / "dora.safetensors", 1.0)],
            f"{folder / 'dora.safetensors'} holds DoRA layers; merge takes files of LoRA alone",
        ),
        ([(a, 1.0), (folder / "none.safetensors", 1.0)], f"there is no file {folder / 'none.safetensors'}"),
    ]
    for parts, message in cases:
        with pytest.raises(LoraFileError) as error:
            merge.merge(parts, out)
        assert error.value.message == message
    with pytest.raises(LoraFileError, match="rank: 0; a rank is 1 or more"):
        merge.merge([(a, 1.0), (a, 1.0)], out, rank=0)
    with pytest.raises(LoraFileError, match="exists"):
        merge.merge([(a, 1.0), (a, 1.0)], a)
    with pytest.raises(ExportError, match="the LoRA changes nothing"):
        merge.merge([(a, 0.0), (a, 0.0)], out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors", "a.safetensors", 1.0),
        ("C:\\lo ras\\a.safetensors:-0.5", "C:\\lo ras\\a.safetensors", -0.5),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0),
    ],
)
def test_a_file_and_its_strength(text: str, path: str, strength: float) -> None:
    assert merge.source(text) == (Path(path), strength)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(folder / "a.safetensors", 0), written(folder / "b.safetensors", 1)
    parser = argparse.ArgumentParser()
    merge.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([f"{a}:much", str(b), "-o", "x"])
    assert "the strength 'much' is no number" in capsys.readouterr().err
    output = folder / "all.safetensors"
    assert merge.run(parser.parse_args([f"{a}:0.8", str(b), "-o", str(output)])) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{output}: 5 layers, rank 16, norm ")
    assert told[1:] == [f"  0.8 x {a}", f"  1 x {b}", "  exact"]
    args = parser.parse_args([f"{a}:0.8", str(b), "-o", str(output), "--rank", "4", "--overwrite"])
    assert merge.run(args) == 0
    assert "% of the norm)" in capsys.readouterr().out
