"""The rules' corners are the guide's numbers, and between them nothing jumps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPO
from trainer.advisor import rules
from trainer.config import parse
from trainer.figures import BASES
from trainer.peek import Peek, peek

SD15, SDXL = (Peek(name, BASES[name]) for name in ("sd15", "sdxl"))
DEMO = peek(REPO / "trainer" / "demo" / "base.safetensors")


# --- length


@pytest.mark.parametrize(
    ("different", "epochs"), [(50, 20), (100, 15), (200, 10), (300, 10), (500, 10), (600, 5), (800, 5), (1000, 5)]
)
def test_the_guides_table_of_epochs(different: int, epochs: int) -> None:
    assert rules.epochs(different, different) == epochs
    assert rules.epochs(different, 10 * different) == max(1, round(epochs / 10))  # each is seen ten times in an epoch


@pytest.mark.parametrize("different", [1, 5, 10, 20])
def test_few_pictures_are_shown_1500_to_2000_times(different: int) -> None:
    assert 1500 <= rules.presentations(different) <= 2000
    assert 1400 <= rules.epochs(different, different) * different <= 2000


def test_the_length_is_continuous_and_falls_only_where_the_guide_does() -> None:
    shown = {n: rules.presentations(n) for n in range(1, 5001)}
    assert max(abs(b - a) for a, b in pairwise(shown.values())) <= 20
    falling = {n for n in range(2, 5001) if shown[n] < shown[n - 1]}
    # From the few that need many showings to the guide's 1,000 of 50; and from 10 epochs to 5 after 500.
    assert falling == {*range(21, 51), *range(501, 601)}
    assert max(shown.values()) == 5000  # the guide's longest: 500 x 10
    assert all(rules.epochs(n, n) <= 5 for n in range(600, 5001, 7))


# --- rate


@pytest.mark.parametrize(
    ("window", "sd15", "sdxl"), [(1, 1.4e-4, 5e-5), (2, 2e-4, 7.1e-5), (4, 2.8e-4, 1e-4), (8, 3e-4, 1.4e-4)]
)
def test_the_rate_grows_with_the_root_of_the_effective_batch(window: int, sd15: float, sdxl: float) -> None:
    for batch, accumulation in ((window, 1), (1, window)):
        config = parse({"batch_size": batch, "gradient_accumulation_steps": accumulation})
        assert rules.rate(config, SD15) == sd15
        assert rules.rate(config, SDXL) == sdxl


@given(st.integers(1, 512), st.sampled_from([SD15, SDXL]))
def test_no_batch_bears_more_than_3e_4(window: int, base: Peek) -> None:
    assert rules.rate(parse({"batch_size": window}), base) <= 3e-4


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"optimizer": "lion"}, 0.1),
        ({"optimizer": "adafactor"}, 1),
        ({"optimizer": "schedulefree"}, 1),
        ({"lora_method": "dora"}, 1),
        ({"lora_method": "rslora"}, 0.5),  # at the same alpha it acts 2.8 times stronger
        ({"lora_method": "rslora", "lora_alpha": 8**0.5}, 1),
        ({"lora_alpha": 1.0}, 2),
        ({"lora_alpha": 64.0}, 0.5),
    ],
)
def test_optimizers_and_scales_have_rates_of_their_own(settings: dict[str, Any], factor: float) -> None:
    config = parse({"batch_size": 2, **settings})
    assert rules.rate(config, SD15) == pytest.approx(2e-4 * factor, rel=0.01)
    assert rules.off(config.but(learning_rate=2e-4 * rules.OPTIMIZERS.get(config.optimizer, 1)), SD15) == 0


def test_prodigy_finds_its_rate_by_itself() -> None:
    config = parse({"optimizer": "prodigy", "learning_rate": 1.0})
    assert rules.rate(config, SD15) == rules.rate(config, DEMO) == 1.0
    assert rules.off(config, SD15) == 0


def test_a_small_model_bears_more_and_one_of_about_full_size_as_much() -> None:
    config = parse({"batch_size": 4})
    assert rules.rate(config, DEMO) == pytest.approx(19 * rules.rate(config, SD15), rel=0.02)
    assert rules.off(parse({"learning_rate": 4e-3}), DEMO) == 0  # the demo's own
    for parameters in (0.6, 1.9):
        near = SD15._replace(parameters=int(parameters * SD15.parameters))
        assert rules.rate(config, near) == rules.rate(config, SD15)


def test_how_far_off_a_rate_is_in_orders_of_magnitude() -> None:
    assert rules.off(parse({"learning_rate": 2e-6}), SD15) == pytest.approx(-1.7, abs=0.01)
    assert rules.off(parse({"learning_rate": 3e-2}), SD15) == pytest.approx(2)
    assert [rules.off(parse({"learning_rate": rate}), SD15) for rate in (1e-4, 2e-4, 3e-4)] == [0, 0, 0]


# --- the rest


def test_rank_and_held_out_pictures() -> None:
    assert [rules.rank(n, "", "sd15") for n in (1, 29, 30, 500)] == [8, 8, 16, 16]
    of_a_class = [rules.rank(40, prompt, family) for family in ("sd15", "sdxl") for prompt in ("", "a cat")]
    assert of_a_class == [16, 16, 16, 8]
    counts = [rules.held_out(n) for n in (1, 5, 6, 10, 14, 15, 20, 30, 50, 79, 80, 1000)]
    assert counts == [0, 0, 1, 1, 1, 2, 2, 3, 5, 8, 8, 8]


@given(st.lists(st.integers(64, 3000), min_size=1, max_size=30), st.sampled_from([SD15, SDXL, DEMO]))
def test_the_resolution_is_never_above_what_half_of_the_pictures_have(sides: list[int], base: Peek) -> None:
    chosen = rules.resolution(tuple(sorted(sides)), base)
    assert chosen % 64 == 0
    assert 64 <= chosen <= (base.side or rules.usual(base.family).side)
    assert 2 * sum(side >= chosen for side in sides) >= len(sides)


def test_the_resolution_is_the_models_own_where_the_pictures_are_large_enough() -> None:
    assert [rules.resolution((2000,) * 5, base) for base in (SD15, SDXL, DEMO)] == [512, 1024, 128]
    assert rules.resolution((400,) * 5, SD15) == 384


def test_the_documentation_has_these_lengths() -> None:
    page = (REPO / "docs" / "training.md").read_text(encoding="utf-8")
    table = page.partition("| Different pictures | Shown |")[2].partition("\n\n")[0]
    cells = [row.replace("up to", "").replace(",", "").split("|") for row in table.splitlines()[2:]]
    assert [(int(row[1]), int(row[2])) for row in cells] == list(rules.LENGTHS)
