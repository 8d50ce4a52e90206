"""The guide's troubles, got into by real trainings on the embedded base; and the one thing to change next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from trainer import __main__ as program
from trainer import advisor, events, run, validation
from trainer import job as jobs
from trainer.advisor import Case, Diagnosis, Length, diagnosis
from trainer.config import TrainConfig, parse
from trainer.demo import BASE, world
from trainer.events import Advised, Event, RunFailed, RunFinished, RunStarted, Step, Validation
from trainer.tasks.diffusion import Diffusion

Train = Callable[..., "Done"]


@dataclass
class Done:
    """A run that has ended, and what it told."""

    folder: Path
    told: list[Event]

    @property
    def said(self) -> list[Advised]:
        return [event for event in self.told if isinstance(event, Advised) and event.kind == "diagnosis"]

    def case(self, **settings: Any) -> Case:
        """The same story, as if it had been told by a run with other settings."""
        job = jobs.load(self.folder)
        story = list(events.history(self.folder / "events.jsonl"))
        return advisor.case(replace(job, config=job.config.but(**settings)), story)


@dataclass
class EndedBefore:
    """A run that failed otherwise than by itself."""

    done: Done
    end: RunFailed

    def case(self, **settings: Any) -> Case:
        case = self.done.case(**settings)
        return replace(case, story=[*case.story[:-1], self.end])


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains on so many neon pictures, some of them held out; a failure is an end like any other."""
    root = tmp_path_factory.mktemp("tr\u00e4ining")

    def go(name: str, pictures: int, held_out: int, **settings: Any) -> Done:
        data = root / f"{pictures} \u56fe"
        data.mkdir(exist_ok=True)
        for number in range(pictures):
            drawing = world.draw(7_000 + number, style=world.UNKNOWN_STYLE)
            drawing.image.save(data / f"{number}.png")
            (data / f"{number}.txt").write_text(drawing.caption, encoding="utf-8")
        config = parse(
            {
                "base_model": BASE.as_posix(), "train_data_dir": data.as_posix(), "cache_dir": (root / "c").as_posix(),
                "output_dir": (root / name).as_posix(), "resolution": 128, "validation_images": held_out,
                "sample_every": 0, "save_steps": 1000, "gradient_checkpointing": False, "mixed_precision": "no",
                "warmup_steps": 0, "log_interval": 1, "epochs": 1000, "lr_scheduler": "constant", **settings,
            }
        )  # fmt: skip
        told: list[Event] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(validation, "SHARE", 10.0)  # of so short a run
            run.start(config, [told.append])
        return Done(config.output_dir, told)

    return go


def found(case: Case) -> Diagnosis:
    diagnosis = advisor.diagnose(case)
    assert diagnosis is not None
    return diagnosis


def next_fields(done: Done | EndedBefore, ways: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be changed next, for a run that has each of these settings already."""
    return [found(done.case(**settings)).field for settings in ways]


# --- out of memory


@pytest.fixture
def out_of_memory(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """A toy run that is out of memory from its second step on, whatever it gives up."""

    def go(**settings: Any) -> Done:
        loss, calls = Diffusion.loss, 0

        def full(self: Diffusion, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return loss(self, model, batch)

        told: list[Event] = []
        with monkeypatch.context() as patch:
            patch.setattr(Diffusion, "loss", full)
            run.start(config.but(**settings), [told.append])
        return Done(config.output_dir, told)

    return go


def test_out_of_memory(out_of_memory: Callable[..., Done]) -> None:
    done = out_of_memory(batch_size=4, gradient_checkpointing=False)
    (said,) = done.said
    assert isinstance(done.told[-1], RunFailed)
    # What the guide would change it has changed by itself.
    assert said.message.startswith("out of memory: out of memory while ")
    assert said.cure == "change one thing: resolution: 64"
    end = RunFailed("out of memory: CUDA out of memory. Tried to allocate 2 GiB")
    done = EndedBefore(done, end)
    assert found(done.case(batch_size=3)).change == "gradient_checkpointing: true, the same run"
    checkpointed = done.case(batch_size=3, gradient_checkpointing=True)
    assert found(checkpointed).change == "batch_size: 1 with gradient_accumulation_steps: 3, the same run"
    assert found(done.case(batch_size=4)).change == ("batch_size: 2 with gradient_accumulation_steps: 2, the same run")
    ways = [
        {"batch_size": 4}, {"batch_size": 2, "gradient_checkpointing": False},
        {"batch_size": 2, "gradient_checkpointing": True}, {"batch_size": 1, "gradient_checkpointing": True},
    ]  # fmt: skip
    assert next_fields(done, ways) == ["batch_size", "gradient_checkpointing", "batch_size", "resolution"]


def test_out_of_memory_on_a_card_in_fp32(out_of_memory: Callable[..., Done]) -> None:
    done = out_of_memory(batch_size=2, gradient_checkpointing=False)
    case = EndedBefore(done, RunFailed("out of memory: CUDA out of memory")).case(mixed_precision="no")
    on_a_card = [replace(e, device="cuda:0") if isinstance(e, RunStarted) else e for e in case.story]
    assert found(replace(case, story=on_a_card)).change == "mixed_precision: fp16"
    assert found(case).field == "gradient_checkpointing"  # a CPU has no fp16


# --- stiff or distorted


@pytest.fixture(scope="module")
def stiff(train: Train) -> Done:
    """One picture is learnt by heart."""
    return train(
        "stiff", 5, 4, max_steps=100, learning_rate=5e-3, batch_size=1, validation_steps=20, lora_targets="conv",
        lora_rank=16,
    )  # fmt: skip


def test_stiff_pictures(stiff: Done) -> None:
    (said,) = stiff.said
    assert said.message.startswith("stiff or distorted pictures are to be expected: it overfits: the held-out loss was")
    # The best step came after few showings only: not too many epochs, but too fast.
    assert said.cure.startswith("change one thing: learning_rate: 2.5e-3")


def test_of_what_is_stiff_the_epochs_then_the_rate_then_the_rank_then_the_pictures(stiff: Done) -> None:
    ways = [
        {"learning_rate": 5e-3}, {"learning_rate": 1.5e-3}, {"learning_rate": 1.5e-3, "lora_rank": 6},
        {"optimizer": "prodigy", "learning_rate": 1.0},
    ]  # fmt: skip
    assert next_fields(stiff, ways) == ["learning_rate", "lora_rank", "train_data_dir", "lora_rank"]
    case = stiff.case(max_steps=None, epochs=200)
    longer = found(replace(case, length=Length(600, 4000)))
    assert longer.field == "epochs"
    assert int(longer.change.removeprefix("epochs: ")) < 200


# --- hardly any effect


@pytest.fixture(scope="module")
def faint(train: Train) -> Done:
    return train("faint", 8, 2, max_steps=1, learning_rate=6.5e-4, batch_size=4, validation_steps=1)


def test_hardly_any_effect(faint: Done) -> None:
    (said,) = faint.said
    assert said.message.startswith("hardly any effect is to be expected: the loss on fixed pictures went from 0.1")
    assert said.cure == "change one thing: lora_rank: 16"


def test_for_more_effect_the_rank_then_the_epochs_then_the_captions(faint: Done) -> None:
    case = faint.case(lora_rank=16)
    assert found(case).field == "max_steps"
    assert found(faint.case(lora_rank=16, max_steps=None, epochs=3)).field == "epochs"
    long = replace(case, length=Length(1000, 4000))
    assert found(long).change == "look at the captions: one precise text a picture"
    without = replace(long, facts=replace(long.facts, captioned=0))
    assert found(without).field == "caption_source"
    assert found(without).change.startswith("write what each picture shows")


def test_a_run_that_ended_while_it_was_learning(train: Train) -> None:
    done = train("short", 8, 2, max_steps=3, learning_rate=1e-3, batch_size=4, validation_steps=3)
    (said,) = done.said
    assert said.message.endswith("and they were shown 9 times; 1,500 are usual")
    assert said.cure == "change one thing: max_steps: 500"


# --- the loss does not move


def test_a_rate_of_the_wrong_size(train: Train) -> None:
    done = train("still", 8, 2, max_steps=20, learning_rate=2e-5, batch_size=4, validation_steps=10)
    (said,) = done.said
    assert said.message.startswith("the loss does not move: ")
    assert said.message.endswith("at a learning_rate of 2e-5, 95 times below the usual")
    assert said.cure == "change one thing: learning_rate: 5.3e-3"


def test_an_adapter_that_cannot_move(train: Train) -> None:
    done = train("frozen", 8, 2, max_steps=20, lora_alpha=1e-3, learning_rate=4e-3, batch_size=4, validation_steps=10)
    (said,) = done.said
    assert said.message == "the loss does not move: what is learnt is scaled by alpha / rank, 0.0001"
    assert said.cure == "change one thing: lora_alpha: 8"
    # The same story of other settings that leave nothing to move.
    ways: list[dict[str, Any]] = [
        {"lora_alpha": None, "max_grad_norm": 1e-9},
        {"lora_alpha": None, "lora_dropout": 0.999},
    ]
    assert next_fields(done, ways) == ["max_grad_norm", "lora_dropout"]


def test_the_wrong_device(faint: Done) -> None:
    diagnosis = found(replace(faint.case(lora_rank=16), cards=True))
    assert (diagnosis.trouble, diagnosis.change) == ("still", "device: auto")


def test_a_loss_that_runs_away(train: Train) -> None:
    done = train("away", 6, 4, max_steps=16, learning_rate=0.1, batch_size=2, validation_steps=0)
    (said,) = done.said
    assert said.message.endswith("at a learning_rate of 0.1, 18 times above the usual")
    assert said.cure == "change one thing: learning_rate: 3.7e-3"
    # One that rises later, at a usual rate: it is the number format, or half of it.
    case = done.case(learning_rate=4e-3)
    rising = [Step(n, 40, 0, 0.1 + 0.01 * n, 1e-4, 1.0, 1.0, 0, 0.0) for n in range(40)]
    case = replace(case, story=[*(e for e in case.story if not isinstance(e, Step)), *rising, case.story[-1]])
    assert (found(case).trouble, found(case).change) == ("away", "learning_rate: 2e-3")
    in_fp16 = [replace(e, precision="fp16") if isinstance(e, RunStarted) else e for e in case.story]
    assert found(replace(case, story=in_fp16)).field == "mixed_precision"
    # On fixed pictures too, where it was much too fast from the beginning, so that nothing rises later.
    fixed = [Validation(step, "train", loss) for step, loss in ((0, 0.16), (140, 1.02))]
    quiet = [event for event in case.story if not isinstance(event, Step | Validation)]
    said = found(replace(case, story=[*quiet[:-1], *fixed, quiet[-1]]))
    assert said.message == "the loss runs away: on fixed pictures it rose from 0.1600 to 1.0200"
    assert said.change == "learning_rate: 2e-3"


def test_steps_that_are_not_finite(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: list[Event]) -> None:
    loss = Diffusion.loss
    monkeypatch.setattr(Diffusion, "loss", lambda self, model, batch: loss(self, model, batch) * torch.nan)
    end = run.start(config.but(learning_rate=9.0, epochs=30), [seen.append])
    assert isinstance(end, RunFailed)
    (said,) = [e for e in seen if isinstance(e, Advised) and e.kind == "diagnosis"]
    assert said.field == "learning_rate"


# --- as it should be


@pytest.fixture(scope="module")
def healthy(train: Train) -> Done:
    return train(
        "healthy", 8, 2, max_steps=40, learning_rate=4e-3, batch_size=4, validation_steps=20, lr_scheduler="cosine"
    )


def test_a_loss_that_rose_is_not_called_healthy() -> None:
    """By no more than chance, so that no other diagnosis speaks of it."""
    end = RunFinished(20, "lora.safetensors")
    told = [Validation(step, "held_out", loss) for step, loss in ((0, 0.12), (20, 0.1215))]
    case = SimpleNamespace(validations=lambda signal: told, facts=SimpleNamespace(what="picture"))
    assert diagnosis._healthy(cast(Any, case), end) is None


def test_a_healthy_run(healthy: Done) -> None:
    (said,) = healthy.said
    assert said.message.startswith("nothing to change: the held-out loss fell from 0.1")
    assert (said.field, said.cure) == ("", "")
    assert isinstance(healthy.told[-1], RunFinished)
    assert healthy.told.index(said) == len(healthy.told) - 2


def test_the_command_says_it_again(healthy: Done, stiff: Done, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["advise", str(healthy.folder)]) == 0
    assert capsys.readouterr().out.rstrip().split("\n")[-1].startswith("diagnosis: nothing to change: ")
    assert program.main(["advise", str(stiff.folder)]) == 0
    out = capsys.readouterr().out
    assert "warning: max_steps: pictures are shown 100 times in all" in out
    assert out.rstrip().endswith("-> change one thing: learning_rate: 2.5e-3")


def test_of_other_failures_nothing_is_said(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(Diffusion, "batch", broken)
    told: list[Event] = []
    assert isinstance(run.start(config, [told.append]), RunFailed)
    assert not [e for e in told if isinstance(e, Advised) and e.kind == "diagnosis"]


def test_without_validation_only_a_clear_loss_says_something(faint: Done) -> None:
    case = faint.case()
    quiet = [e for e in case.story if not hasattr(e, "signal")]
    assert advisor.diagnose(replace(case, story=quiet)) is None
    flat = [Step(n, 40, 0, 0.1 + 0.01 * (n % 2), 1e-4, 1.0, 1.0, 0, 0.0) for n in range(40)]
    assert found(replace(case, story=[*quiet[:-1], *flat, quiet[-1]])).trouble == "faint"
