from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from trainer.dataset import ImageItem, load_pixels, scan
from trainer.dataset.pixels import check_unchanged
from trainer.dataset.remembered import content_hash
from trainer.errors import DatasetError


def only_item(folder: Path, resolution: int = 64) -> ImageItem:
    (item,) = scan(folder, resolution=resolution).items
    return item


def shown(folder: Path, resolution: int = 64) -> np.ndarray:
    """The only picture of a folder, [height, width, 3] in 0..255."""
    return (load_pixels(only_item(folder, resolution)) * 255).permute(1, 2, 0).numpy()


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    found = [pixels[y, x] for y, x in ((2, 2), (2, -3), (-3, 2), (-3, -3))]
    return [tuple(int(v) for v in np.round(color)) for color in found]


def four_colors(width: int = 128, height: int = 128) -> Image.Image:
    """Red, green above; blue, black below."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    pixels[: height // 2, width // 2 :, 1] = 255
    pixels[height // 2 :, : width // 2, 2] = 255
    return Image.fromarray(pixels)


RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def test_shape_type_and_range(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 300, 200)
    item = only_item(folder, 128)
    pixels = load_pixels(item)
    assert pixels.shape == (3, item.bucket[1], item.bucket[0]) == (3, 128, 128)
    assert pixels.dtype is torch.float32
    assert pixels.is_contiguous()
    assert 0 <= pixels.min() < 0.2
    assert 0.8 < pixels.max() <= 1


def test_the_same_values_on_every_call(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.jpg", 301, 203, quality=80)
    item = only_item(folder, 128)
    assert torch.equal(load_pixels(item), load_pixels(item))


def test_an_image_of_its_buckets_size_is_not_touched(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png", 128, 128)
    assert np.array_equal(np.round(shown(folder, 128)), np.asarray(Image.open(path)))


def test_shrinking_is_by_lanczos(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png", 128, 128)
    expected = Image.open(path).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.round(shown(folder)), np.asarray(expected))


def test_the_crop_is_in_the_middle_and_the_shape_is_kept(folder: Path) -> None:
    # A ramp from left to right. 320 x 160 becomes 128 x 64, of which the middle half stays.
    ramp = np.round(np.linspace(0, 255, 320))[None, :, None].repeat(160, 0).repeat(3, 2).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "ramp.png")
    assert only_item(folder, 64).bucket == (64, 64)
    row = shown(folder, 64)[32, :, 0]
    assert row == pytest.approx(255 * np.linspace(0.25 + 1 / 256, 0.75 - 1 / 256, 64), abs=1.5)
    # The same upright: 160 x 320 loses a quarter above and below.
    Image.fromarray(ramp.transpose(1, 0, 2)).save(folder / "ramp.png")
    column = shown(folder, 64)[:, 32, 0]
    assert np.abs(column - row).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(folder: Path, suffix: str, orientation: int) -> None:
    image = four_colors(192, 128)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    if suffix == ".webp":
        options = {"lossless": True}
    path = folder / f"photo{suffix}"
    image.save(path, exif=exif, **options)
    item = only_item(folder, 128)
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    assert item.size == upright.size == ((192, 128) if orientation < 5 else (128, 192))
    pixels = load_pixels(item).permute(1, 2, 0).numpy() * 255
    assert np.abs(np.array(corners(pixels)) - np.array(corners(np.asarray(upright)))).max() <= 3


def test_broken_exif_does_not_break_the_picture(folder: Path) -> None:
    four_colors().save(folder / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage", quality=95)
    assert only_item(folder).size == (128, 128)
    assert shown(folder).shape == (64, 64, 3)


def test_transparency_lies_over_white(folder: Path) -> None:
    image = four_colors().convert("RGBA")
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[:64, :64] = 0
    alpha[64:, 64:] = 128
    image.putalpha(Image.fromarray(alpha))
    image.save(folder / "a.png")
    assert corners(shown(folder)) == [WHITE, GREEN, BLUE, (127, 127, 127)]


def test_gray_with_alpha(folder: Path) -> None:
    pixels = np.zeros((128, 128, 2), np.uint8)
    pixels[:64, :, 1] = 255
    Image.fromarray(pixels, "LA").save(folder / "a.png")
    assert corners(shown(folder)) == [BLACK, BLACK, WHITE, WHITE]


@pytest.mark.parametrize("transparent", [None, 0, bytes([255, 0, 255, 255])])
def test_palette(folder: Path, transparent: int | bytes | None) -> None:
    image = Image.new("P", (128, 128))
    image.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    index = np.repeat(np.repeat(np.array([[0, 1], [2, 3]], np.uint8), 64, 0), 64, 1)
    image.paste(Image.fromarray(index))
    options: dict[str, Any] = {} if transparent is None else {"transparency": transparent}
    image.save(folder / "a.png", **options)
    expected = [RED, GREEN, BLUE, BLACK]
    if transparent is not None:
        expected[0 if transparent == 0 else 1] = WHITE
    assert corners(shown(folder)) == expected


def test_a_transparent_color_of_an_rgb_file(folder: Path) -> None:
    four_colors().save(folder / "a.png", transparency=GREEN)
    assert corners(shown(folder)) == [RED, WHITE, BLUE, BLACK]


def test_gray_and_black_and_white(folder: Path) -> None:
    Image.linear_gradient("L").save(folder / "a.png")
    column = shown(folder)[:, 5]
    assert column[0] == pytest.approx([1.5] * 3, abs=2)
    assert column[-1] == pytest.approx([253.5] * 3, abs=2)
    Image.linear_gradient("L").convert("1", dither=Image.Dither.NONE).save(folder / "a.png")
    assert corners(shown(folder)) == [BLACK, BLACK, WHITE, WHITE]


def test_cmyk(folder: Path) -> None:
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[:64, :64] = (0, 255, 255, 0)
    pixels[:64, 64:] = (255, 0, 255, 0)
    pixels[64:, :64] = (255, 255, 0, 0)
    pixels[64:, 64:] = (0, 0, 0, 255)
    cases: list[tuple[str, dict[str, Any]]] = [("a.tif", {}), ("a.jpg", {"quality": 100, "subsampling": 0})]
    for name, options in cases:
        Image.fromarray(pixels, "CMYK").save(folder / name, **options)
        found = np.array(corners(shown(folder)))
        assert np.abs(found - np.array([RED, GREEN, BLUE, BLACK])).max() <= 4
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_gray(folder: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
    values[0, :4] = 0, 65535, 128, 129
    Image.fromarray(values).save(folder / name)
    assert np.array_equal(np.round(shown(folder)[:, :, 1]), np.round(values / 257.0))


@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_colours(folder: Path, alpha: bool) -> None:
    # PIL cannot write them: a PNG by hand.
    colors = np.zeros((128, 128, 4 if alpha else 3), np.uint16)
    colors[..., :3] = np.asarray(four_colors()).astype(np.uint16) * 257
    if alpha:
        colors[..., 3] = 65535
        colors[64:, 64:, 3] = 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colors)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 128, 128, 16, 6 if alpha else 2, 0, 0, 0)
    (folder / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert corners(shown(folder)) == [RED, GREEN, BLUE, WHITE if alpha else BLACK]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_first_frame_of_an_animation(folder: Path, name: str) -> None:
    others = [Image.new("RGB", (128, 128), color) for color in (WHITE, BLACK)]
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    four_colors().save(folder / name, save_all=True, append_images=others, **options)
    assert corners(shown(folder)) == [RED, GREEN, BLUE, BLACK]


@pytest.mark.parametrize(
    ("name", "format"), [("a.png", "JPEG"), ("a.jpg", "PNG"), ("a.webp", "BMP"), ("A.JPEG", "MPO")]
)
def test_the_bytes_count_not_the_suffix(folder: Path, name: str, format: str) -> None:
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    four_colors().save(folder / name, format=format, **options)
    found = np.array(corners(shown(folder)))
    assert np.abs(found - np.array([RED, GREEN, BLUE, BLACK])).max() <= 5


def test_avif_where_pillow_can(folder: Path) -> None:
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow cannot write AVIF")
    four_colors().save(folder / "a.avif", quality=100)
    assert np.abs(np.array(corners(shown(folder))) - np.array([RED, GREEN, BLUE, BLACK])).max() <= 8


def test_large_pictures_decode_without_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # PIL warns above its limit, and refuses above twice of it; warnings are errors here.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    four_colors(130, 120).save(folder / "a.png")
    assert shown(folder).shape == (64, 64, 3)


def test_a_changed_file_is_told_from_the_one_that_was_scanned(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png", 100, 80)
    item = only_item(folder)
    draw("a.png", 120, 80)
    with pytest.raises(DatasetError) as caught:
        load_pixels(item)
    assert caught.value.message == f"{path}: was 100x80 pixels when the dataset was scanned, now it is 120x80"
    path.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        load_pixels(item)
    assert caught.value.message == f"{path}: could be read when the dataset was scanned, now it is empty (0 bytes)"
    path.unlink()
    with pytest.raises(DatasetError) as caught:
        load_pixels(item)
    assert caught.value.message.endswith("now it is not a file (a folder, or a link to nothing)")


def test_the_hosts_settings_of_pillow_are_put_back(
    draw: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw("a.png", 300, 300)
    item = only_item(folder)
    # As some ComfyUI packs do: half a picture counts as a picture, its lower half gray.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path.write_bytes(path.read_bytes()[:100_000])
    threads = [threading.Thread(target=_expect_truncated, args=(item,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _expect_truncated(item)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def _expect_truncated(item: ImageItem) -> None:
    with pytest.raises(DatasetError, match="now it ends too early"):
        load_pixels(item)


_watched: list[tuple[object, ...]] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watched is not None and event in _CHANGES | {"open"}:
        _watched.append((event, *arguments))


_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime", "os.truncate", "os.link"}


def test_no_file_is_opened_for_writing(draw: Callable[..., Path], folder: Path) -> None:
    global _watched
    for name in ("a.png", "b.jpg", "c.webp", "d.tif", "e.gif"):
        draw(name, 200, 100)
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    (folder / "metadata.csv").write_text("filename,prompt\nb.jpg,b\n", encoding="utf-8")
    sys.addaudithook(_watch)
    _watched = []
    try:
        for item in scan(folder, resolution=64).items:
            load_pixels(item)
        seen = _watched
    finally:
        _watched = None
    opened = [event for event in seen if event[0] == "open" and str(event[1]).startswith(str(folder))]
    assert len(opened) >= 12
    assert all(str(event[2] or "r").strip("bt") == "r" for event in opened)
    assert not [event for event in seen if event[0] in _CHANGES]


def test_a_picture_that_was_changed_in_its_size_or_is_gone_is_named(draw: Callable[..., Path], folder: Path) -> None:
    draw("\u00fc.png")
    item = only_item(folder)
    check_unchanged(item)
    Image.new("RGB", item.size, "red").save(item.path)
    with pytest.raises(DatasetError, match=r"\u00fc\.png: was changed after the dataset was scanned"):
        check_unchanged(item)
    item.path.unlink()
    with pytest.raises(DatasetError, match=r"\u00fc\.png: is gone since the dataset was scanned"):
        check_unchanged(item)


def test_a_mask_that_was_changed_is_named(draw: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    draw("a.png")
    mask = tmp_path / "a mask.png"
    Image.new("L", (8, 8), 255).save(mask)
    item = replace(only_item(folder), mask=str(mask), mask_id=content_hash(mask))
    check_unchanged(item)
    Image.new("L", (8, 8), 128).save(mask)
    with pytest.raises(DatasetError, match=r"a mask\.png: was changed"):
        check_unchanged(item)
