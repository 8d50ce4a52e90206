"""The base model on the command line: what it is by its file, and its own encoders."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TypeVar

import torch

from . import families, memory
from .config import TrainConfig
from .errors import ConfigError
from .files import ContentHashes
from .job import Base

T = TypeVar("T")


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

    Args:
        family: of the base model.
        base: the base model.
        clip_skip: which layer of the text encoders counts; None: the family's.
        device: encodes.
        say: takes what the user should know.
    """

    def __init__(
        self,
        family: families.Family,
        base: Base,
        clip_skip: int | None = None,
        device: torch.device | str = "cpu",
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._family, self._base, self._clip_skip = family, base, clip_skip
        self._device, self._say = torch.device(device), say
        self._encoders: families.Encoders | None = None
        self.latents_fingerprint = f"{base.family}-vae-1:{base.content}"
        # Versions 4 and 5 of the tokenizer part Chinese differently.
        tokenizer = version("transformers").partition(".")[0]
        skip = f":{clip_skip}" if clip_skip not in (None, family.default_clip_skip) else ""
        self.conditioning_fingerprint = f"{base.family}-text-1:{tokenizer}:{base.content}{skip}"

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] in 0..1 -> [1, C, H/8, W/8], unscaled."""
        return self._on_device(lambda encoders: encoders.encode_images(pixels), "vae")

    def encode_text(self, caption: str) -> dict[str, torch.Tensor]:
        """The conditioning of one caption."""
        return self._on_device(lambda encoders: encoders.encode_text([caption])[0], "text")

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

    def _on_device(self, encode: Callable[[families.Encoders], T], part: str) -> T:
        """Encodes on the device; what does not fit in tiles, if it is a picture, and then on the CPU."""
        encoders = self._load()
        other = {"vae": part != "vae", "text": part != "text"}
        try:
            encoders.to("cpu", **other).to(self._device, vae=part == "vae", text=part == "text")
            return encode(encoders)
        except Exception as error:
            if not memory.ran_out(error):
                raise
            in_tiles = part == "vae" and encoders.tile()
            if not in_tiles and self._device.type == "cpu":
                raise
        # Here the error is gone, and with it the frames that held what was being computed.
        if in_tiles:
            self._say(f"large pictures do not fit through the VAE on {self._device}: they go through it in tiles")
        else:
            self._say(f"encoding and decoding do not fit on {self._device}: the CPU does it, which takes longer")
            encoders.to("cpu")
        _empty(self._device)
        if not in_tiles:
            self._device = torch.device("cpu")
        return self._on_device(encode, part)

    def _load(self) -> families.Encoders:
        if self._encoders is None:
            self._encoders = self._family.load_encoders(self._base.file, clip_skip=self._clip_skip)
        return self._encoders


def _empty(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
