from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import scan
from trainer.dataset.text import decode

CHINESE = "\u7ea2\u8272\u7684\u623f\u5b50\uff0c\u5728\u5c71\u4e0a"
GUESSES = {
    "Chinese in GBK": (CHINESE, "gbk", "GBK"),
    "a Chinese word among English": (f"sks style, {CHINESE[:2]}, snow", "gbk", "GBK"),
    "a single Chinese character": ("\u7ea2", "gbk", "GBK"),
    "traditional Chinese in GBK": ("\u4e00\u500b\u7d05\u8272\u7684\u5c0f\u623f\u5b50", "gbk", "GBK"),
    "German": ("ein gr\u00fcner Becher, \u00d6l, wei\u00df", "cp1252", "Windows-1252"),
    "a German word": ("\u00d6l", "cp1252", "Windows-1252"),
    "French": ("une maison \u00e0 c\u00f4t\u00e9 de l\u2019\u00e9glise", "cp1252", "Windows-1252"),
    "Spanish": ("\u00a1qu\u00e9 ni\u00f1o!", "cp1252", "Windows-1252"),
    "quotes from a word processor": (
        "a \u201cred\u201d house \u2013 it\u2019s snowing\u2026",
        "cp1252",
        "Windows-1252",
    ),
    "Notepad's Unicode": (f"a house {CHINESE}", "utf-16", "UTF-16"),
    "UTF-16, big end first": ("\ufeffa house", "utf-16-be", "UTF-16"),
    "UTF-16 without a mark": ("a house, snow", "utf-16-le", "UTF-16"),
    "UTF-16 without a mark, big end first": ("a house, snow", "utf-16-be", "UTF-16"),
}


@pytest.mark.parametrize("case", GUESSES)
def test_other_encodings_are_guessed_and_named(case: str, draw: Callable[..., Path], folder: Path) -> None:
    text, codec, name = GUESSES[case]
    draw("a.png")
    (folder / "a.txt").write_bytes(text.encode(codec))
    dataset = scan(folder, resolution=64)
    assert dataset.items[0].captions == (text.removeprefix("\ufeff"),)
    (problem,) = dataset.problems
    assert (problem.path.name, problem.kind) == ("a.txt", "other-encoding")
    assert problem.message == f"is not UTF-8; read as {name}: save it as UTF-8"


@pytest.mark.parametrize("case", GUESSES)
def test_tables_in_other_encodings(case: str, draw: Callable[..., Path], folder: Path) -> None:
    text, codec, name = GUESSES[case]
    text = text.removeprefix("\ufeff")
    draw("a.png")
    (folder / "metadata.csv").write_bytes(f'filename,prompt\na.png,"{text}"\n'.encode(codec))
    dataset = scan(folder, resolution=64)
    assert dataset.items[0].captions == (text,)
    assert [str(p) for p in dataset.problems] == [f"metadata.csv: is not UTF-8; read as {name}: save it as UTF-8"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_utf8_is_never_guessed(text: str) -> None:
    assert decode(text.encode("utf-8")) == (text, "UTF-8")
    assert decode(text.encode("utf-8-sig")) == (text, "UTF-8")


@given(st.binary(max_size=200))
def test_any_bytes_are_text_without_control_characters_or_refused(data: bytes) -> None:
    try:
        text, name = decode(data)
    except ValueError:
        return
    assert "\0" not in text
    if name != "UTF-8":
        assert not any(ord(c) < 32 and c not in "\t\r\n" for c in text)


@given(st.lists(st.sampled_from("\u7ea2\u7684\u623f\u5b50 ,abc\uff0c"), min_size=1).map("".join))
def test_common_chinese_comes_back_from_gbk(text: str) -> None:
    expected = "UTF-8" if text.isascii() else "GBK"
    assert decode(text.encode("gbk")) == (text, expected)
