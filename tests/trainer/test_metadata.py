"""The header of a LoRA file, as other programs read it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer import export, metadata
from trainer.config import parse
from trainer.job import Base, Item, Job

SHA = "ab" * 32


def item(number: int, folder: str = "10_style", caption: str = "a house, red sky", **more: Any) -> Item:
    plain = {
        "id": f"{number:032x}", "path": f"/d\u00e4ta/{folder}/{number}.png", "captions": (caption,),
        "size": (64, 64), "bucket": (64, 64), "repeats": 10, "latents": "l", "conditioning": ("c",),
    }  # fmt: skip
    return Item(**{**plain, **more})


def job(*items: Item, family: str = "sd15", prediction: str = "epsilon", terminal: bool = False, **config: Any) -> Job:
    base = Base(Path("/b\u00e4se/m\u00f6del \u6a21\u578b.safetensors"), family, SHA, prediction, terminal)
    fields = {"output_dir": "/out/my st\u00fcle", **config}
    return Job(parse(fields), base, items or (item(0), item(1, caption="a house")), (), "e", Path("/cache"))


def lora(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lora_unet_x{n}.lora_{p}.weight": torch.randn(4, 4, generator=generator) for n in "ab" for p in ("up", "down")
    }


# --- as others read it


def test_kohya_s_keys_tell_what_was_trained() -> None:
    told = job(
        item(0), item(1, caption="a house"), item(2, held_out=True), lora_rank=16, lora_alpha=4, learning_rate=1e-4,
        seed=7, epochs=3, trigger_word="zwx", clip_skip=2, min_snr_gamma=5, flip=True, caption_shuffle=True,
        optimizer="adafactor", optimizer_args={"eps": 1e-3}, batch_size=2, gradient_accumulation_steps=3,
    )  # fmt: skip
    header = metadata.header(told, 5)
    expected = {
        "ss_output_name": "my st\u00fcle", "ss_sd_model_name": "m\u00f6del \u6a21\u578b.safetensors",
        "ss_new_sd_model_hash": SHA, "ss_base_model_version": "sd_v1", "ss_v2": "False",
        "ss_network_module": "networks.lora", "ss_network_dim": "16", "ss_network_alpha": "4.0", "ss_steps": "5",
        "ss_epoch": "2", "ss_num_epochs": "3", "ss_num_batches_per_epoch": "4", "ss_total_batch_size": "6",
        "ss_learning_rate": "0.0001", "ss_unet_lr": "0.0001", "ss_lr_scheduler": "cosine", "ss_seed": "7",
        "ss_optimizer": "adafactor(weight_decay=0.01,eps=0.001)", "ss_clip_skip": "2", "ss_min_snr_gamma": "5.0",
        "ss_loss_type": "l2", "ss_flip_aug": "True", "ss_shuffle_caption": "True", "ss_num_train_images": "20",
        "ss_num_reg_images": "0", "ss_num_validation_images": "1", "ss_resolution": "(512, 512)",
    }  # fmt: skip
    assert {name: header.get(name) for name in expected} == expected
    assert "ss_text_encoder_lr" not in header
    assert json.loads(header["ss_dataset_dirs"]) == {"10_style": {"n_repeats": 10, "img_count": 2}}
    assert json.loads(header["ss_bucket_info"]) == {"buckets": {"0": {"resolution": [64, 64], "count": 20}}}
    assert json.loads(header["darkroom.config"]) == told.config.identity()


def test_the_trigger_word_is_where_lora_manager_and_a1111_look_for_it() -> None:
    header = metadata.header(job(trigger_word="zwx style"), 1)
    assert json.loads(header["ss_datasets"])[0]["subsets"][0]["class_tokens"] == "zwx style"
    assert header["modelspec.trigger_phrase"] == "zwx style"
    without = metadata.header(job(), 1)
    assert "modelspec.trigger_phrase" not in without
    assert json.loads(without["ss_datasets"])[0]["subsets"][0]["class_tokens"] is None


def test_tags_are_counted_by_folder_and_by_image() -> None:
    items = (
        item(0, "5_cat", "cat, sitting, \u6c34"), item(1, "style", "a house, red sky"), item(2, "style", "red sky"),
        item(3, "style", captions=("red sky, a house", "a house, red sky")), item(4, "style", "x", held_out=True),
    )  # fmt: skip
    found = json.loads(metadata.header(job(*items), 1)["ss_tag_frequency"])
    assert found == {"style": {"red sky": 3, "a house": 2}, "5_cat": {"cat": 1, "sitting": 1, "\u6c34": 1}}
    assert list(found["style"]) == ["red sky", "a house"]
    assert next(iter(found)) == "style"  # Lora-Manager reads the first one only: the folder with most images


def test_regularisation_images_are_told_apart() -> None:
    # A link, or a folder in the other one: the id says which side an image is on, not its path.
    told = job(item(0), item(1, "1_woman", "a woman", id="reg-1"), reg_data_dir="/d\u00e4ta")
    header = metadata.header(told, 1)
    assert json.loads(header["ss_reg_dataset_dirs"]) == {"1_woman": {"n_repeats": 10, "img_count": 1}}
    assert header["ss_num_reg_images"] == header["ss_num_train_images"] == "10"
    assert "a woman" not in header["ss_tag_frequency"]


NETWORKS = [
    ({}, "networks.lora", "8.0", None),
    ({"lora_alpha": 1}, "networks.lora", "1.0", None),
    ({"lora_method": "rslora", "lora_rank": 16, "lora_alpha": 2}, "networks.lora", "8.0", None),
    ({"lora_targets": "conv"}, "networks.lora", "8.0", {"conv_dim": "8", "conv_alpha": "8.0"}),
    ({"lora_method": "dora"}, "lycoris.kohya", "8.0", {"algo": "lora", "dora_wd": "True"}),
    ({"lora_method": "loha"}, "lycoris.kohya", "8.0", {"algo": "loha"}),
    ({"lora_method": "lokr", "lokr_factor": 8}, "lycoris.kohya", "8.0", {"algo": "lokr", "factor": "8"}),
    ({"lora_ranks": {"mid_block": 4}}, "networks.lora", "Dynamic", None),
]


@pytest.mark.parametrize(("fields", "module", "alpha", "arguments"), NETWORKS, ids=lambda v: str(v)[:40])
def test_every_method_has_its_name(fields: dict[str, Any], module: str, alpha: str, arguments: Any) -> None:
    header = metadata.header(job(**fields), 1)
    assert (header["ss_network_module"], header["ss_network_alpha"]) == (module, alpha)
    assert json.loads(header.get("ss_network_args", "null")) == arguments


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_modelspec(family: str, prediction: str) -> None:
    told = job(family=family, prediction=prediction, terminal=prediction != "epsilon", resolution=1024, clip_skip=2)
    header = metadata.header(told, 1)
    found = {name.removeprefix("modelspec."): value for name, value in header.items() if name.startswith("modelspec.")}
    architecture = {"sd15": "stable-diffusion-v1/lora", "sdxl": "stable-diffusion-xl-v1-base/lora"}[family]
    assert found.items() >= {
        "sai_model_spec": "1.0.0", "architecture": architecture, "title": "my st\u00fcle", "resolution": "1024x1024",
        "prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}[prediction], "encoder_layer": "2",
    }.items()  # fmt: skip
    assert found["implementation"]
    # A1111 tells SDXL by this.
    assert header["ss_base_model_version"].startswith("sdxl_") == (family == "sdxl")
    assert header["ss_zero_terminal_snr"] == str(prediction == "v_prediction")


def test_a_trained_text_encoder_has_its_rate() -> None:
    fields = {"train_text_encoder": True, "learning_rate": 2e-4}
    assert metadata.header(job(**fields), 1)["ss_text_encoder_lr"] == "0.0001"
    assert metadata.header(job(**fields, text_encoder_learning_rate=5e-5), 1)["ss_text_encoder_lr"] == "5e-05"
    fields |= {"optimizer": "prodigy", "learning_rate": 1.0}
    assert metadata.header(job(**fields), 1)["ss_text_encoder_lr"] == "1.0"


def test_a_schedule_that_the_optimizer_does_without_is_constant() -> None:
    assert metadata.header(job(optimizer="schedulefree"), 1)["ss_lr_scheduler"] == "constant"


@pytest.mark.parametrize(
    ("given", "prediction", "gamma"),
    [(None, "epsilon", None), (None, "v_prediction", "5.0"), (0, "v_prediction", None), (3, "epsilon", "3.0")],
)
def test_min_snr_is_told_where_it_acts(given: float | None, prediction: str, gamma: str | None) -> None:
    header = metadata.header(job(prediction=prediction, min_snr_gamma=given), 1)
    assert header.get("ss_min_snr_gamma") == gamma


# --- the file


def test_the_hashes_are_of_the_file_s_tensors(tmp_path: Path) -> None:
    """As sd-scripts defines sshs_model_hash, and ModelSpec hash_sha256: of all bytes behind the header."""
    tensors = lora()
    path = tmp_path / "l\u00f6ra \u6c34.safetensors"
    export.write(path, tensors | {f"lora_unet_x{n}.alpha": torch.tensor(4.0) for n in "ab"}, {})
    file, _ = export.read(path)
    header = metadata.header(job(), 1, file)
    data = path.read_bytes()
    expected = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert header["sshs_model_hash"] == expected
    assert header["modelspec.hash_sha256"] == f"0x{expected}"
    export.write(path, file, header)  # whatever the header, the hash holds
    data = path.read_bytes()
    assert hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest() == expected
    assert metadata.hashes(lora(1)) != metadata.hashes(lora())


def test_the_header_is_text_without_dates_and_places(tmp_path: Path) -> None:
    told = job(trigger_word="zwx", train_data_dir="/d\u00e4ta", base_model="/b\u00e4se/x.safetensors")
    header = metadata.header(told, 5, lora())
    assert header == metadata.header(told, 5, lora())
    assert not any(
        place in value for value in header.values() for place in ("/out", "/d\u00e4ta", "/b\u00e4se", "/cache")
    )
    assert not any(word in name for name in header for word in ("date", "started", "finished", "session"))
    path = tmp_path / "x.safetensors"
    save_file(lora(), path, header)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == header


def test_what_does_not_shape_the_lora_is_not_in_it() -> None:
    told = job(item(0), batch_size=4, gradient_accumulation_steps=1)
    other = replace(
        told,
        config=told.config.but(
            batch_size=1, gradient_accumulation_steps=4, gradient_checkpointing=False, save_steps=7, log_interval=3,
            output_dir="/elsewhere/my st\u00fcle",
        ),
    )  # fmt: skip
    assert metadata.header(told, 3) == metadata.header(other, 3)


@pytest.mark.parametrize("words", ["tag {}", 'a long sentence about a house and a tree, number {}, \u98ce\u683c "{}"'])
def test_a_large_data_set_has_a_header_that_comfyui_shows(words: str, tmp_path: Path) -> None:
    """ComfyUI's /view_metadata: no header above 1 MB. SDXL's convolutions and DoRA make the longest list of tensors."""
    many = [item(n, f"folder {n % 500}", f"common, {words.format(n, n)}") for n in range(8000)]
    header = metadata.header(job(*many, trigger_word="zwx"), 100)
    kept = json.loads(header["ss_tag_frequency"])
    assert len(kept) == metadata.FOLDERS
    assert all(tags["common"] == 16 for tags in kept.values())  # the frequent ones stay
    names = [
        f"lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0_{n}.{part}"
        for n in range(1060)
        for part in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
    ]
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path, header)
    assert int.from_bytes(path.read_bytes()[:8], "little") < 1_000_000


def test_a_name_that_is_no_utf8_is_written_as_an_escape(tmp_path: Path) -> None:
    told = job(item(0, "f\udcffolder"))
    header = metadata.header(told, 1)
    save_file(lora(), tmp_path / "x.safetensors", header)
    assert "f\\udcffolder" in header["ss_dataset_dirs"]


def test_nothing_to_train_on_is_told_too() -> None:
    header = metadata.header(replace(job(), items=(item(0, held_out=True),)), 0)
    assert (header["ss_epoch"], header["ss_num_train_images"]) == ("0", "0")
