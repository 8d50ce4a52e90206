"""The labelled grid: every picture whole and in its place, every label readable."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainer import fonts, sheet

GAP = 6
COLOURS = [(250, 0, 0), (0, 200, 0), (0, 0, 250), (200, 200, 0), (0, 200, 200)]


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for size, colour in zip(sizes, COLOURS, strict=False)]


def box(made: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Where a colour is: left, top, right, bottom."""
    rows, columns = np.nonzero((np.asarray(made) == colour).all(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_pictures_of_one_size_are_copied_pixel_by_pixel() -> None:
    given = pictures(*[(64, 48)] * 5)
    made = sheet.grid(given, list("abcde"), columns=2)
    boxes = [box(made, colour) for colour in COLOURS]
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(64, 48)}
    assert [left for left, *_ in boxes] == [GAP, GAP + 64 + GAP] * 2 + [GAP]
    tops = [top for _, top, *_ in boxes]
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4]
    assert made.width == 2 * 64 + 3 * GAP
    for image, (left, top, right, bottom) in zip(given, boxes, strict=True):
        assert made.crop((left, top, right, bottom)).tobytes() == image.tobytes()


def test_pictures_of_other_sizes_are_fitted_into_the_cells_centre() -> None:
    made = sheet.grid(pictures((100, 50), (20, 40), (100, 10)), [""] * 3, columns=3)
    assert made.size == (3 * 100 + 4 * GAP, 50 + 2 * GAP)
    assert box(made, COLOURS[0]) == (GAP, GAP, GAP + 100, GAP + 50)
    left, top, right, bottom = box(made, COLOURS[1])
    assert (right - left, top, bottom) == (25, GAP, GAP + 50)
    assert abs((left + right) / 2 - (2 * GAP + 150)) <= 1
    assert box(made, COLOURS[2])[3] - box(made, COLOURS[2])[1] == 10


@pytest.mark.parametrize("label", ["0.8", "\u5f3a\u5ea6 0.8", "a label that takes several lines at this width"])
@pytest.mark.parametrize("known", [True, False])
def test_labels_are_drawn_above_their_pictures(monkeypatch: pytest.MonkeyPatch, label: str, known: bool) -> None:
    if not known:
        monkeypatch.setattr(fonts, "_files", lambda: ())
    made = sheet.grid(pictures((128, 128), (128, 128)), [label, ""], columns=2)
    top = box(made, COLOURS[0])[1]
    head = np.asarray(made.convert("L"))[:top]
    assert (head[:, : 128 + GAP] < 100).sum() > 30
    assert (head[:, 128 + GAP :] < 100).sum() == 0
    assert (np.asarray(made.convert("L"))[top + 128 :] < 100).sum() == 0
    assert (np.asarray(made) == COLOURS[0]).all(-1).sum() == 128 * 128, "nothing is drawn over a picture"


def test_a_title_and_the_width_of_the_cells() -> None:
    plain, titled = (sheet.grid(pictures((64, 64)), ["x"], columns=4, title=t, width=32) for t in ("", "\u98ce"))
    assert plain.width == titled.width == 32 + 2 * GAP
    assert titled.height > plain.height
