"""Texts in pictures are readable, or at least tell what they are, with whatever fonts a machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from trainer import fonts

CHINESE = "\u6b65\u6570 100"


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_files", lambda: ())


def ink(text: str, size: int = 20) -> bytes:
    """What is drawn of a text."""
    font, shown = fonts.fitting(text, size)
    picture = Image.new("L", (400, 40))
    ImageDraw.Draw(picture).text((0, 0), shown, 255, font)
    return picture.tobytes()


def test_plain_texts_are_in_pillows_own_font() -> None:
    font, shown = fonts.fitting("step 100, 0.8\n(base)", 20)
    assert shown == "step 100, 0.8\n(base)"
    assert isinstance(font, ImageFont.FreeTypeFont)
    own = ImageFont.load_default(20)
    assert isinstance(own, ImageFont.FreeTypeFont)
    assert font.getname() == own.getname()


def test_chinese_is_drawn_and_differs_from_other_chinese() -> None:
    assert len({ink(CHINESE), ink("\u5f3a\u5ea6 100"), ink("100"), ink("")}) == 4


def test_without_a_font_characters_become_their_codes(no_fonts: None) -> None:
    assert fonts.fitting(CHINESE, 20)[1] == "\\u6b65\\u6570 100"
    assert len({ink(CHINESE), ink("\u5f3a\u5ea6 100"), ink("")}) == 3


def test_a_character_that_no_font_has_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [path for path in fonts._files() if "cjk" in path.name.lower()][:1]
    if not files:
        pytest.skip("no Chinese font here")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_files", lambda: (tmp_path / "broken.ttf", *files))
    assert fonts.fitting(f"{CHINESE} \ue0ff", 20)[1] == f"{CHINESE} \\ue0ff"
