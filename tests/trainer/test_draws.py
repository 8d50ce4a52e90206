"""Draws: pure, independent of order, evenly spread, and frozen."""

from __future__ import annotations

import pytest
import torch

from trainer import draws


def test_a_draw_is_a_function_of_what_it_is_for() -> None:
    for draw in (
        lambda *parts: draws.uniform(*parts),
        lambda *parts: draws.integer(10**9, *parts),
        lambda *parts: tuple(draws.normal((5,), *parts).tolist()),
    ):
        reference = draw(42, 3, "image", "noise")
        others = [
            (43, 3, "image", "noise"),
            (42, 4, "image", "noise"),
            (42, 3, "other", "noise"),
            (42, 3, "image", "t"),
        ]
        values = [draw(*other) for other in others]
        assert draw(42, 3, "image", "noise") == reference  # whatever was drawn in between
        assert len({reference, *values}) == 5


def test_parts_are_not_run_together() -> None:
    assert draws.uniform(1, 23, "a") != draws.uniform(12, 3, "a")
    assert draws.uniform(1, "a", "b") != draws.uniform(1, "ab")


def test_the_global_generators_are_neither_used_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = draws.normal((4, 8, 8), 1, "x"), draws.uniform(1, "x"), draws.integer(9, 1, "x")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draws.normal((4, 8, 8), 1, "x"), drawn[0])
    assert (draws.uniform(1, "x"), draws.integer(9, 1, "x")) == drawn[1:]


def test_uniform_draws_are_uniform() -> None:
    drawn = torch.tensor([draws.uniform(0, n, "u") for n in range(10_000)], dtype=torch.float64)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.std().item() == pytest.approx(12**-0.5, abs=0.01)
    tenths = torch.histc(drawn, 10, 0, 1)
    assert ((tenths - 1000).square() / 1000).sum() < 28  # chi-square, 9 degrees: one in a thousand
    assert abs(torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]))[0, 1]) < 0.03


def test_whole_numbers_cover_their_range_and_no_more() -> None:
    drawn = [draws.integer(7, 0, n, "i") for n in range(2_000)]
    assert set(drawn) == set(range(7))
    assert {draws.integer(1, 0, n) for n in range(50)} == {0}


def test_normal_draws_are_normal_and_fp32() -> None:
    drawn = torch.cat([draws.normal((4, 16, 16), 0, n, "noise").flatten() for n in range(20)])
    assert drawn.dtype == torch.float32
    assert drawn.mean().item() == pytest.approx(0, abs=0.03)
    assert drawn.std().item() == pytest.approx(1, abs=0.03)
    # Two samples' noise has nothing in common.
    assert abs(torch.corrcoef(drawn.reshape(20, -1)).triu(1)).max() < 0.15


def test_draws_are_frozen() -> None:
    """A refactoring that changes these changes every run in silence, and breaks the resumption of old ones."""
    assert draws.uniform(42, 0, "image#0", "timestep") == 0.9512423128728719
    assert [draws.integer(1000, 42, epoch, "image#0", "timestep") for epoch in (0, 1)] == [951, 116]
    assert draws.generator(42, 0, "image#0", "noise").initial_seed() == 5518219919603700481
    # Vectorised and plain kernels may differ in the last bit.
    small = draws.normal((4,), 42, 0, "image#0", "noise")
    assert small.tolist() == pytest.approx([0.4561024, 0.9076102, 0.6671924, -2.1712513], abs=1e-5)
    whole = draws.normal((4, 8, 8), 42, 0, "image#0", "noise")
    assert whole[3, 7, :4].tolist() == pytest.approx([-0.5956693, 0.8776034, -1.0461992, 1.3758366], abs=1e-5)
