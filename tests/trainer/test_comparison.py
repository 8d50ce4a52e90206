"""Which value of a setting to keep, from what runs have measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from trainer import comparison
from trainer.comparison import Trial, Verdict, judge

PAIRS = [f"{image}@{timestep}" for image in "abcd" for timestep in (125, 375, 625, 875)]


def values(loss: float, noise: float = 0.0) -> dict[str, float]:
    return {pair: loss * (1 + n) + (noise if n % 2 else -noise) for n, pair in enumerate(PAIRS)}


class Made:
    """Runs with files of a size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def trial(
        self, value: str, loss: float, noise: float = 0.0, *, size: int = 100, seconds: float = 10.0, base: float = 9.0,
        signal: str = "held_out",
    ) -> Trial:  # fmt: skip
        file = self.folder / f"{value}.safetensors"
        file.write_bytes(b"x" * size)
        measured = {signal: values(loss, noise), "drift": {"a@1": 0.5}}
        return Trial(value, self.folder, file, 40, 50, seconds, {signal: values(base)}, measured)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_a_value_that_is_better_beyond_noise_is_kept_whatever_it_costs(made: Made) -> None:
    trials = [made.trial("4", 5.0), made.trial("8", 4.0, size=200), made.trial("16", 3.0, size=400, seconds=99)]
    found = judge("lora_rank", trials)
    assert found.keep == 2
    assert (
        found.text
        == "keep lora_rank 16: its held-out loss is 25.5000, lower than that of all others by more than noise"
    )


def test_within_noise_the_smaller_one_is_kept_and_then_the_quicker(made: Made) -> None:
    larger = made.trial("16", 3.99, noise=3.0, size=400)
    found = judge("lora_rank", [made.trial("4", 5.0), made.trial("8", 4.0, size=200), larger])
    assert found.keep == 1
    assert "16 is lower by 0.0850, which is no more than noise" in found.text
    slow = made.trial("20", 3.99, noise=3.0, seconds=20)
    assert judge("epochs", [made.trial("10", 4.0), slow]).keep == 0
    equal = made.trial("cosine", 3.99, noise=3.0, seconds=11)  # a tenth longer is no cost
    assert judge("lr_scheduler", [made.trial("linear", 4.0), equal]).keep == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"base": 8.0}, "the base model itself scores otherwise"),
        ({"signal": "train"}, "nothing is held out"),
    ],
)
def test_what_cannot_be_compared_is_not(made: Made, change: dict[str, object], why: str) -> None:
    found = judge("x", [made.trial("1", 5.0), made.trial("2", 4.0, **change)])  # type: ignore[arg-type]
    assert found.keep is None
    assert why in found.text
    assert found.apart == (None, None)


def test_a_run_that_failed_is_in_the_table_and_the_others_are_compared(made: Made) -> None:
    trials = [made.trial("1e-4", 5.0), Trial("9", made.folder, failure="not finite"), made.trial("2e-4", 4.0)]
    found = judge("learning_rate", trials)
    assert found.keep == 2
    lines = comparison.table("learning_rate", trials, found).split("\n")
    assert lines[2].split() == ["9", "failed:", "not", "finite"]
    assert lines[3].endswith("<- keep")
    assert "40 of 50" in lines[3]
    assert lines[-1] == found.text
    rows = list(csv.DictReader(comparison.as_csv("learning_rate", trials, found).splitlines()))
    assert [row["keep"] for row in rows] == ["False", "False", "True"]
    assert rows[1]["failure"] == "not finite"
    assert (rows[0]["held_out"], rows[0]["bytes"], rows[0]["train"]) == ("42.5", "100", "")
    alone = judge("x", trials[:2])
    assert alone.keep is None


def test_the_grid_has_a_row_a_prompt_and_a_column_a_value(made: Made) -> None:
    trials = [made.trial(value, 5.0) for value in ("4", "8", "16")]
    red, blue = (Image.new("RGB", (128, 128), color) for color in ("red", "blue"))
    drawn = comparison.grid("lora_rank", trials, [{"a": red, "b": blue}, {"a": blue}, {}])
    assert drawn is not None
    one = comparison.grid("lora_rank", trials[:1], [{"a": red}])
    assert one is not None
    assert drawn.width - one.width == 134  # one more column; the third run has no picture
    assert drawn.height - one.height == 134
    assert comparison.grid("lora_rank", trials, [{}, {}, {}]) is None


def test_nothing_is_kept_without_a_reason(made: Made) -> None:
    assert judge("x", []) == Verdict(None, "0 of the runs can be compared", ())
