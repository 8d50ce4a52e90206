"""The checkpoint that is called best, judged on pictures that the run never saw: the benchmark's small form."""

from __future__ import annotations

from pathlib import Path

from benchmarks.early_stop import measure


def test_of_a_run_that_overfits_an_early_checkpoint_is_kept_and_it_is_near_the_best(tmp_path: Path) -> None:
    """Twelve pictures, four held out; half an hour's form of it, with several seeds, is in docs/measurements.md."""
    found = measure(tmp_path, seed=1, unseen=32, draws=4, max_steps=480, lr_scheduler="constant")
    assert found.chosen < found.last
    assert found.losses[found.chosen] < found.losses[found.last]
    assert found.regret < 0.05
