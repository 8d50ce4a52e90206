"""The base model's own encoders: on the device one after the other, and off it when all is encoded."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import families, own
from trainer.job import Base
from trainer.own import IMAGES, TEXTS, OwnEncoder

FAMILY = families.get("sd15")


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return Base(tiny_base, "sd15", "c0ffee")


def test_it_encodes_as_the_family_does(base: Base) -> None:
    mine, theirs = OwnEncoder(FAMILY, base), FAMILY.load_encoders(base.file)
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.encode_images(pixels), theirs.encode_images(pixels))
    assert torch.equal(mine.encode_texts(["a house"])[0]["hidden"], theirs.encode_text(["a house"])[0]["hidden"])


def test_the_text_encoders_memory_is_given_back_and_pictures_can_still_be_decoded(base: Base) -> None:
    encoder = OwnEncoder(FAMILY, base)
    encoder.encode_texts(["a house"])
    held = weakref.ref(next(iter(encoder._load().text_models.values())))
    assert held() is not None
    encoder.encoded()
    gc.collect()
    assert held() is None
    assert encoder.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)


def test_with_a_warm_cache_nothing_is_loaded_before_the_first_sample(base: Base) -> None:
    encoder = OwnEncoder(FAMILY, base)
    encoder.encoded()
    assert encoder._encoders is None
    assert encoder.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)
    assert not encoder._load().text_models  # which nothing needs any more


class Watched:
    """Encoders that note where they are moved, and do not fit on the device, or pictures only in tiles."""

    tiles_fit = False

    def __init__(self, fits: bool) -> None:
        self.fits, self.vae, self.text, self.seen = fits, "cpu", "cpu", []
        self.tiled = False

    def to(self, device: Any, *, vae: bool = True, text: bool = True) -> Watched:
        self.vae = str(device) if vae else self.vae
        self.text = str(device) if text else self.text
        return self

    def _encode(self) -> str:
        self.seen.append((self.vae, self.text))
        if "cuda" in (self.vae, self.text) and not (self.fits or (self.tiled and self.tiles_fit)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "encoded"

    def encode_images(self, pixels: Any) -> str:
        return self._encode()

    def encode_text(self, captions: Any) -> list[str]:
        return [self._encode()]

    def decode_latents(self, latents: Any) -> str:
        return self._encode()

    def tile(self) -> bool:
        before, self.tiled = self.tiled, True
        return not before

    def drop_text(self) -> None:
        self.text = "gone"


class Measured:
    """A card on which encoding a picture takes 100 bytes a pixel."""

    free, taken = 10**9, 10**6

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cuda"

    def now(self) -> int:
        return self.taken

    @contextmanager
    def piece(self) -> Iterator[list[int]]:
        grown: list[int] = []
        yield grown
        grown.append(100 * 64 * 64)


class Limited(Watched):
    """Encoders through which at most so many pictures, or captions, go at once."""

    def __init__(self, most: int) -> None:
        super().__init__(fits=True)
        self.most, self.batches = most, []

    def encode_images(self, pixels: Any) -> Any:
        self.batches.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels[:, :1, ::8, ::8] * 2

    def encode_text(self, captions: Any) -> list[str]:
        self.batches.append(len(captions))
        if len(captions) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [caption.upper() for caption in captions]


def watched(base: Base, monkeypatch: pytest.MonkeyPatch, *, fits: bool) -> tuple[OwnEncoder, Watched, list[str]]:
    said: list[str] = []
    encoders = Watched(fits)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(own, "Gauge", Measured)
    monkeypatch.setattr(own, "budget", lambda device, limit: Measured.free if limit is None else limit)
    encoder = OwnEncoder(FAMILY, base, None, "cuda", said.append)
    encoder._encoders = encoders  # type: ignore[assignment]
    return encoder, encoders, said


def test_text_encoders_and_vae_are_never_on_the_device_together(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoders, said = watched(base, monkeypatch, fits=True)
    encoder.encode_texts(["a"])
    encoder.encode_images(torch.zeros(1, 3, 64, 64))
    assert encoders.seen == [("cpu", "cuda"), ("cuda", "cpu")]
    encoder.encoded()
    assert (encoders.vae, said) == ("cpu", [])


def test_the_vae_decodes_on_the_device_and_leaves_it_at_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoders, _ = watched(base, monkeypatch, fits=True)
    assert encoder.decode(torch.zeros(1, 4, 8, 8)) == "encoded"
    assert encoders.seen == [("cuda", "cpu")]
    assert encoders.vae == "cpu"


def test_a_picture_that_does_not_fit_goes_through_in_tiles_and_only_then_on_the_cpu(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, encoders, said = watched(base, monkeypatch, fits=False)
    encoders.tiles_fit = True
    assert encoder.encode_images(torch.zeros(1, 3, 64, 64)) == "encoded"
    assert encoder.decode(torch.zeros(1, 4, 8, 8)) == "encoded"
    assert encoders.seen == [("cuda", "cpu")] * 3
    assert said == ["large pictures do not fit through the VAE on cuda: they go through it in tiles"]
    encoders.tiles_fit = False
    assert encoder.encode_images(torch.zeros(1, 3, 64, 64)) == "encoded"
    assert encoders.seen[3:] == [("cuda", "cpu"), ("cpu", "cpu")]
    assert said[1:] == ["encoding and decoding do not fit on cuda: the CPU does it, which takes longer"]


def test_a_card_is_given_as_many_pictures_as_half_of_what_is_free_has_room_for(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _, _ = watched(base, monkeypatch, fits=True)
    assert encoder.images_at_once(64 * 64) == 1, "what one takes is not known yet"
    encoder.encode_images(torch.zeros(1, 3, 64, 64))
    assert encoder.images_at_once(512 * 512) == IMAGES
    assert encoder.images_at_once(1024 * 1024) == 499_500_000 // (100 * 1024 * 1024) == 4
    assert encoder.images_at_once(4096 * 4096) == 1
    encoder._limit = 200_000_000
    assert encoder.images_at_once(512 * 512) == 99_500_000 // (100 * 512 * 512) == 3
    assert encoder.texts_at_once == TEXTS


def test_a_cpu_is_given_one_at_a_time(base: Base) -> None:
    encoder = OwnEncoder(FAMILY, base)
    encoder.encode_images(torch.zeros(1, 3, 64, 64))
    assert (encoder.images_at_once(64 * 64), encoder.texts_at_once) == (1, 1)


def test_where_several_do_not_fit_each_is_encoded_alone_and_so_are_all_that_follow(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _, said = watched(base, monkeypatch, fits=True)
    encoder._encoders = limited = Limited(3)  # type: ignore[assignment]
    pixels = torch.rand(4, 3, 64, 64)
    encoder.encode_images(pixels[:1])
    assert torch.equal(encoder.encode_images(pixels[:3]), pixels[:3, :1, ::8, ::8] * 2)
    assert torch.equal(encoder.encode_images(pixels), pixels[:, :1, ::8, ::8] * 2)
    assert limited.batches == [1, 3, 4, 1, 1, 1, 1]
    assert encoder.images_at_once(64 * 64) == 1
    assert (limited.tiled, limited.vae, said) == (False, "cuda", [])


def test_captions_that_do_not_fit_together_are_encoded_on_the_card_all_the_same(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _, said = watched(base, monkeypatch, fits=True)
    encoder._encoders = limited = Limited(2)  # type: ignore[assignment]
    assert encoder.encode_texts(["a", "b"]) == ["A", "B"]
    assert encoder.encode_texts(["a", "b", "c"]) == ["A", "B", "C"]
    assert limited.batches == [2, 3, 1, 1, 1]
    assert (encoder.texts_at_once, limited.text, said) == (1, "cuda", [])


def test_several_pictures_are_encoded_as_each_alone_but_for_the_last_bits(base: Base) -> None:
    encoder = OwnEncoder(FAMILY, base)
    pixels = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([encoder.encode_images(one) for one in pixels.split(1)])
    torch.testing.assert_close(encoder.encode_images(pixels), alone, rtol=1e-4, atol=1e-5)
    captions = ["a house", "", "a very long caption, " * 40]
    for together, one in zip(encoder.encode_texts(captions), captions, strict=True):
        torch.testing.assert_close(together, encoder.encode_texts([one])[0], rtol=1e-4, atol=1e-5)


def test_in_tiles_a_large_picture_is_encoded_as_at_once_but_for_the_seams(base: Base) -> None:
    encoders = FAMILY.load_encoders(base.file)
    smooth = torch.linspace(0, 1, 768).expand(1, 3, 640, 768)
    small = smooth[..., :512, :512]
    whole, alone = encoders.encode_images(smooth), encoders.encode_images(small)
    assert encoders.tile()
    assert not encoders.tile()
    tiled = encoders.encode_images(smooth)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.05 * whole.std()
    assert torch.equal(encoders.encode_images(small), alone), "what is no larger than a tile is as before"
    assert encoders.decode_latents(tiled).shape == smooth.shape


def test_what_does_not_fit_is_done_on_the_cpu_and_said(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoders, said = watched(base, monkeypatch, fits=False)
    assert encoder.encode_texts(["a"]) == ["encoded"]
    assert encoder.encode_texts(["b"]) == ["encoded"]
    assert encoders.seen == [("cpu", "cuda"), ("cpu", "cpu"), ("cpu", "cpu")]
    assert said == ["encoding and decoding do not fit on cuda: the CPU does it, which takes longer"]
