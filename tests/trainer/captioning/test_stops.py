"""A captioning that is stopped, however that comes, is gone on with: each picture is captioned once."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import REPO
from tests.trainer.captioning.slow import Slow, colour, said
from trainer.captioning import Report, label
from trainer.captioning.unfinished import NAME
from trainer.errors import CaptionError
from trainer.events import Captioned, Event, Warned

MANY = 1000


def pictures(folder: Path, count: int) -> dict[str, str]:
    """Pictures of a colour each; what ``Slow`` says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number in range(count):
        one = Image.new("RGB", (64, 64), (number % 256, number // 256, 7))
        one.save(folder / f"{number:04d} \u7eff.png", compress_level=0)
        found[f"{number:04d} \u7eff.png"] = colour(one)
    return found


def rows(table: Path) -> list[tuple[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return [(row["filename"], row["prompt"]) for row in csv.DictReader(file)]


def stopped(folder: Path, log: Path, stops: int, *arguments: str) -> str:
    """Caption with stops; what the program says."""
    program = [sys.executable, "-m", "tests.trainer.captioning.slow", str(folder), str(log), str(stops), "5"]
    done = subprocess.run(
        [*program, *arguments], cwd=REPO, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_a_thousand_pictures_stopped_ten_times_have_one_caption_each(tmp_path: Path) -> None:
    folder, log = tmp_path / "b\u00fccher \u6f2b", tmp_path / "said"
    expected = pictures(folder, MANY)
    story = stopped(folder, log, 10)
    assert story.count("stop ") == 10
    found = rows(folder / "metadata.csv")
    assert len(found) == MANY
    assert dict(found) == expected
    # A stop loses what was being looked at, and no more.
    asked = Counter(said(log))
    assert set(asked) == set(expected)
    assert asked.total() - MANY <= 10, story
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".jsonl")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
@pytest.mark.parametrize("format", ["csv", "txt"])
@pytest.mark.parametrize("mode", ["all", "append"])
def test_captions_that_are_replaced_are_replaced_once(tmp_path: Path, format: str, mode: str) -> None:
    folder, log = tmp_path / "data", tmp_path / "said"
    expected = pictures(folder, 60)
    label(folder, method="trigger", trigger_word="mine", format=format)
    before = (folder / "metadata.csv").read_bytes() if format == "csv" else b""
    stopped(folder, log, 4, "--mode", mode, "--format", format)
    assert Counter(said(log)).total() - 60 <= 4
    new = {name: f"mine, {text}" if mode == "append" else text for name, text in expected.items()}
    if format == "csv":
        assert dict(rows(folder / "metadata.csv")) == new
        assert [path.name for path in folder.glob("*.bak*")] == ["metadata.csv.bak"]
        assert (folder / "metadata.csv.bak").read_bytes() == before
    else:
        assert {f"{path.stem}.png": path.read_text("utf-8") for path in folder.glob("*.txt")} == {
            name: f"{text}\n" for name, text in new.items()
        }
        assert {path.read_text("utf-8") for path in folder.glob("*.bak")} == {"mine\n"}
    assert not (folder / NAME).exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures."""
    path = tmp_path / "data"
    pictures(path, 6)
    return path


def part(folder: Path, log: Path, batches: int, **options: object) -> Report:
    """Caption two at a time, and stop after some batches."""
    seen: list[Event] = []
    return label(
        folder,
        method=Slow(log, batch=2),
        emit=seen.append,
        stop=lambda: sum(isinstance(event, Captioned) for event in seen) >= batches,
        **options,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("mode", ["missing", "all", "append", "prepend"])
def test_a_stop_leaves_the_rest_for_the_next_time(folder: Path, tmp_path: Path, mode: str) -> None:
    log = tmp_path / "said"
    first = part(folder, log, 1, mode=mode)
    assert (len(first.written), first.left) == (2, 4)
    assert "- stopped: 4 are left for the next time" in str(first)
    second = part(folder, log, 9, mode=mode)
    assert (len(second.written), len(second.kept), second.left) == (4, 2, 0)
    assert second.before == (0 if mode == "missing" else 2)
    assert ("went on with a run that was stopped: 2 were done" in str(second)) == (mode != "missing")
    assert len(said(log)) == 6
    assert len(part(folder, log, 9, mode=mode).written) == 0


def test_what_is_edited_between_two_runs_stays_or_is_kept_beside(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said"
    label(folder, method="trigger", trigger_word="old")
    part(folder, log, 1, mode="all")
    table = folder / "metadata.csv"
    first = rows(table)[0]
    table.write_text(table.read_text("utf-8").replace(first[1], "by hand"), "utf-8")
    report = part(folder, log, 9, mode="all")
    assert len(report.written) == 4
    assert rows(table)[0] == (first[0], "by hand"), "this one had its new caption, and was edited then"
    assert [path.name for path in report.backups] == ["metadata.csv.bak2"], "the others may have been edited too"
    assert "by hand" in report.backups[0].read_text("utf-8")


def test_another_wish_begins_anew(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said"
    part(folder, log, 1, mode="all", trigger_word="one")
    report = part(folder, log, 9, mode="all", trigger_word="two")
    assert len(report.written) == 6
    assert len(said(log)) == 8


def test_another_run_that_ends_leaves_what_one_that_was_stopped_has_noted(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said"
    part(folder, log, 1, mode="all")
    label(folder, method="trigger", trigger_word="sks")
    assert (folder / NAME).exists()
    assert part(folder, log, 9, mode="all").before == 2


def test_half_a_line_of_what_is_done_is_no_harm(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said"
    part(folder, log, 1, mode="all")
    journal = folder / NAME
    journal.write_bytes(journal.read_bytes()[:-9])
    assert len(part(folder, log, 1, mode="all").written) + len(said(log)) - 4 >= 1
    assert part(folder, log, 9, mode="all").left == 0
    assert len(said(log)) <= 7
    assert not journal.exists()


@pytest.mark.parametrize("format", ["csv", "txt"])
@pytest.mark.parametrize("mode", ["missing", "all"])
def test_what_is_edited_meanwhile_is_not_touched(folder: Path, tmp_path: Path, format: str, mode: str) -> None:
    label(folder, method="trigger", trigger_word="old", format=format)
    table, name = folder / "metadata.csv", "0005 \u7eff"
    if mode == "missing":  # of the fifth and the sixth alone there is no caption
        for number in (4, 5):
            (folder / f"000{number} \u7eff.txt").unlink(missing_ok=True)
        if format == "csv":
            table.write_text("".join(table.read_text("utf-8").splitlines(keepends=True)[:-2]), "utf-8")

    def edit(event: Event) -> None:
        if isinstance(event, Captioned) and "0004" in event.image:
            if format == "txt":
                (folder / f"{name}.txt").write_text("by hand", "utf-8")
                return
            lines = [line for line in table.read_text("utf-8").splitlines() if name not in line]
            table.write_text("\n".join([*lines, f"{name}.png,by hand", "gone.png,also by hand", ""]), "utf-8")

    log = tmp_path / "said"
    report = label(folder, method=Slow(log), mode=mode, format=format, emit=edit)
    assert folder / f"{name}.png" in report.kept
    if format == "txt":
        assert (folder / f"{name}.txt").read_text("utf-8") == "by hand"
        assert not (folder / f"{name}.txt.bak").exists()
    else:
        found = dict(rows(table))
        assert found[f"{name}.png"] == "by hand"
        assert found["gone.png"] == "also by hand"
        assert len(found) == 7
    assert len(report.written) == (1 if mode == "missing" else 5)


def test_the_former_table_is_kept_once_however_often_it_is_written(folder: Path, tmp_path: Path) -> None:
    label(folder, method="trigger", trigger_word="old")
    before = (folder / "metadata.csv").read_bytes()
    report = label(folder, method=Slow(tmp_path / "said"), mode="all")
    assert len(report.written) == 6
    assert report.backups == (folder / "metadata.csv.bak",)
    assert report.backups[0].read_bytes() == before
    assert [path.name for path in folder.glob("*.bak*")] == ["metadata.csv.bak"]


@pytest.mark.parametrize("format", ["csv", "txt"])
def test_what_a_kill_left_half_written_is_removed(folder: Path, tmp_path: Path, format: str) -> None:
    old, new, mine = (folder / name for name in (".0123456789ab.tmp", ".ba9876543210.tmp", ".my own.tmp"))
    for path in (old, new, mine):
        path.write_text("half", "utf-8")
    for path in (old, mine):
        os.utime(path, (0, 0))
    label(folder, method=Slow(tmp_path / "said"), format=format)
    assert not old.exists()
    assert new.exists(), "another process may be writing it now"
    assert mine.exists()


def test_every_batch_is_on_the_disk_when_it_is_told(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(event: Event) -> None:
        assert isinstance(event, Captioned)
        found = rows(folder / "metadata.csv")
        assert found[-1] == (event.image, event.caption)
        assert event.total == 6
        assert (event.eta == 0) == (event.done == 6)
        seen.append((event.done, len(found)))

    label(folder, method=Slow(tmp_path / "said", batch=4), emit=look)
    assert seen == [(4, 4), (6, 6)]


def test_a_picture_that_cannot_be_read_is_named_and_passed_over(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "said"
    (folder / "0001 \u7eff.png").write_bytes(b"no picture")
    whole = (folder / "0003 \u7eff.png").read_bytes()
    (folder / "0003 \u7eff.png").write_bytes(whole[: len(whole) // 2])
    report = label(folder, method=Slow(log, batch=4))
    assert len(report.written) == 4
    assert [(p.path.name[:4], p.kind) for p in report.problems] == [("0001", "corrupt"), ("0003", "truncated")]
    assert "0001 \u7eff.png: is not a picture that can be read" in str(report.problems[0])
    assert len(rows(folder / "metadata.csv")) == 4
    assert len(said(log)) == 4


def test_pictures_are_seen_as_they_are_trained(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    turned = Image.new("RGB", (64, 96), "red")
    turned.putpixel((63, 0), (9, 8, 7))
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned to the left: the upper right corner becomes the upper left one
    turned.save(folder / "a.png", exif=exif)
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(folder / "b.png")
    label(folder, method=Slow(tmp_path / "said"))
    assert rows(folder / "metadata.csv") == [("a.png", "rgb 9 8 7"), ("b.png", "rgb 255 255 255")]


class Full(Slow):
    """A captioner whose card holds only a few pictures."""

    room = 3

    def caption(self, paths: list[Path], pictures: list[Image.Image]) -> list[str]:  # type: ignore[override]
        """See ``Session``."""
        if len(paths) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().caption(paths, pictures)


def test_out_of_memory_is_half_the_batch(tmp_path: Path) -> None:
    folder, log = tmp_path / "data", tmp_path / "said"
    expected = pictures(folder, 20)
    seen: list[Event] = []
    report = label(folder, method=Full(log, batch=16), emit=seen.append)
    assert dict(rows(folder / "metadata.csv")) == expected
    assert [event.message for event in seen if isinstance(event, Warned)] == [
        "out of memory: 8 at a time from here on",
        "out of memory: 4 at a time from here on",
        "out of memory: 2 at a time from here on",
    ]
    assert len(said(log)) == 20
    assert report.problems == ()


def test_out_of_memory_with_one_picture_is_the_end_with_a_cure(folder: Path, tmp_path: Path) -> None:
    captioner = Full(tmp_path / "said", batch=2)
    captioner.room = 0
    with pytest.raises(CaptionError, match="out of memory on cpu, with one picture at a time") as caught:
        label(folder, method=captioner)
    assert "choose a smaller model" in caught.value.cure
    assert not (folder / "metadata.csv").exists()


def test_where_nothing_is_missing_the_captioner_is_not_opened(folder: Path) -> None:
    label(folder, method="trigger", trigger_word="sks")

    class Heavy(Slow):
        def open(self, wish: object, place: object) -> None:  # type: ignore[override]
            raise AssertionError("a model is loaded for nothing")

    assert len(label(folder, method=Heavy(folder)).kept) == 6  # type: ignore[arg-type]


# What spreadsheets do to a table, and other programs read in it.

CAPTION = 'a "big" house; red, \u7eff, g\u00fcn'


def spreadsheet(table: Path, delimiter: str, codec: str) -> None:
    """Open and save a table as a spreadsheet does: its own separator, CRLF, a mark at the start."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.reader(file))
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(found)
    table.write_bytes(text.getvalue().encode(codec))


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-8", "utf-16"])
def test_what_a_spreadsheet_has_saved_is_read_and_gone_on_with(
    folder: Path, tmp_path: Path, delimiter: str, codec: str
) -> None:
    table = folder / "metadata.csv"
    label(folder, method="trigger", trigger_word=CAPTION)
    lines = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text("".join(lines[:4]), "utf-8")  # three of six
    spreadsheet(table, delimiter, codec)
    before = table.read_bytes()
    report = label(folder, method=Slow(tmp_path / "said"))
    assert len(report.written) == 3
    assert len(report.kept) == 3
    data = table.read_bytes()
    if codec != "utf-16":
        assert data.startswith(before), "what was there keeps every byte"
    text = data.decode("utf-8-sig")
    assert text.count("\r\n") == text.count("\n") == 7
    found = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert found[0] == ["filename", "prompt"]
    assert [row[1] for row in found[1:4]] == [CAPTION] * 3
    assert [row[1][:4] for row in found[4:]] == ["rgb "] * 3
    again = label(folder, method=Slow(tmp_path / "said"))
    assert again.written == {}


def test_pandas_reads_the_table(folder: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install -r tests/requirements.txt")
    label(folder, method="trigger", trigger_word=CAPTION)
    label(folder, method=Slow(tmp_path / "said"), mode="append")
    frame = pandas.read_csv(folder / "metadata.csv")
    assert list(frame.columns) == ["filename", "prompt"]
    assert len(frame) == 6
    assert all(prompt.startswith(f"{CAPTION}, rgb ") for prompt in frame["prompt"])
    assert list(frame["filename"]) == [f"000{number} \u7eff.png" for number in range(6)]
