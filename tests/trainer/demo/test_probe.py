from __future__ import annotations

import json

import pytest
import torch

from trainer.demo import probe, probe_training, world


def test_the_file_is_small_and_states_its_accuracy():
    assert probe.FILE.stat().st_size < 1_000_000
    for key in ("accuracy", "accuracy_reconstructed"):
        stated = json.loads(probe.header()[key])
        assert set(stated) == set(probe.LABELS)
        assert min(stated.values()) > 0.9


def test_it_judges_freshly_drawn_pictures_as_well_as_it_states():
    pixels, answers = probe_training.labelled(range(8_000_000, 8_000_300))
    measured = probe_training.accuracy(probe.load(), pixels.float() / 255, answers)
    stated = json.loads(probe.header()["accuracy"])
    for name, share in measured.items():
        assert share > stated[name] - 0.05, name


def test_neon_is_told_from_a_line_drawing_on_a_dark_ground():
    drawn = {
        style: torch.stack(
            [
                torch.from_numpy(world.draw(9_000_000 + n, style=style, background="black").pixels).permute(2, 0, 1)
                for n in range(24)
            ]
        ).float()
        / 255
        for style in ("line", world.UNKNOWN_STYLE)
    }
    for style, pictures in drawn.items():
        judged = probe.judge(pictures)["style"]
        assert sum(answer == style for answer in judged) >= 22


def test_probabilities_sum_to_one_in_the_order_of_the_labels():
    given = probe.probabilities(torch.rand(2, 3, world.SIDE, world.SIDE))
    for name, labels in probe.LABELS.items():
        assert given[name].shape == (2, len(labels))
        assert torch.allclose(given[name].sum(1), torch.ones(2), atol=1e-5)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="128"):
        probe.judge(torch.rand(1, 3, 64, 64))
