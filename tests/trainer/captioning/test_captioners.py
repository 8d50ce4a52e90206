from __future__ import annotations

from pathlib import Path

import pytest

from trainer.captioning import all_captioners, cli, get, names
from trainer.captioning.base import Place, Wish
from trainer.dataset.words import words_of
from trainer.errors import CaptionError

FOLDER = Path("/pictures/10_red_house")
WITHOUT_MODEL = ("filename", "folder", "trigger")


def said(name: str, paths: list[Path], trigger_word: str = "sks") -> list[str]:
    """What a captioner without a model says of these paths."""
    with get(name).open(Wish(trigger_word=trigger_word), Place()) as session:
        return session.caption(paths, ())


def test_each_file_with_a_captioner_is_found_by_its_name() -> None:
    assert set(names()) >= set(WITHOUT_MODEL)
    package = Path(cli.__file__).parent
    for name, captioner in all_captioners().items():
        assert captioner.name == name
        assert captioner.description.endswith(".")
        assert (package / f"{name}.py").is_file()
        assert get(name) is captioner


def test_an_unknown_captioner() -> None:
    with pytest.raises(CaptionError) as caught:
        get("eyes")
    assert caught.value.message == f"method: expected one of {', '.join(names())}, got 'eyes'"


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_every_captioner_answers_for_each_image_in_order(name: str) -> None:
    images = [FOLDER / "a cat.png", FOLDER / "a dog.jpg", FOLDER / "a cow.webp"]
    one_by_one = [said(name, [image])[0] for image in images]
    assert said(name, images) == one_by_one
    assert said(name, []) == []


def test_what_they_say() -> None:
    images = [FOLDER / "red_house-01.png", FOLDER / "IMG_2041.jpg"]
    assert said("filename", images) == ["red house", ""]
    assert said("folder", images) == ["red house", "red house"]
    assert said("trigger", images, " sks ") == ["sks", "sks"]


def test_the_trigger_word_alone_needs_one() -> None:
    with pytest.raises(CaptionError) as caught:
        said("trigger", [FOLDER / "a.png"], "  ")
    assert caught.value.message == "trigger_word: is empty, and the method 'trigger' writes nothing else"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_house-01", "red house"),
        ("red house", "red house"),
        ("Red-House_(2)", "Red House"),
        ("red.house.final", "red house final"),
        ("house01", "house"),
        ("01_house", "house"),
        ("10_sks dog", "sks dog"),
        ("2024-05-06_beach", "beach"),
        ("three_2_one", "three 2 one"),
        ("formula 1 car", "formula 1 car"),
        ("1girl_solo", "1girl solo"),
        ("mp3 player", "mp3 player"),
        ("r2d2", "r2d2"),
        ("saber_(fate)", "saber (fate)"),
        ("gr\u00fcner_becher_003", "gr\u00fcner becher"),
        ("\u7ea2\u623f\u5b50_01", "\u7ea2\u623f\u5b50"),
        ("\u7ea2\u623f\u5b5001", "\u7ea2\u623f\u5b50"),
        ("a3f9c2d471", ""),
        ("house_a3f9c2d471", "house"),
        ("facade", "facade"),
        ("decade_defaced", "decade defaced"),
        ("IMG_2041", ""),
        ("DSC00123", ""),
        ("image (12)", ""),
        ("ComfyUI_00012_", ""),
        ("photo of a cat", "photo of a cat"),
        ("00012", ""),
        ("___", ""),
        ("", ""),
    ],
)
def test_words_of_a_name(name: str, words: str) -> None:
    assert words_of(name) == words
