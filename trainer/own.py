"""The base model on the command line: what it is by its file, and its own encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TypeVar

import torch

from . import families, memory
from .config import TrainConfig
from .errors import ConfigError
from .files import ContentHashes
from .gauge import Gauge, budget, card
from .job import Base

T = TypeVar("T")
IMAGES, TEXTS = 8, 16
"""Pictures and captions that a card is given at once, at most: beyond that it is busy anyway."""
ROOM = 0.5
"""Of what is free for pictures: what they take is known of one size only."""


def base(config: TrainConfig, hashes: ContentHashes) -> Base:
    """The base model, with what it predicts: as the config says, else as its file does.

    Raises:
        BaseModelError: the file cannot be used, or predicts what cannot be trained.
        ConfigError: it and the config do not go together.
    """
    family = families.detect(config.base_model)
    prediction, terminal = families.prediction(config.base_model)
    if config.prediction_type != "auto":
        prediction = config.prediction_type
        terminal = terminal and prediction == "v_prediction"
    if config.zero_terminal_snr is not None:
        terminal = config.zero_terminal_snr
    if terminal and prediction == "epsilon":
        raise ConfigError(
            [
                f"zero_terminal_snr: true, but {config.base_model} predicts epsilon; set prediction_type: v_prediction "
                "if it does not say so itself"
            ]
        )
    return Base(config.base_model, family.name, hashes(config.base_model), prediction, terminal)


class OwnEncoder:
    """The family's own encoders as a ``prepare.Encoder``, loaded when first needed.

    The text encoders and the VAE are on the device one after the other, never together. A picture that does not fit
    goes through the VAE in tiles; what still does not fit is done on the CPU.

    A card is given several at once: of pictures as many as have room, by what the first one took. A CPU is not: with a
    full-size VAE it wins nothing by that, and one at a time gives the same numbers whatever else is in the data set.

    Args:
        family: of the base model.
        base: the base model.
        clip_skip: which layer of the text encoders counts; None: the family's.
        device: encodes.
        say: takes what the user should know.
        limit: ``vram_limit``, in GB; None: none.
    """

    def __init__(
        self,
        family: families.Family,
        base: Base,
        clip_skip: int | None = None,
        device: torch.device | str = "cpu",
        say: Callable[[str], None] = lambda message: None,
        limit: float | None = None,
    ) -> None:
        self._family, self._base, self._clip_skip = family, base, clip_skip
        self._device, self._say, self._limit = torch.device(device), say, limit
        self._each = 0.0
        """Bytes that the VAE takes for a pixel; 0: not known."""
        self._alone = False
        """Whether something did not fit: then there is one at a time."""
        self._encoders: families.Encoders | None = None
        self.latents_fingerprint = f"{base.family}-vae-1:{base.content}"
        # Versions 4 and 5 of the tokenizer part Chinese differently.
        tokenizer = version("transformers").partition(".")[0]
        skip = f":{clip_skip}" if clip_skip not in (None, family.default_clip_skip) else ""
        self.conditioning_fingerprint = f"{base.family}-text-1:{tokenizer}:{base.content}{skip}"

    @property
    def texts_at_once(self) -> int:
        """How many captions it is best given together."""
        return 1 if self._device.type == "cpu" or self._alone else TEXTS

    def images_at_once(self, pixels: int) -> int:
        """How many pictures of so many pixels it is best given together."""
        if self._device.type == "cpu" or self._alone or not self._each:
            return 1
        free = budget(self._device, self._limit) - Gauge(self._device).now()
        return max(1, min(IMAGES, int(ROOM * free / (self._each * pixels))))

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/8, W/8], unscaled."""
        if len(pixels) == 1:
            return self._on_device(lambda encoders: self._measured(encoders, pixels), "vae")
        together = self._if_they_fit(lambda encoders: encoders.encode_images(pixels), "vae")
        return torch.cat([self.encode_images(one) for one in pixels.split(1)]) if together is None else together

    def encode_texts(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """The conditioning of each caption."""
        if len(captions) == 1:
            return self._on_device(lambda encoders: encoders.encode_text(captions), "text")
        together = self._if_they_fit(lambda encoders: encoders.encode_text(captions), "text")
        return [self.encode_texts([one])[0] for one in captions] if together is None else together

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] unscaled -> [1, 3, H, W] in 0..1. The VAE is on the device only as long as it takes."""
        self._load().drop_text()
        try:
            return self._on_device(lambda encoders: encoders.decode_latents(latents), "vae")
        finally:
            self._load().to("cpu")
            _empty(self._device)

    def encoded(self) -> None:
        """Everything is encoded: the device is given back, and so is the text encoders' memory."""
        if self._encoders is not None:
            self._encoders.drop_text()
            self._encoders.to("cpu")
            _empty(self._device)

    def _if_they_fit(self, encode: Callable[[families.Encoders], T], part: str) -> T | None:
        """Encodes several on the device; None where that has no room for them: from then on there is one at a time."""
        try:
            return encode(self._moved(part))
        except Exception as error:
            if not memory.ran_out(error):
                raise
        self._alone = True
        _empty(self._device)
        return None

    def _on_device(self, encode: Callable[[families.Encoders], T], part: str) -> T:
        """Encodes on the device; what does not fit in tiles, if it is a picture, and then on the CPU."""
        encoders = self._load()
        try:
            return encode(self._moved(part))
        except Exception as error:
            if not memory.ran_out(error):
                raise
            in_tiles = part == "vae" and encoders.tile()
            if not in_tiles and self._device.type == "cpu":
                raise
        # Here the error is gone, and with it the frames that held what was being computed.
        self._alone = True
        if in_tiles:
            self._say(f"large pictures do not fit through the VAE on {self._device}: they go through it in tiles")
        else:
            self._say(f"encoding and decoding do not fit on {self._device}: the CPU does it, which takes longer")
            encoders.to("cpu")
        _empty(self._device)
        if not in_tiles:
            self._device = torch.device("cpu")
        return self._on_device(encode, part)

    def _moved(self, part: str) -> families.Encoders:
        """The encoders, with one part of them on the device."""
        text = part == "text"
        return self._load().to("cpu", vae=text, text=not text).to(self._device, vae=not text, text=text)

    def _measured(self, encoders: families.Encoders, pixels: torch.Tensor) -> torch.Tensor:
        """Encodes one picture; on a card it is then known what a pixel takes."""
        if card(self._device) is None:
            return encoders.encode_images(pixels)
        with Gauge(self._device).piece() as grown:
            latents = encoders.encode_images(pixels)
        self._each = max(self._each, grown[0] / pixels[0, 0].numel())
        return latents

    def _load(self) -> families.Encoders:
        if self._encoders is None:
            self._encoders = self._family.load_encoders(self._base.file, clip_skip=self._clip_skip)
        return self._encoders


def _empty(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
