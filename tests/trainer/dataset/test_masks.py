from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.dataset import Dataset, ImageItem, fingerprint, load_mask, load_pixels, scan
from trainer.dataset.buckets import bucket_for
from trainer.errors import DatasetError

from .conftest import noise


def gray(width: int, height: int, left: int = 255, right: int = 0) -> Image.Image:
    """A mask: its left half and its right half."""
    values = np.full((height, width), right, np.uint8)
    values[:, : width // 2] = left
    return Image.fromarray(values)


def save(folder: Path, name: str, image: Image.Image) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def said(dataset: Dataset) -> list[str]:
    return [f"{problem.kind}: {problem}" for problem in dataset.problems if problem.kind != "no-caption"]


def message_of(folder: Path, mask: str = "files") -> str:
    with pytest.raises(DatasetError) as caught:
        scan(folder, resolution=64, mask=mask)
    return str(caught.value)


def halves(mask: torch.Tensor | None) -> tuple[float, float]:
    """Means of the outer quarters at the left and at the right."""
    assert mask is not None
    width = mask.shape[1]
    return float(mask[:, : width // 4].mean()), float(mask[:, -(width // 4) :].mean())


@pytest.mark.parametrize(
    "name",
    [
        "a 1.mask.png", "a 1_mask.png", "A 1_MASK.PNG", "a 1.mask.webp", "a 1-masklabel.png", "masks/a 1.png",
        "mask/a 1.jpg", "Masks/A 1.png", "masks/a 1_mask.png", "masks/a 1.mask.png",
    ],
)  # fmt: skip
def test_where_masks_lie(draw: Callable[..., Path], folder: Path, name: str) -> None:
    draw("a 1.png", 128, 96)
    draw("b.png", 128, 96, seed=1)
    path = save(folder, name, gray(128, 96))
    dataset = scan(folder, resolution=64, mask="files")
    first, second = dataset.items
    assert Path(first.mask) == path
    assert len(first.mask_id) == 32
    assert (second.mask, second.mask_id) == ("", "")
    assert load_mask(second) is None
    left, right = halves(load_mask(first))
    assert left > 0.99
    assert right < 0.01
    assert said(dataset) == [
        "no-mask: b.png: has no mask (name.mask.png beside name.png, or masks/name.png): the whole of it is trained"
    ]


def test_masks_of_nested_folders(folder: Path) -> None:
    for seed, subset in enumerate(("cat", "dog")):
        save(folder, f"{subset}/1.png", noise(80, 80, seed))
    save(folder, "cat/masks/1.png", gray(80, 80))
    save(folder, "dog/1_mask.png", gray(80, 80, 0, 255))
    masks = [halves(load_mask(item)) for item in scan(folder, resolution=64, mask="files").items]
    assert masks == [(1, 0), (0, 1)]


def test_mask_files_are_never_trained_as_images(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png")
    for name in ("a.mask.png", "a_mask.png", "a-masklabel.png", "masks/a.png", "mask/a.png", "masks/deep/x.png"):
        save(folder, name, gray(100, 80))
    for mask in ("no", "alpha", "files"):
        assert [item.path.name for item in scan(folder, resolution=64, mask=mask).items] == ["a.png"]
    assert said(scan(folder, resolution=64)) == [
        f"unused-mask: {folder.name}: holds 1 mask file that is not used: mask is no"
    ]
    # The first of several counts.
    assert scan(folder, resolution=64, mask="files").items[0].mask == str(folder / "a.mask.png")


def test_pictures_that_only_look_like_masks(draw: Callable[..., Path], folder: Path) -> None:
    draw("venetian_mask.png")
    draw("b.png", seed=1)
    draw("c.mask.png", seed=2)
    save(folder, "cats/mask/d.png", noise(80, 80))
    save(folder, "masks/z.png", gray(80, 80))
    dataset = scan(folder, resolution=64, mask="files")
    assert [item.path.name for item in dataset.items] == ["b.png", "venetian_mask.png", "d.png"]
    orphans = [line for line in said(dataset) if line.startswith("orphan-mask")]
    assert orphans == [
        "orphan-mask: c.mask.png: is a mask that belongs to no image: no image is named 'c'",
        "orphan-mask: masks/z.png: is a mask that belongs to no image: no image is named 'z'",
    ]


def png(image: Image.Image) -> bytes:
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


BAD_MASKS = {
    "another shape": (
        png(gray(100, 100)),
        "is a mask of 100x100 pixels, expected the shape of a.png, 128x96",
    ),
    "rotated": (png(gray(96, 128)), "is a mask of 96x128 pixels, expected the shape of a.png, 128x96"),
    "black": (png(gray(128, 96, 0, 0)), "is black where a.png is trained: nothing of it would be trained"),
    "zero bytes": (b"", "is empty (0 bytes)"),
    "text": (b"white", "is not a picture that can be read (PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF)"),
    "cut off": (png(noise(128, 96))[:2000], "ends too early: the file is cut off"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_bad_mask_is_an_error_that_names_it(case: str, draw: Callable[..., Path], folder: Path) -> None:
    data, message = BAD_MASKS[case]
    draw("a.png", 128, 96)
    path = folder / "a.mask.png"
    path.write_bytes(data)
    assert message_of(folder) == (
        f"{folder}: 1 mask cannot be used:\n  - {path}: {message}\n"
        "  -> A mask has the shape of its picture, and white where the picture is trained; mend it, or remove it."
    )
    assert scan(folder, resolution=64).items[0].mask == ""


def test_white_only_in_what_is_cropped_away_is_an_empty_mask(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 256, 64)
    values = np.zeros((64, 256), np.uint8)
    values[:, :40] = 255
    save(folder, "a_mask.png", Image.fromarray(values))
    assert "is black where a.png is trained" in message_of(folder)


def test_many_bad_masks(draw: Callable[..., Path], folder: Path) -> None:
    for index in range(7):
        draw(f"{index}.png", seed=index)
        save(folder, f"masks/{index}.png", gray(100, 80, 0, 0))
    lines = message_of(folder).splitlines()
    assert lines[0] == f"{folder}: 7 masks cannot be used:"
    assert lines[6] == "  - and 2 more"


@pytest.mark.parametrize("mask", ["yes", "", "Alpha", None, True])
def test_other_words_for_mask(draw: Callable[..., Path], folder: Path, mask: object) -> None:
    draw("a.png")
    with pytest.raises(DatasetError) as caught:
        scan(folder, resolution=64, mask=mask)  # pyright: ignore[reportArgumentType]
    assert caught.value.message == f"mask: expected one of no, alpha, files, got {mask!r}"


@pytest.mark.parametrize("size", [(128, 96), (64, 48), (43, 32), (256, 192), (4, 3)])
def test_a_mask_of_another_size_and_the_same_shape(
    draw: Callable[..., Path], folder: Path, size: tuple[int, int]
) -> None:
    draw("a.png", 128, 96)
    save(folder, "a.mask.png", gray(*size))
    mask = load_mask(scan(folder, resolution=64, mask="files").items[0])
    assert mask is not None
    assert mask.shape == (64, 64)
    assert mask.dtype is torch.float32
    left, right = halves(mask)
    assert left > 0.9
    assert right < 0.1


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_masks_of_every_kind(draw: Callable[..., Path], folder: Path, mode: str) -> None:
    draw("a.png", 128, 96)
    mask = gray(128, 96)
    if mode == "I;16":
        mask = Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)
    save(folder, "a.mask.tif" if mode == "CMYK" else "a.mask.png", mask if mode == "I;16" else mask.convert(mode))
    left, right = halves(load_mask(scan(folder, resolution=64, mask="files").items[0]))
    assert left > 0.98
    assert right < 0.02


def test_what_is_transparent_in_a_mask_file_is_not_trained(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 128, 96)
    mask = Image.new("RGBA", (128, 96), (255, 255, 255, 255))
    mask.putalpha(gray(128, 96))
    save(folder, "a.mask.png", mask)
    left, right = halves(load_mask(scan(folder, resolution=64, mask="files").items[0]))
    assert left > 0.99
    assert right < 0.01


def test_gray_counts_in_part_and_black_beside_white_stays_black(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 256, 256)
    save(folder, "a.mask.png", gray(256, 256, 255, 51))
    mask = load_mask(scan(folder, resolution=64, mask="files").items[0])
    assert mask is not None
    assert halves(mask) == (1, pytest.approx(0.2, abs=0.002))
    assert mask.min() >= 0.199
    assert mask.max() == 1


def opaque_at_the_left(width: int = 128, height: int = 96) -> Image.Image:
    image = noise(width, height).convert("RGBA")
    image.putalpha(gray(width, height))
    return image


def test_transparency_as_mask(draw: Callable[..., Path], folder: Path) -> None:
    path = save(folder, "a.png", opaque_at_the_left())
    draw("b.jpg", seed=1)
    opaque = noise(128, 96, 5).convert("RGBA")
    save(folder, "c.png", opaque)
    dataset = scan(folder, resolution=64, mask="alpha")
    first, *others = dataset.items
    assert first.mask == "alpha"
    assert first.mask_id == first.id
    left, right = halves(load_mask(first))
    assert left > 0.99
    assert right < 0.01
    # The picture is the same as without a mask: over white.
    assert torch.equal(load_pixels(first), load_pixels(scan(folder, resolution=64).items[0]))
    assert load_pixels(first)[:, :, 40:].min() == 1
    assert [item.mask for item in others] == ["", ""]
    assert said(dataset) == [
        f"no-mask: {name}: has no transparency where it is trained: the whole of it is trained"
        for name in ("b.jpg", "c.png")
    ]
    transparent = opaque_at_the_left()
    transparent.putalpha(0)
    transparent.save(path)
    assert f"{path}: is transparent where it is trained, and mask is alpha" in message_of(folder, "alpha")


def test_the_second_of_two_equal_pictures_names_the_same_mask(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        save(folder, name, opaque_at_the_left())
    first, second = scan(folder, resolution=64, mask="alpha").items
    assert second.id == f"{first.id}-2"
    assert first.mask_id == second.mask_id == first.id


def test_flipping(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 301, 203)
    save(folder, "a.mask.png", gray(301, 203))
    item = scan(folder, resolution=128, mask="files").items[0]
    mask, mirrored = load_mask(item), load_mask(item, flip=True)
    assert mask is not None
    assert mirrored is not None
    assert torch.equal(mirrored, mask.flip(-1))
    assert mirrored.is_contiguous()
    assert torch.equal(load_pixels(item, flip=True), load_pixels(item).flip(-1))
    assert not torch.equal(mirrored, mask)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_mask_turns_with_its_picture(folder: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = opaque_at_the_left(192, 128)
    image.save(folder / "a.png", exif=exif)
    item = scan(folder, resolution=128, mask="alpha").items[0]
    mask = load_mask(item)
    assert mask is not None
    white = load_pixels(item).min(0).values == 1
    assert (white == (mask == 0)).float().mean() > 0.97


def test_the_crop_lies_in_the_item(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png", 300, 100)
    item = scan(folder, resolution=64).items[0]
    assert (item.bucket, item.crop) == ((64, 64), (64, 0))
    with Image.open(item.path) as image:
        resized = image.resize((192, 64), Image.Resampling.LANCZOS)
    expected = np.asarray(resized)[:, 64:128].transpose(2, 0, 1)
    assert np.array_equal((load_pixels(item) * 255).round().numpy(), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(64, 400), st.integers(64, 400), st.integers(1, 4).map(lambda n: 64 * n), st.data())
def test_a_pixel_of_the_mask_lies_on_the_pixel_of_the_picture(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, resolution: int, data: st.DataObject
) -> None:
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    values = np.zeros((height, width), np.uint8)
    values[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20] = 255
    folder = tmp_path_factory.mktemp("m")
    picture = save(folder, "a.png", Image.fromarray(values))
    mask = save(folder, "a.mask.png", Image.fromarray(values))
    bucket = bucket_for((width, height), resolution)
    item = ImageItem("x", picture, ("",), (width, height), bucket, 1, mask=str(mask))
    try:
        found = load_mask(item)
    except DatasetError:
        assert load_pixels(item).max() < 0.1
        return
    assert found is not None
    assert found.shape == (bucket[1], bucket[0])
    difference = (found - load_pixels(item)[0]).abs()
    # Two filters: they differ on edges, and only there.
    assert difference.mean() < 0.06
    assert ((found > 0.5) == (load_pixels(item)[0] > 0.5)).float().mean() > 0.97


@pytest.mark.parametrize("name", ["a.mask.png", "masks/a.png"])
def test_the_fingerprint_sees_masks_where_they_are_used(draw: Callable[..., Path], folder: Path, name: str) -> None:
    draw("a.png")
    before = fingerprint(folder), fingerprint(folder, mask="files")
    save(folder, name, gray(100, 80))
    after = fingerprint(folder), fingerprint(folder, mask="files")
    assert after[0] == before[0]
    assert after[1] != before[1]
    save(folder, name, gray(100, 80, 255, 200))
    assert fingerprint(folder, mask="files") != after[1]


def test_a_mask_that_is_gone(draw: Callable[..., Path], folder: Path) -> None:
    draw("a.png")
    path = save(folder, "a.mask.png", gray(100, 80))
    item = scan(folder, resolution=64, mask="files").items[0]
    path.unlink()
    with pytest.raises(DatasetError) as caught:
        load_mask(item)
    assert caught.value.message == f"{path}: is not a file (a folder, or a link to nothing)"
