from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.dataset.buckets import bucket_for, cover
from trainer.errors import DatasetError

resolutions = st.integers(1, 32).map(lambda n: 64 * n)
sides = st.integers(64, 5000)
thorough = settings(max_examples=400, deadline=None)


def error(bucket: tuple[int, int], size: tuple[int, int]) -> float:
    return abs(math.log(bucket[0] * size[1] / (bucket[1] * size[0])))


def allowed(size: tuple[int, int], resolution: int) -> list[tuple[int, int]]:
    """Every bucket within the bounds, by trying all."""
    multiples = range(64, 2 * resolution + 1, 64)
    return [
        (w, h)
        for w, h in product(multiples, multiples)
        if least(size[0], resolution) <= w <= size[0]
        and least(size[1], resolution) <= h <= size[1]
        and w * h <= resolution**2
    ]


def least(side: int, resolution: int) -> int:
    """Half the resolution, or what the image has."""
    return min(max(64, resolution // 128 * 64), side // 64 * 64)


@thorough
@given(sides, sides, resolutions)
@example(64, 64, 2048)
@example(64, 5000, 64)
def test_a_bucket_fits_into_the_image_and_into_the_bounds(width: int, height: int, resolution: int) -> None:
    bucket = bucket_for((width, height), resolution)
    assert bucket[0] % 64 == bucket[1] % 64 == 0
    assert 64 <= least(width, resolution) <= bucket[0] <= width
    assert 64 <= least(height, resolution) <= bucket[1] <= height
    assert bucket[0] * bucket[1] <= resolution**2
    assert max(bucket) <= 2 * resolution


@thorough
@given(sides, sides, resolutions)
def test_covering_a_bucket_never_enlarges_and_leaves_no_gap(width: int, height: int, resolution: int) -> None:
    bucket = bucket_for((width, height), resolution)
    resized, (left, top) = cover((width, height), bucket)
    assert bucket[0] <= resized[0] <= width
    assert bucket[1] <= resized[1] <= height
    # One side is exact, the other is cut evenly on both sides, and the shape is kept to half a pixel.
    assert resized[0] == bucket[0] or resized[1] == bucket[1]
    assert 0 <= resized[0] - bucket[0] - 2 * left <= 1
    assert 0 <= resized[1] - bucket[1] - 2 * top <= 1
    scale = max(bucket[0] / width, bucket[1] / height)
    assert abs(resized[0] - width * scale) <= 0.5 + 1e-9
    assert abs(resized[1] - height * scale) <= 0.5 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 1200), st.integers(64, 1200), st.integers(1, 8).map(lambda n: 64 * n))
@example(1200, 150, 512)
@example(64, 1200, 512)
def test_the_bucket_is_the_nearest_of_those_that_cannot_grow_both_ways(
    width: int, height: int, resolution: int
) -> None:
    every = set(allowed((width, height), resolution))
    full = [b for b in every if (b[0] + 64, b[1]) not in every or (b[0], b[1] + 64) not in every]
    bucket = bucket_for((width, height), resolution)
    assert bucket in full
    assert error(bucket, (width, height)) <= min(error(other, (width, height)) for other in full) + 1e-8


@thorough
@given(sides, st.floats(0.25, 4), resolutions)
def test_the_aspect_ratio_is_off_by_about_a_step_at_most(width: int, aspect: float, resolution: int) -> None:
    # Between 1:4 and 4:1, which is what "at most twice the resolution" leaves.
    size = width, max(64, round(width / aspect))
    bucket = bucket_for(size, resolution)
    if 0.25 <= size[0] / size[1] <= 4:
        step = math.log(1 + 64 / min(bucket))
        assert error(bucket, size) <= (1.1 if resolution >= 512 and min(size) >= 512 else 2) * step + 1e-9


@thorough
@given(sides, sides, resolutions)
def test_a_rotated_image_has_the_rotated_bucket(width: int, height: int, resolution: int) -> None:
    upright, lying = bucket_for((width, height), resolution), bucket_for((height, width), resolution)
    # Of two that are equally near the wider one is taken, for both.
    assert upright == lying[::-1] or error(upright, (width, height)) == pytest.approx(error(lying, (height, width)))


@pytest.mark.parametrize(
    ("size", "resolution", "bucket"),
    [
        ((512, 512), 512, (512, 512)),
        ((4000, 4000), 512, (512, 512)),
        ((511, 511), 512, (448, 448)),
        ((3000, 2000), 512, (640, 384)),
        ((2000, 3000), 512, (384, 640)),
        ((3000, 1000), 512, (832, 256)),
        ((1920, 1080), 512, (640, 384)),
        ((8000, 1000), 512, (1024, 256)),
        ((8000, 1000), 1024, (2048, 512)),
        ((300, 5000), 512, (256, 1024)),
        ((100, 80), 512, (64, 64)),
        ((64, 64), 64, (64, 64)),
    ],
)
def test_known_buckets(size: tuple[int, int], resolution: int, bucket: tuple[int, int]) -> None:
    assert bucket_for(size, resolution) == bucket


@pytest.mark.parametrize("resolution", [0, 32, 63, 65, 500, -64, 512.0, True, "512", None])
def test_other_resolutions_are_refused(resolution: object) -> None:
    with pytest.raises(DatasetError) as caught:
        bucket_for((512, 512), resolution)  # pyright: ignore[reportArgumentType]
    assert caught.value.message == f"resolution: expected a multiple of 64, at least 64, got {resolution!r}"


def test_an_image_under_64_pixels_has_no_bucket() -> None:
    with pytest.raises(DatasetError, match="an image of 63x900 pixels has no bucket: a side is under 64 pixels"):
        bucket_for((63, 900), 512)
