"""A run that is far too long hands on a checkpoint that is good: the small form of ``benchmarks/early_stop.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.early_stop import measure
from trainer import validation


def test_of_a_run_that_is_too_long_a_good_checkpoint_is_called_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it holds out, and by eight pictures of that style that it never saw."""
    monkeypatch.setattr(validation, "SHARE", 1.0)  # so short a run would be validated at its ends alone
    found = measure(
        tmp_path,
        1,
        pictures=8,
        unseen=8,
        draws=4,
        max_steps=180,
        learning_rate=6e-3,
        lr_scheduler="constant",
        resolution=64,
    )
    assert found.own_regret <= 0.02
    assert found.chosen < found.last
    assert found.losses[found.chosen] < 0.9 * found.losses[found.last]
    assert found.losses[found.chosen] < 0.5 * found.losses[0]
