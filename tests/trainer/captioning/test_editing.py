"""Captions that are changed by hand: in their own file, every other byte as it was, and undone byte for byte."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.captioning import editing
from trainer.captioning.album import album
from trainer.captioning.editing import Edit, History, Replacement, Shelf
from trainer.dataset import scan
from trainer.errors import CaptionError

ONE, TWO, THREE = "m\u00fcller \u6f2b\u753b.png", "sub \u6f2b/2.png", "3.png"
NEW = 'gr\u00fcn, "neu"; \u7eff\u8272'
QUOTED, JSON = '"gr\u00fcn, ""neu""; \u7eff\u8272"', json.dumps(NEW, ensure_ascii=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in a folder with blanks, Chinese and an umlaut in its path."""
    root = tmp_path / "my \u56fe\u7247 f\u00fcr"
    for number, name in enumerate((ONE, TWO, THREE)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def everything(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def captions(folder: Path, **more: Any) -> dict[str, tuple[str, ...]]:
    return {item.name: item.captions for item in scan(folder, resolution=64, **more).items}


def edit(folder: Path, history: History, source: str = "auto", **wanted: str | tuple[str, ...]) -> None:
    """Edits captions of images, by the names above in small letters."""
    names = {"one": ONE, "two": TWO, "three": THREE}

    def changes() -> list[editing.Change]:
        shelf, edits = Shelf(folder, source), {}
        for key, text in wanted.items():
            caption = shelf.caption(names[key])
            after = (text,) if isinstance(text, str) else text
            edits[names[key]] = Edit(caption.texts if caption else (), after)
        return shelf.changes(edits)

    history.do("edit", changes)


Files = dict[str, bytes]
FORMATS: dict[str, tuple[Files, Files]] = {
    "txt": ({f"{ONE[:-4]}.txt": b" old one \r\n"}, {f"{ONE[:-4]}.txt": f" {NEW} \r\n".encode()}),
    "txt without an end": ({f"{ONE[:-4]}.txt": b"old one"}, {f"{ONE[:-4]}.txt": NEW.encode()}),
    "txt with a mark": (
        {f"{ONE[:-4]}.txt": b"\xef\xbb\xbfold one\n"}, {f"{ONE[:-4]}.txt": b"\xef\xbb\xbf" + f"{NEW}\n".encode()},
    ),
    "txt in UTF-16": (
        {f"{ONE[:-4]}.txt": "\ufeffold one\r\n".encode("utf-16-be")},
        {f"{ONE[:-4]}.txt": f"\ufeff{NEW}\r\n".encode("utf-16-be")},
    ),
    "txt in GBK that lacks the letter": (
        {f"{ONE[:-4]}.txt": "\u65e7\u7684\u753b\n".encode("gbk")}, {f"{ONE[:-4]}.txt": f"{NEW}\n".encode()},
    ),
    "caption": ({f"{ONE[:-4]}.caption": b"old one\n"}, {f"{ONE[:-4]}.caption": f"{NEW}\n".encode()}),
    "empty txt": ({f"{ONE[:-4]}.txt": b""}, {f"{ONE[:-4]}.txt": f"{NEW}\n".encode()}),
    "nothing": ({}, {f"{ONE[:-4]}.txt": f"{NEW}\n".encode()}),
    "csv": (
        {"metadata.csv": f'author, filename ,prompt,score\r\nMe, "{ONE}",  old one , 7\r\n\r\n"x","3.png","a, b",\r\n'
                         "gone.png,?\r\n".encode()},
        {"metadata.csv": f'author, filename ,prompt,score\r\nMe, "{ONE}",  {QUOTED}, 7\r\n\r\n"x","3.png","a, b",\r\n'
                         "gone.png,?\r\n".encode()},
    ),
    "csv with semicolons": (
        {"metadata.csv": b"\xef\xbb\xbf" + f"prompt;file\nold one;{ONE}\nthe third;3".encode()},
        {"metadata.csv": b"\xef\xbb\xbf" + f"prompt;file\n{QUOTED};{ONE}\nthe third;3".encode()},
    ),
    "csv without its row": (
        {"metadata.csv": b"filename,prompt\n3.png,the third"},
        {"metadata.csv": f"filename,prompt\n3.png,the third\n{ONE},{QUOTED}\n".encode()},
    ),
    "jsonl": (
        {"metadata.jsonl": f'{{ "file_name" : "{ONE}" ,"text":"old one", "score": 7.5 }}\r\n\n  {{"x": 1}}\n'.encode()},
        {"metadata.jsonl": f'{{ "file_name" : "{ONE}" ,"text":{JSON}, "score": 7.5 }}'
                           '\r\n\n  {"x": 1}\n'.encode()},
    ),
    "jsonl without the letters": (
        {"metadata.jsonl": f'{{"file_name": "{ONE[:-4]}", "prompt": "old\\u0020one"}}'.encode()},
        {"metadata.jsonl": f'{{"file_name": "{ONE[:-4]}", "prompt": {json.dumps(NEW)}}}'.encode()},
    ),
    "jsonl without a caption": (
        {"metadata.jsonl": f'{{"file_name": "{ONE}"}}\n'.encode()},
        {"metadata.jsonl": f'{{"file_name": "{ONE}", "text": {JSON}}}\n'.encode()},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), FORMATS.values(), ids=list(FORMATS))
def test_a_caption_is_saved_in_its_file_and_undone_byte_for_byte(folder: Path, before: Files, after: Files) -> None:
    for name, data in before.items():
        (folder / name).write_bytes(data)
    first, others = everything(folder), captions(folder)
    history = History()
    edit(folder, history, one=NEW)
    assert captions(folder) == {**others, ONE: (NEW,)}
    assert everything(folder) == {**first, **after}
    history.undo()
    assert everything(folder) == first
    history.redo()
    assert everything(folder) == {**first, **after}


def test_a_file_in_gbk_stays_gbk(folder: Path) -> None:
    file = folder / f"{ONE[:-4]}.txt"
    file.write_bytes("\u65e7\u7684\u753b\r\n".encode("gbk"))
    edit(folder, History(), one="\u65b0\u7684\u753b, cat")
    assert file.read_bytes() == "\u65b0\u7684\u753b, cat\r\n".encode("gbk")
    table = folder / "metadata.csv"
    table.write_bytes(f"filename,prompt\n{TWO},\u65e7\u7684\u753b\n3.png,\u623f\u5b50\n".encode("gbk"))
    edit(folder, History(), two="\u65b0\u7684\u753b")
    assert table.read_bytes() == f"filename,prompt\n{TWO},\u65b0\u7684\u753b\n3.png,\u623f\u5b50\n".encode("gbk")


def test_alternatives_are_edited_in_their_rows(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text("filename,prompt\n3.png,a\n3.png,b\n3.png,c\n", "utf-8")
    history = History()
    edit(folder, history, three=("a", "B"))
    assert table.read_text("utf-8") == "filename,prompt\n3.png,a\n3.png,B\n"
    edit(folder, history, three=("a", "B", "d, e"))
    assert table.read_text("utf-8") == 'filename,prompt\n3.png,a\n3.png,B\n3.png,"d, e"\n'
    table.unlink()
    lines = folder / "metadata.jsonl"
    lines.write_text('{"file_name": "3.png", "captions": ["a", "b"], "k": [1]}\n', "utf-8")
    edit(folder, History(), three=("a", "c", "d"))
    assert lines.read_text("utf-8") == '{"file_name": "3.png", "captions": ["a", "c", "d"], "k": [1]}\n'


def test_many_steps_are_undone_one_by_one(folder: Path) -> None:
    history, states = History(), [everything(folder)]
    for number in range(5):
        edit(folder, history, one=f"caption {number}", three=f"third {number}")
        states.append(everything(folder))
    for state in reversed(states[:-1]):
        history.undo()
        assert everything(folder) == state
    with pytest.raises(CaptionError, match="there is nothing to undo"):
        history.undo()
    for state in states[1:]:
        history.redo()
        assert everything(folder) == state
    history.undo()
    edit(folder, history, one="another way")
    with pytest.raises(CaptionError, match="there is nothing to redo"):
        history.redo()


def test_a_caption_that_was_changed_meanwhile_is_not_written_over(folder: Path) -> None:
    file = folder / "3.txt"
    file.write_text("theirs", "utf-8")
    with pytest.raises(CaptionError) as caught:
        Shelf(folder).changes({THREE: Edit(("as it was shown",), ("mine",))})
    assert caught.value.message == "3.png: its caption was changed meanwhile: theirs"
    history = History()
    edit(folder, history, three="mine")
    file.write_text("theirs again", "utf-8")
    with pytest.raises(CaptionError, match=r"3\.txt: the file was changed meanwhile"):
        history.undo()
    assert file.read_text("utf-8") == "theirs again"
    assert history.steps == (["edit"], [])


def test_another_row_may_change_meanwhile(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text("filename,prompt\n3.png,third\n", "utf-8")
    shown = Edit(("third",), ("mine",))
    table.write_text(f"filename,prompt\n{TWO},theirs\n3.png,third\n", "utf-8")
    History().do("edit", lambda: Shelf(folder).changes({THREE: shown}))
    assert table.read_text("utf-8") == f"filename,prompt\n{TWO},theirs\n3.png,mine\n"


def test_what_is_read_only_stays(folder: Path) -> None:
    files = [folder / "3.txt", folder / f"{ONE[:-4]}.txt"]
    for file in files:
        file.write_text("a red house\n", "utf-8")
    files[0].chmod(stat.S_IREAD)
    before = everything(folder)
    with pytest.raises(CaptionError) as caught:
        History().do("x", lambda: Shelf(folder).changes(Shelf(folder).replaced(Replacement("red", "blue"))))
    assert caught.value.message == "3.txt: the file is read-only"
    assert everything(folder) == before


def test_when_one_file_fails_none_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("3.txt", f"{ONE[:-4]}.txt"):
        (folder / name).write_text("a red house\n", "utf-8")
    before, written = everything(folder), editing.write_file

    def full(path: Path, data: bytes) -> None:
        if path.name == "3.txt":
            raise CaptionError("the disk is full")
        written(path, data)

    monkeypatch.setattr(editing, "write_file", full)
    with pytest.raises(CaptionError, match="the disk is full"):
        History().do("x", lambda: Shelf(folder).changes(Shelf(folder).replaced(Replacement("red", "blue"))))
    assert everything(folder) == before


@pytest.mark.parametrize("source", ["names", "none"])
def test_what_would_not_be_read_is_not_written(folder: Path, source: str) -> None:
    with pytest.raises(CaptionError, match="what is written would not be read"):
        edit(folder, History(), source, three="new")


def test_no_text_is_left_as_it_is(folder: Path) -> None:
    (folder / "3.txt").write_bytes(b"\x00\x01\x02\xff")
    before = everything(folder)
    with pytest.raises(CaptionError, match="it is left as it is"):
        edit(folder, History(), three="new")
    with pytest.raises(CaptionError, match="the caption has control characters"):
        edit(folder, History(), one="a\0b")
    with pytest.raises(CaptionError, match=r"up\.png: there is no such image"):
        Shelf(folder).changes({"../up.png": Edit((), ("new",))})
    assert everything(folder) == before


def test_a_file_of_several_lines_keeps_them_when_words_are_replaced(folder: Path) -> None:
    file = folder / "3.txt"
    file.write_bytes(b"a red house,\r\nin the red snow\r\n")
    History().do("x", lambda: Shelf(folder).changes(Shelf(folder).replaced(Replacement("red", "blue"))))
    assert file.read_bytes() == b"a blue house,\r\nin the blue snow\r\n"


@pytest.mark.parametrize(
    ("how", "before", "after", "places"),
    [
        (Replacement("man", "cat"), "a woman, a man", "a wocat, a cat", 2),
        (Replacement("man", "cat", whole=True), "a woman, a Man", "a woman, a cat", 1),
        (Replacement("Man", "cat", case=True), "a woman, a Man, a man", "a woman, a cat, a man", 1),
        (Replacement("red house", ""), "sks, red house, snow", "sks, snow", 1),
        (Replacement(r"\d", "x"), r"a \d 1", "a x 1", 1),
        (Replacement("a", r"\1"), "cat", r"c\1t", 1),
        (Replacement("\u7eff", "\u84dd", whole=True), "\u7eff\u8272", "\u84dd\u8272", 1),
        (Replacement("x", "y"), "a , b", "a , b", 0),
    ],
)  # fmt: skip
def test_replacing(how: Replacement, before: str, after: str, places: int) -> None:
    assert how(before) == after
    assert how.places(before) == places


def test_a_replacement_is_one_step_over_all_formats(folder: Path) -> None:
    (folder / "metadata.csv").write_text(f"filename,prompt\n{TWO},a red car\n", "utf-8")
    (folder / f"{ONE[:-4]}.txt").write_text("red", "utf-8")
    (folder / "3.caption").write_text("a red\thouse", "utf-8")
    before = everything(folder)
    history = History()
    history.do("red", lambda: Shelf(folder).changes(Shelf(folder).replaced(Replacement("red", "blue"), {TWO, THREE})))
    assert captions(folder) == {ONE: ("red",), TWO: ("a blue car",), THREE: ("a blue house",)}
    assert history.undo()[0] == "red"
    assert everything(folder) == before


def test_an_album_has_what_is_trained_and_what_is_left_out(folder: Path) -> None:
    (folder / f"{ONE[:-4]}.txt").write_text("a cat", "utf-8")
    (folder / "metadata.csv").write_text("filename,prompt\n3.png,a dog\n", "utf-8")
    found = album(folder, resolution=64, trigger_word="sks", exclude=(TWO, "gone.png"))
    told = found.told
    rows = {name: (told["shapes"][shape], texts, told["sources"][source]) for name, shape, texts, source, *_ in
            told["images"]}  # fmt: skip
    shape = (96, 64, 64, 64, 96, 64, 16, 0)
    assert rows == {
        ONE: (shape, ("a cat",), "*.txt"), TWO: (shape, (), ""), THREE: (shape, ("a dog",), "metadata.csv"),
    }  # fmt: skip
    assert told["excluded"] == (TWO,)
    kinds = [finding[0] for finding in told["findings"]]
    assert "unknown-excluded" in kinds
    assert "no-caption" not in kinds, "the only one without a caption is left out"
    everywhere = album(folder, resolution=64, exclude=(ONE, TWO, THREE)).told
    assert "all 3 images are excluded" in everywhere["fault"]
    assert len(everywhere["images"]) == 3


def test_findings_are_at_their_images(folder: Path) -> None:
    (folder / "3.txt").write_bytes(b"\x00\x01\x02\xff")
    (folder / f"{ONE[:-4]}.txt").write_bytes("\u65e7\u7684\u753b\n".encode("gbk"))
    told = album(folder, resolution=64).told
    kinds = {row[0]: {told["findings"][number][0] for number in row[4]} for row in told["images"]}
    assert kinds[THREE] >= {"bad-caption", "no-caption"}
    assert "other-encoding" in kinds[ONE]
    assert "no-caption" in kinds[TWO]
    assert "few-images" not in set.union(*kinds.values())


@pytest.fixture
def unchanged(folder: Path) -> Callable[[], bool]:
    before = everything(folder)
    return lambda: everything(folder) == before


def test_looking_changes_nothing(folder: Path, unchanged: Callable[[], bool]) -> None:
    album(folder, resolution=64)
    Shelf(folder).replaced(Replacement("a", "b"))
    assert unchanged()
