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

from trainer import adapters, checkpoint, export, optim, studio
from trainer.averages import Averages
from trainer.checkpoint import Position
from trainer.config import parse
from trainer.control import Requests
from trainer.events import Checkpoint, Event, Phase, Sample, Validation, Warned
from trainer.gauge import Gauge
from trainer.job import Base, Job, Prompt
from trainer.studio import Studio
from trainer.trained import Trained


class Task:
    """Answers with what it holds, and remembers at which strength it was asked."""

    def __init__(self) -> None:
        self.latents = torch.randn(1, 4, 8, 8)
        self.strengths: list[float] = []
        self.checked = 0

    def sample(self, model: nn.Module, index: int) -> torch.Tensor:
        layer = next(adapters.layers(model))
        self.strengths.append(layer.layer.scaling["default"])
        return self.latents + index

    def validate(self, model: nn.Module) -> tuple[str, dict[str, float]]:
        return "train", {"125": 1.0, "375": 0.5}

    def check(self, model: nn.Module) -> None:
        self.checked += 1


class Room:
    """A studio and all that is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.task, self.seen = folder, Task(), cast("list[Event]", [])
        self.model = nn.Sequential(nn.Linear(3, 2))
        adapters.inject(self.model, lambda name, module: name == "0", rank=2, alpha=2.0, seed=0)
        self.named = adapters.parameters(self.model)
        config = parse({"sample_strength": 0.5, "output_dir": (folder / "x").as_posix()})
        self.optimizer = optim.make(config, list(self.named.values()))
        self.job = Job(
            config,
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

    def studio(self, decode: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Studio:
        run = SimpleNamespace(
            model=self.model, optimizer=self.optimizer, parameters=list(self.named.values()), task=self.task,
            accelerator=self.accelerator, averages=self.averages, gauge=Gauge(torch.device("cpu")),
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
    return Room(tmp_path / "r\u00fcn \u8dd1")


def test_a_validation_is_told_with_its_mean(room: Room) -> None:
    room.studio().validate(Position(step=4))
    assert room.seen == [Validation(4, "train", 0.75, {"125": 1.0, "375": 0.5})]


def test_nothing_is_dropped_out_of_what_is_shown_and_saved(room: Room) -> None:
    """And the training goes on with dropout, also after a validation that failed."""
    training: list[bool] = []
    room.model.train()
    for name in ("validate", "sample", "check"):
        answer = getattr(room.task, name)
        setattr(room.task, name, lambda *a, answer=answer: (training.append(room.model.training), answer(*a))[1])
    studio = room.studio()
    room.step()
    studio.validate(Position(step=1))
    studio.sample(Position(step=1))
    studio.save(Position(step=1))
    assert training == [False] * 4
    assert room.model.training
    room.task.validate = lambda model: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        studio.validate(Position(step=2))
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


def test_a_pause_moves_the_optimizer_too(room: Room) -> None:
    room.step()
    room.studio()._move("meta")
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
