"""Runs of a language model, from a folder of texts to files that others read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from trainer import adapters, checkpoint, export, languages, memory, run, validation
from trainer import job as jobs
from trainer.__main__ import main
from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError, DatasetError, RunFolderError, UserError
from trainer.events import (
    DRIFT,
    HELD_OUT,
    TRAIN,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
    Validation,
    Warned,
)
from trainer.languages import toys
from trainer.text import Chat

Sinks = list[Event]


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in LLaMA's architecture at toy size, with random weights."""
    return toys.write_tiny(tmp_path_factory.mktemp("b\u00f6se") / "\u6a21\u578b llama", "llama")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Ten questions with answers of several lengths."""
    folder = tmp_path / "t\u00e4xte \u6587"
    folder.mkdir()
    lines = [
        {"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}" + ", my captain" * (n % 3) + "."}
        for n in range(10)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "sums.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def config(tmp_path: Path, tiny_language: Path, texts: Path, cache_dir: Path) -> TrainConfig:
    """A short run: three windows an epoch, the last one short."""
    return parse(
        {
            "task_type": "text-generation",
            "base_model": tiny_language.as_posix(),
            "train_data_dir": texts.as_posix(),
            "output_dir": (tmp_path / "out put" / "my l\u00f6ra").as_posix(),
            "cache_dir": cache_dir.as_posix(),
            "batch_size": 4,
            "epochs": 4,
            "learning_rate": 1e-2,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "save_steps": 3,
            "validation_steps": 0,
            "sample_every": 0,
            "log_interval": 1,
        }
    )


def trained(config: TrainConfig, name: str = "", until: int | None = None, **fields: Any) -> tuple[Sinks, Any]:
    """The events of a run and its adapters at the end; or broken off after a step, and gone on with."""
    seen: Sinks = []
    if name:
        config = config.but(output_dir=config.output_dir.with_name(name).as_posix(), **fields)
    if until is not None:
        done = lambda: sum(isinstance(event, Step) for event in seen) >= until  # noqa: E731
        assert isinstance(run.start(config, [seen.append], done), RunStopped)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished), end
    return seen, checkpoint.load(config.output_dir, end.step).adapter


def losses(seen: Sinks) -> list[float]:
    return [event.loss for event in seen if isinstance(event, Step)]


def test_a_run_learns_and_leaves_a_whole_folder(config: TrainConfig) -> None:
    config = config.but(validation_images=2, validation_steps=3, sample_every=6, epochs=8)
    seen, _ = trained(config)
    folder = config.output_dir
    assert losses(seen)[-1] < 0.5 * losses(seen)[0]
    started = next(event for event in seen if isinstance(event, RunStarted))
    assert (started.text, started.images, started.held_out, started.effective_batch) == (True, 8, 2, 4)
    assert {path.name for path in folder.iterdir()} >= {
        "my l\u00f6ra.safetensors", "peft", "checkpoints", "logs", "events.jsonl", "log.txt", "job.yaml",
        "dataset.jsonl", "validation.jsonl", "result.json",
    }  # fmt: skip
    told = [event for event in seen if isinstance(event, Validation)]
    assert {event.signal for event in told} == {HELD_OUT, TRAIN, DRIFT}
    held_out = [event for event in told if event.signal == HELD_OUT]
    assert held_out[-1].loss < held_out[0].loss
    assert held_out[-1].perplexity == pytest.approx(torch.tensor(held_out[-1].loss).exp().item())
    assert next(event.loss for event in told if event.signal == DRIFT) == pytest.approx(0, abs=1e-6)
    answers = [event for event in seen if isinstance(event, Sample)]
    assert len({event.prompt for event in answers}) == 4  # three of the data set, one far from it
    assert all(event.answer for event in answers)
    assert answers[0].answer in (folder / "log.txt").read_text(encoding="utf-8")


def test_the_model_with_its_lora_is_exported_as_one(config: TrainConfig, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    trained(config)
    target = tmp_path / "with \u00fc" / "merged"
    arguments = ["export", "--run", str(config.output_dir), "--step", "last", "--merged", str(target)]
    assert main([*arguments, "--strength", "0.8"]) == 0
    model = languages.load(config.base_model, torch.float32)
    lora, _ = export.read(config.output_dir / "my l\u00f6ra.safetensors")
    adapters.from_file(model, lora, languages.export_key, "it")
    ids = torch.tensor([[5, 80, 17, 300, 42, 9]])
    with torch.no_grad():
        expected = []
        for value in (1.0, 0.8):
            with adapters.strength(model, value):
                expected.append(model(input_ids=ids).logits)
        found = AutoModelForCausalLM.from_pretrained(target)(input_ids=ids).logits
    torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, expected[0], rtol=1e-4, atol=1e-5)
    assert (target / "tokenizer.json").is_file()
    assert main(arguments) != 0, "it is there already"


def test_the_file_is_named_as_comfyui_has_its_language_models(config: TrainConfig) -> None:
    trained(config)
    with safe_open(config.output_dir / "my l\u00f6ra.safetensors", "pt") as file:
        names, header = set(file.keys()), file.metadata()
    module = "text_encoders.transformer.model.layers.0.self_attn.q_proj"
    assert {f"{module}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")} <= names
    assert len(names) == 3 * 2 * 7  # two blocks of seven linear layers; no head, no embedding
    assert header["ss_base_model_version"] == "llama"
    assert header["darkroom.task"] == "text-generation"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT, of transformers
def test_the_file_and_peft_s_folder_do_what_was_trained(config: TrainConfig, tiny_language: Path) -> None:
    from peft import PeftModel

    trained(config)
    tokenizer = languages.tokenizer(tiny_language)
    ids = torch.tensor([Chat(tokenizer).question("What is 3 plus 3?")])

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False).logits

    plain = languages.load(tiny_language, torch.float32)
    before = logits(plain)
    ours = languages.load(tiny_language, torch.float32)
    tensors, _ = export.read(config.output_dir / "my l\u00f6ra.safetensors")
    adapters.from_file(ours, tensors, languages.export_key)
    by_peft = PeftModel.from_pretrained(plain, config.output_dir / "peft")
    torch.testing.assert_close(logits(by_peft), logits(ours), rtol=1e-5, atol=1e-5)
    assert float((logits(ours) - before).abs().max()) > 0.1


@pytest.mark.parametrize("cut", [(1, 4), (2, 2), (3, 2)], ids=str)
def test_how_a_batch_is_cut_does_not_matter(cut: tuple[int, int], config: TrainConfig) -> None:
    batch, times = cut
    config = config.but(batch_size=batch * times)
    whole, one = trained(config)
    parts, other = trained(config, "cut", batch_size=batch, gradient_accumulation_steps=times)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    apart = sum(float((other[name] - tensor).square().sum()) for name, tensor in one.items())
    assert apart < 1e-8 * sum(float(tensor.square().sum()) for tensor in one.values())


def test_packed_texts_train_as_each_by_itself(config: TrainConfig) -> None:
    """With one text in a row there is no other that it could see."""
    packed, _ = trained(config)
    alone, _ = trained(config, "alone", batch_size=1, gradient_accumulation_steps=4)
    assert losses(alone) == pytest.approx(losses(packed), rel=1e-5)


@pytest.mark.parametrize("fields", [{}, {"lora_dropout": 0.2}, {"optimizer": "adafactor"}], ids=str)
def test_a_broken_run_is_the_unbroken_one_bit_for_bit(fields: dict[str, Any], config: TrainConfig) -> None:
    config = config.but(**fields)
    whole, one = trained(config)
    broken, other = trained(config, "broken", until=5)
    assert losses(broken) == losses(whole)
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_the_same_seed_gives_the_same_file(config: TrainConfig) -> None:
    trained(config)
    twin = config.output_dir.parent / "twin" / config.name
    trained(config.but(output_dir=twin.as_posix()))
    files = [folder / "my l\u00f6ra.safetensors" for folder in (config.output_dir, twin)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_checkpointing_changes_nothing(config: TrainConfig) -> None:
    plain, _ = trained(config)
    checkpointed, _ = trained(config, "checkpointed", gradient_checkpointing=True)
    assert losses(checkpointed) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
def test_a_base_in_fewer_bits_learns_too(kind: str, tmp_path: Path, config: TrainConfig) -> None:
    base = toys.write_tiny(tmp_path / "wide", "llama", hidden_size=256, intermediate_size=512)
    seen, _ = trained(config, "few", base_model=base.as_posix(), base_weights=kind)
    assert losses(seen)[-1] < 0.7 * losses(seen)[0]


def test_memory_that_runs_out_is_given_up_in_order_and_the_loss_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.tasks.causal_lm import CausalLM

    whole, _ = trained(config)
    compute, full = CausalLM.loss, []

    def limited(self: CausalLM, model: Any, batch: Any) -> torch.Tensor:
        if batch.texts > 1:
            full.append(batch.texts)
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return compute(self, model, batch)

    monkeypatch.setattr(CausalLM, "loss", limited)
    seen, _ = trained(config, "small")
    said = [event.message for event in seen if isinstance(event, Warned)]
    assert [line for line in said if "2 at a time" in line]
    assert [line for line in said if "1 at a time" in line]
    assert full
    assert losses(seen) == pytest.approx(losses(whole), rel=2e-2)  # the base went to 16 bits first


def test_overfitting_is_stopped_in_time(
    config: TrainConfig, tmp_path: Path, unhurried: None, tiny_language: Path
) -> None:
    """Random answers: what is learnt of some says nothing of the others, so their loss can only rise."""
    folder = tmp_path / "random"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    words = ["red", "cat", "sea", "town", "blue", "far", "old", "dog", "sits", "name"]
    rows = []
    for number in range(16):
        drawn = torch.randint(len(words), (12,), generator=generator).tolist()
        rows.append({"prompt": f"number {number}", "completion": " ".join(words[place] for place in drawn)})
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = config.but(
        train_data_dir=folder.as_posix(), validation_images=6, validation_steps=5, save_steps=5, epochs=80,
        early_stopping_patience=4, lr_scheduler="constant", warmup_steps=0, learning_rate=2e-2, lora_rank=16,
    )  # fmt: skip
    seen, _ = trained(config)
    end = seen[-1]
    assert isinstance(end, RunFinished)
    assert end.stopped
    assert 0 < end.best < end.step < 200
    steps = validation.read(config.output_dir).steps
    mean = {step: sum(values[HELD_OUT].values()) / 6 for step, values in steps.items()}
    assert mean[end.best] < mean[end.step]
    assert mean[end.best] <= 1.05 * min(mean[step] for step in checkpoint.complete(config.output_dir))


def test_a_longer_run_extends_a_shorter_one(config: TrainConfig) -> None:
    first, _ = trained(config)
    assert isinstance(run.start(config, []), RunFinished)
    longer: Sinks = []
    end = run.start(config.but(epochs=6), [longer.append])
    assert isinstance(end, RunFinished)
    assert end.step == 18
    assert len(losses(longer)) == 18 - len(losses(first))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder, config: config.but(max_length=16), "max_length"),
        (lambda folder, config: config.but(lora_rank=4), "lora_rank"),
        (lambda folder, config: config.but(chat_template="none"), "chat_template"),
    ],
)
def test_another_run_s_folder_is_refused(
    change: Callable[[Path, TrainConfig], TrainConfig], said: str, config: TrainConfig
) -> None:
    trained(config)
    with pytest.raises(RunFolderError, match=said):
        run.start(change(config.train_data_dir, config), [])


def test_a_run_of_texts_in_a_folder_of_pictures_is_refused(config: TrainConfig, tiny_base: Path) -> None:
    trained(config)
    other = jobs.load(config.output_dir)
    pictures = parse({"output_dir": config.output_dir.as_posix(), "base_model": tiny_base.as_posix()})
    assert jobs.differences(other, jobs.Job(pictures, other.base, (), (), "", Path())) == [
        "task_type: 'text-generation' there, 'image-generation' now"
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora_targets": "conv"}, "lora_targets: a language model has no convolutions"),
        ({"train_text_encoder": True}, "train_text_encoder: is of images"),
        ({"flip": True}, "flip: is of images"),
        ({"clip_skip": 2}, "clip_skip: is of images"),
        ({"max_length": 4}, "max_length: expected at least 8, got 4"),
        ({"chat_template": "/nowhere.jinja"}, "chat_template"),
        ({"tokenizer": "/nowhere"}, "tokenizer"),
        ({"base_model": "/nowhere"}, "nowhere"),
        ({"validation_images": 10}, "validation_images: 10 cannot be held out of 10 different texts"),
        ({"metadata_path": "/nowhere.jsonl"}, "nowhere"),
        ({"train_data_dir": "/nowhere"}, "nowhere"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_told_at_once(fields: dict[str, Any], said: str, config: TrainConfig) -> None:
    with pytest.raises(UserError, match=said):
        run.start(config.but(**fields), [])
    assert not config.output_dir.exists()


def test_images_are_no_texts_and_the_reverse(
    config: TrainConfig, tmp_path: Path, picture_folder: Callable[..., Path], tiny_base: Path
) -> None:
    pictures = picture_folder(tmp_path / "pictures")
    with pytest.raises(DatasetError, match="image"):
        run.start(config.but(train_data_dir=pictures.as_posix()), [])
    with pytest.raises((DatasetError, ConfigError), match="text-generation"):
        run.start(parse({**config.to_plain(), "task_type": "image-generation", "base_model": tiny_base.as_posix()}), [])


def test_a_base_of_the_other_kind_is_named(config: TrainConfig, tiny_base: Path) -> None:
    with pytest.raises(UserError, match="tiny base"):
        run.start(config.but(base_model=tiny_base.as_posix()), [])


def test_a_rate_that_explodes_fails_by_name(config: TrainConfig) -> None:
    end = run.start(config.but(learning_rate=10.0, max_grad_norm=0.0, epochs=40, warmup_steps=0), [])
    if isinstance(end, RunFailed):
        assert "learning_rate" in end.cure
    else:  # it came through: then what it saved is finite
        export.check(export.read(config.output_dir / end.path)[0])  # type: ignore[union-attr]


def test_the_guide_s_rate_counts_where_none_is_set(config: TrainConfig) -> None:
    plain = config.to_plain()
    plain.pop("learning_rate")
    assert parse(plain).learning_rate == 1e-4
    assert parse({**plain, "task_type": "image-generation"}).learning_rate == 2e-4


def test_less_memory_is_advised_in_tokens(config: TrainConfig) -> None:
    plan = memory.Plan(0, 100, 10, 1000, 50, 500)
    assert memory.advised(plan, config)["max_length: 512"] == 500
    assert "max_length than 1024" in str(memory.exhausted("training", None, config, "cuda"))
