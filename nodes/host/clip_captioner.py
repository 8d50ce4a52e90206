"""The wired CLIP as a captioner, in ComfyUI itself: a vision-language model that Generate Text can run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import torch
from PIL import Image

from ...trainer.captioning.base import Place, Session, Wish
from ...trainer.captioning.prompts import ASKED, TOKENS, cleaned, question
from ...trainer.captioning.qwen import PIXELS
from ...trainer.dataset.pixels import within
from ...trainer.errors import CaptionError, in_a_line
from ...trainer.memory import ran_out
from ...trainer.sheet import to_pixels
from . import memory

_CURE = (
    "Wire a vision-language model, such as Qwen3-VL or Gemma 3 by Load CLIP, with which Generate Text describes a "
    "picture; or unwire it, and choose a method with a model of its own."
)


@dataclass(frozen=True)
class ClipCaptioner:
    """See ``trainer.captioning.base.Captioner``.

    Args:
        clip: what is wired.
    """

    clip: Any
    name: str = "clip"
    description: str = "The wired CLIP, if it is a vision-language model."
    looks: bool = True
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ASKED

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Session]:
        """Nothing is loaded or let go of: the model is ComfyUI's.

        Raises:
            CaptionError: it cannot write about pictures.
        """
        session = _Session(self.clip, question(wish), wish)
        session.check()
        yield session

    @property
    def kind(self) -> str:
        """What the CLIP is, as ComfyUI calls it."""
        return type(self.clip.cond_stage_model).__name__

    def knows(self, folder: Path) -> bool:
        """No folder is: the model is wired."""
        return False


@dataclass(frozen=True)
class _Session:
    clip: Any
    prompt: str
    wish: Wish
    batch: int = 1  # ComfyUI generates for one picture at a time

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image.Image]) -> list[str]:
        return [self._caption(path, picture) for path, picture in zip(paths, pictures, strict=True)]

    def check(self) -> None:
        """Raise if the CLIP cannot look, or cannot write."""
        if not callable(getattr(self.clip, "generate", None)):
            raise CaptionError("CLIP: this ComfyUI has no Generate Text", "Update ComfyUI, or choose another method.")
        kind = ClipCaptioner(self.clip).kind
        if not _writes(self.clip.cond_stage_model):
            raise CaptionError(f"CLIP: what is wired ({kind}) cannot write text", _CURE)
        try:
            tokens = self._tokens(torch.zeros(1, 64, 64, 3))
        except Exception as error:
            raise CaptionError(
                f"CLIP: what is wired ({kind}) takes no picture: {in_a_line(error, 200)}", _CURE
            ) from error
        if not any(_is_picture(token[0]) for chunks in tokens.values() for chunk in chunks for token in chunk):
            raise CaptionError(f"CLIP: what is wired ({kind}) does not look at pictures", _CURE)

    def _caption(self, path: Path, picture: Image.Image) -> str:
        most = TOKENS[self.wish.length]
        pixels = to_pixels(within(picture, PIXELS)).movedim(0, -1)[None]
        try:
            ids = memory.with_room(
                lambda: self.clip.generate(self._tokens(pixels), do_sample=False, max_length=most)  # greedily
            )
            answer = self.clip.decode(ids)
        except Exception as error:
            if ran_out(error):
                raise
            raise CaptionError(f"CLIP: no caption for {path.name}: {in_a_line(error, 200)}", _CURE) from error
        return cleaned(answer, self.wish.purpose, cut=len(ids) >= most)

    def _tokens(self, pixels: torch.Tensor) -> Any:
        """As Generate Text does it."""
        return self.clip.tokenize(
            self.prompt, image=pixels, skip_template=False, min_length=1, thinking=False, video=None, audio=None
        )


def _writes(model: torch.nn.Module) -> bool:
    """Whether a text encoder can generate; the wrappers around it all have the method."""
    wrappers = (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SDClipModel)
    return any(callable(getattr(one, "generate", None)) for one in model.modules() if not isinstance(one, wrappers))


def _is_picture(token: Any) -> bool:
    return isinstance(token, dict) and token.get("type") == "image"
