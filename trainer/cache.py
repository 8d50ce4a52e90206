"""Latents and conditioning on disk: content-keyed safetensors, one store for all runs.

Latents are the mode of the VAE's posterior in fp32, unscaled, as ComfyUI's ``VAE.encode`` gives them; the family
scales them once when it reads. Conditioning is the text encoder's output in chunks of 77 tokens. An entry's key
covers all that shaped it, so an entry is never stale: what changes gets another key.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .errors import CacheError
from .files import digest, write_tensors

Kind = Literal["latents", "conditioning"]
DEFAULT_LIMIT = 20 * 1024**3
IN_USE = 6 * 3600.0  # seconds: longer than an epoch, in which a run reads each of its entries


def default_folder() -> Path:
    """The user's cache folder for this program."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library/Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "lora-darkroom"


def latents_key(encoder: str, image: str, bucket: tuple[int, int], *, flipped: bool = False, mask: str = "") -> str:
    """Key of an image's latents.

    Args:
        encoder: fingerprint of the VAE.
        image: content id of the image.
        bucket: (width, height) in pixels.
        flipped: encoded from the mirrored picture (mirrored latents are not the same).
        mask: content id of the mask that lies beside the latents; empty if there is none.
    """
    return digest("latents", 1, encoder, image, bucket, *["flipped"] * flipped, *[mask] * bool(mask))


def conditioning_key(encoder: str, caption: str) -> str:
    """Key of a caption's conditioning; ``encoder`` is the fingerprint of the text encoder and its settings."""
    return digest("conditioning", 1, encoder, caption)


class Cache:
    """The store.

    Args:
        folder: made when missing.
        limit: bytes; ``trim`` removes what was used longest ago beyond it.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.folder = folder
        self._limit = limit

    @property
    def index(self) -> Path:
        """What is known of pictures, for ``dataset.scan``."""
        return self.folder / "pictures.json"

    def path(self, kind: Kind, key: str) -> Path:
        """Where an entry lies."""
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an entry is there; marks it as used."""
        path = self.path(kind, key)
        try:
            os.utime(path)
        except OSError:
            return path.exists()
        return True

    def load(self, kind: Kind, key: str) -> dict[str, torch.Tensor]:
        """The tensors of an entry, on the CPU.

        Raises:
            CacheError: it is missing, cannot be read, or is broken.
        """
        path = self.path(kind, key)
        try:
            with suppress(OSError):  # of a folder that is only to be read
                os.utime(path)  # used now: no other run's ``trim`` takes it
            return load_file(path)
        except FileNotFoundError:
            raise CacheError(f"the cached {kind} {key} are gone from {self.folder}", "start the run again") from None
        except OSError as error:  # no reason to throw a good entry away
            raise CacheError(
                f"the cached {kind} {key} in {self.folder} cannot be read: {error.strerror or error}", "check the disk"
            ) from None
        except (SafetensorError, ValueError) as error:
            _remove(path)
            raise CacheError(
                f"the cached {kind} {key} in {self.folder} were broken ({error}) and are removed",
                "start the run again; they are made anew",
            ) from None

    def store(self, kind: Kind, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Stores an entry.

        Raises:
            CacheError: a tensor is not finite (a VAE in fp16 does that), or the disk does not take it.
        """
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise CacheError(
                    f"encoding gave {kind} that are not finite ({name})",
                    "run the VAE in fp32 or bf16; in fp16 it overflows",
                )
        try:
            write_tensors(self.path(kind, key), {name: tensor.float() for name, tensor in tensors.items()})
        except OSError as error:
            if isinstance(error, PermissionError) and self.path(kind, key).exists():
                return  # another run stored the same in the meantime and has it open (Windows)
            raise CacheError(
                f"cannot write the cache in {self.folder}: {error.strerror or error}",
                "free some space, or give another cache_dir",
            ) from None

    def trim(self, keep: Collection[tuple[Kind, str]]) -> int:
        """Removes the entries used longest ago until the store is within its limit; returns the bytes freed.

        Those that were used within ``IN_USE`` stay: another run may read them again.

        Args:
            keep: (kind, key) pairs that stay whatever their age: those of the run at hand.
        """
        kept = {self.path(kind, key) for kind, key in keep}
        entries = []
        for path in self.folder.glob("*/??/*.safetensors"):
            try:
                stat = path.stat()
            except OSError:  # another run removed it
                continue
            entries.append((stat.st_mtime_ns, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - self._limit
        freed = 0
        began = time.time_ns() - round(IN_USE * 1e9)
        for used, size, path in sorted(entries):
            if freed >= excess:
                break
            if path not in kept and used < began and _remove(path):
                freed += size
        return freed


def _remove(path: Path) -> bool:
    """Removes an entry; False where another run has it open (Windows) or has removed it."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
