"""Whole runs on a toy base: what comes out, and the equivalences that the design promises."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer import checkpoint, control, events, export, job, run, runfolder, validation
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DatasetError, RunFolderError, UserError
from trainer.events import (
    Advised,
    Checkpoint,
    Event,
    MemoryPlan,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    Validation,
    Warned,
)

Sinks = list[Event]


def final(config: TrainConfig) -> Path:
    return config.output_dir / f"{config.name}.safetensors"


def stop_at(seen: Sinks, step: int) -> Callable[[], bool]:
    return lambda: any(isinstance(e, Step) and e.step >= step for e in seen)


def lora_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(final(config))


def losses(seen: Sinks) -> list[float]:
    return [e.loss for e in seen if isinstance(e, Step)]


def relative(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference, against the largest number, over the changes of all weights."""
    assert a.keys() == b.keys()
    keys = {name.rsplit(".", 2)[0] for name in a if name.endswith("lora_up.weight")}

    def change(t: dict[str, torch.Tensor], key: str) -> torch.Tensor:
        return t[f"{key}.lora_up.weight"].flatten(1) @ t[f"{key}.lora_down.weight"].flatten(1)

    difference = max(float((change(a, k) - change(b, k)).abs().max()) for k in keys)
    return difference / max(float(change(b, k).abs().max()) for k in keys)


def test_a_run_tells_everything_and_leaves_a_whole_folder(config: TrainConfig, seen: Sinks) -> None:
    config = config.but(
        validation_steps=1000,
        sample_every=10,
        sample_prompts=["a house"],
        sample_inference_steps=2,
        mixed_precision="fp16",
    )
    data = {p: hashlib.sha256(p.read_bytes()).digest() for p in config.train_data_dir.iterdir()}
    end = run.start(config, [seen.append])

    assert isinstance(end, RunFinished)
    assert end.step == 20  # 3 square pictures make 2 windows of at most 2, the other shapes 1 each: 4 an epoch
    folder = config.output_dir
    assert {p.name for p in folder.iterdir()} == {
        "job.yaml", "dataset.jsonl", "events.jsonl", "log.txt", "logs", "checkpoints", "samples", "result.json",
        "run.lock", "validation.jsonl", f"{config.name}.safetensors",
    }  # fmt: skip
    assert checkpoint.complete(folder) == [4, 8, 12, 16, 20]
    started = next(e for e in seen if isinstance(e, RunStarted))
    assert (started.total_steps, started.images, started.effective_batch, started.precision) == (20, 5, 2, "fp32")
    assert any(isinstance(e, Warned) and "fp16 cannot be trained on a CPU" in e.message for e in seen)
    assert any(isinstance(e, Advised) and "warmup_steps" in e.message for e in seen)
    assert [(e.step, e.signal) for e in seen if isinstance(e, Validation)] == [
        (step, signal) for step in (0, 20) for signal in ("train", "drift")
    ]
    pictures = [e for e in seen if isinstance(e, Sample)]
    assert [(e.step, e.prompt) for e in pictures] == [(10, "a house"), (20, "a house")]
    assert all((folder / e.image).is_file() and (folder / e.latents).is_file() for e in pictures)
    written, _ = events.read(folder / "events.jsonl")
    assert written == [e for e in seen if e in written]
    assert sum(e.terminal for e in written) == 1
    assert any((folder / "logs").iterdir())
    _, header = export.read(final(config))
    assert header["ss_network_dim"] == "8"
    assert json.loads(header["darkroom.config"])["lora_rank"] == 8
    assert {p: hashlib.sha256(p.read_bytes()).digest() for p in config.train_data_dir.iterdir()} == data


def test_the_same_seed_gives_the_same_file_and_another_seed_another(config: TrainConfig, tmp_path: Path) -> None:
    def train(name: str, **changes: object) -> bytes:
        changed = config.but(output_dir=(tmp_path / name / "same name").as_posix(), epochs=1, **changes)
        assert isinstance(run.start(changed, []), RunFinished)
        return final(changed).read_bytes()

    assert train("a") == train("b")
    assert train("c") != train("d", seed=7)


def test_an_interrupted_run_equals_an_unbroken_one_bit_for_bit(
    config: TrainConfig, tmp_path: Path, seen: Sinks
) -> None:
    unbroken = config.but(output_dir=(tmp_path / "unbroken" / config.name).as_posix())
    run.start(unbroken, [])
    for step in (3, 9, 14):  # in mid-epoch, and not where save_steps would save
        seen.clear()
        end = run.start(config, [seen.append], stop_at(seen, step))
        assert isinstance(end, RunStopped)
        assert checkpoint.latest(config.output_dir) == end.step
    seen.clear()
    assert isinstance(run.start(config, [seen.append]), RunFinished)
    assert final(config).read_bytes() == final(unbroken).read_bytes()
    told = [e.step for e in events.history(config.output_dir / "events.jsonl") if isinstance(e, Step)]
    assert told == list(range(1, 21))


def test_a_checkpoint_lost_in_a_crash_costs_steps_but_no_bit(config: TrainConfig, tmp_path: Path, seen: Sinks) -> None:
    unbroken = config.but(output_dir=(tmp_path / "unbroken" / config.name).as_posix())
    run.start(unbroken, [])
    run.start(config, [seen.append], stop_at(seen, 10))
    newest = checkpoint.folder_of(config.output_dir, checkpoint.latest(config.output_dir) or 0)
    (newest / "state" / "adapter.safetensors").write_bytes(b"half a fi")
    assert isinstance(run.start(config, []), RunFinished)
    assert final(config).read_bytes() == final(unbroken).read_bytes()


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 2), (2, 1)])
def test_batch_and_accumulation_are_the_same_thing(
    config: TrainConfig, tmp_path: Path, batch: int, accumulation: int, seen: Sinks
) -> None:
    reference: Sinks = []
    whole = config.but(output_dir=(tmp_path / "whole").as_posix(), gradient_checkpointing=False)
    run.start(whole, [reference.append])
    split = config.but(
        output_dir=(tmp_path / "split").as_posix(), batch_size=batch, gradient_accumulation_steps=accumulation
    )
    run.start(split, [seen.append])
    assert len(losses(seen)) == 20
    assert losses(seen) == pytest.approx(losses(reference), rel=1e-5)
    assert relative(lora_of(split), lora_of(whole)) < 1e-5


def test_a_warm_cache_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    files = []
    for name in ("cold", "warm"):
        changed = config.but(
            output_dir=(tmp_path / name / "x").as_posix(), cache_dir=(tmp_path / "cache").as_posix(), epochs=1
        )
        run.start(changed, [])
        files.append(final(changed).read_bytes())
    assert files[0] == files[1]


def test_a_finished_run_is_returned_at_once_and_more_epochs_extend_it(config: TrainConfig, seen: Sinks) -> None:
    config = config.but(epochs=2)
    run.start(config, [])
    first = final(config).read_bytes()
    assert isinstance(run.start(config, [seen.append]), RunFinished)
    assert not losses(seen)
    assert final(config).read_bytes() == first

    seen.clear()
    longer = config.but(epochs=3)
    end = run.start(longer, [seen.append])
    assert isinstance(end, RunFinished)
    assert end.step == 12
    assert [e.step for e in seen if isinstance(e, Step)] == [9, 10, 11, 12]
    assert any(isinstance(e, Warned) and "length changes from 8 to 12" in e.message for e in seen)
    rates = [e.lr for e in seen if isinstance(e, Step)]
    assert rates[0] < rates[1]  # it warms up again
    assert final(config).read_bytes() != first

    with pytest.raises(RunFolderError, match=r"trained for 12 steps; epochs \(or max_steps\) now ask for only 8"):
        run.start(config, [])
    assert job.load(config.output_dir).config.epochs == 3  # refused, and nothing was written


def test_a_worker_s_run_is_extended_but_never_turned_into_another(config: TrainConfig) -> None:
    """As `--resume` does it with a run of ComfyUI's."""
    config = config.resolved().but(epochs=1)
    run.start(config, [])
    before = (config.output_dir / "job.yaml").read_bytes()
    for changes, message in (({"lora_rank": 4}, "lora_rank: 8 there, 4 now"), ({"max_steps": 1}, "only 1")):
        with pytest.raises(RunFolderError, match=message):
            run.work(config.output_dir, [], config=config.but(**changes))
        assert (config.output_dir / "job.yaml").read_bytes() == before
    end = run.work(config.output_dir, [], config=config.but(epochs=2))
    assert isinstance(end, RunFinished)
    assert end.step == 8
    assert job.load(config.output_dir).config.epochs == 2


def test_a_full_disk_is_told_where_it_can_be(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: Sinks) -> None:
    tell = events.Journal.__call__

    def full(journal: events.Journal, event: Event) -> None:
        if isinstance(event, (Step, RunFailed)):
            raise OSError(28, "No space left on device")
        tell(journal, event)

    monkeypatch.setattr(events.Journal, "__call__", full)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFailed)
    assert "No space left on device" in end.message
    assert seen[-1] == end


def test_what_failed_before_its_first_checkpoint_may_begin_with_other_settings(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory at the first step, batch_size halved, the same command again: the guide's own cure."""
    from trainer.tasks.diffusion import Diffusion

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = config.but(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Diffusion, "loss", fail)
        assert isinstance(run.start(config, []), RunFailed)
    smaller = config.but(batch_size=1)
    assert isinstance(run.start(smaller, []), RunFinished)
    assert job.load(config.output_dir).config.batch_size == 1
    with pytest.raises(RunFolderError, match=r"gradient_accumulation_steps\): 1 there, 2 now"):
        run.start(config, [])


def test_what_is_wrong_with_the_images_is_in_the_log_and_the_journal(config: TrainConfig, seen: Sinks) -> None:
    (config.train_data_dir / "broken.png").write_bytes(b"no picture")
    run.start(config.but(max_steps=1), [seen.append])
    told = [e for e in events.read(config.output_dir / "events.jsonl")[0] if isinstance(e, Warned)]
    assert sum("broken.png" in e.message for e in told) == 1
    assert "broken.png" in (config.output_dir / "log.txt").read_text(encoding="utf-8")
    assert sum("broken.png" in e.message for e in seen if isinstance(e, Warned)) == 1  # not twice


def test_another_run_s_folder_is_refused_and_untouched(config: TrainConfig) -> None:
    run.start(config.but(epochs=1), [])
    before = {p: p.stat().st_mtime_ns for p in config.output_dir.rglob("*") if p.name != "run.lock"}
    with pytest.raises(RunFolderError) as error:
        run.start(config.but(lora_rank=4, trigger_word="zwx"), [])
    assert "lora_rank: 8 there, 4 now" in error.value.message
    assert "trigger_word: '' there, 'zwx' now" in error.value.message
    assert "train_data_dir: other images or captions" in error.value.message
    assert "another output_dir" in error.value.cure
    assert "--resume" in error.value.cure
    assert {p: p.stat().st_mtime_ns for p in config.output_dir.rglob("*") if p.name != "run.lock"} == before


def test_changed_captions_and_another_base_are_another_run(config: TrainConfig, tmp_path: Path) -> None:
    from trainer import families

    run.start(config.but(epochs=1), [])
    other = families.get("sd15").tiny(tmp_path / "other.safetensors", 1)
    with pytest.raises(RunFolderError, match="base_model: another file, or other content"):
        run.start(config.but(epochs=1, base_model=other.as_posix()), [])
    (config.train_data_dir / "picture 0.txt").write_text("something else")
    with pytest.raises(RunFolderError, match="train_data_dir: other images or captions"):
        run.start(config.but(epochs=1), [])


def test_a_file_of_no_run_is_not_overwritten(config: TrainConfig) -> None:
    config.output_dir.mkdir(parents=True)
    final(config).write_bytes(b"mine")
    with pytest.raises(RunFolderError, match="exists, but is of no run"):
        run.start(config, [])
    assert final(config).read_bytes() == b"mine"


def test_two_processes_do_not_share_a_folder(config: TrainConfig) -> None:
    from trainer.lock import locked

    with locked(config.output_dir), pytest.raises(RunFolderError, match="another process is training"):
        run.start(config, [])


def test_control_stops_saves_and_samples(config: TrainConfig, seen: Sinks, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config.but(sample_every=1000, sample_prompts=["x"], sample_inference_steps=1, save_steps=1000)
    monkeypatch.setattr(runfolder, "CHECKPOINTS", 1)

    def sink(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Step):
            path = config.output_dir / "control.json"
            asked = control.Requests(stop=event.step >= 6, save=int(event.step >= 2), sample=int(event.step >= 4))
            control.write(path, asked)

    assert isinstance(run.start(config, [sink]), RunStopped)
    assert checkpoint.complete(config.output_dir) == [2, 6]
    assert [e.step for e in seen if isinstance(e, Sample)] == [4]


@pytest.mark.parametrize("asked", [control.Requests(pause=True), control.Requests(give_way=True)])
def test_pause_gives_the_device_back_and_goes_on(
    config: TrainConfig, tmp_path: Path, seen: Sinks, asked: control.Requests
) -> None:
    plain = config.but(output_dir=(tmp_path / "plain" / config.name).as_posix(), epochs=1)
    run.start(plain, [])
    paused = config.but(epochs=1)
    path = paused.output_dir / "control.json"

    def sink(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.step == 2:
            control.write(path, asked)
        if isinstance(event, events.Phase) and event.name == "paused":
            control.write(path, control.Requests())

    assert isinstance(run.start(paused, [sink]), RunFinished)
    assert any(isinstance(e, events.Phase) and e.name == "paused" for e in seen)
    assert final(paused).read_bytes() == final(plain).read_bytes()


# --- validations, and what follows from them


@pytest.fixture
def overfits(config: TrainConfig, unhurried: None, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """What is held out gets better at first, and then worse and worse."""
    from trainer.tasks.diffusion import Diffusion

    losses = itertools.chain([5.0, 3.0, 2.0], itertools.count(2.5, 0.5))

    def validate(task: Diffusion, model: torch.nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
        loss = next(losses)
        yield "held_out", {f"{image}@{timestep}": loss * timestep for image in "abcd" for timestep in (125, 625)}

    monkeypatch.setattr(Diffusion, "validate", validate)
    return config.but(validation_steps=1, save_steps=2, epochs=4)  # of 4 steps each


@pytest.mark.usefixtures("unhurried")
def test_an_interrupted_run_has_the_validations_of_an_unbroken_one(
    config: TrainConfig, tmp_path: Path, seen: Sinks
) -> None:
    config = config.but(validation_images=1, validation_steps=2, epochs=5)
    unbroken = config.but(output_dir=(tmp_path / "unbroken" / config.name).as_posix())
    run.start(unbroken, [])
    for step in (3, 8):
        seen.clear()
        run.start(config, [seen.append], stop_at(seen, step))
    run.start(config, [])
    whole, cut = (validation.read(folder).steps for folder in (unbroken.output_dir, config.output_dir))
    assert whole == cut
    assert len(whole) > 5


def test_what_validations_cost_bounds_them(config: TrainConfig, seen: Sinks) -> None:
    """A toy's step is a hundredth of a second: a twentieth of twenty such is no time for anything between."""
    run.start(config.but(validation_steps=1), [seen.append])
    assert {e.step for e in seen if isinstance(e, Validation)} == {0, 20}
    assert any("before the first step and after the last" in e.message for e in seen if isinstance(e, Warned))


def test_a_run_ends_early_is_then_finished_and_goes_on_only_for_more(overfits: TrainConfig, seen: Sinks) -> None:
    config = overfits.but(early_stopping_patience=3)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished)
    assert (end.step, end.best) == (5, 2)
    assert end.stopped == "3 validations in a row were no better than step 2 (held-out loss 750.0000)"
    result = json.loads((config.output_dir / "result.json").read_text(encoding="utf-8"))
    assert (result["step"], result["total"], result["best"]["step"]) == (5, 16, 2)
    assert export.read(config.output_dir / result["best"]["path"])[1]["ss_steps"] == "2"
    assert export.read(final(config))[1]["ss_steps"] == "5"

    seen.clear()
    assert run.start(config, [seen.append]) == end  # the same at once
    assert not losses(seen)
    longer = run.start(config.but(epochs=5), [seen.append])  # all the patience again
    assert isinstance(longer, RunFinished)
    assert (longer.step, longer.best) == (8, 2)
    assert any("length changes from 16 to 20" in e.message for e in seen if isinstance(e, Warned))


def test_a_run_that_was_stopped_early_goes_on_to_its_end_without_patience(
    overfits: TrainConfig, tmp_path: Path, seen: Sinks
) -> None:
    early = run.start(overfits.but(early_stopping_patience=1), [])
    assert isinstance(early, RunFinished)
    assert early.step == 3
    end = run.start(overfits, [])
    assert isinstance(end, RunFinished)
    assert (end.step, end.stopped, end.best) == (16, "", 2)
    whole = overfits.but(output_dir=(tmp_path / "whole" / overfits.name).as_posix())
    run.start(whole, [])
    assert final(overfits).read_bytes() == final(whole).read_bytes()


def test_held_out_images_are_validated_on_and_never_trained(config: TrainConfig, seen: Sinks) -> None:
    config = config.but(validation_images=2, validation_steps=3, epochs=2)
    run.start(config, [seen.append])
    loaded = job.load(config.output_dir)
    assert sum(item.held_out for item in loaded.items) == 2
    assert len(loaded.train_items) == 3
    assert {e.signal for e in seen if isinstance(e, Validation)} == {"held_out", "train", "drift"}
    assert {e.loss for e in seen if isinstance(e, Validation) and e.signal == "drift" and e.step == 0} == {0.0}
    with pytest.raises(DatasetError, match="validation_images: 5 cannot be held out of 5"):
        run.start(config.but(validation_images=5, output_dir=(config.output_dir / "x").as_posix()), [])


@pytest.mark.usefixtures("knows")
def test_a_step_that_was_tried_before_is_not_tried_again(config: TrainConfig, tmp_path: Path) -> None:
    config = config.but(cache_dir=tmp_path / "c\u00e4che", sample_prompts=["a house"])

    def trained(name: str, **fields: Any) -> tuple[bool, list[float], int]:
        heard: list[Event] = []
        run.start(config.but(output_dir=tmp_path / name, **fields), [heard.append])
        tried = any(isinstance(e, Phase) and e.name == "trying a step" for e in heard)
        (plan,) = [e for e in heard if isinstance(e, MemoryPlan)]
        return tried, losses(heard), plan.activations

    first, again = trained("first"), trained("again")
    assert (first[0], again[0]) == (True, False)
    assert first[1:] == again[1:], "the same to the bit, and the same plan"
    assert not trained("other seed", seed=7, learning_rate=1e-4, epochs=2)[0]
    assert trained("rank", lora_rank=4, epochs=1)[0]
    assert trained("batch", batch_size=1, epochs=1)[0]


def test_training_lowers_the_loss_on_the_training_images(config: TrainConfig, seen: Sinks) -> None:
    config = config.but(validation_steps=1000, epochs=20, learning_rate=5e-3, caption_dropout=0.0, save_steps=1000)
    run.start(config, [seen.append])
    first, last = (e.loss for e in seen if isinstance(e, Validation) and e.signal == "train")
    assert last < 0.95 * first


def test_a_rate_that_explodes_fails_by_name_and_keeps_no_broken_file(config: TrainConfig, seen: Sinks) -> None:
    config = config.but(learning_rate=10.0, max_grad_norm=0.0, lora_alpha=4096.0, epochs=100, warmup_steps=0)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFailed)
    assert "5 steps in a row were not finite" in end.message
    assert "lower learning_rate" in end.cure
    assert not final(config).exists()
    for step in checkpoint.complete(config.output_dir):
        assert all(torch.isfinite(t).all() for t in checkpoint.load(config.output_dir, step).adapter.values())


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: Sinks
) -> None:
    save = checkpoint.save

    def full(folder: Path, state: checkpoint.State, *rest: object) -> Path:
        if state.position.step >= 8:
            monkeypatch.setattr(
                checkpoint, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
            )
        return save(folder, state, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", full)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFailed)
    assert "No space left" in end.message
    assert "go on from step 4" in end.cure
    assert checkpoint.complete(config.output_dir) == [4]
    monkeypatch.undo()
    assert isinstance(run.start(config, []), RunFinished)


def test_the_dataset_is_refused_when_there_is_nothing_in_it(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        run.start(config.but(train_data_dir=(tmp_path / "empty").as_posix()), [])
    assert not config.output_dir.exists()


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "what is not finite"), (0.0, "the same everywhere")])
def test_a_model_that_predicts_nothing_usable_is_never_saved(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, value: float, what: str
) -> None:
    from trainer.families.sd15 import SD15

    predict, seen = SD15.predict, 0

    def broken(*what: Any) -> torch.Tensor:
        nonlocal seen
        seen += 1
        prediction = predict(*what)
        return prediction if torch.is_grad_enabled() or seen < 15 else torch.full_like(prediction, value)

    monkeypatch.setattr(SD15, "predict", broken)
    end = run.start(config.but(gradient_checkpointing=False), [])
    assert isinstance(end, RunFailed)
    assert f"the model predicts {what}" in end.message
    assert not final(config).exists()
    assert checkpoint.complete(config.output_dir) == [4, 8]


# --- what is told before anything is encoded, and how encoding may end


def test_a_beginning_that_cannot_be_used_is_told_at_once(config: TrainConfig, tmp_path: Path, seen: Sinks) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    for path, what in ((tmp_path / "gone.safetensors", "does not exist"), (folder, "is a folder")):
        with pytest.raises(ConfigError) as error:
            run.start(config.but(init_lora=path.as_posix()), [seen.append])
        assert error.value.problems == (f"init_lora: {path} {what}; expected a LoRA file",)
    assert not any(isinstance(e, Phase) and "encoding" in e.name for e in seen)
    assert not config.output_dir.exists()


def test_a_beginning_with_other_parts_says_which_field_to_set(config: TrainConfig, tmp_path: Path) -> None:
    first = config.but(max_steps=1, output_dir=(tmp_path / "first").as_posix())
    run.start(first, [])
    path = final(first)
    with pytest.raises(ConfigError, match="holds nothing of the text encoders; set train_text_encoder: false, or"):
        run.start(config.but(init_lora=path.as_posix(), train_text_encoder=True), [])


def test_a_run_that_has_begun_needs_its_beginning_no_more(config: TrainConfig, tmp_path: Path, seen: Sinks) -> None:
    first = config.but(max_steps=1, output_dir=(tmp_path / "first").as_posix())
    run.start(first, [])
    config = config.but(init_lora=final(first).as_posix(), max_steps=4, save_steps=1)
    assert isinstance(run.start(config, [seen.append], stop_at(seen, 2)), RunStopped)
    final(first).unlink()
    assert isinstance(run.start(config, []), RunFinished)


def test_a_missing_package_is_told_before_anything_is_encoded(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: Sinks, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    config = config.but(optimizer="prodigy", learning_rate=1.0, cache_dir=(tmp_path / "new cache").as_posix())
    with pytest.raises(ConfigError, match="optimizer: the package prodigyopt is not installed"):
        run.start(config, [seen.append])
    assert not any(isinstance(e, Phase) and "encoding" in e.name for e in seen)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")]
)
def test_encoding_that_runs_out_of_memory_ends_in_words(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: Sinks, tmp_path: Path, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("trainer.own.OwnEncoder.encode_images", fail)
    end = run.start(config.but(cache_dir=(tmp_path / "new cache").as_posix()), [seen.append])
    assert isinstance(end, RunFailed)
    assert end.message.startswith("out of memory")
    assert seen[-1] == end
    told, _ = events.read(config.output_dir / "events.jsonl")
    assert told[-1] == end


def test_a_stop_while_encoding_is_an_end_like_any_other(config: TrainConfig, seen: Sinks, tmp_path: Path) -> None:
    config = config.but(cache_dir=(tmp_path / "new cache").as_posix(), max_steps=1)
    encoding = lambda: any(isinstance(e, Phase) and e.done >= 2 for e in seen)  # noqa: E731
    end = run.start(config, [seen.append], encoding)
    assert end == RunStopped(0, "before the first step")
    assert events.read(config.output_dir / "events.jsonl")[0][-1] == end
    assert isinstance(run.start(config, []), RunFinished)


def test_a_stop_while_the_process_starts_is_heard_before_the_base_is_loaded(config: TrainConfig, seen: Sinks) -> None:
    assert isinstance(run.start(config.but(max_steps=1), []), RunFinished)  # so that all is encoded, and a step done
    assert run.start(config, [seen.append], lambda: True) == RunStopped(1, "as asked")
    assert "loading the base model" not in [event.name for event in seen if isinstance(event, Phase)]
    assert isinstance(run.start(config.but(max_steps=2), []), RunFinished)


@pytest.mark.parametrize("name", ["sample_prompts", "base_model", "train_data_dir", "sample_every"])
def test_what_the_host_has_encoded_is_not_changed_on_the_command_line(config: TrainConfig, name: str) -> None:
    run.start(config.but(max_steps=1), [])
    other = {"sample_prompts": ["new"], "base_model": "/x", "train_data_dir": "/x", "sample_every": 3}[name]
    with pytest.raises(RunFolderError, match=f"is a run of ComfyUI: {name} cannot be changed on the command line"):
        run.work(config.output_dir, [], config=config.but(max_steps=2, **{name: other}).resolved())


def test_settings_that_do_not_do_what_they_seem_to_are_told(config: TrainConfig, seen: Sinks) -> None:
    run.start(config.but(epochs=1, max_steps=500, validation_images=1, validation_steps=0), [seen.append])
    told = [e.message for e in seen if isinstance(e, Advised)]
    assert "max_steps: 500 is not reached: 1 epochs are 3 steps; raise epochs" in told
    assert any(message.startswith("validation_images: 1 images are held out, but with") for message in told)


def test_a_skipped_last_step_still_ends_with_a_validation_and_one_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seen: Sinks
) -> None:
    from trainer.tasks.diffusion import Diffusion

    loss, calls = Diffusion.loss, 0

    def broken(self: Diffusion, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        found = loss(self, model, batch)
        return found * torch.nan if torch.is_grad_enabled() and calls == 5 else found  # the first is the trial

    monkeypatch.setattr(Diffusion, "loss", broken)
    config = config.but(max_steps=4, save_steps=1, validation_steps=100, batch_size=1)
    assert isinstance(run.start(config, [seen.append]), RunFinished)
    assert [e.step for e in seen if isinstance(e, Checkpoint)] == [1, 2, 3]
    assert [e.step for e in seen if isinstance(e, Validation) and e.signal == "train"] == [0, 3]
