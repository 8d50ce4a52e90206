"""WD14 taggers, v3: Danbooru's tags by the probability that a model gives them.

What is computed is what the models' author computes (SmilingWolf/wd-tagger, a space of the hub): the picture
on white, padded to a square, bicubic to the model's size, BGR, 0 to 255. A tag is written if its probability is above
the threshold of its kind.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..dependencies import cure
from ..errors import CaptionError, in_a_line
from ..memory import says_so
from .base import Place, Session, Tagging, Wish

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL, TAGS = "model.onnx", "selected_tags.csv"
#: Kinds of tags, as Danbooru numbers them; 9 is the taggers' own.
GENERAL, CHARACTER, RATING = 0, 4, 9
#: Tags that are faces, not words: their underscores belong to them.
KAOMOJI = frozenset((
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^", "o_o",
    "u_u", "x_x", "|_|", "||_||",
))  # fmt: skip
_BATCH, _BATCH_ON_CARD = 4, 16
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Tag:
    """A tag that a model knows.

    Args:
        name: as Danbooru spells it: ``long_hair``.
        kind: ``GENERAL``, ``CHARACTER`` or ``RATING``; of others nothing is written.
    """

    name: str
    kind: int


@dataclass(frozen=True)
class Tagger:
    """See ``Captioner``."""

    name: str = "wd14"
    description: str = "Danbooru's tags, by a WD14 v3 tagger; for anime and drawn pictures."
    looks: bool = True
    models: tuple[str, ...] = (
        "SmilingWolf/wd-vit-tagger-v3",
        "SmilingWolf/wd-swinv2-tagger-v3",
        "SmilingWolf/wd-convnext-tagger-v3",
        "SmilingWolf/wd-vit-large-tagger-v3",
        "SmilingWolf/wd-eva02-large-tagger-v3",
    )
    needs: tuple[str, ...] = ("onnxruntime",)
    takes: tuple[str, ...] = ("tagging",)

    def knows(self, folder: Path) -> bool:
        """Whether the network and its tags lie there."""
        return (folder / MODEL).is_file() and (folder / TAGS).is_file()

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Session]:
        """See ``Captioner``.

        Raises:
            CaptionError: onnxruntime is not installed, or the model is no tagger.
        """
        if place.model is None:
            raise CaptionError("wd14: no model is named", f"Name a folder with {MODEL} and {TAGS}.")
        network = place.model if place.model.is_file() else place.model / MODEL
        tags = read_tags(network.with_name(TAGS))
        yield _opened(network, tags, wish.tagging, place)


CAPTIONER = Tagger()


def read_tags(path: Path) -> list[Tag]:
    """The tags of a model, in the order of its outputs.

    Raises:
        CaptionError: the table cannot be read, or is another one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [Tag(row["name"], int(row["category"])) for row in csv.DictReader(file)]
    except OSError as error:
        reason = error.strerror or str(error)
    except (KeyError, TypeError, ValueError):
        reason = "expected a table with the columns name and category"
    raise CaptionError(f"wd14: {path} cannot be read: {reason}", f"Put the model's own {TAGS} beside its {MODEL}.")


def prepared(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """A picture as the taggers want it: [side, side, 3], BGR, 0 to 255."""
    if picture.mode != "RGB":
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, _WHITE), picture).convert("RGB")
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), _WHITE)
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    if longest != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32)[:, :, ::-1]


def written(tags: Sequence[Tag], probabilities: Sequence[float], tagging: Tagging) -> str:
    """The caption: the first tags, then what is seen, the most probable first, then the rating.

    Args:
        tags: of the model.
        probabilities: one a tag.
        tagging: what is asked.
    """
    least = {GENERAL: tagging.general, CHARACTER: tagging.character}
    excluded = {_spelt(name, False) for name in tagging.exclude}
    likely = sorted(zip(tags, probabilities, strict=True), key=lambda one: -one[1])
    seen = [tag.name for tag, probability in likely if tag.kind in least and probability > least[tag.kind]]
    if tagging.rating:
        seen += [tag.name for tag, _ in likely if tag.kind == RATING][:1]
    names = [*tagging.first, *(name for name in seen if _spelt(name, False) not in excluded)]
    # By the spelling with spaces, so that a first tag that is seen, too, stands there once.
    unique = {_spelt(name, False): _spelt(name, tagging.underscores) for name in names if name.strip()}
    return ", ".join(unique.values())


def _spelt(name: str, underscores: bool) -> str:
    name = name.strip()
    if name in KAOMOJI:
        return name
    return "_".join(name.split()) if underscores else " ".join(name.replace("_", " ").split())


@dataclass(frozen=True)
class _Session:
    """A tagger at work.

    Args:
        network: onnxruntime's session.
        fixed: pictures that the network takes at a time, where it takes no other number; else 0.
        side: of the pictures that it takes, in pixels.
    """

    network: Any
    tags: Sequence[Tag]
    tagging: Tagging
    batch: int
    fixed: int
    side: int

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image.Image]) -> list[str]:
        """See ``Session``."""
        found: list[str] = []
        step = self.fixed or max(1, len(pictures))
        for start in range(0, len(pictures), step):
            pixels = np.stack([prepared(picture, self.side) for picture in pictures[start : start + step]])
            for probabilities in self._looked(pixels):
                found.append(written(self.tags, probabilities.tolist(), self.tagging))
        return found

    def _looked(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """[pictures, tags]."""
        count = len(pixels)
        if count < self.fixed:
            pixels = np.concatenate([pixels, np.zeros((self.fixed - count, *pixels.shape[1:]), np.float32)])
        name = self.network.get_inputs()[0].name
        try:
            return self.network.run(None, {name: pixels})[0][:count]
        except Exception as error:  # onnxruntime's errors have no common class
            said = in_a_line(error)
            if says_so(said):
                raise MemoryError(said) from None  # the caller comes with fewer pictures
            raise CaptionError(f"wd14: onnxruntime: {said}", "Download the model again, whole.") from error


def _opened(network: Path, tags: list[Tag], tagging: Tagging, place: Place) -> _Session:
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")  # optional: not in requirements.txt
    except ImportError:
        raise CaptionError("wd14: the package onnxruntime is not installed", cure(CAPTIONER.needs)) from None
    if not network.is_file():
        raise CaptionError(f"wd14: {network} does not exist", f"Put the model's {MODEL} and {TAGS} there.")
    kind, _, number = place.device.partition(":")
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries, as torch brings them
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are of the graph, nothing that a user could mend
    try:
        opened = onnxruntime.InferenceSession(str(network), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common class
        raise CaptionError(f"wd14: {network} cannot be opened: {in_a_line(error)}", "Download it again.") from error
    shape, outputs = opened.get_inputs()[0].shape, opened.get_outputs()[0].shape
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[1:] != [shape[1], shape[1], 3]:
        raise CaptionError(
            f"wd14: {network} takes {shape}, expected pictures [N, side, side, 3]: it is no WD14 v3 tagger",
            f"Take one of {', '.join(CAPTIONER.models)}.",
        )
    if outputs[-1] != len(tags):
        raise CaptionError(
            f"wd14: {network} tells {outputs[-1]} tags, but {TAGS} beside it has {len(tags)}",
            "Both must be of the same model.",
        )
    fixed = shape[0] if isinstance(shape[0], int) else 0
    on_card = opened.get_providers()[0] == "CUDAExecutionProvider"
    usual = _BATCH_ON_CARD if on_card else _BATCH
    return _Session(opened, tags, tagging, place.batch or max(usual, fixed), fixed, shape[1])
