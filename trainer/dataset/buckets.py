"""Aspect-ratio buckets: the size that an image is trained at.

The idea is NovelAI's ("NovelAI Improvements on Stable Diffusion", 2022, section Aspect Ratio Bucketing):
images are trained in rectangles of about the same area, in steps of 64 pixels, so that little is cropped away
and a batch can be stacked. As there, an image goes to the bucket whose aspect ratio is nearest (in the
logarithm), the area is at most ``resolution`` squared, the longer side at most twice ``resolution`` and the
shorter one at least half of it, so that what is longer than 4:1 is cropped. As there, a bucket is as high as
its width allows, or as wide as its height allows. Unlike there, no image is enlarged: its buckets are those
that fit inside it.
"""

from __future__ import annotations

import math
from functools import lru_cache

from ..errors import DatasetError

#: Sides of buckets are multiples of this: 8 pixels a latent, and three halvings in the denoiser.
STEP = 64


def check_resolution(resolution: int) -> None:
    """Accepts a whole multiple of 64.

    Raises:
        DatasetError: anything else.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < STEP or resolution % STEP:
        raise DatasetError(
            f"resolution: expected a multiple of {STEP}, at least {STEP}, got {resolution!r}",
            "512 suits Stable Diffusion 1.5, 1024 SDXL.",
        )


@lru_cache(maxsize=4096)
def _candidates(width: int, height: int, resolution: int) -> tuple[tuple[int, int], ...]:
    """Buckets inside width x height (multiples of 64): each width with its largest height, and the other way."""

    longest, shortest = 2 * resolution, max(STEP, resolution // 2 // STEP * STEP)

    def pairs(side: int, other_side: int) -> list[tuple[int, int]]:
        least, other_least = min(side, shortest), min(other_side, shortest)
        found = []
        for length in range(least, min(side, longest) + 1, STEP):
            other = min(other_side, longest, resolution**2 // length // STEP * STEP)
            if other >= other_least:
                found.append((length, other))
        return found

    by_height = [(wide, high) for high, wide in pairs(height, width)]
    return tuple(dict.fromkeys(pairs(width, height) + by_height))


def bucket_for(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """The bucket of an image.

    Args:
        size: (width, height) of the image in pixels, each at least 64.
        resolution: side of the square bucket, in pixels; a multiple of 64.

    Returns:
        (width, height), multiples of 64: never larger than the image, area at most ``resolution ** 2``, sides at
        most ``2 * resolution`` and, where the image is as large, at least half of it (rounded down to 64). Of two
        aspect ratios that are equally near, the bucket with the larger area, then the wider one.

    Raises:
        DatasetError: the image is smaller than 64 pixels, or the resolution is not a multiple of 64.
    """
    check_resolution(resolution)
    width, height = size
    if min(width, height) < STEP:
        raise DatasetError(f"an image of {width}x{height} pixels has no bucket: a side is under {STEP} pixels")
    aspect = math.log(width / height)

    def distance(bucket: tuple[int, int]) -> tuple[float, int, int]:
        error = abs(math.log(bucket[0] / bucket[1]) - aspect)
        # Rounded: mirror-image sizes must tie exactly, whatever the last digit of the logarithm says.
        return round(error, 9), -bucket[0] * bucket[1], -bucket[0]

    # Images differ in size by a pixel, their candidates do not: this keeps the cache small.
    return min(_candidates(width // STEP * STEP, height // STEP * STEP, resolution), key=distance)


def cover(size: tuple[int, int], bucket: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How an image is brought to its bucket: shrunk until it just covers it, then cropped in the middle.

    Args:
        size: (width, height) of the image in pixels; at least the bucket's.
        bucket: (width, height) in pixels.

    Returns:
        (width, height) after the resize, and the (left, top) corner of the crop in the resized picture.
    """
    (width, height), (bucket_width, bucket_height) = size, bucket
    # Whole numbers only: the side that decides the scale comes out exact, the other is rounded half up.
    if bucket_width * height >= bucket_height * width:
        resized = bucket_width, max(bucket_height, (2 * height * bucket_width + width) // (2 * width))
    else:
        resized = max(bucket_width, (2 * width * bucket_height + height) // (2 * height)), bucket_height
    return resized, ((resized[0] - bucket_width) // 2, (resized[1] - bucket_height) // 2)
