"""What is said of a run before it begins is what the run then does."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from trainer import attempts, estimate, families, figures, job, run, runfolder
from trainer.config import TrainConfig, load
from trainer.dataset import Dataset, scan
from trainer.errors import BaseModelError
from trainer.estimate import Estimate
from trainer.events import Event, RunFinished, RunStarted, Step
from trainer.figures import BASES, GIB, TABLE
from trainer.files import write_json
from trainer.peek import Peek, peek
from trainer.setup import presets

DEMO = REPO / "trainer" / "demo" / "base.safetensors"
SD15, SDXL = (Peek(name, BASES[name]) for name in ("sd15", "sdxl"))


def scanned(config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The data set of a config, and its regularisation images."""
    own = scan(config.train_data_dir, resolution=config.resolution, repeats=config.repeats)
    if config.reg_data_dir is None:
        return own, None
    return own, scan(config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt)


def planned(
    config: TrainConfig, base: Peek, device: str = "cpu", runs: Path = Path("no runs"), card: str = ""
) -> Estimate:
    return estimate.estimate(estimate.plan(config, *scanned(config), base.family), base, device, card, runs)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of 512 x 512."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("zw\u00f6lf \u56fe")
    for number in range(12):
        Image.new("RGB", (512, 512), (number * 20, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def usual(config: TrainConfig, twelve: Path) -> TrainConfig:
    """The guide's settings on twelve pictures."""
    plain = {"train_data_dir": twelve.as_posix(), "output_dir": config.output_dir.as_posix()}
    return TrainConfig.model_validate(plain)


# --- steps


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batch_size": 3, "repeats": 2},
        {"gradient_accumulation_steps": 3, "epochs": 7},
        {"max_steps": 7},
        {"max_steps": 500},
        {"validation_images": 2},
    ],
)
def test_steps_and_showings_are_the_runs(
    config: TrainConfig, seen: list[Event], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    def instead(training: Any, *_: Any) -> bool:
        """The loop's own order, without the work."""
        from trainer.dataset.sampler import windows

        for cursor in range(training.position.total):
            epoch, index = divmod(cursor, training.per_epoch)
            size = training.config.window
            shown.append(len(windows(training.items, seed=training.config.seed, epoch=epoch, size=size)[index]))
        return False

    monkeypatch.setattr(attempts, "train", instead)
    changed = config.but(**change)
    run.start(changed, [seen.append])
    (started,) = [event for event in seen if isinstance(event, RunStarted)]
    found = planned(changed, Peek("sd15", started.parameters))
    assert found.steps == started.total_steps == len(shown)
    assert found.presentations == sum(shown)
    assert (found.images, found.held_out) == (started.images, started.held_out)


def test_regularisation_images_are_counted(
    config: TrainConfig, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = picture_folder(tmp_path / "reg", sizes=((128, 128),) * 3, seed=1)
    found = planned(config.but(reg_data_dir=folder.as_posix()), SD15)
    alone = planned(config, SD15)
    assert (found.images, found.regularisation) == (5, 3)
    assert found.presentations == 2 * alone.presentations


# --- figures


def test_the_demo_is_as_its_own_measurement(usual: TrainConfig) -> None:
    settings = load(REPO / "trainer" / "demo" / "demo.yaml")
    base = peek(DEMO)
    found = planned(settings.but(train_data_dir=usual.train_data_dir.as_posix()), base)
    assert (found.images, found.steps, found.presentations) == (12, 400, 1600)
    # docs/measurements.md: trained in 90 s, with its samples and checkpoints.
    assert found.seconds is not None
    assert 65 < found.seconds < 110
    assert found.how == "table"


@pytest.mark.parametrize(
    ("base", "step", "gib", "rank", "row"),
    [(SD15, 3.56, 5.29, 8, 1), (SDXL, 8.0, 15.7, 8, 2)],
)
def test_a_row_of_the_table_gives_itself(
    usual: TrainConfig, base: Peek, step: float, gib: float, rank: int, row: int
) -> None:
    assert (TABLE[row].family, TABLE[row].seconds) == (base.family, step)
    change = {"resolution": 256, "batch_size": 1, "mixed_precision": "no", "gradient_checkpointing": False}
    quiet = {"validation_steps": 0, "sample_every": 0, "lora_rank": rank}
    found = planned(usual.but(**change, **quiet), base)
    assert found.seconds == pytest.approx(120 * step)
    assert found.memory == pytest.approx(gib * GIB)
    assert found.how == "table"


def test_more_costs_more(usual: TrainConfig) -> None:
    usual = usual.but(mixed_precision="no", resolution=256, gradient_checkpointing=False)
    first = planned(usual, SD15)
    assert first.seconds is not None
    for change, slower, larger in (
        ({"resolution": 512}, True, True),
        ({"batch_size": 8}, False, True),  # the same showings
        ({"gradient_checkpointing": True}, True, False),
        ({"lora_rank": 64}, False, True),
        ({"epochs": 20}, True, False),
        ({"prior_preservation": 1.0, "class_prompt": "a cat"}, True, False),
        ({"sample_every": 10}, True, False),
    ):
        found = planned(usual.but(**change), SD15)
        assert found.seconds is not None
        assert (found.seconds > 1.2 * first.seconds) == slower, change
        assert (found.memory > 1.02 * first.memory) == larger, change
        assert found.how == "table_like" or change.keys() & {"lora_rank", "epochs"} or "prior" in str(change)


def test_what_no_card_was_measured_for_is_said_to_be_reckoned(usual: TrainConfig) -> None:
    found = planned(usual, SDXL, "cuda:0")
    assert found.how == "published"
    once = usual.but(resolution=1024, batch_size=1, validation_steps=0, sample_every=0, max_steps=10)
    job_ = estimate.plan(once, *scanned(once), "sdxl")
    # Its pictures are of 512 pixels, which are never enlarged.
    tall = replace(job_, items=tuple(replace(item, bucket=(1024, 1024)) for item in job_.items))
    assert estimate.estimate(tall, SDXL, "cuda:0", "", Path("no runs")).seconds == pytest.approx(11.2)


def test_a_small_model_is_not_without_time_on_a_card(usual: TrainConfig) -> None:
    config = usual.but(validation_steps=0, sample_every=0, batch_size=2, gradient_accumulation_steps=2)
    found = planned(config, peek(DEMO), "cuda:0")
    assert found.seconds == pytest.approx(found.steps * 2 * 0.05)


def test_a_device_that_nothing_is_known_of_has_no_time(usual: TrainConfig) -> None:
    found = planned(usual, SD15, "mps")
    assert (found.seconds, found.how) == (None, "count")
    assert found.memory > GIB


@pytest.mark.parametrize(("family", "card"), [("sd15", 6), ("sd15", 24), ("sdxl", 12), ("sdxl", 24)])
def test_presets_are_reckoned_to_fit_their_cards(usual: TrainConfig, family: str, card: int) -> None:
    config = usual.but(**presets.settings(family, card))
    pixels = config.resolution**2
    assert figures.memory(config, pixels, family, BASES[family], 2) < card * GIB


def test_a_first_encoding_on_a_cpu_is_told(usual: TrainConfig) -> None:
    found = planned(usual.but(sample_every=0), SD15)
    assert found.encoding == pytest.approx(12 * 4 / 0.6 + 0.12, rel=0.01)
    assert planned(usual, peek(DEMO)).encoding == 0


# --- own runs


def own_run(root: Path, config: TrainConfig, base: Peek, name: str, seconds: float, **started: Any) -> None:
    """A finished run, as it lies on disk."""
    folder = root / name
    planned_job = estimate.plan(config, *scanned(config), base.family)
    planned_job.save(folder)
    facts: dict[str, Any] = {"device": "cpu", "precision": "fp32", "parameters": base.parameters, **started}
    total = runfolder.total_steps(planned_job)
    told = [
        RunStarted("x", 0, total, 1, 12, 4, trainable=1, **facts),
        *(Step(step, total, 0, 0.1, 1e-4, 1.0, seconds, 5 * 10**9, 0.0) for step in range(2, 6)),
        RunFinished(total, "x.safetensors"),
    ]
    from trainer.events import Journal

    journal = Journal(folder / "events.jsonl", name)
    for event in told:
        journal(event)
    journal.close()
    write_json(folder / "result.json", {"total": total, "step": total, "path": "x.safetensors"})


def test_own_runs_are_better_than_the_table(usual: TrainConfig, tmp_path: Path) -> None:
    usual = usual.but(resolution=256, validation_steps=0, sample_every=0)
    own_run(tmp_path, usual, SD15, "0123456789ab", 2.0)
    found = planned(usual, SD15, runs=tmp_path)
    assert found.seconds == pytest.approx(2.0 * found.steps)
    assert found.memory == pytest.approx(5e9)
    assert (found.how, found.run) == ("own", "0123456789ab")

    larger = planned(usual.but(resolution=512), SD15, runs=tmp_path)
    assert larger.seconds is not None
    assert larger.seconds == pytest.approx(2.0 * found.steps * 0.8103 / 0.1801, rel=0.02)
    assert (larger.how, larger.run) == ("own_like", "0123456789ab")

    # Of two runs the nearer one counts; of another model, device or number format none does.
    own_run(tmp_path, usual.but(resolution=512), SD15, "ba9876543210", 7.0)
    assert planned(usual.but(resolution=512), SD15, runs=tmp_path).run == "ba9876543210"
    assert planned(usual, SD15, runs=tmp_path).run == "0123456789ab"
    assert planned(usual.but(mixed_precision="auto"), SD15, runs=tmp_path).run == "0123456789ab"
    for change, base, device in (({}, SDXL, "cpu"), ({"mixed_precision": "bf16"}, SD15, "cpu"), ({}, SD15, "cuda:0")):
        assert not planned(usual.but(**change), base, device, tmp_path).run


def test_own_runs_of_a_card_are_that_cards(usual: TrainConfig, tmp_path: Path) -> None:
    cards = {"0123456789ab": "NVIDIA H100", "ba9876543210": "NVIDIA GeForce RTX 3090"}
    for name, card in cards.items():
        own_run(tmp_path, usual, SD15, name, 0.5, device="cuda:0", card=card, precision="fp16")
    for name, card in cards.items():
        found = planned(usual, SD15, "cuda:1", tmp_path, card)
        assert (found.how, found.run) == ("own", name)
    for card in ("NVIDIA GeForce RTX 3060", ""):
        assert planned(usual, SD15, "cuda:0", tmp_path, card).how == "published"


def test_of_a_run_that_changed_its_card_only_the_last_one_counts(usual: TrainConfig, tmp_path: Path) -> None:
    cards = {"old": 2.0, "new": 0.5}
    for card, seconds in cards.items():
        own_run(tmp_path, usual, SD15, "0123456789ab", seconds, device="cuda:0", card=card, precision="fp16")
    assert not planned(usual, SD15, "cuda:0", tmp_path, "old").run
    found = planned(usual.but(validation_steps=0, sample_every=0), SD15, "cuda:0", tmp_path, "new")
    assert found.seconds == pytest.approx(0.5 * found.steps)


def test_what_was_read_of_runs_is_remembered_and_damage_is_no_harm(
    usual: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        own_run(tmp_path, usual, SD15, f"{number}bcdef012345", 2.0)
    (tmp_path / "1bcdef012345" / "job.yaml").write_text("version: 1", encoding="utf-8")
    (tmp_path / "2bcdef012345" / "events.jsonl").unlink()
    assert [figure.run for figure in figures.own(tmp_path, "cpu", "")] == ["0bcdef012345"]

    def again(folder: Path) -> job.Job:
        raise AssertionError("it is remembered")

    monkeypatch.setattr(job, "load", again)
    assert len(figures.own(tmp_path, "cpu", "")) == 1


def test_a_run_of_the_real_loop_is_a_figure(config: TrainConfig, seen: list[Event]) -> None:
    run.start(config, [seen.append])
    (figure,) = figures.own(config.output_dir.parent, "cpu", "")
    started = next(event for event in seen if isinstance(event, RunStarted))
    assert (figure.parameters, figure.bytes, figure.batch) == (started.parameters, 4, 2)
    assert figure.seconds > 0
    found = planned(config, Peek("sd15", figure.parameters), runs=config.output_dir.parent)
    assert found.seconds == pytest.approx(figure.seconds * found.steps)


# --- the base's file


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_peek_agrees_with_the_family(tmp_path: Path, family: str) -> None:
    file = families.get(family).tiny(tmp_path / "t\u00efny.safetensors", 0)
    found = peek(file)
    assert found.family == families.detect(file).name == family
    denoiser = families.get(family).load_model(file, families_dtype())
    assert found.parameters == sum(p.numel() for p in denoiser.parameters())


def families_dtype() -> Any:
    import torch

    return torch.float32


def header_only(path: Path, shapes: dict[str, list[int]]) -> Path:
    data = json.dumps({name: {"dtype": "F16", "shape": s, "data_offsets": [0, 0]} for name, s in shapes.items()})
    path.write_bytes(struct.pack("<Q", len(data)) + data.encode())
    return path


def test_what_a_peek_does_not_know(tmp_path: Path) -> None:
    sd2 = header_only(tmp_path / "sd2.safetensors", {"model.diffusion_model.a.attn2.to_k.weight": [320, 1024]})
    with pytest.raises(BaseModelError, match=r"sd2.safetensors is neither a Stable Diffusion 1.5 nor an SDXL"):
        peek(sd2)
    (tmp_path / "text.safetensors").write_text("<html>")
    for name in ("text.safetensors", "missing.safetensors"):
        with pytest.raises(BaseModelError, match="that can be read"):
            peek(tmp_path / name)


def test_it_is_light() -> None:
    program = (
        "import sys; from trainer import estimate; "
        "print([m for m in sys.modules if m.split('.')[0] in ('diffusers', 'transformers', 'peft', 'accelerate')])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_hundred_pictures_are_quick(usual: TrainConfig, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(200):
        Image.effect_noise((512, 512), number).convert("RGB").save(tmp_path / f"{number}.jpg")
    many = usual.but(train_data_dir=tmp_path.as_posix())
    planned(many, SD15)
    began = time.perf_counter()
    planned(many, SD15)
    assert time.perf_counter() - began < 2  # the scan is remembered
