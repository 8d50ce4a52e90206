"""The drawn world of the embedded base: one object on a ground, captioned, everything from a seed.

The world is as simple as "does the picture obey its caption?" needs. The words for objects' colours and for
backgrounds are disjoint, so a caption cannot be read two ways. Known styles are what the base is trained on; `neon`
(a glowing tube outline on a darkened ground) is the style that the demo's LoRA teaches: neither the denoiser nor the
text encoder has ever seen it, and no caption names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 128
"""Side of a picture in pixels."""

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon", "house", "tree", "fish")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (218, 30, 36),
    "orange": (250, 138, 16),
    "yellow": (250, 222, 40),
    "green": (34, 158, 60),
    "blue": (36, 92, 236),
    "purple": (132, 44, 178),
    "pink": (250, 116, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "cream": (248, 226, 178),
    "mint": (172, 236, 204),
    "lilac": (208, 192, 244),
    "gray": (128, 128, 132),
    "navy": (22, 30, 84),
    "black": (12, 12, 14),
}
SIZES = {"big": 46.0, "small": 29.0}
"""Half the object's extent, in pixels, before jitter."""

STYLES = {"flat": "", "line": "line drawing", "striped": "striped", "watercolor": "watercolor"}
"""Styles that the base knows, and the words by which a caption asks for them."""

UNKNOWN_STYLE = "neon"
DECODER_STYLES = ("neon", "mosaic", "inverted", "scribble")
"""Styles that only the VAE (and, for neon, the probe) sees, so that a LoRA's new style can be decoded at all."""

TRIGGER_WORD = "darkroom"
"""A word without meaning that some captions of the pre-training start with: it may be used as a trigger word."""

_OVERSAMPLING = 4


@dataclass(frozen=True)
class Facts:
    """What a picture shows. `style` is a key of `STYLES`, or one of `DECODER_STYLES`."""

    shape: str
    color: str
    background: str
    size: str
    style: str


@dataclass(frozen=True)
class Drawing:
    """A picture ([SIDE, SIDE, 3] uint8), its caption, and what it shows."""

    pixels: np.ndarray
    caption: str
    facts: Facts

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image."""
        return Image.fromarray(self.pixels)


def caption_of(facts: Facts, *, size: bool = True, background: bool = True) -> str:
    """The full caption of what is shown; an unknown style is not named."""
    words = f"a {facts.size} {facts.color} {facts.shape}" if size else f"a {facts.color} {facts.shape}"
    if background:
        words += f" on a {facts.background} background"
    style = STYLES.get(facts.style, "")
    return f"{words}, {style}" if style else words


def draw(
    seed: int,
    *,
    shape: str | None = None,
    color: str | None = None,
    background: str | None = None,
    size: str | None = None,
    style: str | None = None,
) -> Drawing:
    """Draw one captioned picture; the same arguments give the same bytes. What is not given is drawn from the seed."""
    rng = np.random.default_rng(seed)
    picked = [int(n) for n in rng.integers(0, 2**31, 5)]
    facts = Facts(
        shape or SHAPES[picked[0] % len(SHAPES)],
        color or list(COLORS)[picked[1] % len(COLORS)],
        background or list(BACKGROUNDS)[picked[2] % len(BACKGROUNDS)],
        size or list(SIZES)[picked[3] % len(SIZES)],
        style or list(STYLES)[picked[4] % len(STYLES)],
    )
    # Part of the captions leave the size or the ground open, so that short prompts are obeyed too.
    says_size, says_ground = rng.random() < 0.7, rng.random() < 0.92
    pixels = _render(facts, rng)
    return Drawing(pixels, caption_of(facts, size=says_size, background=says_ground), facts)


def neon_drawings() -> list[Drawing]:
    """The twelve pictures of the demo's data set: every shape and colour, and captions that do not name the style."""
    colors, backgrounds = list(COLORS), list(BACKGROUNDS)
    drawings = []
    for number in range(12):
        facts = {
            "shape": SHAPES[number % len(SHAPES)],
            "color": colors[(number * 3 + number // len(SHAPES) * 2) % len(colors)],
            "background": backgrounds[(number * 2 + number // len(backgrounds)) % len(backgrounds)],
            "size": "small" if number % 4 == 3 else "big",
        }
        drawing = draw(7_000 + number, style=UNKNOWN_STYLE, **facts)
        drawings.append(Drawing(drawing.pixels, caption_of(drawing.facts), drawing.facts))
    return drawings


def write_dataset(folder: Path, *, captions: bool = True) -> None:
    """Write `neon_drawings` as PNG files, named by what is in them. What is there already stays as it is.

    Args:
        folder: made when missing.
        captions: whether a `.txt` caption is beside each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, drawing in enumerate(neon_drawings(), 1):
        name = f"{number:02d}-{drawing.facts.color}-{drawing.facts.shape}"
        picture, caption = folder / f"{name}.png", folder / f"{name}.txt"
        if not picture.exists():
            drawing.image.save(picture)
        if captions and not caption.exists():
            caption.write_text(drawing.caption + "\n", encoding="utf-8")


def held_out_prompts(count: int) -> list[tuple[str, Facts]]:
    """Prompts for pairs of shape and colour that `neon_drawings` does not have, with the facts that they ask for."""
    trained = {(d.facts.shape, d.facts.color) for d in neon_drawings()}
    rng = np.random.default_rng(2024)
    pairs = [(s, c) for s in SHAPES for c in COLORS if (s, c) not in trained]
    # Round by round through the shapes, so that a few prompts show many of them.
    rng.shuffle(pairs)
    rounds: dict[str, int] = dict.fromkeys(SHAPES, 0)
    order = []
    for shape, color in pairs:
        order.append((rounds[shape], str(shape), str(color)))
        rounds[shape] += 1
    order.sort(key=lambda entry: entry[0])
    backgrounds = list(BACKGROUNDS)
    asked = []
    for number in range(count):
        _, shape, color = order[number % len(order)]
        facts = Facts(shape, color, backgrounds[(number * 3) % len(backgrounds)], "big", "flat")
        asked.append((caption_of(facts), facts))
    return asked


def outline(shape: str) -> np.ndarray:
    """A shape's closed outline as [N, 2] points, y downwards, within the unit disc or close to it."""
    turn = np.linspace(0.0, 2 * math.pi, 64, endpoint=False)
    if shape == "circle":
        return 0.92 * np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == "square":
        return 0.82 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    if shape == "triangle":
        return np.array([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)], float)
    if shape == "star":
        angle = np.arange(10) * math.pi / 5 - math.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.46)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    if shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
        return np.stack([x / 16.5, (y - 2.5) / 15.5], 1)
    if shape == "moon":
        outer = np.linspace(math.radians(50), math.radians(310), 44)
        inner = np.linspace(math.radians(285), math.radians(75), 32)
        a = np.stack([np.cos(outer), np.sin(outer)], 1)
        # The inner arc is a circle through the same two tips, further to the right.
        tip = a[0]
        radius = tip[1] / math.sin(math.radians(75))
        centre = tip[0] - radius * math.cos(math.radians(75))
        b = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], 1)
        return np.concatenate([a, b[1:-1]]) + np.array([0.2, 0.0])
    if shape == "house":
        return np.array(
            [(0, -0.98), (1.0, -0.14), (0.7, -0.14), (0.7, 0.86), (-0.7, 0.86), (-0.7, -0.14), (-1.0, -0.14)], float
        )
    if shape == "tree":
        crown = np.linspace(math.radians(107), math.radians(433), 48)
        top = np.stack([0.7 * np.cos(crown), 0.66 * np.sin(crown) - 0.36], 1)
        return np.concatenate([top, np.array([(0.205, 1.0), (-0.205, 1.0)])])
    if shape == "fish":
        body = np.linspace(math.radians(20), math.radians(340), 48)
        oval = np.stack([0.68 * np.cos(body) - 0.28, 0.56 * np.sin(body)], 1)
        return np.concatenate([oval, np.array([(1.0, -0.62), (0.78, 0.0), (1.0, 0.62)])])
    raise KeyError(shape)


def _render(facts: Facts, rng: np.random.Generator) -> np.ndarray:
    radius = SIZES[facts.size] * rng.uniform(0.94, 1.06)
    angle = math.radians(rng.uniform(-8, 8))
    room = SIDE / 2 - radius - 8
    centre = SIDE / 2 + rng.uniform(-1, 1, 2) * max(3.0, min(16.0, room))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = outline(facts.shape) @ turn.T * radius + centre
    ground = _colour(BACKGROUNDS[facts.background], rng)
    colour = _colour(COLORS[facts.color], rng)
    style = facts.style
    if style == "neon":
        picture = _neon(points, colour, ground)
    elif style == "mosaic":
        picture = _mosaic(_over(_fill(points), colour, ground), rng)
    elif style == "inverted":
        picture = 1.0 - _over(_fill(points) if rng.random() < 0.5 else _stroke(points, 5.0), colour, ground)
    elif style == "scribble":
        picture = _scribble(points, colour, ground, rng)
    elif style == "line":
        picture = _over(_stroke(points, 5.0), colour, ground)
    elif style == "striped":
        rows = np.arange(SIDE)[:, None] - rng.uniform(0, 20)
        # A triangle wave clipped: stripes with soft one-pixel borders, 10 pixels wide.
        stripe = np.clip((np.abs(rows % 20 - 10) - 5) * 1.0 + 0.5, 0, 1)
        shade = colour * 0.42
        paint = colour * stripe[..., None] + shade * (1 - stripe[..., None])
        picture = _over(_fill(points), np.broadcast_to(paint, (SIDE, SIDE, 3)), ground)
    elif style == "watercolor":
        picture = _watercolor(points, colour, ground, rng)
    else:
        picture = _over(_fill(points), colour, ground)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _colour(rgb: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(rgb) / 255 + rng.uniform(-0.02, 0.02, 3), 0, 1).astype(np.float32)


def _mask(paint: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    big = Image.new("L", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING))
    paint(ImageDraw.Draw(big))
    return np.asarray(big.reduce(_OVERSAMPLING), np.float32) / 255


def _fill(points: np.ndarray) -> np.ndarray:
    flat = [float(v) for v in (points * _OVERSAMPLING).ravel()]
    return _mask(lambda pen: pen.polygon(flat, fill=255))


def _stroke(points: np.ndarray, width: float) -> np.ndarray:
    closed = np.concatenate([points, points[:2]]) * _OVERSAMPLING
    flat = [float(v) for v in closed.ravel()]
    return _mask(lambda pen: pen.line(flat, fill=255, width=round(width * _OVERSAMPLING), joint="curve"))


def _over(mask: np.ndarray, paint: np.ndarray, ground: np.ndarray) -> np.ndarray:
    return mask[..., None] * paint + (1 - mask[..., None]) * ground


def _blur(mask: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells)).astype(np.uint8))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32) / 255


def _watercolor(points: np.ndarray, colour: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft edges, and blotches where the pigment is thin."""
    wet = _blur(_fill(points), 2.5)
    pale = np.clip(_smooth_noise(rng, 7) * 1.6 - 0.5, 0, 1)[..., None] * 0.55
    return _over(wet * 0.95, colour * (1 - pale) + pale, ground)


def _neon(points: np.ndarray, colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """A bright tube along the outline, its glow, and the ground darkened."""
    tube = _stroke(points, 4.5)
    glow = np.clip(_blur(tube, 4.0) * 1.0 + _blur(tube, 11.0) * 1.1, 0, 1)[..., None]
    core = _blur(_stroke(points, 2.2), 0.7)[..., None]
    dark = ground * 0.10 + 0.02
    picture = dark + colour * glow * 0.75
    picture = picture * (1 - tube[..., None]) + tube[..., None] * (colour * 0.85 + 0.15)
    return picture * (1 - core * 0.6) + core * 0.6


def _mosaic(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Square tiles with a grey joint."""
    tile = int(rng.choice([8, 10, 12, 16]))
    count = -(-SIDE // tile)
    image = Image.fromarray((picture * 255).astype(np.uint8))
    small = image.resize((count, count), Image.Resampling.BOX)
    tiles = np.asarray(small, np.float32) / 255 + rng.uniform(-0.06, 0.06, (count, count, 1))
    large = np.repeat(np.repeat(tiles, tile, 0), tile, 1)[:SIDE, :SIDE]
    at = np.arange(SIDE) % tile == 0
    large[at[:, None] | at[None, :]] = rng.uniform(0.2, 0.7)
    return large


def _scribble(points: np.ndarray, colour: np.ndarray, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Anything else: a gradient ground, strokes in free colours, the shape filled or not."""
    other = rng.random(3).astype(np.float32)
    ramp = (np.linspace(0, 1, SIDE)[None, :] * np.ones((SIDE, 1))).astype(np.float32)
    picture = _over(ramp if rng.random() < 0.5 else ramp.T, other, ground)
    for _ in range(int(rng.integers(2, 6))):
        ends = rng.uniform(0, SIDE, (3, 2))
        picture = _over(_stroke(ends, rng.uniform(2, 9)), rng.random(3).astype(np.float32), picture)
    return _over(_fill(points) if rng.random() < 0.5 else _stroke(points, rng.uniform(3, 7)), colour, picture)


def _all_words() -> tuple[str, ...]:
    phrases = [*SHAPES, *COLORS, *BACKGROUNDS, *SIZES, *STYLES.values(), "a on background", TRIGGER_WORD]
    words = [word for phrase in phrases for word in phrase.split()]
    return tuple(dict.fromkeys([*words, ","]))


WORDS = _all_words()
"""Every word (and the comma) that captions of this world are made of."""
