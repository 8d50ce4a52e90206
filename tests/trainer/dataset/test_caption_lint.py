"""What is said of captions, and what is not."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from trainer.clip_tokens import ClipTokenizer, exceeds_a_chunk
from trainer.dataset import scan
from trainer.dataset.findings import Finding
from trainer.dataset.lint import lint
from trainer.demo import world
from trainer.linting import add_arguments, run

OF_CAPTIONS = {
    "same-caption", "repeated-caption", "trigger-word", "mixed-captions", "weights", "brackets", "long-caption",
}  # fmt: skip
PROSE = "a woman in a red coat stands at the window of an old house number"
TAGS = "1girl, long hair, blue eyes, smile, hat number"


def findings(folder: Path, captions: Mapping[str, str], trigger_word: str = "") -> dict[str, Finding]:
    """What is found in a folder of pictures with these captions."""
    for number, (name, caption) in enumerate(captions.items()):
        Image.new("RGB", (64, 64), (number, 255 - number, 7 * number % 256)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    report = lint(scan(folder, resolution=64, trigger_word=trigger_word), resolution=64, alike=False)
    found = {finding.kind: finding for finding in report.findings}
    assert len(found) == len(report.findings)
    return {kind: finding for kind, finding in found.items() if kind in OF_CAPTIONS}


def numbered(text: str, count: int) -> dict[str, str]:
    return {f"{number:03}": f"{text} {number}" for number in range(count)}


@pytest.mark.parametrize("text", [PROSE, TAGS, "sks, a house", "\u7ea2\u8272\u7684\u623f\u5b50"])
@pytest.mark.parametrize("trigger_word", ["", "sks"])
def test_of_good_captions_nothing_is_said(folder: Path, text: str, trigger_word: str) -> None:
    assert findings(folder, numbered(text, 20), trigger_word) == {}


def test_of_the_demos_captions_nothing_is_said(folder: Path) -> None:
    world.write_dataset(folder)
    report = lint(scan(folder, resolution=64), resolution=64)
    assert not OF_CAPTIONS & {finding.kind for finding in report.findings}


def test_a_caption_of_several_images_is_named_with_them(folder: Path) -> None:
    captions = numbered(PROSE, 8) | {"x": "a house", "y": "a house"}
    found = findings(folder, captions)
    assert found.keys() == {"repeated-caption"}
    assert found["repeated-caption"].message == "1 caption at 2 images: say what tells these pictures apart"
    assert found["repeated-caption"].lines == ("a house: x.png, y.png",)


def test_two_of_many_may_have_one_caption_but_not_three(folder: Path) -> None:
    assert findings(folder, numbered(PROSE, 30) | {"x": "a house", "y": "a house"}) == {}
    assert findings(folder, {"z": "a house"})["repeated-caption"].lines == ("a house: x.png, y.png, z.png",)


def test_the_same_picture_twice_may_have_the_same_caption(folder: Path) -> None:
    findings(folder, numbered(PROSE, 3))
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    (folder / "copy.txt").write_bytes((folder / "000.txt").read_bytes())
    assert findings(folder, {}) == {}


def test_one_caption_for_most_is_said_once(folder: Path) -> None:
    assert findings(folder, dict.fromkeys("abcd", "a house")).keys() == {"same-caption"}


def test_a_trigger_word_that_only_some_captions_have(folder: Path) -> None:
    captions = {"a": "sks, a red house", "b": "a SKS mill", "c": "a green tree", "d": "askset of cups"}
    found = findings(folder, captions, "sks")
    assert found.keys() == {"trigger-word"}
    assert found["trigger-word"].message == "2 of 4 captions lack the trigger word, which was put in front of them"
    assert found["trigger-word"].lines == ("c.png", "d.png")


@pytest.mark.parametrize("captions", [("a red house", "a mill"), ("sks, a red house", "sks mill")])
def test_a_trigger_word_that_all_or_none_have_is_nothing_to_name(folder: Path, captions: tuple[str, str]) -> None:
    assert findings(folder, dict(zip("ab", captions, strict=True)), "sks") == {}


def test_what_most_captions_begin_with_may_be_the_trigger_word(folder: Path) -> None:
    captions = {name: f"sks, a house and {name}" for name in "abcdef"} | {"x": "a green tree with an owl"}
    found = findings(folder, captions)
    assert found.keys() == {"trigger-word"}
    assert found["trigger-word"].message == (
        "6 of 7 captions begin with 'sks', but not all have it: if it is the trigger word, give it as such"
    )
    assert found["trigger-word"].lines == ("x.png: a green tree with an owl",)
    (folder / "x.txt").write_text("a green sks tree with an owl", encoding="utf-8")
    assert findings(folder, {}) == {}


def test_how_many_people_there_are_is_no_trigger_word(folder: Path) -> None:
    captions = {name: f"1girl, long hair, {name}" for name in "abcdef"} | {"x": "2girls, park, rain"}
    assert findings(folder, captions) == {}


def test_tags_and_sentences_in_one_data_set(folder: Path) -> None:
    found = findings(folder, numbered(PROSE, 5) | {"x": "1girl, long hair, smile"})
    assert found.keys() == {"mixed-captions"}
    message = "tags at 1, sentences at 5 images: a prompt of one kind calls half of them"
    assert found["mixed-captions"].message == message
    assert found["mixed-captions"].lines == ("x.png, tags: 1girl, long hair, smile",)


def test_a_picture_with_both_as_alternatives_has_them_on_purpose(folder: Path) -> None:
    findings(folder, numbered(PROSE, 4))
    rows = [f"{number:03}.png,{text}" for number in range(4) for text in (f'"{PROSE} {number}"', f'"{TAGS} {number}"')]
    (folder / "metadata.csv").write_text("\n".join(["filename,prompt", *rows, ""]), encoding="utf-8")
    assert findings(folder, {}) == {}


@pytest.mark.parametrize("short", ["red house", "night, rain", "a tree"])
def test_a_short_caption_is_neither_tags_nor_sentence(folder: Path, short: str) -> None:
    assert findings(folder, numbered(PROSE, 3) | {"x": short}) == {}


@pytest.mark.parametrize(
    "caption", ["(red house:1.2), a tree", "a ((very)) red house", "house, (red : .5)", "a (tree:-1) in the rain"]
)
def test_weights_of_a_prompt(folder: Path, caption: str) -> None:
    found = findings(folder, {"a": caption})
    assert found.keys() == {"weights"}
    assert found["weights"].lines == (f"a.png: {caption}",)


def test_brackets_are_named_with_how_to_write_them_in_a_prompt(folder: Path) -> None:
    found = findings(folder, {"a": "1girl, saber (fate), smile", "b": "hat (red), night, rain"})
    assert found.keys() == {"brackets"}
    assert found["brackets"].message == (
        "2 captions with brackets: trained as they stand, but a prompt reads them as weights. "
        r"Write saber \(fate\) there; here, too, it is trained as saber (fate)"
    )


@pytest.mark.parametrize("caption", [r"1girl, saber \(fate\), smile", "a house :)", "a [red] house", "1girl, :(, hat"])
def test_what_a_prompt_takes_as_it_stands_is_not_named(folder: Path, caption: str) -> None:
    assert findings(folder, {"a": caption}) == {}


def test_escaped_and_plain_brackets_are_the_same_tokens() -> None:
    tokenizer = ClipTokenizer()
    assert tokenizer.chunks(r"saber \(fate\)") == tokenizer.chunks("saber (fate)")


def test_long_captions_are_told_by_their_tokens(folder: Path) -> None:
    fits, exceeds = "house " * 75, "house " * 76
    assert [exceeds_a_chunk(text) for text in (fits, exceeds, "x " * 37)] == [False, True, False]
    assert [len(ClipTokenizer().chunks(text)) for text in (fits, exceeds)] == [1, 2]
    found = findings(folder, {"a": fits, "b": exceeds, "c": "\u623f" * 40})
    assert found.keys() == {"long-caption"}
    chunks = len(ClipTokenizer().chunks("\u623f" * 40))
    assert found["long-caption"].lines == (("b.png", "c.png") if chunks > 1 else ("b.png",))
    assert "longer than CLIP's 77 tokens: trained in chunks" in found["long-caption"].message


def test_the_command_says_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings(folder, {"a": "(red:1.3) house", "b": "a mill (old)", "c": "sks, a tree", "d": "house " * 80})
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(folder), "--resolution", "64", "--trigger-word", "sks"])) == 0
    printed = capsys.readouterr().out
    for kind in ("trigger-word", "weights", "brackets", "long-caption"):
        assert f"\n- {kind}: " in printed
