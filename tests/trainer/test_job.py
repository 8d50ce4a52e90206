"""A job: written and read back equal, its identity is what shapes the trajectory, and differences are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer import job as jobs
from trainer.cache import conditioning_key, latents_key
from trainer.config import TrainConfig, parse
from trainer.errors import RunFolderError
from trainer.job import Base, Item, Job, Prompt, differences

Change = Callable[[Job], Job]


def item(number: int, **changes: Any) -> Item:
    captions = changes.pop("captions", (f"a picture, number {number}", "\u6c34\u58a8"))
    fields: dict[str, Any] = {
        "id": f"{number:032x}",
        "path": f"/d\u00e4ta \u56fe\u7247/{number}.png",
        "captions": captions,
        "size": (600, 500),
        "bucket": (512, 448),
        "repeats": 1,
        "latents": latents_key("vae", f"{number:032x}", (512, 448)),
        "conditioning": tuple(conditioning_key("clip", caption) for caption in captions),
    }
    return Item(**{**fields, **changes})


def make(**config: Any) -> Job:
    return Job(
        parse({"output_dir": "/out put/st\u00fcle", "base_model": "/b\u00e4se.safetensors", **config}),
        Base(Path("/b\u00e4se \u6a21\u578b.safetensors"), "sd15", "c0ffee"),
        (item(0), item(1), item(2, held_out=True)),
        (Prompt("a house", conditioning_key("clip", "a house"), "", conditioning_key("clip", "")),),
        conditioning_key("clip", ""),
        Path("/c\u00e4che"),
        vae="vae",
        text_encoder="clip",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "r\u00fcn \u8dd1"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    job = make(lora_alpha=4, sample_prompts=["a house"], trigger_word="1e-4", learning_rate=1e-5, seed=2**63 - 1)
    assert not jobs.exists(folder)
    job.save(folder)
    assert jobs.exists(folder)
    assert jobs.load(folder) == job
    assert jobs.load(folder).run_id == job.run_id
    assert sorted(p.name for p in folder.iterdir()) == ["dataset.jsonl", "job.yaml"]


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\nb", "a\r\nb", "- a: b", "\udcff", "#", "\x0c"])
def test_odd_texts_are_loaded_as_they_were(folder: Path, text: str) -> None:
    """Captions and prompts come from anywhere; file names need not be UTF-8."""
    job = make(sample_prompts=[text.replace("\udcff", "")])
    job = replace(job, items=(item(0, captions=(text.replace("\udcff", ""),), path=f"/x/{text}.png"),))
    job = replace(
        job, base=replace(job.base, file=Path(f"/{text}/base.safetensors")), prompts=(Prompt(text, "k", text, "n"),)
    )
    job.save(folder)
    assert jobs.load(folder) == job


def test_the_file_can_be_read_by_people_and_other_programs(folder: Path) -> None:
    job = make()
    job.save(folder)
    text = (folder / "job.yaml").read_text(encoding="utf-8")
    assert "\u6a21\u578b" in text
    data = yaml.safe_load(text)
    assert (data["version"], data["run"], data["origin"]) == (3, job.run_id, "command line")
    assert data["identity"] == json.loads(json.dumps(job.identity()))
    lines = (folder / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [i.id for i in job.items]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("job.yaml", "", "TypeError"),
        ("job.yaml", "[", "not YAML"),
        ("job.yaml", "- 1", "TypeError"),
        ("job.yaml", "version: 3", "KeyError('config')"),
        ("job.yaml", b"\xff\xfe", "UnicodeDecodeError"),
        ("job.yaml", "version: 1", "job.yaml is of format 1, expected 3"),
        ("dataset.jsonl", "{", "JSONDecodeError"),
        ("dataset.jsonl", "5", "TypeError"),
        ("dataset.jsonl", '{"id": 3}', "KeyError('captions')"),
        ("dataset.jsonl", None, "FileNotFoundError"),
    ],
)
def test_a_folder_that_cannot_be_read_is_said(folder: Path, file: str, content: str | bytes | None, said: str) -> None:
    make().save(folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunFolderError) as error:
        jobs.load(folder)
    assert said in error.value.message
    assert "train into another output_dir" in error.value.cure


def test_a_config_of_another_version_is_said_by_its_fields(folder: Path) -> None:
    make().save(folder)
    path = folder / "job.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("lora_rank: 8", "lora_rink: 8"), encoding="utf-8")
    with pytest.raises(RunFolderError, match="lora_rink: unknown field; did you mean lora_rank"):
        jobs.load(folder)


def test_no_run_is_said(folder: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no run \(there is no job.yaml in it\)"):
        jobs.load(folder)


def test_a_job_is_written_after_its_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, the folder holds no run, rather than one without its images."""
    written: list[str] = []
    real = jobs.write_text
    monkeypatch.setattr(jobs, "write_text", lambda path, text: (written.append(path.name), real(path, text)))
    make().save(folder)
    assert written == ["dataset.jsonl", "job.yaml"]


# --- identity


def on_item(index: int, **changes: Any) -> Change:
    def change(job: Job) -> Job:
        items = list(job.items)
        items[index] = replace(items[index], **changes)
        return replace(job, items=tuple(items))

    return change


def on_base(**changes: Any) -> Change:
    return lambda job: replace(job, base=replace(job.base, **changes))


def on_config(**changes: Any) -> Change:
    return lambda job: replace(job, config=job.config.but(**changes))


def with_regular(**changes: Any) -> Change:
    """One more image, a regularisation image; with a weight that follows from the config."""
    return lambda job: replace(job, items=(*job.items, item(9, **{"id": "reg-9", "weight": 0.5, **changes})))


DATASET = "train_data_dir: other images or captions"
REGULAR = "reg_data_dir: other images or captions"
SHAPING: dict[str, tuple[Change, list[str]]] = {
    "base content": (on_base(content="decaf"), ["base_model: another file, or other content"]),
    "family": (on_base(family="sdxl"), ["base_model: another model family"]),
    "prediction": (on_base(prediction="v_prediction"), ["base_model: another prediction type, or noise schedule"]),
    "zero terminal SNR": (
        on_base(zero_terminal_snr=True), ["base_model: another prediction type, or noise schedule"],
    ),
    "a LoRA to start from": (
        lambda job: replace(job, init="c0ffee"), ["init_lora: another file, or other content"],
    ),
    "size of an image": (on_item(0, size=(601, 500)), [DATASET]),
    "mask of an image": (on_item(0, mask="m"), ["train_data_dir: other masks"]),
    "flipped": (on_config(flip=True), ["flip: False there, True now"]),
    "a regularisation image": (with_regular(), [REGULAR]),
    "captions": (on_item(0, captions=("another", "\u6c34\u58a8")), [DATASET]),
    "bucket": (on_item(0, bucket=(448, 512)), [DATASET]),
    "repeats of an image": (on_item(0, repeats=2), [DATASET]),
    "image": (on_item(0, id="f" * 32), [DATASET]),
    "an image less": (lambda job: replace(job, items=job.items[1:]), [DATASET]),
    "held-out split": (
        lambda job: on_item(1, held_out=True)(on_item(2, held_out=False)(job)),
        [DATASET, "what is held out for validation"],
    ),
    "caption of an image held out": (
        on_item(2, captions=("another", "\u6c34\u58a8")), ["what is held out for validation"],
    ),
    "mask of an image held out": (on_item(2, mask="m"), ["what is held out for validation"]),
    "clip": (
        lambda job: replace(job, text_encoder="c2"), ["the text encoder: it gives other conditioning"],
    ),
    "vae": (lambda job: replace(job, vae="v2"), ["the VAE: it encodes other latents"]),
    "seed": (on_config(seed=7), ["seed: 42 there, 7 now"]),
    "rank": (on_config(lora_rank=4), ["lora_rank: 8 there, 4 now"]),
    "alpha": (on_config(lora_alpha=4), ["lora_alpha: None there, 4.0 now"]),
    "two fields": (on_config(batch_size=1, lr_scheduler="linear"), [
        "effective batch (batch_size x gradient_accumulation_steps): 4 there, 1 now",
        "lr_scheduler: 'cosine' there, 'linear' now",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPING)
def test_what_shapes_the_trajectory_changes_the_identity_and_is_named(name: str) -> None:
    change, named = SHAPING[name]
    old = make()
    new = change(old)
    assert new.run_id != old.run_id
    assert sorted(differences(old, new)) == sorted(named)


@pytest.mark.parametrize("caption", ["another", ""])
def test_what_differs_in_regularisation_images_is_named(caption: str) -> None:
    old, new = with_regular()(make()), with_regular(captions=(caption,))(make())
    assert differences(old, new) == [REGULAR]


# Another valid value for each field of the config; a new field fails here until it has one.
OTHER: dict[str, Any] = {
    "base_model": "/x",
    "train_data_dir": "/x",
    "metadata_path": "/x",
    "output_dir": "/x",
    "cache_dir": "/x",
    "trigger_word": "zwx",
    "caption_source": "files",
    "repeats": 2,
    "exclude": ["x.png"],
    "caption_dropout": 0.5,
    "resolution": 256,
    "validation_images": 1,
    "lora_rank": 4,
    "lora_alpha": 2.0,
    "lora_targets": "conv",
    "batch_size": 1,
    "gradient_accumulation_steps": 4,
    "learning_rate": 1e-4,
    "lr_scheduler": "linear",
    "warmup_steps": 5,
    "epochs": 11,
    "max_steps": 7,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "noise_offset": 0.05,
    "seed": 1,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "device": "cpu",
    "log_interval": 5,
    "save_steps": 5,
    "validation_steps": 5,
    "early_stopping_patience": 3,
    "sample_every": 5,
    "sample_prompts": ["a"],
    "sample_inference_steps": 5,
    "sample_guidance": 2.0,
    "sample_strength": 0.5,
    "prediction_type": "epsilon",
    "zero_terminal_snr": False,
    "clip_skip": 2,
    "caption_shuffle": True,
    "keep_tokens": 1,
    "flip": True,
    "mask": "alpha",
    "mask_outside": 0.2,
    "reg_data_dir": "/x",
    "prior_weight": 0.5,
    "prior_preservation": 1.0,
    "class_prompt": "a woman",
    "lora_method": "dora",
    "lora_blocks": ["mid_block"],
    "lora_ranks": {"mid_block": 4},
    "lora_alphas": {"mid_block": 4.0},
    "lora_dropout": 0.1,
    "lokr_factor": 8,
    "init_lora": "/x",
    "train_text_encoder": True,
    "text_encoder_learning_rate": 1e-5,
    "optimizer": "lion",
    "optimizer_args": {"eps": 1e-7},
    "lr_cycles": 2,
    "lr_power": 2.0,
    "min_snr_gamma": 5.0,
    "loss_type": "huber",
    "huber_delta": 0.2,
    "ema_decay": 0.99,
    "base_weights": "fp8",
    "vram_limit": 6.0,
    "tokenizer": "/x",
    "max_length": 512,
    "chat_template": "none",
    "sample_max_tokens": 5,
}
# What goes only with another field.
WITH: dict[str, dict[str, Any]] = {
    "prior_preservation": {"class_prompt": "a man"}, "text_encoder_learning_rate": {"train_text_encoder": True},
    "class_prompt": {"prior_preservation": 1.0, "class_prompt": "a man"}, "mask_outside": {"mask": "alpha"},
    "keep_tokens": {"caption_shuffle": True}, "prior_weight": {"reg_data_dir": "/y"},
    "reg_data_dir": {"reg_data_dir": "/y"},
    "lokr_factor": {"lora_method": "lokr"}, "lr_cycles": {"lr_scheduler": "cosine_with_restarts"},
    "lr_power": {"lr_scheduler": "polynomial"}, "huber_delta": {"loss_type": "huber"},
    "base_weights": {"base_weights": "nf4"},
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in TrainConfig.model_fields if n not in ("auto", "task_type")])
def test_a_field_is_in_the_identity_or_not(name: str) -> None:
    old = make(**WITH.get(name, {}))
    new = on_config(**{name: OTHER[name]})(old)
    batch = name in ("batch_size", "gradient_accumulation_steps")
    shapes = name in old.config.identity() or batch
    assert (new.run_id != old.run_id) == shapes
    told = "effective batch (batch_size x gradient_accumulation_steps)" if batch else name
    assert [line.split(":")[0] for line in differences(old, new)] == ([told] if shapes else [])


@pytest.mark.parametrize(
    "change",
    [
        on_base(file=Path("/elsewhere/base.safetensors")),
        on_item(0, path="/elsewhere/0.png"),
        lambda job: replace(job, cache_dir=Path("/elsewhere")),
        lambda job: replace(job, prompts=()),
        lambda job: replace(job, origin="host"),
        lambda job: replace(job, items=job.items[::-1]),
    ],
    ids=["base's path", "image's path", "cache", "prompts", "origin", "order of the images"],
)
def test_where_things_lie_and_how_they_are_shown_is_no_part_of_it(change: Change) -> None:
    assert change(make()).run_id == make().run_id
    assert differences(make(), change(make())) == []


def test_the_run_s_name_is_frozen() -> None:
    """It changes with every new field of the identity: then no older run is found again, and the changelog says so."""
    assert make().run_id == "8588bf3dbdcf"


def test_what_is_read_from_the_cache() -> None:
    job = make()
    entries = list(job.cache_entries())
    assert len(set(entries)) == 1 + 1 + 3 + 4  # empty, prompt, latents, captions (one of them is shared)
    assert ("conditioning", job.empty) in entries
    assert ("conditioning", job.prompts[0].conditioning) in entries
    assert {key for kind, key in entries if kind == "latents"} == {i.latents for i in job.items}


def test_held_out_images_are_not_trained() -> None:
    assert [i.id for i in make().train_items] == [i.id for i in make().items[:2]]
    assert make().name == "st\u00fcle"
