"""The WD14 tagger against a small ONNX model: what it writes is what the model's numbers say."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.captioning import get, wd14
from trainer.captioning.base import Place, Tagging, Wish
from trainer.errors import CaptionError

onnx = pytest.importorskip("onnx", reason="the tagger is not tested: pip install onnx")
pytest.importorskip("onnxruntime", reason="the tagger is not tested: pip install onnxruntime")

SIDE = 12
TAGS = [
    ("general", 9), ("sensitive", 9), ("questionable", 9), ("explicit", 9),
    ("1girl", 0), ("long_hair", 0), ("blue_eyes", 0), (">_<", 0), ("^_^", 0), ("smile", 0), ("hat", 0), ("o_o", 0),
    ("saber_(fate)", 4), ("hatsune_miku", 4), ("reimu", 4),
]  # fmt: skip
WEIGHTS = np.random.default_rng(5).normal(0, 0.0006, (SIDE * SIDE * 3, len(TAGS))).astype(np.float32)


def export(folder: Path, batch: int | str = "batch", tags: Sequence[tuple[str, int]] = TAGS, side: int = SIDE) -> Path:
    """A network as the taggers are: pictures [batch, side, side, 3] to probabilities, by one layer and a sigmoid."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("Reshape", ["input", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]
    weights = np.resize(WEIGHTS, (side * side * 3, len(TAGS)))
    constants = [
        numpy_helper.from_array(np.array([-1, side * side * 3]), "shape"),
        numpy_helper.from_array(weights, "weights"),
    ]
    pictures = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, side, side, 3])
    found = helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, len(TAGS)])
    graph = helper.make_graph(nodes, "tagger", [pictures], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    rows = [f'{number},"{name}",{kind},{1000 - number}' for number, (name, kind) in enumerate(tags)]
    text = "\n".join(["tag_id,name,category,count", *rows, ""])
    (folder / "selected_tags.csv").write_text(text, encoding="utf-8")
    return folder


def pictures(count: int = 6) -> list[Image.Image]:
    """Pictures of many shapes, each of its own colours; one as large as the network's."""
    rng = np.random.default_rng(1)
    shapes = [(SIDE, SIDE), (30, 20), (20, 33), (64, 64), (7, 5), (40, 41)][:count]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in shapes]


def reckoned(picture: Image.Image) -> dict[str, float]:
    """The probability of each tag, without the tagger's code."""
    side = max(picture.size)
    pixels = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - picture.height) // 2, (side - picture.width) // 2
    pixels[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    if side != SIDE:
        pixels = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    blue_first = np.stack([pixels[..., 2], pixels[..., 1], pixels[..., 0]], axis=-1).astype(np.float64)
    logits = blue_first.reshape(-1) @ WEIGHTS.astype(np.float64)
    return {name: 1 / (1 + math.exp(-logit)) for (name, _), logit in zip(TAGS, logits, strict=True)}


def caption(folder: Path, images: Sequence[Image.Image], tagging: Tagging | None = None, batch: int = 0) -> list[str]:
    wish = Wish(tagging=tagging or Tagging())
    with get("wd14").open(wish, Place(model=folder, batch=batch)) as session:
        return session.caption([Path(f"/{number}.png") for number in range(len(images))], images)


KIND = dict(TAGS)
SPELT = {"long_hair": "long hair", "blue_eyes": "blue eyes", "saber_(fate)": "saber (fate)"}
SPELT["hatsune_miku"] = "hatsune miku"


def above(found: dict[str, float], general: float, character: float) -> list[str]:
    """Names of tags above the thresholds, the most probable first."""
    least = {0: general, 4: character}
    seen = [name for name in found if KIND[name] in least and found[name] > least[KIND[name]]]
    return sorted(seen, key=lambda name: -found[name])


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize(("general", "character"), [(0.35, 0.85), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.9, 0.2)])
def test_what_is_written_is_what_the_numbers_say(
    tmp_path: Path, batch: int | str, general: float, character: float
) -> None:
    folder = export(tmp_path, batch)
    found = caption(folder, pictures(), Tagging(general=general, character=character))
    expected = [
        ", ".join(SPELT.get(name, name) for name in above(reckoned(picture), general, character))
        for picture in pictures()
    ]
    assert found == expected


def test_the_thresholds_of_the_table_above_each_change_something(tmp_path: Path) -> None:
    folder = export(tmp_path)
    told = {
        str(caption(folder, pictures(), Tagging(general=general, character=character)))
        for general, character in [(0.35, 0.85), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.9, 0.2)]
    }
    assert len(told) == 5
    names = caption(folder, pictures(), Tagging(general=1.0, character=0.0))
    assert all(sorted(text.split(", ")) == ["hatsune miku", "reimu", "saber (fate)"] for text in names)


def test_underscores_stay_where_asked_and_in_faces_always(tmp_path: Path) -> None:
    folder = export(tmp_path)
    (spaces,) = caption(folder, pictures(1), Tagging(general=0.0, character=0.0))
    (kept,) = caption(folder, pictures(1), Tagging(general=0.0, character=0.0, underscores=True))
    assert [name.replace(" ", "_") for name in spaces.split(", ")] == kept.split(", ")
    assert {">_<", "^_^", "o_o", "long hair", "saber (fate)"} <= set(spaces.split(", "))
    assert {">_<", "long_hair", "saber_(fate)"} <= set(kept.split(", "))


def test_the_rating_is_the_likeliest_of_the_four_and_comes_last(tmp_path: Path) -> None:
    folder = export(tmp_path)
    for picture, text in zip(pictures(), caption(folder, pictures(), Tagging(rating=True)), strict=True):
        found = reckoned(picture)
        rating = max((name for name in found if KIND[name] == 9), key=found.__getitem__)
        assert text.split(", ")[-1] == rating
    for text in caption(folder, pictures(), Tagging(general=0.0, character=0.0)):
        assert not {"general", "sensitive", "questionable", "explicit"} & set(text.split(", "))


def test_excluded_tags_are_never_written_in_either_spelling(tmp_path: Path) -> None:
    folder = export(tmp_path)
    ratings = ("general", "sensitive", "questionable", "explicit")
    exclude = ("long hair", "blue_eyes", " saber (fate) ", ">_<", *ratings)
    (text,) = caption(folder, pictures(1), Tagging(general=0.0, character=0.0, rating=True, exclude=exclude))
    assert set(text.split(", ")) == {"1girl", "^_^", "smile", "hat", "o_o", "hatsune miku", "reimu"}


def test_first_tags_stand_first_seen_or_not_and_once(tmp_path: Path) -> None:
    folder = export(tmp_path)
    first = ("monochrome", "long_hair")
    every = Tagging(general=0.0, character=0.0, first=first)
    for text in caption(folder, pictures(), every):
        tags = text.split(", ")
        assert tags[:2] == ["monochrome", "long hair"]
        assert len(tags) == len(set(tags)) == 12
    assert (
        caption(folder, pictures(2), Tagging(general=1.0, character=1.0, first=first)) == ["monochrome, long hair"] * 2
    )


def test_a_batch_says_what_each_picture_alone_says(tmp_path: Path) -> None:
    folder = export(tmp_path)
    alone = [caption(folder, [picture])[0] for picture in pictures()]
    assert caption(folder, pictures()) == alone
    assert len(set(alone)) > 3
    assert caption(folder, []) == []


def test_transparent_pictures_lie_on_white() -> None:
    clear = Image.new("RGBA", (SIDE, SIDE), (10, 20, 30, 0))
    assert (wd14.prepared(clear, SIDE) == 255).all()
    half = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 255))
    assert wd14.prepared(half, SIDE)[0, 0].tolist() == [0, 0, 255]


def test_the_batch_is_the_users_or_what_the_network_takes(tmp_path: Path) -> None:
    any_number, eight = export(tmp_path / "a"), export(tmp_path / "b", batch=8)
    for folder, asked, expected in ((any_number, 0, 4), (any_number, 7, 7), (eight, 0, 8)):
        with get("wd14").open(Wish(), Place(model=folder, batch=asked)) as session:
            assert session.batch == expected


def test_its_models_are_told_by_their_files(tmp_path: Path) -> None:
    folder = export(tmp_path / "tagger")
    assert get("wd14").knows(folder)
    assert not get("wd14").knows(tmp_path)
    with get("wd14").open(Wish(), Place(model=folder / "model.onnx")) as session:
        assert session.caption([Path("/a.png")], pictures(1)) == caption(folder, pictures(1))


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", MemoryError),
        ("BFCArena: Failed to allocate memory for requested buffer of size 9", MemoryError),
        ("Non-zero status code returned while running MatMul node", CaptionError),
    ],
)
def test_what_runs_out_of_memory_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, raised: type[Exception]
) -> None:
    def run(*_: object) -> None:
        raise ValueError(said)

    with get("wd14").open(Wish(), Place(model=export(tmp_path))) as session:
        monkeypatch.setattr("onnxruntime.InferenceSession.run", run)
        with pytest.raises(raised):
            session.caption([Path("/a.png")], pictures(1))


def refused(model: Path | None) -> CaptionError:
    with pytest.raises(CaptionError) as caught, get("wd14").open(Wish(), Place(model=model)):
        pass
    return caught.value


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    assert "no model is named" in refused(None).message
    assert "selected_tags.csv cannot be read: No such file" in refused(tmp_path).message
    short = export(tmp_path / "short", tags=TAGS[:-1])
    assert "tells 15 tags, but selected_tags.csv beside it has 14" in refused(short).message
    other = export(tmp_path / "other")
    (other / "selected_tags.csv").write_text("name,kind\n1girl,0\n", encoding="utf-8")
    assert "expected a table with the columns name and category" in refused(other).message
    broken = export(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"not a network")
    assert "cannot be opened" in refused(broken).message
    (broken / "model.onnx").unlink()
    assert "model.onnx does not exist" in refused(broken).message


def test_without_onnxruntime_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = refused(folder)
    assert error.message == "wd14: the package onnxruntime is not installed"
    assert error.cure.endswith("-m pip install onnxruntime")


def test_the_command_writes_what_the_options_say(tmp_path: Path) -> None:
    model, folder = export(tmp_path / "models" / "tagger"), tmp_path / "pictures"
    folder.mkdir()
    large = [one.resize((13 * one.width, 13 * one.height), Image.Resampling.NEAREST) for one in pictures()]
    for number, picture in enumerate(large):
        picture = picture.copy()
        clear = Image.new("L", picture.size, 255)
        clear.paste(0, (0, 0, 30, 40))
        picture.putalpha(clear)
        picture.save(folder / f"{number}.png")
    options = ["--threshold", "0.3", "--character-threshold", "0.6", "--rating", "--underscores"]
    options += ["--exclude", "blue eyes, hat", "--first", "sketch, smile", "--trigger-word", "sks", "--device", "cpu"]
    arguments = ["--input", str(folder), "--method", "wd14", "--model", str(model), *options]
    assert main(["caption", *arguments]) == 0
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        written = {row["filename"]: row["prompt"] for row in csv.DictReader(file)}
    for number, picture in enumerate(large):
        picture.paste((255, 255, 255), (0, 0, 30, 40))
        found = reckoned(picture)
        seen = [name for name in above(found, 0.3, 0.6) if name not in ("blue_eyes", "hat", "smile")]
        rating = max((name for name in found if KIND[name] == 9), key=found.__getitem__)
        assert written[f"{number}.png"] == ", ".join(["sks", "sketch", "smile", *seen, rating])
