"""What validations say: when there is one, which checkpoint is best, when training on is of no use."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import validation
from trainer.config import parse
from trainer.validation import DRIFT, HELD_OUT, TRAIN, Record, best, difference, exhausted

PAIRS = [f"{image}@{timestep}" for image in "abcd" for timestep in (125, 375, 625, 875)]


def flat(loss: float, noise: float = 0.0, turn: int = 0) -> dict[str, float]:
    """Pairs of very different difficulty, all of them changed alike, but for a noise that cancels out over them."""
    rest = [noise * (1 if (number + turn) % 2 else -1) for number in range(len(PAIRS))]
    return {pair: loss * (1 + number) + rest[number] for number, pair in enumerate(PAIRS)}


def run(*losses: float, signal: str = HELD_OUT, noise: float = 0.0) -> dict[int, dict[str, dict[str, float]]]:
    """A validation every 10 steps."""
    return {10 * n: {signal: flat(loss, noise, n)} for n, loss in enumerate(losses)}


def chosen(history: dict[int, Any], kept: list[int]) -> int:
    """The step that is called best."""
    found = best(history, kept)
    assert found is not None
    return found.step


# --- differences


def test_how_hard_a_pair_is_falls_out_of_the_difference() -> None:
    """Pairs differ by a factor of sixteen; that all of them rose a little is seen all the same."""
    found = difference({pair: value + 0.01 for pair, value in flat(1.0).items()}, flat(1.0))
    assert found.mean == pytest.approx(0.01)
    assert found.error < 1e-9
    assert found.beyond(2)


def test_the_standard_error_is_that_of_the_mean_of_the_pairs() -> None:
    these = {"a@1": 1.0, "a@2": 2.0, "b@1": 3.0, "b@2": 6.0, "c@7": 9.0}
    found = difference(these, dict.fromkeys(("a@1", "a@2", "b@1", "b@2"), 0.0))
    assert found.mean == 3.0
    assert found.error == pytest.approx(math.sqrt(((2**2 + 1 + 0 + 3**2) / 3) / 4))


def test_many_timesteps_of_one_image_are_no_many_images() -> None:
    """Three images of which one says otherwise, at a hundred timesteps each."""
    change = {"a": 0.1, "b": 0.1, "c": -0.1}
    these = {f"{image}@{t}": change[image] for image in change for t in range(100)}
    found = difference(these, dict.fromkeys(these, 0.0))
    assert found.error == pytest.approx(0.2 / 3)  # three numbers with a deviation of 0.1155
    assert not found.beyond(1)


def test_one_pair_or_none_says_nothing() -> None:
    assert not difference({"a@1": 9.0}, {"a@1": 0.0}).beyond(0.001)
    assert not difference({"a@1": 9.0}, {"b@1": 0.0}).beyond(0)


# --- which is best


def test_the_last_one_is_best_while_the_loss_falls() -> None:
    found = best(run(5, 4, 3, 2.9), [10, 20, 30])
    assert found is not None
    assert found.step == 30
    assert "no other" in found.reason


def test_an_earlier_one_is_best_only_beyond_two_standard_errors() -> None:
    noise = 4.0  # of which the error is 1; the mean rises by 0.5 * 8.5 = 4.25
    for more, step in ((1.0, 20), (1.0 + noise, 30)):
        history = run(5, 3, 2, 2.5)
        history[30][HELD_OUT] = flat(2.5, noise * more, 1)
        assert chosen(history, [10, 20, 30]) == step, more


def test_of_earlier_ones_the_lowest_is_taken() -> None:
    history = run(5, 2, 2.01, 4)
    history[20][HELD_OUT] = flat(2.01, 2.0)  # higher by 0.085, with an error of 0.5
    assert chosen(history, [10, 20, 30]) == 10


def test_one_hard_picture_does_not_hide_that_all_became_worse() -> None:
    """Eight pictures, each worse by a tenth or more; one of them so much that the mean's error is as large."""
    before = {"a@1": 0.1, **{f"{name}@1": 0.01 for name in "bcdefgh"}}
    after = {"a@1": 0.16, **{f"{name}@1": 0.01 * (1.1 + 0.02 * n) for n, name in enumerate("bcdefgh")}}
    assert not difference(after, before).beyond(2)
    assert chosen({10: {HELD_OUT: before}, 20: {HELD_OUT: after}}, [10, 20]) == 10
    alone = {**before, "a@1": 0.16}
    assert chosen({10: {HELD_OUT: before}, 20: {HELD_OUT: alone}}, [10, 20]) == 20, "one picture alone says nothing"


def test_only_a_checkpoint_can_be_best_and_the_base_model_is_none() -> None:
    history = run(1, 5, 2, 4, 6)
    assert [chosen(history, kept) for kept in ([10, 30, 40], [10, 40], [40])] == [30, 10, 40]
    assert best(history, []) is None


def test_a_later_checkpoint_without_a_validation_is_the_last_one() -> None:
    """A run that was stopped: its last checkpoint was not measured."""
    assert chosen(run(5, 4, 3), [10, 20, 25]) == 25
    assert chosen(run(5, 3, 4), [10, 20, 25]) == 10


def test_images_held_out_decide_where_there_are_some_and_training_images_else() -> None:
    history = {
        10: {HELD_OUT: flat(2), TRAIN: flat(3), DRIFT: flat(0)},
        20: {HELD_OUT: flat(3), TRAIN: flat(2), DRIFT: flat(9)},
    }
    assert chosen(history, [10, 20]) == 10
    for signals in history.values():
        del signals[HELD_OUT]
    assert chosen(history, [10, 20]) == 20


def test_a_loss_that_is_not_finite_is_never_best() -> None:
    history = run(5, 3, 2)
    history[20][HELD_OUT][PAIRS[3]] = math.nan
    assert chosen(history, [10, 20]) == 10


# --- when to stop


def test_a_run_ends_after_so_many_validations_that_were_no_better() -> None:
    losses = (5, 4, 3, 3.5, 4, 4.5, 5)
    ends = {patience: [n for n in range(1, 8) if exhausted(run(*losses[:n]), patience)] for patience in (0, 1, 2, 4, 9)}
    assert ends == {0: [], 1: [4, 5, 6, 7], 2: [5, 6, 7], 4: [7], 9: []}
    assert "2 validations in a row were no better than step 20" in exhausted(run(*losses[:5]), 2)


def test_a_plateau_ends_it_too() -> None:
    assert exhausted(run(5, 3, 3, 3.001, 3.001), 3)


@given(st.floats(0.0005, 0.2), st.floats(0, 0.5), st.integers(1, 4), st.integers(2, 12))
def test_what_still_falls_is_not_stopped_however_slowly_and_noisily(
    fall: float, noise: float, patience: int, count: int
) -> None:
    assert not exhausted(run(*(5 - fall * n for n in range(count)), noise=noise), patience)


def test_a_gain_within_the_noise_is_none() -> None:
    """Lower by a thirtieth of an error, and then up again."""
    history = run(5, 3, 2.99, 3.1)
    history[20][HELD_OUT] = flat(2.99, 9.0)
    assert exhausted(history, 2)
    history[20][HELD_OUT] = flat(2.99)
    assert not exhausted(history, 2)


def test_a_run_that_was_given_another_length_has_all_its_patience_again() -> None:
    history = run(5, 3, 4, 4.1, 4.2, 4.3)
    assert exhausted(history, 2, since=0)
    assert exhausted(history, 2, since=30)
    assert not exhausted(history, 2, since=40)


# --- when there is one


def interval(steps: int, total: int, saving: int, cost: float) -> int:
    return validation.interval(parse({"validation_steps": steps}), total, saving, cost)


def test_checkpoints_and_validations_fall_together() -> None:
    assert interval(100, 1000, 100, 0) == 100
    assert interval(50, 1000, 100, 0) == 50
    assert interval(30, 1000, 100, 0) == 34  # 34, 68, 100, 134, ...
    assert interval(100, 400, 80, 0) == 80
    assert interval(250, 1000, 100, 0) == 200
    assert interval(10_000, 400, 80, 0) > 400
    due = [step for step in range(1, 251) if validation.due(step, 34, 100)]
    assert due == [34, 68, 100, 134, 168, 200, 234]


@given(st.integers(1, 500), st.integers(5, 5000), st.integers(1, 1000), st.floats(0.01, 50))
def test_validations_take_a_twentieth_of_the_time_and_miss_no_checkpoint_without_need(
    steps: int, total: int, save_steps: int, cost: float
) -> None:
    saving = max(1, min(save_steps, total // 5))
    every = interval(steps, total, saving, cost)
    made = 2 + sum(validation.due(step, every, saving) for step in range(1, total))
    assert made == 2 or made * cost <= validation.SHARE * total + 1e-6
    assert every % saving == 0 or all(validation.due(step, every, saving) for step in range(saving, total, saving))


# --- what is kept


def test_what_was_written_is_read_back_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    assert validation.read(tmp_path) == Record()
    history = run(5, 4)
    history[10][TRAIN] = {"a@1": math.inf}
    validation.write(tmp_path, Record(history, 2.5))
    found = validation.read(tmp_path)
    assert found.cost == 2.5
    assert found.steps[0] == history[0]
    assert found.steps[10][HELD_OUT] == history[10][HELD_OUT]
    assert math.isnan(found.steps[10][TRAIN]["a@1"])
    with (tmp_path / validation.FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 20, "held_o')
    assert list(validation.read(tmp_path).steps) == [0, 10]


def test_a_run_that_goes_on_knows_what_came_before_and_one_that_begins_anew_nothing() -> None:
    record = Record(run(5, 4, 3), 2.5)
    assert record.until(10) == Record(run(5, 4), 2.5)
    assert record.until(0) == Record()


def folder_of(run_folder: Path, history: dict[int, Any], kept: list[int]) -> Path:
    validation.write(run_folder, Record(history))
    for step in kept:
        folder = run_folder / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "complete.json").write_text("{}")
    return run_folder


def test_a_run_folder_has_a_best_checkpoint_up_to_each_length(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, run(9, 5, 3, 4, 2), [10, 20, 30, 40])
    found = [validation.of(folder, last) for last in (None, 30, 20)]
    assert [one and one.step for one in found] == [40, 20, 20]
