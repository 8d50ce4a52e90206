"""Tags and words of a data set, and in how many captions each is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.dataset import scan
from trainer.dataset.frequencies import drawn, frequencies, tags_of, words_of
from trainer.dataset.items import ImageItem
from trainer.errors import DatasetError
from trainer.linting import add_arguments, run

TAGS = ("1girl, solo, long hair", "1girl, Solo, blue eyes, solo", "1girl, hat, night, rain")


def item(*captions: str) -> ImageItem:
    return ImageItem("0" * 32, Path("/a.png"), captions, (64, 64), (64, 64), 1)


CHINESE = ["\u957f\u53d1", "\u5fae\u7b11", "\u96e8"]


def counted(captions: Sequence[str], kind: str = "auto") -> dict[str, int]:
    return dict(frequencies([item(caption) for caption in captions], kind).counts)


def test_tags_are_counted_once_a_caption_in_whatever_case() -> None:
    found = frequencies([item(caption) for caption in TAGS])
    assert (found.kind, found.captions) == ("tags", 3)
    assert found.counts[:3] == (("1girl", 3), ("solo", 2), ("blue eyes", 1))
    assert dict(found.counts)["rain"] == 1


def test_words_are_counted_where_captions_are_sentences() -> None:
    found = frequencies([item("A red house and a tree."), item("the red mill, it's old; red roof"), item("")])
    assert (found.kind, found.captions) == ("words", 2)
    assert dict(found.counts) == {"red": 2, "house": 1, "tree": 1, "mill": 1, "it's": 1, "old": 1, "roof": 1}


def test_of_both_kinds_each_is_counted_where_asked() -> None:
    captions = [*TAGS, "a girl stands in the rain at night"]
    assert counted(captions, "tags")["rain"] == 1
    assert counted(captions, "words")["rain"] == 2
    assert counted(captions) == counted(captions, "tags")
    assert counted([]) == {}


def test_alternatives_are_captions_of_their_own() -> None:
    assert frequencies([item("a red house", "a red mill")]).counts[0] == ("red", 2)


def test_chinese() -> None:
    assert tags_of("\u957f\u53d1\uff0c\u5fae\u7b11\u3001\u96e8") == CHINESE
    assert words_of("\u7ea2\u8272\u7684\u623f\u5b50\uff0c\u96e8\u3002") == ["\u7ea2\u8272", "\u623f\u5b50", "\u96e8"]
    hair, smile, _ = CHINESE
    assert words_of("mystyle\u957f\u53d1 girl's\u5fae\u7b11 2B") == ["mystyle", hair, "girl's", smile, "2b"]
    assert counted(["\uff0c".join(CHINESE)]) == dict.fromkeys(CHINESE, 1)


@given(st.lists(st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=3, max_size=6), max_size=8))
def test_what_is_counted_is_in_so_many_captions(captions: list[list[str]]) -> None:
    found = counted([", ".join(tags) for tags in captions])
    assert found == {tag: n for tag in ("ab", "cd", "ef", "gh") if (n := sum(tag in tags for tags in captions))}


def test_the_table_is_cut_where_asked() -> None:
    found = frequencies([item(caption) for caption in TAGS])
    assert found.table(2).splitlines() == [
        "tags, in how many of 3 captions:",
        "         3  100%  1girl",
        "         2   67%  solo",
        "    and 5 more",
    ]
    assert frequencies([]).table(5) == "words, in how many of 0 captions: none"


def bars(image: Image.Image) -> list[int]:
    """The widths of the bars, from above."""
    blue = (np.asarray(image) == (79, 129, 189)).all(2).sum(1)
    starts = [row for row in range(1, len(blue)) if blue[row] and not blue[row - 1]]
    return [int(blue[row + 2]) for row in starts]


def test_bars_are_as_long_as_their_numbers() -> None:
    found = frequencies([item(caption) for caption in TAGS])
    widths = bars(drawn(found, 4))
    assert len(widths) == 4
    assert [round(width / widths[0], 2) for width in widths] == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3], abs=0.02)
    assert len(bars(drawn(found, 100))) == 7
    assert bars(drawn(frequencies([]))) == []


def test_other_names_give_another_picture_and_long_ones_leave_room_for_the_bars() -> None:
    one, other = (drawn(frequencies([item(f"{name}, b, c")])) for name in ("\u957f\u53d1", "\u5fae\u7b11"))
    assert one.size == other.size
    assert one.tobytes() != other.tobytes()
    assert bars(drawn(frequencies([item(f"{'x' * 300}, b, c")])))[0] > 200


def test_the_command_lists_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, caption in enumerate(TAGS):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(folder), "--resolution", "64", "--words", "2"])) == 0
    printed = capsys.readouterr().out
    items = scan(folder, resolution=64).items
    assert printed.endswith(f"{frequencies(items, 'tags').table(2)}\n{frequencies(items, 'words').table(2)}\n")
    with pytest.raises(DatasetError) as caught:
        run(parser.parse_args([str(folder), "--words", "0"]))
    assert caught.value.message == "--words: expected a whole number of at least 1, got 0"
