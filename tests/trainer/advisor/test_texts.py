"""What is chosen for texts, said of them before, and said of a run after it."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest

from trainer import advisor, events, run
from trainer import job as jobs
from trainer.advisor import Advice, Case, Diagnosis, Facts, Length, Room, rules
from trainer.config import TrainConfig, parse
from trainer.events import Advised, Chosen, Event, RunFailed, RunFinished, Validation
from trainer.figures import GIB
from trainer.job import Base, Job, TextItem
from trainer.languages import toys
from trainer.peek import Peek

SMALL = Peek("llama", 134_500_000, 0, 30 * 576, 49_152)
LARGE = Peek("llama", 7_000_000_000, 0, 32 * 4096, 49_152)


def settings(**given: Any) -> TrainConfig:
    return parse({"task_type": "text-generation", **given})


def texts(count: int, *, length: int = 40, answers: int = 10, repeats: int = 1) -> tuple[TextItem, ...]:
    """Conversations, all different: so many tokens, the last of which are an answer."""
    return tuple(
        TextItem(f"{n}", f"a.jsonl:{n}", (*range(n, n + length),), ((length - answers, length),), repeats)
        for n in range(count)
    )


def of(count: int, **more: Any) -> Facts:
    return advisor.facts_of_texts(texts(count, **more))


def test_the_facts_of_texts():
    once, same, line = (1, 2, 3, 4), (1, 2, 3, 4), (5, 6)
    items = (
        TextItem("a", "a:1", once, ((2, 4),), 2),
        TextItem("a-2", "a:2", same, ((2, 4),)),
        TextItem("b", "a:3", line, ((0, 2),)),
    )
    found = advisor.facts_of_texts(items)
    assert (found.images, found.different, found.showings, found.captions, found.lines) == (3, 2, 4, 2, 1)
    assert (found.tokens, found.counted, found.what) == ((2, 4, 4), 6, "sample")


# --- what auto becomes


def test_everything_is_chosen_with_its_reason():
    config, choices = advisor.decide(settings(auto=True), of(40), SMALL, Room())
    assert config.auto == ()
    found = (config.lora_rank, config.alpha, config.learning_rate, config.window, config.validation_images)
    assert found == (8, 8, 7.2e-4, 4, 4)  # a seventh as wide as the models that the guide's 1e-4 is for
    assert config.epochs == round(rules.presentations(36, text=True) / 36) == 20
    assert {choice.field: choice.value for choice in choices} == {
        choice.field: getattr(config, choice.field) for choice in choices
    }
    assert "resolution" not in {choice.field for choice in choices}
    told = " ".join(choice.why for choice in choices)
    assert "picture" not in told
    assert "Stable Diffusion" not in told


@pytest.mark.parametrize(
    ("different", "epochs"), [(1, 20), (20, 20), (50, 20), (100, 15), (200, 10), (1000, 3), (8000, 3), (50_000, 1)]
)
def test_the_length_is_the_guides_for_few_and_three_epochs_for_many(different: int, epochs: int):
    assert rules.epochs(different, different, text=True) == epochs


def test_more_texts_are_never_shown_less_often():
    shown = [rules.presentations(count, text=True) for count in range(1, 30_000, 7)]
    assert shown == sorted(shown)


@pytest.mark.parametrize(("different", "rank"), [(5, 8), (999, 8), (1000, 16)])
def test_the_rank(different: int, rank: int):
    assert advisor.decide(settings(lora_rank="auto"), of(different), SMALL, Room())[0].lora_rank == rank


@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "prodigy"])
def test_the_rate_is_the_upper_end_of_the_guides_range(window: int, optimizer: str):
    config = settings(batch_size=window, optimizer=optimizer, learning_rate="auto")
    expected = {"adamw": 1e-4, "lion": 1e-5, "prodigy": 1.0}[optimizer]
    assert advisor.decide(config, of(40), LARGE, Room())[0].learning_rate == expected


def test_a_narrow_model_bears_a_higher_rate():
    config = settings(learning_rate=5e-4)
    assert rules.range_of(config, LARGE) == rules.range_of(config, Peek("llama", 8_000_000_000, 0, 1, 128_256))
    assert rules.off(config, LARGE) > 0.5
    assert rules.off(config, SMALL) == 0  # the demo's own
    assert rules.range_of(config, Peek("llama", 0, 0, 1, 49_152)) == rules.TEXT_RANGE  # it is not known


def test_the_batch_is_cut_by_the_memory_and_stays_the_same_window():
    asked = settings(auto=True, mixed_precision="bf16")
    for free, expected in {100: (4, 1, False), 24: (2, 2, False), 16: (4, 1, True), 10: (1, 4, True)}.items():
        room = Room("cuda:0", int(free * GIB))
        config, choices = advisor.decide(asked, of(40, length=1000), LARGE, room)
        assert (config.batch_size, config.gradient_accumulation_steps, config.gradient_checkpointing) == expected, free
        (why,) = [choice.why for choice in choices if choice.field == "batch_size"]
        assert ("it may not fit" in why) == (free == 10)


# --- what is said before


def said(facts: Facts, **given: Any) -> list[Advice]:
    config = settings(**{"learning_rate": 1e-4, "epochs": 20, **given})
    shown = config.epochs * facts.showings
    return advisor.warn(config, facts, LARGE, Length(int(shown / config.window), shown))


def test_nothing_is_said_of_what_is_as_it_should_be():
    assert [one for one in said(of(50)) if not one.note] == []
    assert [one for one in said(of(100), epochs=15) if not one.note] == []


@pytest.mark.parametrize(
    ("facts", "given", "field", "message", "cure"),
    [
        (of(50), {"learning_rate": 2e-6}, "learning_rate", "below the usual 5e-5 to 1e-4", "learning_rate: 1e-4"),
        (of(50), {"learning_rate": 2e-3}, "learning_rate", "above the usual 5e-5 to 1e-4", "learning_rate: 1e-4"),
        (of(20), {"lora_rank": 64}, "lora_rank", "64 learns 20 different samples by heart", "lora_rank: 8"),
        (of(50), {"batch_size": 1}, "batch_size", "follows a single sample", "gradient_accumulation_steps: 4"),
        (of(50), {"epochs": 100}, "epochs", "samples are shown 5,000 times in all", "epochs: 20"),
        (of(50), {"epochs": 2}, "epochs", "so few may leave no trace", "epochs: 20"),
        (of(50), {"max_length": 40}, "max_length", "50 samples of 50 have 40 tokens or more", "max_length: 80"),
        (of(50, length=1000, answers=10), {}, "train_data_dir", "the loss is on 1.0% of the tokens", "longer answers"),
    ],
)
def test_what_is_said_before(facts: Facts, given: dict[str, Any], field: str, message: str, cure: str):
    (advice,) = [one for one in said(facts, **given) if not one.note]
    assert advice.field == field
    assert message in advice.message
    assert cure in advice.cure


def test_one_answer_to_everything_is_said():
    items = tuple(TextItem(f"{n}", f"a:{n}", (n, 7, 8, 9), ((2, 4),)) for n in range(50))
    (advice,) = [one for one in said(advisor.facts_of_texts(items)) if not one.note]
    assert "all samples have the same answer" in advice.message


def test_plain_lines_are_noted_and_nothing_more():
    items = tuple(TextItem(f"{n}", f"a:{n}", (n, n + 1, 9), ((0, 3),)) for n in range(50))
    (advice,) = [one for one in said(advisor.facts_of_texts(items)) if one.field == "train_data_dir"]
    assert advice.note
    assert "plain lines: the model learns to write such text" in advice.message


# --- what is said after


def case(story: list[Event], items: tuple[TextItem, ...] | None = None, base: Peek = LARGE, **given: Any) -> Case:
    config = settings(**{"learning_rate": 1e-4, "epochs": 20, "validation_images": 5, **given})
    items = texts(50) if items is None else items
    job = Job(config, Base(Path("/model"), "llama", "c0ffee"), (), (), "", Path("/cache"), texts=items)
    return Case(job, advisor.facts_of_texts(items), base, advisor.length(job), story)


def measured(*losses: float, best: int = 0, signal: str = "held_out") -> list[Event]:
    """A run with a validation before the first step, and every 50 steps; it ended at the last."""
    story: list[Event] = [Validation(step=50 * n, signal=signal, loss=loss) for n, loss in enumerate(losses)]
    last = 50 * (len(losses) - 1)
    return [*story, RunFinished(last, "x.safetensors", best=best or last)]


def found(case: Case) -> Diagnosis:
    diagnosis = advisor.diagnose(case)
    assert diagnosis is not None
    return diagnosis


def test_a_run_that_learnt_is_healthy():
    assert found(case(measured(3.0, 2.4, 2.1, 2.0))).message == (
        "nothing to change: the held-out loss fell from 3.0000 to 2.0000, lowest at the end"
    )


def test_texts_that_are_noise_to_the_model_are_a_wrong_format():
    guess = log(LARGE.vocabulary)
    diagnosis = found(case(measured(0.8 * guess, 2.0, 1.8)))
    assert (diagnosis.trouble, diagnosis.field) == ("format", "train_data_dir")
    assert diagnosis.message == (
        "the texts are not what the base model reads: before the training the loss was 8.6 a token, and a mere guess "
        "among all has 10.8"
    )
    assert "chat_template" in diagnosis.cure
    assert found(case(measured(0.6 * guess, 2.0, 1.8))).trouble == ""
    assert found(case(measured(0.8 * guess, 2.0, 1.8), base=Peek("llama", 0))).trouble == ""  # it is not known


@pytest.mark.parametrize(
    ("given", "best", "field", "change"),
    [
        ({}, 100, "epochs", "epochs: 13"),
        ({}, 50, "learning_rate", "learning_rate: 5e-5"),
        ({"learning_rate": 5e-5}, 50, "lora_rank", "lora_rank: 6, later 4"),
        ({"learning_rate": 5e-5, "lora_rank": 4}, 50, "train_data_dir", "more samples, or more varied ones"),
    ],
)
def test_answers_by_heart_have_fewer_epochs_then_a_lower_rate_then_rank(
    given: dict[str, Any], best: int, field: str, change: str
):
    losses = (3.0, 2.2, 2.1, 2.6) if best == 100 else (3.0, 2.1, 2.4, 2.9)
    diagnosis = found(case(measured(*losses, best=best), **given))
    assert diagnosis.message.startswith(
        "answers by heart are to be expected: it overfits: the held-out loss was 2.1000"
    )
    assert (diagnosis.field, diagnosis.change) == (field, change)


def test_a_rate_of_a_wrong_size_does_not_move_it():
    diagnosis = found(case(measured(3.0, 2.99, 2.98), learning_rate=2e-6))
    assert (diagnosis.trouble, diagnosis.change) == ("still", "learning_rate: 1e-4")


@pytest.mark.parametrize(
    ("given", "field"),
    [({}, "lora_rank"), ({"lora_rank": 16}, "epochs"), ({"lora_rank": 16, "epochs": 45}, "train_data_dir")],
)
def test_hardly_any_effect_has_a_higher_rank_then_more_epochs_then_other_samples(given: dict[str, Any], field: str):
    diagnosis = found(case(measured(3.0, 2.99, 2.98), **given))
    assert (diagnosis.trouble, diagnosis.field) == ("faint", field)
    assert "caption" not in diagnosis.cure


def test_the_last_that_memory_costs_is_length():
    end = RunFailed("out of memory: everything given up")
    assert found(case([end])).change == "max_length: 512"
    given = {"batch_size": 1, "mixed_precision": "bf16", "gradient_checkpointing": True}
    assert found(case([RunFailed("out of memory")], **given)).change == "max_length: 512"


def test_the_base_model_is_known_by_its_folder(tmp_path: Path):
    folder = toys.write_tiny(tmp_path / "tiny", "llama")
    model = advisor.language_model(folder, "llama")
    assert model.parameters > 0
    assert model.flow > 0
    assert 2 < model.vocabulary <= 384
    assert advisor.language_model(tmp_path / "gone", "qwen3") == Peek("qwen3", 0)


def test_all_that_is_said_of_texts_speaks_of_texts():
    ends: list[list[Event]] = [measured(3.0, 2.99, 2.98), measured(3.0, 2.1, 2.9, best=50), measured(3.0, 2.0)]
    rounds: list[dict[str, Any]] = [{}, {"lora_rank": 32}, {"epochs": 500}]
    told = [str(found(case(end, **given))) for end in ends for given in rounds]
    told += [str(one) for one in said(of(5), epochs=1, batch_size=1, lora_rank=64, validation_steps=0)]
    assert not [one for one in told if "picture" in one or "image" in one.replace("validation_images", "")]


# --- a run


def test_a_run_says_what_was_chosen_and_what_was_wrong(tmp_path: Path):
    toys.write_tiny(tmp_path / "model", "llama")
    data = tmp_path / "data"
    data.mkdir()
    lines = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(12)]
    (data / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    folders = {"base_model": "model", "train_data_dir": "data", "output_dir": "run", "cache_dir": "cache"}
    given = {name: (tmp_path / folder).as_posix() for name, folder in folders.items()}
    more = {"auto": True, "max_steps": 6, "sample_every": 0, "mixed_precision": "no"}
    told: list[Event] = []
    end = run.start(settings(**given, **more), [told.append])
    assert isinstance(end, RunFinished)
    job = jobs.load(tmp_path / "run")
    assert ("validation_images", "1") in [choice[:2] for choice in job.choices]
    assert sum(item.held_out for item in job.texts) == 1
    assert (job.config.auto, job.config.learning_rate) == ((), 20 * 1e-4)  # a model at toy size
    assert {one.field for one in told if isinstance(one, Chosen)} == {field for field, _, _ in job.choices}
    # Weights at random: to such a model every text is noise.
    (diagnosis,) = [one for one in told if isinstance(one, Advised) and one.kind == "diagnosis"]
    assert diagnosis.message.startswith("the texts are not what the base model reads")
    assert advisor.diagnose(advisor.case(job, list(events.history(tmp_path / "run" / "events.jsonl")))) is not None
