"""What happens between two steps, with a model of one layer and a task that answers what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from trainer import adapters, checkpoint, export, optim, studio, validation
from trainer.averages import Averages
from trainer.checkpoint import Position
from trainer.config import parse
from trainer.control import Requests
from trainer.events import Checkpoint, Event, Phase, Sample, Validation, Warned
from trainer.gauge import Gauge
from trainer.job import Base, Job, Prompt
from trainer.ranks import Ranks
from trainer.studio import Studio, move
from trainer.trained import Trained


class Task:
    """Answers with what it holds, and remembers at which strength it was asked."""

    def __init__(self) -> None:
        self.latents = torch.randn(1, 4, 8, 8)
        self.strengths: list[float] = []
        self.checked = 0
        self.loss = 1.0

    def sample(self, model: nn.Module, index: int) -> torch.Tensor:
        layer = next(adapters.layers(model))
        self.strengths.append(layer.layer.scaling["default"])
        return self.latents + index

    def validate(self, model: nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
        yield "train", {"a@125": 1.0 * self.loss, "b@125": 0.5 * self.loss, "a@1000": 0.3 * self.loss}
        yield "drift", {"a@125": 0.0}

    def band(self, pair: str) -> str:
        return pair.partition("@")[2]

    def check(self, model: nn.Module) -> None:
        self.checked += 1


class Room:
    """A studio and all that is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.task, self.seen = folder, Task(), cast("list[Event]", [])
        self.model = nn.Sequential(nn.Linear(3, 2))
        adapters.inject(self.model, lambda name, module: name == "0", rank=2, alpha=2.0, seed=0)
        self.named = adapters.parameters(self.model)
        self.position, self.step_seconds = Position(total=500), 1e6
        self.config = parse({"sample_strength": 0.5, "output_dir": (folder / "x").as_posix()})
        self.optimizer = optim.make(self.config, list(self.named.values()))
        self.job = Job(
            self.config,
            Base(Path("/b"), "sd15", "c"),
            (),
            (Prompt("a house", "k", "", "e"), Prompt("b", "l", "", "e")),
            "e",
            folder,
        )
        self.accelerator = SimpleNamespace(
            device=torch.device("cpu"), scaler=None, autocast=nullcontext, mixed_precision="no"
        )
        family = SimpleNamespace(export_key=lambda name, part: f"lora_{part}_{name}")
        self.trained = Trained(cast(Any, family), {"unet": self.model})
        self.averages = Averages(list(self.named.values()), self.optimizer, 0.0)
        self.requests: Callable[[], Requests] = Requests
        self.recorder: Any = None

    def studio(self, decode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Studio:
        run = SimpleNamespace(
            model=self.model, optimizer=self.optimizer, parameters=list(self.named.values()), task=self.task,
            accelerator=self.accelerator, averages=self.averages, gauge=Gauge(torch.device("cpu")), ranks=Ranks(),
            position=self.position, config=self.config, step_seconds=self.step_seconds, recorder=self.recorder,
        )  # fmt: skip
        return Studio(
            self.job, self.folder, cast(Any, run), self.trained, self.seen.append, lambda: self.requests(), decode,
        )  # fmt: skip

    def step(self) -> None:
        for parameter in self.named.values():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """In which a step takes so long that a validation is nothing beside it."""
    folder = tmp_path / "r\u00fcn \u8dd1"
    folder.mkdir()
    return Room(folder)


# --- validation


def test_a_validation_is_told_signal_by_signal_with_its_bands(room: Room) -> None:
    assert not room.studio().validate(Position(step=100, cursor=100, total=500))
    assert room.seen == [
        Validation(100, "train", 0.6, {"125": 0.75, "1000": 0.3}),
        Validation(100, "drift", 0.0, {"125": 0.0}),
    ]


def validated(room: Room, *steps: int, of: Studio | None = None, total: int = 500) -> list[int]:
    """The steps at which there was a validation, when the loop asked for one after each of these."""
    found = of or room.studio()
    before = len(room.seen)
    for step in steps:
        found.validate(Position(step=step, cursor=step, total=total))
    return [event.step for event in room.seen[before:] if isinstance(event, Validation) and event.signal == "train"]


def test_validations_are_due_with_the_checkpoints_at_first_and_at_last(room: Room) -> None:
    room.config = room.config.but(save_steps=60, validation_steps=20)
    assert validated(room, *range(131), 500) == [0, 20, 40, 60, 80, 100, 120, 500]


def test_what_they_cost_is_measured_once_and_counts_for_the_whole_run(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation that takes as long as ten steps: two of 500 steps' twentieth."""
    clock = iter(float(n) for n in range(10**6))  # each look at it takes a second, so each signal does
    monkeypatch.setattr(studio.time, "perf_counter", lambda: next(clock))
    room.step_seconds = 4 / 30  # three pairs in a second: four take 4/3
    assert validated(room, *range(301), 500) == [0, 500]
    (said,) = [event.message for event in room.seen if isinstance(event, Warned)]
    assert said == (
        "validation_steps: 100, but a validation takes as long as 10.0 steps; there is one before the first step and "
        "after the last, so that they take 5% of the time"
    )
    room.step_seconds = 1e6  # another process finds another machine
    room.position = Position(step=100, total=500)
    assert validated(room, *range(100, 301)) == []
    room.position = Position(step=100, total=5000)  # but a longer run has room for more
    assert validated(room, *range(100, 1001), total=5000) == [300, 600, 900]


def test_a_run_that_goes_on_measures_what_is_missing_and_nothing_twice(room: Room) -> None:
    """Killed between a checkpoint and its validation; steps that were lost are done again, and so are theirs."""
    assert validated(room, 0, 100, 200) == [0, 100, 200]
    room.position = Position(step=200, total=500)
    assert validated(room, 200) == []
    room.position = Position(step=100, total=500)
    assert validated(room, 100, 200) == [200]
    room.position = Position(step=300, total=500)
    assert validated(room, 300) == [300]
    room.position = Position(total=500)
    assert validated(room, 0) == [0]
    assert list(validation.read(room.folder).steps) == [0]


def test_half_a_line_of_a_full_disk_costs_no_other(room: Room) -> None:
    assert validated(room, 0, 100) == [0, 100]
    with (room.folder / validation.FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 200, "held_o')
    room.position = Position(step=100, total=500)
    assert validated(room, 200, 300) == [200, 300]
    assert list(validation.read(room.folder).steps) == [0, 100, 200, 300]


def test_a_studio_says_when_training_on_is_of_no_use_and_again_in_a_new_process(room: Room) -> None:
    room.config = room.config.but(early_stopping_patience=2)
    found, answers = room.studio(), []
    for step, loss in ((0, 5.0), (100, 3.0), (200, 3.5), (300, 3.6)):
        room.task.loss = loss
        answers.append(found.validate(Position(step=step, cursor=step, total=500)))
    assert answers == [False, False, False, True]
    room.position = Position(step=300, total=500)
    again = room.studio()
    assert again.validate(Position(step=300, cursor=300, total=500))
    assert again.stopped == found.stopped
    assert found.stopped.startswith("2 validations in a row were no better than step 100")
    assert not room.studio().validate(Position(step=300, cursor=300, total=900, extended_at=300))


def test_the_outcome_names_the_checkpoint_to_keep_and_where_it_lies(room: Room) -> None:
    assert room.studio().outcome(Position(step=3)) == {}
    room.config = room.config.but(save_steps=1, validation_steps=1)
    found = room.studio()
    for step, loss in ((0, 5.0), (1, 3.0), (2, 3.5)):
        room.task.loss = loss
        if step:
            room.step()
            found.save(Position(step=step, cursor=step, total=2))
        found.validate(Position(step=step, cursor=step, total=2))
    outcome = found.outcome(Position(step=2))
    assert (outcome["best"]["step"], outcome["best"]["path"]) == (1, "checkpoints/step-000001/lora.safetensors")
    assert "stopped" not in outcome
    room.task.loss = 2.0
    room.step()
    found.save(Position(step=3, cursor=3, total=3))
    found.validate(Position(step=3, cursor=3, total=3))
    assert found.outcome(Position(step=3))["best"]["path"] == "x.safetensors"


def test_nothing_is_dropped_out_of_what_is_shown_and_saved(room: Room) -> None:
    """And the training goes on with dropout, also after a validation that failed."""
    training: list[bool] = []
    room.model.train()
    for name in ("validate", "sample", "check"):
        answer = getattr(room.task, name)
        setattr(room.task, name, lambda *a, answer=answer: (training.append(room.model.training), answer(*a))[1])
    studio = room.studio()
    room.step()
    studio.validate(Position(step=1, cursor=1))
    studio.sample(Position(step=1))
    studio.save(Position(step=1))
    assert training == [False] * 4
    assert room.model.training
    room.task.validate = lambda model: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        studio.validate(Position(step=2, cursor=2))
    assert room.model.training


def test_samples_are_drawn_at_the_config_s_strength_and_written(room: Room) -> None:
    room.studio(lambda latents: torch.rand(1, 3, 16, 8)).sample(Position(step=40))
    assert room.task.strengths == [0.5, 0.5]
    assert [layer.layer.scaling["default"] for layer in adapters.layers(room.model)] == [1.0]
    told = [e for e in room.seen if isinstance(e, Sample)]
    assert told == [
        Sample(40, 0, "a house", "samples/step-000040-0.safetensors", "samples/step-000040-0.png"),
        Sample(40, 1, "b", "samples/step-000040-1.safetensors", "samples/step-000040-1.png"),
    ]
    assert torch.equal(load_file(room.folder / told[1].latents)["latents"], room.task.latents + 1)
    with Image.open(room.folder / told[0].image) as picture:
        assert picture.size == (8, 16)
    assert not any(isinstance(e, Warned) for e in room.seen)


def test_without_a_vae_only_the_latents_are_written(room: Room) -> None:
    room.studio().sample(Position(step=1))
    assert [e.image for e in room.seen if isinstance(e, Sample)] == ["", ""]
    assert sorted(p.suffix for p in (room.folder / "samples").iterdir()) == [".safetensors"] * 2


@pytest.mark.parametrize(
    ("latents", "pixels", "said"),
    [
        (torch.full((1, 4, 8, 8), torch.nan), torch.rand(1, 3, 8, 8), "is not finite"),
        (torch.randn(1, 4, 8, 8), torch.ones(1, 3, 8, 8), "is of one colour"),
    ],
)
def test_a_sample_that_is_no_picture_is_said_and_ends_no_run(
    room: Room, latents: torch.Tensor, pixels: torch.Tensor, said: str
) -> None:
    room.task.latents = latents
    room.studio(lambda _: pixels).sample(Position(step=40))
    warned = [e.message for e in room.seen if isinstance(e, Warned)]
    assert len(warned) == 2
    assert warned[0].startswith(f"the sample at step 40 {said} ('a house'); ")
    told = [e for e in room.seen if isinstance(e, Sample)]
    assert len(told) == 2
    assert all(torch.isfinite(load_file(room.folder / e.latents)["latents"]).all() for e in told)
    assert all((room.folder / e.image).is_file() for e in told)


def test_a_checkpoint_holds_all_that_training_goes_on_from(room: Room) -> None:
    room.step()
    room.accelerator.scaler = SimpleNamespace(state_dict=lambda: {"scale": 2.0})
    room.studio().save(Position(step=1, cursor=2, total=9))
    assert room.task.checked == 1
    state = checkpoint.load(room.folder, 1)
    assert state.position == Position(step=1, cursor=2, total=9)
    assert state.scaler == {"scale": 2.0}
    assert all(torch.equal(state.adapter[name], p) for name, p in room.named.items())
    assert set(state.optimizer) == {f"{n}|{entry}" for n in room.named for entry in ("step", "exp_avg", "exp_avg_sq")}
    lora, header = export.read(checkpoint.folder_of(room.folder, 1) / "lora.safetensors")
    assert header["ss_steps"] == "1"
    (told,) = room.seen
    assert isinstance(told, Checkpoint)
    assert (told.step, told.path) == (1, "checkpoints/step-000001")
    assert told.change == pytest.approx(export.change_norm(lora))


def test_before_the_first_step_there_is_nothing_to_save(room: Room) -> None:
    room.studio().save(Position(step=0))
    assert room.seen == []
    assert not (room.folder / "checkpoints").exists()


@pytest.mark.parametrize("end", [Requests(), Requests(pause=True, stop=True)], ids=["go on", "stop"])
def test_a_pause_gives_the_device_back_until_it_ends(
    room: Room, monkeypatch: pytest.MonkeyPatch, end: Requests
) -> None:
    room.step()
    places: list[str] = []
    monkeypatch.setattr(room.model, "to", lambda device: places.append(str(device)))
    monkeypatch.setattr(studio.time, "sleep", lambda seconds: places.append("asleep"))
    before = {name: p.detach().clone() for name, p in room.named.items()}
    answers: Iterator[Requests] = iter([Requests(pause=True), Requests(pause=True), end])
    room.requests = lambda: next(answers)
    room.studio().pause()
    assert places == ["cpu", "asleep", "asleep", "cpu"]
    assert room.seen == [Phase("paused"), Phase("training")]
    assert all(torch.equal(p, before[name]) for name, p in room.named.items())


def test_a_pause_lets_go_of_the_recordings(room: Room) -> None:
    forgotten: list[bool] = []
    room.recorder = SimpleNamespace(forget=lambda: forgotten.append(True))
    move(room.studio()._run, room.trained, "cpu")
    assert forgotten == [True]


def test_a_pause_moves_the_optimizer_too(room: Room) -> None:
    room.step()
    move(room.studio()._run, room.trained, "meta")
    state = next(iter(room.optimizer.state.values()))
    assert state["exp_avg"].is_meta
    assert state["exp_avg_sq"].is_meta
    assert not state["step"].is_meta


def test_the_lora_is_that_of_the_moment(room: Room) -> None:
    found = room.studio()
    room.step()
    first = found.lora()
    room.step()
    assert not torch.equal(found.lora()["lora_unet_0.lora_up.weight"], first["lora_unet_0.lora_up.weight"])
    assert float(first["lora_unet_0.alpha"]) == 2.0
