"""What is told of a LoRA file, and its picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.adapters.small import CASES, adapted, export_key
from tests.trainer.loras.made import SHAPES, changes, norm, tensors, written
from trainer import adapters, export
from trainer.errors import LoraFileError
from trainer.loras import drawing, files, inspection


def inspect(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    inspection.add_arguments(parser)
    return inspection.run(parser.parse_args([str(argument) for argument in arguments]))


def test_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\u98ce\u683c \u00fc.safetensors"
    written(path, 0, {"modelspec.trigger_phrase": "zwx \u6c34", "ss_steps": "800", "ss_notes": "x" * 300, "a": "b\nc"})
    assert inspect(path) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
    assert told[1:7] == [
        "  method        LoRA (5 layers)",
        "  rank          8",
        "  alpha         4",
        f"  norm          {norm(changes(path)):.4g}",
        "  trigger word  zwx \u6c34",
        "  steps         800",
    ]
    start = told.index("norm of the change by block") + 1
    rows = [line.split() for line in told[start : start + 5]]
    assert [" ".join(row[:-2]) for row in rows] == ["te", "down 0", "down 1", "mid", "up 2"]
    sizes = {key: norm({key: change}) for key, change in changes(path).items()}
    assert [float(row[-2]) for row in rows] == [pytest.approx(size, rel=1e-3) for size in sizes.values()]
    assert told[-2:] == ["  a: b c", f"  ss_notes: {'x' * 100}... (300 characters)"]


def test_ranks_and_methods_that_differ_are_counted(tmp_path: Path) -> None:
    low, high = list(SHAPES)[:2], list(SHAPES)[2:]
    lora = tensors(0, rank=2, keys=low) | tensors(1, rank=8, keys=high[1:])
    lora |= {f"{high[0]}.lokr_w1": torch.ones(3, 4), f"{high[0]}.lokr_w2": torch.ones(8, 8)}
    export.write(tmp_path / "a.safetensors", lora, {})
    told = inspection.report(tmp_path / "a.safetensors", *files.read(tmp_path / "a.safetensors"))
    assert "  method        LoRA (4 layers), LoKr (1 layers)\n" in told
    assert "  rank          2 (2 layers), 8 (2 layers), in the values (1 layers)\n" in told
    assert "  alpha         4 (4 layers), in the values (1 layers)\n" in told


@pytest.mark.parametrize("case", CASES)
def test_files_of_every_method_are_told_and_drawn(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture = tmp_path / "\u98ce.safetensors", tmp_path / "\u98ce \u00fc.png"
    export.write(path, adapters.exported(adapted(case), export_key), {})
    assert inspect(path, "--picture", picture) == 0
    told = capsys.readouterr().out
    title = {"dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}.get(CASES[case]["method"], "LoRA")
    assert f"  method        {title} (4 layers)\n" in told
    assert ("DoRA: of its low-rank part" in told) == (case == "dora")
    with Image.open(picture) as image:
        assert image.width > 400


def test_the_picture_shows_where_a_lora_acts(tmp_path: Path) -> None:
    """The taller bar is the stronger block: more ink in its columns."""
    inks = []
    for strong in ("down_blocks_0", "up_blocks_2"):
        lora = tensors(0, keys=[k for k in SHAPES if "te_text" not in k])
        lora = {n: t * (1.0 if strong in n or "up.weight" not in n else 0.05) for n, t in lora.items()}
        export.write(tmp_path / f"{strong}.safetensors", lora, {})
        layers, _ = files.read(tmp_path / f"{strong}.safetensors")
        drawing.picture(layers).save(tmp_path / f"{strong}.png")
        with Image.open(tmp_path / f"{strong}.png") as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
        blue = (pixels == torch.tensor([0x2B, 0x5C, 0x9E])).all(-1).sum(0)
        inks.append((int(blue[: len(blue) // 2].sum()), int(blue[len(blue) // 2 :].sum())))
    assert inks[0][0] > 3 * inks[0][1]
    assert inks[1][1] > 3 * inks[1][0]


def test_blocks_and_kinds_of_layers() -> None:
    assert [inspection.block(key) for key in SHAPES] == ["te", "down 0", "down 1", "mid", "up 2"]
    assert [inspection.kind(key) for key in SHAPES] == [
        "feed-forward",
        "self-attention",
        "in and out",
        "feed-forward",
        "convolutions",
    ]
    assert inspection.block("lora_te2_text_model_encoder_layers_0_mlp_fc1") == "te2"
    assert inspection.block("lora_unet_time_embedding_linear_1") == "other"
    assert inspection.kind("lora_unet_up_blocks_0_resnets_0_time_emb_proj") == "time"
    assert inspection.kind("lora_unet_add_embedding_linear_1") == "other"


def test_what_is_no_lora_and_a_picture_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    export.store(path, {"model.diffusion_model.out.2.weight": torch.ones(4)})
    with pytest.raises(LoraFileError) as error:
        inspect(path)
    assert error.value.message == (
        f"{path} has 1 tensors that are of no LoRA, DoRA, LoHa or LoKr: model.diffusion_model.out.2.weight"
    )
    lora, picture = written(tmp_path / "a.safetensors", 0), tmp_path / "a.png"
    picture.write_bytes(b"mine")
    with pytest.raises(LoraFileError, match=r"a\.png exists"):
        inspect(lora, "--picture", picture)
    assert picture.read_bytes() == b"mine"
    assert inspect(lora, "--picture", picture, "--overwrite") == 0
    assert picture.read_bytes() != b"mine"
