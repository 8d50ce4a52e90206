"""What is done to every caption: words replaced, something put around, and the commas as they should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.captioning.rules import Rules, read, tidy
from trainer.errors import CaptionError


@pytest.mark.parametrize(
    ("rules", "before", "after"),
    [
        ("a woman -> sks woman", "A woman in a room, a womanly figure", "sks woman in a room, a womanly figure"),
        ("man -> boy", "a man, a woman, a mansion, MAN", "a boy, a woman, a mansion, boy"),
        ("anime ->", "anime, a girl, Anime", "a girl"),
        ("blurry ->", "a girl, blurry, outdoors", "a girl, outdoors"),
        ("a -> b\nb -> c", "a b", "c c"),
        ("C++ -> code", "C++ on a screen", "code on a screen"),
        ("(x) -> y\\1", "(x) and z", "y\\1 and z"),
        ("\u5973\u5b69 -> sks", "\u4e00\u4e2a\u5973\u5b69\u5728\u8dd1", "\u4e00\u4e2asks\u5728\u8dd1"),
        ("red   house -> home", "a red house", "a home"),
        ("", "a house", "a house"),
    ],
)
def test_replace_rules(rules: str, before: str, after: str) -> None:
    assert Rules(replace=read(rules))(before) == after


def test_rules_are_read_from_lines() -> None:
    assert read("\n a -> b \r\n\n  c ->\nd -> e -> f\n") == (("a", "b"), ("c", ""), ("d", "e -> f"))
    assert read(["a->b"]) == (("a", "b"),)
    assert read("") == ()


@pytest.mark.parametrize("line", ["a house", "-> b", "  -> ", "a => b"])
def test_what_is_no_rule_is_named(line: str) -> None:
    with pytest.raises(CaptionError) as caught:
        read(f"a -> b\n{line}\n")
    assert caught.value.message == f"replace: {line.strip()!r} is no rule: expected old -> new"


@pytest.mark.parametrize(
    ("prefix", "suffix", "before", "after"),
    [
        ("a photo of", "", "a cat", "a photo of a cat"),
        ("digital art,", ", masterpiece", "a cat", "digital art, a cat, masterpiece"),
        ("digital art,", ", masterpiece", "A cat sleeps.", "digital art, A cat sleeps, masterpiece"),
        ("", "in sks style", "a cat", "a cat in sks style"),
        ("x,", ", y", "", ""),
        ("  x ,", "", "a cat", "x, a cat"),
    ],
)
def test_prefix_and_suffix(prefix: str, suffix: str, before: str, after: str) -> None:
    assert Rules(prefix, suffix)(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (" a  house ,\n red", "a house, red"),
        ("a,, b, ,c,", "a, b,c"),
        ("a house. , red", "a house, red"),
        ("3.5 metres, :3, ;)", "3.5 metres, :3, ;)"),
        ("Who? Me!", "Who? Me!"),
        (",", ""),
    ],
)
def test_tidy(before: str, after: str) -> None:
    assert tidy(before) == after


@given(st.text())
def test_tidy_is_done_once_and_for_all(text: str) -> None:
    once = tidy(text)
    assert tidy(once) == once
    assert once == once.strip(" ,")
    assert "\n" not in once


@given(st.text(), st.text())
def test_without_rules_words_stay(text: str, suffix: str) -> None:
    def letters(found: str) -> list[str]:
        return [c for c in found if c.isalnum()]

    changed = Rules(suffix=suffix)(text)
    assert letters(changed) == (letters(text) + letters(suffix) if tidy(text) else [])
