"""Pictures for people: a labelled grid of images, and the loss curve of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from . import fonts
from .events import HELD_OUT, TRAIN, Event, Step, Validation
from .fonts import Font

_INK, _PAPER, _GAP = (30, 30, 30), (255, 255, 255), 6
_VALIDATED = {
    TRAIN: ("#4f9d69", "validation, training images"),
    HELD_OUT: ("#d0662c", "validation, held-out images"),
}
_ASKED = "#2b5c9e"
_RESAMPLING = Image.Resampling.LANCZOS


def to_image(pixels: torch.Tensor) -> Image.Image:
    """A picture [3, H, W] in 0..1 as a PIL image; what lies outside is clipped."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def to_pixels(image: Image.Image) -> torch.Tensor:
    """A PIL image as a picture [3, H, W] in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def labelled_grid(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str], *, side: int = 128
) -> Image.Image:
    """Images in rows, each row named at its left (wrapped) and each column above it.

    Args:
        rows: images, row by row; each is fitted into a square.
        row_labels: one a row.
        column_labels: one a column.
        side: of a cell, in pixels.
    """
    size = max(12, side // 9)
    font, _ = fonts.fitting("\n".join([*row_labels, *column_labels]), size)
    margin, line = round(1.6 * side), round(size * 1.3)
    head = line + 2 * _GAP
    sheet = Image.new(
        "RGB", (margin + len(column_labels) * (side + _GAP) + _GAP, head + len(rows) * (side + _GAP)), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        x = margin + _GAP + column * (side + _GAP)
        pen.text((x + side / 2, head / 2), label, _INK, font, anchor="mm")
    for row, (images, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = head + row * (side + _GAP)
        text = _wrapped(label, font, margin - 2 * _GAP)
        pen.multiline_text((_GAP, y + side / 2), text, _INK, font, anchor="lm", spacing=line - size)
        for column, image in enumerate(images):
            fitted = image.copy()
            fitted.thumbnail((side, side), _RESAMPLING)
            sheet.paste(fitted, (margin + _GAP + column * (side + _GAP), y))
    return sheet


def grid(
    images: Sequence[Image.Image], labels: Sequence[str], *, columns: int, title: str = "", width: int = 0
) -> Image.Image:
    """Images in rows, each under its label. All cells are of one size; a picture of another one is fitted in.

    Args:
        images: at least one.
        labels: one an image; an empty one leaves its place free.
        columns: how many there are in a row.
        title: above all.
        width: of a cell, in pixels; 0: as wide as the widest image.
    """
    widest, highest = max(i.width for i in images), max(i.height for i in images)
    width = width or widest
    height = max(1, round(width * highest / widest))
    size = min(max(14, width // 14), 48)
    columns = min(columns, len(images))
    whole = columns * (width + _GAP) + _GAP
    # One font for all labels: that of the first with a letter which pillow's own lacks would look odd among the rest.
    font, shown = fonts.fitting("\0".join(labels), size)
    texts = [_wrapped(text, font, width) for text in shown.split("\0")]
    line = round(size * 1.3)
    head = max(text.count("\n") + 1 for text in texts) * line + _GAP if any(texts) else 0
    title_font, title = fonts.fitting(title, round(size * 1.3))
    title = _wrapped(title, title_font, whole - 2 * _GAP)
    top = (title.count("\n") + 1) * round(line * 1.3) + _GAP if title else 0
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (whole, top + rows * (head + height + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((_GAP, _GAP), title, _INK, title_font)
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        x = _GAP + index % columns * (width + _GAP)
        y = top + _GAP + index // columns * (head + height + _GAP)
        pen.multiline_text(
            (x + width / 2, y + head - _GAP / 2), text, _INK, font, anchor="md", align="center", spacing=line - size
        )
        fitted = image if image.size == (width, height) else ImageOps.contain(image, (width, height), _RESAMPLING)
        sheet.paste(fitted, (x + (width - fitted.width) // 2, y + head + (height - fitted.height) // 2))
    return sheet


def page(answers: Sequence[tuple[str, str]], *, width: int = 768, size: int = 20) -> Image.Image:
    """Questions and answers as a page to read.

    Args:
        answers: (question, answer) each.
        width: in pixels.
        size: of the letters, in pixels.
    """
    joined = "\0".join(text for pair in answers for text in pair)
    font, shown = fonts.fitting(joined, size)
    texts = iter(shown.split("\0"))
    line, margin = round(size * 1.4), 2 * size
    blocks: list[tuple[str, str, int]] = []
    for question in texts if answers else ():
        for text, ink, indent in ((question, _ASKED, 0), (next(texts), "#1e1e1e", size)):
            lines = [_wrapped(one, font, width - 2 * margin - indent) for one in text.splitlines()] or [""]
            blocks.append(("\n".join(lines), ink, indent))
    heights = [(text.count("\n") + 1) * line + (size if indent else size // 3) for text, _, indent in blocks]
    found = Image.new("RGB", (width, max(4 * size, sum(heights) + 2 * margin - size)), _PAPER)
    pen, y = ImageDraw.Draw(found), margin
    for (text, ink, indent), height in zip(blocks, heights, strict=True):
        if indent:
            pen.line([(margin + 2, y + 3), (margin + 2, y + height - size - 3)], "#d5dbe5", 3)
        pen.multiline_text((margin + indent, y), text, ink, font, spacing=line - size)
        y += height
    return found


def loss_curve(events: Sequence[Event], path: Path, title: str) -> None:
    """Draws the losses of a run: every logged step, a running mean, and the validation.

    Args:
        events: the run's events (``events.history``).
        path: a PNG file to write.
        title: above the curve.
    """
    from matplotlib.figure import Figure

    steps = [e for e in events if isinstance(e, Step)]
    checks = [e for e in events if isinstance(e, Validation)]
    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.plot(
        [e.step for e in steps], [e.loss for e in steps], color="#b9c6d8", linewidth=1, label="training, as logged"
    )
    axes.plot(
        [e.step for e in steps],
        _smooth([e.loss for e in steps]),
        color="#2b5c9e",
        linewidth=2,
        label="training, smoothed",
    )
    for signal, (color, label) in _VALIDATED.items():
        curve = [e for e in checks if e.signal == signal]
        if curve:
            axes.plot([e.step for e in curve], [e.loss for e in curve], "o-", color=color, markersize=4, label=label)
    axes.set(title=title, xlabel="optimizer steps", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _smooth(values: Sequence[float], keep: float = 0.85) -> list[float]:
    """Exponential mean, corrected for its start as Adam's is."""
    result, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = keep * mean + (1 - keep) * value
        result.append(mean / (1 - keep**count))
    return result


def _wrapped(text: str, font: Font, width: float) -> str:
    """A text in lines of no more than a width; a word that is longer, or Chinese, is broken within."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines)
