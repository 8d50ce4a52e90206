"""From a file to pixels: the only place where images are decoded.

Rules: the first frame of an animation; rotated as EXIF says; transparency over white; gray, palette, CMYK and
16 bit gray brought to 8 bit RGB. Colour profiles are not applied (as in ComfyUI's LoadImage and in other
trainers). What a file is, is read from its bytes, not from its name. Files are only read, and only by
decoders of ``FORMATS``.

A mask is decoded by the same rules into gray, what is transparent in it being black, and is resized and cropped as
its picture, so that a pixel of the one lies on the pixel of the other. Flipping mirrors what was cropped.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import DatasetError
from .buckets import STEP, cover
from .items import ImageItem
from .remembered import content_hash

RGB = tuple[int, int, int]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

#: Decoders that are tried. A short list: a renamed EPS or PDF must not start another program.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF")

#: Above this many pixels a picture is not decoded: PIL's own limit, which a host may have switched off.
MAX_PIXELS = 178_956_970

_LEAVE = "Leave the images alone while a run prepares its data; start the run again."
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unusable(Exception):
    """An image that cannot be trained on. ``kind`` is one of ``items.KINDS``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class _StrictDecoding:
    """Half-decoded pictures are errors, and PIL's warnings are not shown, while at least one thread is inside.

    Both switches belong to the process (ComfyUI and its node packs turn the first one off), so the first
    thread sets them and the last one puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._truncated_allowed = False
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            Image.init()
            self._truncated_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._warnings = warnings.catch_warnings()
            self._warnings.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._warnings.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = self._truncated_allowed


_strict_decoding = _StrictDecoding()


def inspect(path: Path) -> tuple[int, int]:
    """Decodes an image and forgets it.

    Returns:
        (width, height) in pixels after EXIF rotation.

    Raises:
        Unusable: it cannot be decoded to its last byte, or a side is under 64 pixels.
    """
    with _strict_decoding:
        return _decode(path, _to_rgb, reduce=8)[1]


def thumbnail(item: ImageItem, side: int) -> Image.Image:
    """The whole picture, RGB, upright, fitted into a square of ``side`` pixels.

    Raises:
        Unusable: it cannot be decoded any more.
    """
    scale = side / max(item.size)
    with _strict_decoding:
        image, _ = _decode(item.path, _to_rgb, reduce=max(1, min(8, int(0.5 / scale))))
    small = max(1, round(item.size[0] * scale)), max(1, round(item.size[1] * scale))
    return image.resize(small, Image.Resampling.LANCZOS, reducing_gap=2.0)


def load_picture(path: Path) -> Image.Image:
    """The whole picture, RGB, upright, on white where it is transparent.

    Raises:
        Unusable: it cannot be decoded to its last byte, or a side is under 64 pixels.
    """
    with _strict_decoding:
        return _decode(path, _to_rgb)[0]


def within(picture: Image.Image, pixels: int) -> Image.Image:
    """A picture with at most so many pixels, in its shape; 0: any number."""
    width, height = picture.size
    if not pixels or width * height <= pixels:
        return picture
    scale = (pixels / (width * height)) ** 0.5
    return picture.resize((max(1, int(width * scale)), max(1, int(height * scale))))


def load_pixels(item: ImageItem, flip: bool = False) -> torch.Tensor:
    """The picture as it is trained: shrunk to cover its bucket (Lanczos), cropped in the middle.

    Args:
        item: the image.
        flip: mirrored from left to right.

    Returns:
        float32 ``[3, height, width]`` in 0..1, the size of ``item.bucket``; the same values on every call.

    Raises:
        DatasetError: the file is gone, broken, or has another size than when it was scanned.
    """
    image = _again(item, _to_rgb)
    return _tensor(_covered(image, item, Image.Resampling.LANCZOS), flip)


def load_mask(item: ImageItem, flip: bool = False) -> torch.Tensor | None:
    """Which parts of the picture are trained: 1 wholly, 0 not.

    Args:
        item: the image.
        flip: mirrored from left to right, as the picture is.

    Returns:
        float32 ``[height, width]`` in 0..1, the size of ``item.bucket``; None for an image without a mask.

    Raises:
        DatasetError: the mask cannot be read, has another shape than the picture, or leaves nothing to train; or the
            picture has another size than when it was scanned.
    """
    if not item.mask:
        return None
    mask = _again(item, _to_alpha) if item.mask == "alpha" else _mask_file(item)
    return _weights(mask, item, flip)


def load_both(item: ImageItem) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What ``load_pixels`` and ``load_mask`` give, neither flipped; a picture that is its own mask is decoded once.

    Raises:
        DatasetError: as these do.
    """
    if item.mask != "alpha":
        return load_pixels(item), load_mask(item)
    both = _again(item, lambda image: Image.merge("RGBA", [*_to_rgb(image).split(), _to_alpha(image)]))
    *colours, alpha = both.split()
    # Apart: resized together, what is transparent would have no weight in the colours.
    picture = _covered(Image.merge("RGB", colours), item, Image.Resampling.LANCZOS)
    return _tensor(picture, False), _weights(alpha, item, False)


def check_unchanged(item: ImageItem) -> None:
    """Raise if picture or mask is not what was scanned: what is made of it would go by the former one's name.

    Raises:
        DatasetError: a file is gone, or holds something else.
    """
    files = [(item.path, item.content)]
    if item.mask not in ("", "alpha"):
        files.append((Path(item.mask), item.mask_id))
    for path, content in files:
        try:
            same = content_hash(path) == content
        except OSError as error:
            raise DatasetError(f"{path}: is gone since the dataset was scanned: {error.strerror}", _LEAVE) from None
        if not same:
            raise DatasetError(f"{path}: was changed after the dataset was scanned", _LEAVE)


def _weights(mask: Image.Image, item: ImageItem, flip: bool) -> torch.Tensor:
    """[height, width] in 0..1, of a mask of the picture's shape."""
    # Not Lanczos, which rings: what is black beside white stays black.
    values = _tensor(_covered(mask, item, Image.Resampling.BILINEAR), flip)[0]
    if not values.any():
        what = f"{item.path}: is transparent where it is trained, and mask is alpha"
        if item.mask != "alpha":
            what = f"{item.mask}: is black where {item.path.name} is trained"
        raise DatasetError(
            f"{what}: nothing of it would be trained",
            "White is what is trained; an image that is not to be trained belongs elsewhere.",
        )
    return values


def _mask_file(item: ImageItem) -> Image.Image:
    """The mask of an image, mode L, of the image's shape."""
    try:
        with _strict_decoding:
            mask, size = _decode(Path(item.mask), lambda image: _to_rgb(image, BLACK).convert("L"), least=1)
    except Unusable as error:
        raise DatasetError(f"{item.mask}: {error.message}", "Save the mask as a gray PNG, or remove it.") from None
    # Off by a pixel of the mask is the rounding of whoever shrank it.
    if abs(size[0] * item.size[1] - size[1] * item.size[0]) > max(item.size):
        raise DatasetError(
            f"{item.mask}: is a mask of {size[0]}x{size[1]} pixels, expected the shape of {item.path.name}, "
            f"{item.size[0]}x{item.size[1]}",
            "A mask is as large as its picture, or a smaller or larger copy of the same shape.",
        )
    return mask


def _tensor(image: Image.Image, flip: bool) -> torch.Tensor:
    """[channels, height, width] in 0..1."""
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = np.atleast_3d(np.asarray(image, dtype=np.float32) / 255.0)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def _covered(image: Image.Image, item: ImageItem, filter: Image.Resampling) -> Image.Image:
    resized, (left, top) = cover(item.size, item.bucket)
    return image.resize(resized, filter).crop((left, top, left + item.bucket[0], top + item.bucket[1]))


def _again(item: ImageItem, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decodes what was decoded when the dataset was scanned."""
    try:
        with _strict_decoding:
            image, size = _decode(item.path, convert)
    except Unusable as error:
        message = f"{item.path}: could be read when the dataset was scanned, now it {error.message}"
        raise DatasetError(message, _LEAVE) from None
    if size != item.size:
        raise DatasetError(
            f"{item.path}: was {item.size[0]}x{item.size[1]} pixels when the dataset was scanned, "
            f"now it is {size[0]}x{size[1]}",
            _LEAVE,
        )
    return image


def _decode(
    path: Path, convert: Callable[[Image.Image], Image.Image], *, reduce: int = 1, least: int = STEP
) -> tuple[Image.Image, tuple[int, int]]:
    """The converted image, upright, and its size.

    With ``reduce`` a JPEG is decoded at about that part of its size: all its bytes are read, 3 x faster.
    """
    try:
        if not path.is_file():
            raise Unusable("not-a-file", "is not a file (a folder, or a link to nothing)")
        if path.stat().st_size == 0:
            raise Unusable("empty", "is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise Unusable("unreadable", f"cannot be read: {error.strerror}") from None
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            size = image.size
            if size[0] * size[1] > MAX_PIXELS:
                raise Unusable("decompression-bomb", f"has more than {MAX_PIXELS:,} pixels")
            smaller = reduce > 1 and image.draft(None, (max(1, size[0] // reduce), max(1, size[1] // reduce)))
            image.load()
            # Only now: a PNG may carry its EXIF behind the pixels, and an older PIL rotates a TIFF while it loads.
            orientation = _orientation(image)
            result = convert(image)
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise _unidentified(head) from None
    except Image.DecompressionBombError:
        raise Unusable("decompression-bomb", f"has more than {MAX_PIXELS:,} pixels") from None
    # The decoders answer a damaged file with nearly any exception: SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        if "truncated" in str(error).lower():
            raise Unusable("truncated", "ends too early: the file is cut off") from None
        raise Unusable("corrupt", "is damaged and cannot be decoded") from None
    if orientation in _TRANSPOSE:
        result = result.transpose(_TRANSPOSE[orientation])
        if orientation >= 5:
            size = size[1], size[0]
    if not smaller:
        size = result.size
    if min(size) < least:
        raise Unusable("too-small", f"is too small: {size[0]}x{size[1]} pixels, expected at least {least}x{least}")
    return result, size


def _unidentified(head: bytes) -> Unusable:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return Unusable("corrupt", "is a web page, not a picture: the download went wrong")
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("ascii", "replace")
        if brand in {"avif", "avis"} and "AVIF" not in Image.OPEN:
            return Unusable("unsupported", "is an AVIF picture, which this version of Pillow cannot read")
        if brand in {"heic", "heix", "mif1", "msf1"}:
            return Unusable("unsupported", "is a HEIC picture, which cannot be read; save it as PNG or JPEG")
    return Unusable("corrupt", "is not a picture that can be read (PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF)")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    # Broken EXIF does not make a broken picture.
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _to_alpha(image: Image.Image) -> Image.Image:
    """What is opaque, mode L."""
    if not image.has_transparency_data:
        return Image.new("L", image.size, 255)
    return image.convert("RGBA").getchannel("A")


def _to_rgb(image: Image.Image, behind: RGB = WHITE) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise Unusable("unsupported", "has floating-point pixels; save it with 8 bit a channel")
    if image.mode == "LAB":
        raise Unusable("unsupported", "has Lab colours; save it as RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*behind, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("unsupported", "has 32 bit a pixel; save it with 8 bit a channel")
    gray = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
