"""The wired CLIP and VAE as the trainer's encoder: conditioning is exactly what generation will use."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import comfy.sd1_clip
import torch

from ...trainer.errors import HostError
from ...trainer.files import digest
from . import memory
from .base_model import patches_hash

SDXL_POOLED = 1280

_hashes: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class HostEncoder:
    """``trainer.prepare.Encoder`` by a wired CLIP and VAE.

    Args:
        clip: the CLIP.
        vae: the VAE.
        family: of the base model.
        width: of the text encoder's output that the base model takes.

    Raises:
        HostError: they are not of the family's kind.
    """

    def __init__(self, clip: Any, vae: Any, family: str, width: int) -> None:
        if clip is None:
            raise HostError("CLIP: this checkpoint has no text encoder", "load one with Load CLIP, and wire it")
        vae.throw_exception_if_invalid()
        if vae.latent_channels != 4 or vae.latent_dim != 2:
            raise HostError(
                f"VAE: its latents have {vae.latent_channels} channels; this model has 4",
                "wire the VAE of the checkpoint",
            )
        self._clip, self._vae, self._pooled, self._width = clip, vae, family == "sdxl", width

    @property
    def latents_fingerprint(self) -> str:
        """The VAE by content, and the number format it computes in."""
        return digest("host-vae-1", _content(self._vae.first_stage_model), str(self._vae.vae_dtype))

    @property
    def conditioning_fingerprint(self) -> str:
        """The CLIP by content, with its patches, clip skip and tokenizer settings."""
        clip = self._clip
        return digest(
            # Also of what it is wired for: the pooled output is SDXL's alone; what does not fit is not in the cache.
            f"host-clip-2 {self._width}" + " pooled" * self._pooled,
            _content(clip.cond_stage_model, getattr(clip.patcher, "backup", {})),
            patches_hash(clip.patcher.patches),
            clip.layer_idx,
            clip.tokenizer_options,
        )

    texts_at_once = 1
    """ComfyUI's CLIP takes one at a time."""

    def images_at_once(self, pixels: int) -> int:
        """One: where several do not fit, ComfyUI would silently encode all of them in tiles."""
        return 1

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 4, H/8, W/8], fp32: the posterior's mode, unscaled."""
        # ComfyUI's VAE works in tiles by itself where the picture does not fit.
        return memory.with_room(lambda: self._vae.encode(pixels.movedim(1, -1))).float().cpu()

    def encode_texts(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """What ``encode_text`` gives for each."""
        return [self.encode_text(caption) for caption in captions]

    def encode_text(self, caption: str) -> dict[str, torch.Tensor]:
        """``hidden`` [1, 77 n, D]; of SDXL ``pooled`` too. Brackets are letters, and ``embedding:`` is a word."""
        with _embeddings_off(self._clip.tokenizer):
            tokens = self._clip.tokenize(caption, disable_weights=True)
        hidden, pooled = memory.with_room(lambda: self._clip.encode_from_tokens(tokens, return_pooled=True))
        fits = hidden.ndim == 3 and hidden.shape[-1] == self._width
        if not fits or (self._pooled and (pooled is None or pooled.shape[-1] != SDXL_POOLED)):
            loader = "both with Dual CLIP Loader (type sdxl)" if self._pooled else "one with Load CLIP"
            raise HostError(
                f"CLIP: its output is {hidden.shape[-1]} wide; this model takes one that is {self._width} wide"
                + ", and a pooled output" * self._pooled,
                f"wire the CLIP of the checkpoint, or load {loader}",
            )
        if not self._pooled:
            return {"hidden": hidden.float().cpu()}
        return {"hidden": hidden.float().cpu(), "pooled": pooled.float().cpu()}

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 4, h, w] unscaled -> [B, H, W, 3] in 0..1, on the CPU: ComfyUI's IMAGE."""
        return self._vae.decode(latents).float().cpu()


@contextmanager
def _embeddings_off(tokenizer: Any) -> Iterator[None]:
    """Within it ``embedding:name`` in a caption is text; the tokenizer looks up no file."""
    inner = [t for t in vars(tokenizer).values() if isinstance(t, comfy.sd1_clip.SDTokenizer)]
    before = [(t, t.embedding_directory) for t in inner]
    for t in inner:
        t.embedding_directory = None
    try:
        yield
    finally:
        for t, directory in before:
            t.embedding_directory = directory


def _used(name: str) -> bool:
    """Whether a weight of a VAE or CLIP is part of what is encoded.

    Those that are not are absent from most files, and ComfyUI then leaves them as the memory happened to be. CLIP-G's
    projection makes SDXL's pooled output.
    """
    return not name.endswith("logit_scale") and ("clip_g." in name or not name.endswith("text_projection.weight"))


def _content(module: torch.nn.Module, backup: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A hash of a module's weights as they were loaded; remembered while the module lives.

    Args:
        module: of a model.
        backup: of its patcher: the weights in whose place ComfyUI has put patched ones, while it draws with a LoRA.
    """
    if module not in _hashes:
        weights = {name: tensor for name, tensor in module.state_dict().items() if _used(name)}
        weights |= {name: kept.weight for name, kept in backup.items() if name in weights}
        _hashes[module] = patches_hash(weights)
    return _hashes[module]
