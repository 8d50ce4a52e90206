"""What ``auto`` becomes: by the pictures and the base; and by the memory only what does not change the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import REPO
from trainer import advisor, events, job, run
from trainer.advisor import Facts, Room
from trainer.config import AUTO_FIELDS, TrainConfig, parse
from trainer.dataset import scan
from trainer.errors import ConfigError
from trainer.events import Chosen, Event, RunFinished, RunStarted
from trainer.figures import BASES, GIB
from trainer.peek import Peek, peek

SD15, SDXL = (Peek(name, BASES[name]) for name in ("sd15", "sdxl"))
DEMO = peek(REPO / "trainer" / "demo" / "base.safetensors")
CPU = Room()
EVERYTHING = parse({"auto": True})


def of(different: int, *, showings: int = 0, side: int = 2000) -> Facts:
    """A data set of so many pictures, all different."""
    return Facts(different, different, showings or different, different, different, (side,) * different)


def chosen(facts: Facts, base: Peek = SD15, room: Room = CPU, **given: Any) -> TrainConfig:
    return advisor.decide(parse({"auto": True, **given}), facts, base, room)[0]


def test_everything_is_chosen_with_its_reason() -> None:
    config, choices = advisor.decide(EVERYTHING, of(12, side=128), DEMO, CPU)
    assert config.auto == ()
    assert {choice.field for choice in choices} == set(AUTO_FIELDS)
    assert all(choice.why for choice in choices)
    assert all(getattr(config, choice.field) == choice.value for choice in choices)
    found = (config.lora_rank, config.alpha, config.window, config.resolution, config.validation_images, config.epochs)
    assert found == (8, 8, 4, 128, 1, 136)
    assert config.learning_rate == 5.3e-3


def test_what_is_given_stays_and_the_rest_follows_from_it() -> None:
    given = {"lora_rank": 4, "batch_size": 1, "gradient_accumulation_steps": 2, "validation_images": 0}
    config, choices = advisor.decide(parse({"auto": True, **given}), of(40), SD15, CPU)
    assert {field: getattr(config, field) for field in given} == given
    assert not given.keys() & {choice.field for choice in choices}
    assert config.learning_rate == 2e-4  # for the effective batch that was given
    assert advisor.decide(parse({}), of(40), SD15, CPU) == (parse({}), ())


@pytest.mark.parametrize(("base", "rate"), [(SD15, 2.8e-4), (SDXL, 1e-4)])
def test_fifty_pictures_of_a_style(base: Peek, rate: float) -> None:
    config = chosen(of(50), base)
    assert (config.lora_rank, config.alpha, config.window, config.learning_rate) == (16, 16, 4, rate)
    assert config.validation_images == 5
    assert config.resolution == {"sd15": 512, "sdxl": 1024}[base.family]
    assert 1000 <= config.epochs * 45 <= 1150


def test_few_pictures_fill_no_larger_batch() -> None:
    assert [chosen(of(n)).window for n in (1, 2, 3, 4, 5)] == [1, 2, 3, 4, 4]


@given(
    st.integers(1, 300),
    st.sampled_from([SD15, SDXL, DEMO]),
    st.integers(0, 80),
    st.sets(st.sampled_from(["batch_size", "gradient_accumulation_steps", "gradient_checkpointing"])),
)
def test_the_run_does_not_depend_on_the_memory(different: int, base: Peek, gib: int, given: set[str]) -> None:
    fields = {name: True if name == "gradient_checkpointing" else 2 for name in given}
    here = chosen(of(different), base, Room("cuda:0", gib * GIB), **fields)
    there = chosen(of(different), base, Room("cpu", 0), **fields)
    assert here.identity() == there.identity()
    assert (here.epochs, here.window) == (there.epochs, there.window)


def test_less_memory_cuts_the_batch_before_it_checkpoints() -> None:
    ways = []
    for gib in (80, 24, 20, 16, 12, 10, 8, 6):
        config = chosen(of(50), SDXL, Room("cuda:0", gib * GIB))
        ways.append((config.gradient_checkpointing, -config.batch_size))
        assert config.window == 4
    assert ways == sorted(ways)
    assert ways[0] == (False, -4)
    assert ways[-1] == (True, -1)


def test_what_does_not_fit_is_said_to() -> None:
    _, choices = advisor.decide(EVERYTHING, of(50), SDXL, Room("cuda:0", 4 * GIB))
    (why,) = [choice.why for choice in choices if choice.field == "batch_size"]
    assert why.endswith("of the 4.0 that are free: it may not fit")


def test_methods_and_optimizers_get_what_suits_them() -> None:
    assert chosen(of(12), optimizer="prodigy").learning_rate == 1.0
    assert chosen(of(12), optimizer="lion").learning_rate == 2.8e-5
    rslora = chosen(of(12), lora_method="rslora")
    assert rslora.alpha == pytest.approx(8**0.5, abs=0.01)
    assert rslora.learning_rate == 2.8e-4
    # Each layer's alpha is its own rank.
    assert chosen(of(12), lora_ranks={"mid_block": 16}).lora_alpha is None


def test_a_rate_that_does_not_go_with_what_is_given_is_an_error() -> None:
    given = {"optimizer": "prodigy", "train_text_encoder": True, "text_encoder_learning_rate": 1e-5}
    with pytest.raises(ConfigError, match="prodigy has one rate for all"):
        chosen(of(12), **given)


# --- facts


def test_files_that_look_alike_count_once(tmp_path: Path, picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder(tmp_path / "d\u00e4ta", sizes=((128, 128),) * 4)
    first = Image.open(folder / "picture 0.png")
    first.resize((256, 256), Image.Resampling.BICUBIC).save(folder / "larger.png")
    Image.fromarray(np.asarray(first) // 16 * 16).save(folder / "other bytes.jpg", quality=95)
    (folder / "the same.png").write_bytes((folder / "picture 1.png").read_bytes())
    items = scan(folder, repeats=2).items
    found = advisor.facts(items)
    assert (found.images, found.different, found.alike, found.showings) == (7, 4, 3, 14)
    assert advisor.facts(items, alike=False).different == 6


def test_captions_and_sizes(tmp_path: Path, picture_folder: Callable[..., Path]) -> None:
    folder = picture_folder(tmp_path / "x", sizes=((128, 128), (256, 64), (512, 512)))
    (folder / "picture 0.txt").unlink()
    found = advisor.facts(scan(folder, trigger_word="zwx").items, "zwx")
    assert (found.captioned, found.captions, found.sides) == (2, 3, (128, 128, 512))
    assert [found.smaller(side) for side in (64, 129, 512, 513)] == [0, 2, 2, 3]


# --- in a run


def test_a_run_says_what_was_chosen_and_keeps_it(config: TrainConfig, seen: list[Event]) -> None:
    plain = {name: value for name, value in config.to_plain().items() if name not in AUTO_FIELDS}
    auto = parse({**plain, "auto": True, "max_steps": 2, "lora_rank": 4})
    assert isinstance(run.start(auto, [seen.append]), RunFinished)
    told = [event for event in seen if isinstance(event, Chosen)]
    assert {event.field for event in told} == set(AUTO_FIELDS) - {"lora_rank"}
    (started,) = [event for event in seen if isinstance(event, RunStarted)]
    assert seen.index(told[-1]) < seen.index(started)
    story = list(events.history(auto.output_dir / "events.jsonl"))
    assert [event for event in story if isinstance(event, Chosen)] == told
    kept = job.load(auto.output_dir)
    assert kept.config.auto == ()
    assert [Chosen(*choice) for choice in kept.choices] == told
    # The same again is found, not trained anew; whatever the memory says.
    assert isinstance(run.start(auto, []), RunFinished)
    assert replace(kept, choices=()).run_id == kept.run_id
    assert len([e for e in events.history(auto.output_dir / "events.jsonl") if isinstance(e, RunStarted)]) == 1


def test_the_resolution_that_is_chosen_is_the_one_that_is_trained(config: TrainConfig) -> None:
    auto = config.but(resolution="auto", max_steps=1)
    run.start(auto, [])
    kept = job.load(auto.output_dir)
    assert kept.config.resolution == 64  # as the toy base draws
    assert {item.bucket for item in kept.items} == {(64, 64)}
