"""The base model on the command line: what it is by its file, and its own encoders."""

from __future__ import annotations

from importlib.metadata import version

import torch

from . import families
from .config import TrainConfig
from .errors import ConfigError
from .files import ContentHashes
from .job import Base


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
    """The family's own encoders as a ``prepare.Encoder``, loaded when first needed."""

    def __init__(self, family: families.Family, base: Base, clip_skip: int | None) -> None:
        self._family, self._base, self._clip_skip = family, base, clip_skip
        self._encoders: families.Encoders | None = None
        self.latents_fingerprint = f"{base.family}-vae-1:{base.content}"
        # Versions 4 and 5 of the tokenizer part Chinese differently.
        tokenizer = version("transformers").partition(".")[0]
        skip = f":{clip_skip}" if clip_skip not in (None, family.default_clip_skip) else ""
        self.conditioning_fingerprint = f"{base.family}-text-1:{tokenizer}:{base.content}{skip}"

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] in 0..1 -> [1, C, H/8, W/8], unscaled."""
        with torch.no_grad():
            return self._load().encode_images(pixels)

    def encode_text(self, caption: str) -> dict[str, torch.Tensor]:
        """The conditioning of one caption."""
        with torch.no_grad():
            return self._load().encode_text([caption])[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[1, C, h, w] unscaled -> [1, 3, H, W] in 0..1."""
        with torch.no_grad():
            return self._load().decode_latents(latents)

    def _load(self) -> families.Encoders:
        if self._encoders is None:
            self._encoders = self._family.load_encoders(self._base.file, clip_skip=self._clip_skip)
        return self._encoders
