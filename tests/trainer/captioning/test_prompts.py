from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.captioning.base import Wish
from trainer.captioning.prompts import cleaned, question


def test_the_users_own_words_win() -> None:
    assert question(Wish(prompt="  Which colours? ", purpose="style", length="long")) == "Which colours?"


def test_purposes_and_lengths_ask_differently() -> None:
    asked = {question(Wish(purpose=p, length=n)) for p in ("style", "character", "plain") for n in ("short", "long")}
    assert len(asked) == 6


def test_a_character_is_called_by_the_trigger_word() -> None:
    asked = question(Wish(purpose="character", trigger_word=" sks  girl "))
    assert 'Begin with "sks girl"' in asked
    assert '""' not in question(Wish(purpose="character"))


def test_the_trigger_word_stays_out_of_what_a_style_is_described_by() -> None:
    assert "sks" not in question(Wish(purpose="style", trigger_word="sks"))


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("The image shows a red house.", "a red house."),
        ("This picture depicts two cats. They sleep.", "two cats. They sleep."),
        ("The image is a painting of a cat.", "a painting of a cat."),
        ("The image is of a cat", "a cat"),
        ("In this image, there is a dog", "a dog"),
        ("In the image we can see a dog", "a dog"),
        ("In this photo, a dog runs", "a dog runs"),
        ("There are three boats", "three boats"),
        ("Caption: a boat", "a boat"),
        ("**Caption:** a boat", "a boat"),
        ("Sure! Here is a caption for this image:\n\n\u201cA boat at sea.\u201d", "A boat at sea."),
        ("Here's the caption: A boat", "A boat"),
        ('"A boat at sea"', "A boat at sea"),
        ('"Stop" says the sign', '"Stop" says the sign'),
        ('"Stop" and "go"', '"Stop" and "go"'),
        ("# A boat\n\n- with *a* sail\n- at sea", "A boat with *a* sail at sea"),
        ("`1girl`, solo, long_hair", "1girl, solo, long_hair"),
        ("__init__ stands on a sign", "init stands on a sign"),
        ("<think>hm, a boat?</think>\n\nA boat", "A boat"),
        ("a boat  \n at\tsea ", "a boat at sea"),
        ("The image of a saint hangs on the wall", "The image of a saint hangs on the wall"),
        ("Here, a cat sleeps: it is late", "Here, a cat sleeps: it is late"),
        ("", ""),
    ],
)
def test_what_is_no_caption_is_taken_from_an_answer(answer: str, caption: str) -> None:
    assert cleaned(answer) == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("a painting of a cat", "a cat"),
        ("A digital painting of a cat by the sea", "a cat by the sea"),
        ("This image is a black-and-white photograph of a man", "a man"),
        ("a woman holding a picture of a cat", "a woman holding a picture of a cat"),
        ("a cat in front of a painting of a dog", "a cat in front of a painting of a dog"),
        ("a photo album", "a photo album"),
    ],
)
def test_captions_for_a_style_begin_behind_the_medium(answer: str, caption: str) -> None:
    assert cleaned(answer, "style") == caption
    assert cleaned(caption, "character") == caption


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A boat at sea. It is 3.5 m long. Its sail is wh", "A boat at sea. It is 3.5 m long."),
        ("1girl, solo, long ha", "1girl, solo"),
        ("a boat at se", "a boat at"),
        ("boat", "boat"),
        ("A boat at sea.", "A boat at sea."),
    ],
)
def test_what_was_cut_off_ends_with_something_whole(answer: str, caption: str) -> None:
    assert cleaned(answer, cut=True) == caption


@given(st.text(), st.sampled_from(["style", "character", "plain"]), st.booleans())
def test_every_answer_becomes_one_line(answer: str, purpose: str, cut: bool) -> None:
    caption = cleaned(answer, purpose, cut=cut)  # type: ignore[arg-type]
    assert caption == " ".join(caption.split())
