"""Files of OneTrainer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import TrainConfig, load, parse
from trainer.errors import ConfigError, UserError
from trainer.importers import command, onetrainer
from trainer.importers.base import Imported
from trainer.importers.onetrainer_keys import DEFAULTS, IGNORED, LEFT_OUT, TAKEN

START: dict[str, Any] = {
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "base_model_name": "D:/models/base.safetensors",
    "learning_rate": 3e-4,
    "learning_rate_warmup_steps": 0,
    "layer_filter_preset": "attn-mlp",
    "text_encoder": {"train": False},
    "text_encoder_2": {"train": False},
}


def read(**more: Any) -> Imported:
    return onetrainer.read({**START, **more}, Path("/f/\u98ce \u00fc.json"))


def config(**more: Any) -> TrainConfig:
    return read(**more).config


def changed(found: Imported) -> dict[str, Any]:
    """What is not at our own default."""
    default = parse({})
    return {name: value for name, value in found.config if value != getattr(default, name)}


def told(found: Imported) -> list[str]:
    return [str(note) for note in (*found.left_out, *found.differing)]


# As OneTrainer saves it: every setting there is, most of them at its defaults.
WHOLE: dict[str, Any] = {
    "__version": 11, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "debug_mode": False,
    "workspace_dir": "workspace/run", "cache_dir": "workspace-cache/run", "tensorboard": True, "tensorboard_port": 6006,
    "validation": False, "multi_gpu": False, "base_model_name": "D:/modelle/noob\u00e4i-XL.safetensors",
    "output_dtype": "BFLOAT_16", "output_model_format": "SAFETENSORS", "aspect_ratio_bucketing": True,
    "output_model_destination": "models/m\u00e4rz \u98ce\u683c.safetensors", "latent_caching": True,
    "learning_rate_scheduler": "COSINE", "learning_rate": 0.0003, "learning_rate_warmup_steps": 100.0,
    "learning_rate_cycles": 1.0, "learning_rate_min_factor": 0.0, "epochs": 40, "batch_size": 4,
    "gradient_accumulation_steps": 1, "ema": "GPU", "ema_decay": 0.999, "ema_update_step_interval": 5,
    "train_device": "cuda", "temp_device": "cpu", "train_dtype": "BFLOAT_16", "fallback_train_dtype": "BFLOAT_16",
    "resolution": "1024", "attention_mechanism": "SDP", "mse_strength": 1.0, "mae_strength": 0.0,
    "huber_strength": 0.0, "huber_delta": 1.0, "vb_loss_strength": 1.0, "loss_weight_fn": "MIN_SNR_GAMMA",
    "loss_weight_strength": 5.0, "dropout_probability": 0.0, "loss_scaler": "NONE", "learning_rate_scaler": "BATCH",
    "clip_grad_norm": 1.0, "offset_noise_weight": 0.05, "rescale_noise_scheduler_to_zero_terminal_snr": True,
    "force_v_prediction": True, "timestep_distribution": "LOGIT_NORMAL", "noising_bias": 0.0,
    "unet": {"train": True, "learning_rate": None, "gradient_checkpointing": True, "weight_dtype": "BFLOAT_16",
             "offload_fraction": 0.0, "dropout_probability": 0.0, "include": True},
    "text_encoder": {"train": True, "learning_rate": 5e-5, "dropout_probability": 0.1, "stop_training_after": 20,
                     "stop_training_after_unit": "EPOCH", "weight_dtype": "BFLOAT_16", "train_embedding": True},
    "text_encoder_layer_skip": 0, "text_encoder_2": {"train": False}, "text_encoder_2_layer_skip": 0,
    "vae": {"model_name": "", "weight_dtype": "FLOAT_32"}, "prior": {"train": True}, "masked_training": True,
    "unmasked_probability": 0.1, "unmasked_weight": 0.2, "layer_filter": "attentions",
    "layer_filter_preset": "attn-mlp", "peft_type": "LORA", "lora_rank": 32, "lora_alpha": 16.0,
    "lora_decompose": True, "lora_weight_dtype": "FLOAT_32", "oft_block_size": 32, "lokr_dim": 16,
    "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.02,
                  "fused": True, "stochastic_rounding": False, "d_coef": None},
    "optimizer_defaults": {"ADAMW": {"beta1": 0.9}}, "sample_after": 10, "sample_after_unit": "MINUTE",
    "save_every": 250, "save_every_unit": "STEP", "backup_after": 10, "backup_after_unit": "MINUTE",
    "samples": [
        {"enabled": True, "prompt": "a house, \u6c34", "negative_prompt": "blurry", "width": 1024, "height": 768,
         "seed": 7, "random_seed": False, "diffusion_steps": 25, "cfg_scale": 6.0, "noise_scheduler": "EULER_A"},
        {"enabled": False, "prompt": "never"},
    ],
    "concepts": [
        {"enabled": True, "type": "STANDARD", "path": "D:/d\u00e4ten/\u98ce\u683c", "include_subdirectories": True,
         "balancing": 4.0, "balancing_strategy": "REPEATS",
         "image": {"enable_crop_jitter": True, "enable_random_flip": True, "enable_random_hue": False},
         "text": {"prompt_source": "sample", "enable_tag_shuffling": True, "keep_tags_count": 2}},
        {"enabled": True, "type": "VALIDATION", "path": "D:/v"}, {"enabled": False, "path": "D:/old"},
        {"enabled": True, "path": "D:/second"},
    ],
    "cloud": {"enabled": False}, "secrets": {"huggingface_token": "x"}, "compile": False,
}  # fmt: skip


def test_a_whole_file() -> None:
    found = onetrainer.read(WHOLE, Path("/f/x.json"))
    assert changed(found) == {
        "base_model": Path("D:/modelle/noob\u00e4i-XL.safetensors"), "prediction_type": "v_prediction",
        "zero_terminal_snr": True, "output_dir": Path("models/m\u00e4rz \u98ce\u683c"), "resolution": 1024,
        "mixed_precision": "bf16", "lora_rank": 32, "lora_alpha": 16.0, "lora_method": "dora",
        "learning_rate": 3e-4, "train_text_encoder": True, "text_encoder_learning_rate": 5e-5, "weight_decay": 0.02,
        "min_snr_gamma": 5.0, "noise_offset": 0.05, "mask": "files", "mask_outside": 0.2, "epochs": 40,
        "ema_decay": 0.999, "save_steps": 250, "train_data_dir": Path("D:/d\u00e4ten/\u98ce\u683c"), "repeats": 4,
        "flip": True, "caption_shuffle": True, "keep_tokens": 2, "caption_dropout": 0.1, "sample_strength": 1.0,
        "sample_prompts": found.config.sample_prompts,
    }  # fmt: skip
    assert [prompt.model_dump() for prompt in found.config.sample_prompts] == [
        {"prompt": "a house, \u6c34", "negative": "blurry", "seed": 7, "steps": 25, "guidance": 6.0, "width": 1024,
         "height": 768},
    ]  # fmt: skip
    assert [str(note) for note in found.left_out] == [
        "concepts type = 'VALIDATION': left out; validation_images holds images out, prior_preservation needs none",
        "concepts path = 'D:/second': a run has one folder: put both below one, as 10_name for 10 repeats",
        "concepts image.enable_crop_jitter = true: left out; images are cropped in the middle, and kept as they are",
        "output_dtype = 'BFLOAT_16': the LoRA is fp32: what was trained, to the last bit",
        "learning_rate_scaler = 'BATCH': multiply learning_rate yourself",
        "timestep_distribution = 'LOGIT_NORMAL': all timesteps are trained alike",
        "unet.weight_dtype = 'BFLOAT_16': the base model is in mixed_precision",
        "backup_after = 10: not needed: the newest two checkpoints can be gone on from",
    ]
    assert [str(note) for note in found.differing] == [
        "text_encoder.train = true: both text encoders are trained, or none: both are",
        "text_encoder.stop_training_after = '20 EPOCH': the text encoder is trained to the end",
        "learning_rate_warmup_steps = 100.0: warmup_steps: 100, but at most a tenth of the run",
        "ema = 'GPU': ema_decay: 0.999, at every step and on the card",
        "concepts prompt_source = 'sample': a .txt is one caption, with all its lines; alternatives are rows of a "
        "metadata.csv",
        "concepts enable_tag_shuffling = true: of lists of tags alone (not of sentences), in up to eight orders an "
        "image",
    ]


def test_what_the_file_does_not_say_is_as_there_not_as_here() -> None:
    found = onetrainer.read({"training_method": "LORA"}, Path("/f/x.json"))
    assert changed(found) == {
        "base_model": Path("stable-diffusion-v1-5/stable-diffusion-v1-5"), "output_dir": Path("models/model"),
        "lora_rank": 16, "lora_alpha": 1.0, "lora_targets": "conv", "learning_rate": 3e-6, "lr_scheduler": "constant",
        "warmup_steps": 200, "epochs": 100, "batch_size": 1, "train_text_encoder": True, "min_snr_gamma": 0.0,
        "text_encoder_learning_rate": 3e-6, "caption_dropout": 0.0,
    }  # fmt: skip
    assert told(found) == [
        "base_model_name = 'stable-diffusion-v1-5/stable-diffusion-v1-5': nothing is downloaded: where this is a name "
        "on a hub, give base_model as a file or a folder",
        "layer_filter_preset = 'full': conv: all but conv_in, conv_out and the time embedding",
        "learning_rate (not given): 3e-6 is written, as there; it moves hardly anything: 1e-4 to 3e-4 is usual",
        "text_encoder.stop_training_after = '30 EPOCH': the text encoder is trained to the end",
        "learning_rate_warmup_steps = 200.0: warmup_steps: 200, but at most a tenth of the run",
    ]


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"train_text_encoder": False, "text_encoder_learning_rate": None, "resolution": 512}),
    ({"peft_type": "LOHA", "lora_rank": 4}, {"lora_method": "loha", "lora_rank": 4}),
    ({"peft_type": "LOKR", "lokr_dim": 8, "lokr_decompose_factor": 4},
     {"lora_method": "lokr", "lora_rank": 8, "lokr_factor": 4}),
    ({"layer_filter_preset": "attn-only"}, {"lora_targets": "attention"}),
    ({"layer_filter_preset": "full"}, {"lora_targets": "conv"}),
    ({"text_encoder_layer_skip": 1, "text_encoder_2_layer_skip": 1}, {"clip_skip": 3}),
    ({"model_type": "STABLE_DIFFUSION_15", "text_encoder_layer_skip": 1}, {"clip_skip": 2}),
    ({"train_dtype": "FLOAT_32"}, {"mixed_precision": "no"}),
    ({"gradient_checkpointing": "OFF"}, {"gradient_checkpointing": False}),
    ({"gradient_checkpointing": "CPU_OFFLOADED"}, {"gradient_checkpointing": True}),
    ({"unet": {"gradient_checkpointing": False, "learning_rate": 1e-5}},
     {"gradient_checkpointing": False, "learning_rate": 1e-5}),
    ({"optimizer": "ADAFACTOR"}, {"optimizer": "adafactor", "weight_decay": 0.0}),
    ({"optimizer": {"optimizer": "PRODIGY", "d_coef": 2.0, "use_bias_correction": True}},
     {"optimizer": "prodigy", "learning_rate": 1.0, "weight_decay": 0.0,
      "optimizer_args": {"use_bias_correction": True, "safeguard_warmup": False, "d_coef": 2.0}}),
    ({"optimizer": {"optimizer": "SCHEDULE_FREE_ADAMW"}}, {"optimizer": "schedulefree", "weight_decay": 0.01}),
    ({"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS", "learning_rate_cycles": 3.0},
     {"lr_scheduler": "cosine_with_restarts", "lr_cycles": 3}),
    ({"learning_rate_warmup_steps": 0.1}, {"warmup_steps": "auto"}),
    ({"clip_grad_norm": None}, {"max_grad_norm": 0.0}),
    ({"mse_strength": 0.0, "huber_strength": 1.0, "huber_delta": 0.3}, {"loss_type": "huber", "huber_delta": 0.3}),
    ({"sample_after": 300, "sample_after_unit": "STEP"}, {"sample_every": 300}),
    ({"lora_model_name": "a b.safetensors"}, {"init_lora": Path("a b.safetensors")}),
    ({"concepts": [{"path": "p", "balancing": 0.5}]}, {"repeats": 1, "train_data_dir": Path("p")}),
    ({"concepts": [{"path": "p", "repeats": 3}]}, {"repeats": 3}),
    ({"samples": [{"prompt": "a", "random_seed": True, "seed": 3, "width": 1000}]}, {"sample_strength": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("more", "expected"), FIELDS, ids=[str(more)[:50] for more, _ in FIELDS])
def test_a_setting_and_its_field(more: dict[str, Any], expected: dict[str, Any]) -> None:
    found = config(**more)
    assert {name: getattr(found, name) for name in expected} == expected


TOLD: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"peft_type": "OFT_2"}, ["peft_type = 'OFT_2': an ordinary LoRA is trained instead"]),
    ({"optimizer": {"optimizer": "CAME"}}, ["optimizer.optimizer = 'CAME': adamw is written; check learning_rate"]),
    ({"optimizer": {"optimizer": "ADAMW", "beta1": 0.8}},
     ["optimizer.beta1 = 0.8: left out; see optimizer_args"]),
    ({"aspect_ratio_bucketing": False}, ["aspect_ratio_bucketing = false: every image is trained in its own shape"]),
    ({"resolution": "768,1024"}, ["resolution = '768,1024': 768: one area for all images; each keeps its own shape"]),
    ({"resolution": "1024x768"}, ["resolution = '1024x768': 896: one area for all images; each keeps its own shape"]),
    ({"loss_weight_fn": "P2"}, ["loss_weight_fn = 'P2': left out; min_snr_gamma is the nearest"]),
    ({"train_dtype": "INT_8"}, ["train_dtype = 'INT_8': auto is written"]),
    ({"layer_filter_preset": "custom", "layer_filter": "up_blocks"},
     ["layer_filter = 'up_blocks': linear is written; lora_targets and lora_blocks choose layers"]),
    ({"concept_file_name": "none.json"},
     ["concept_file_name = 'none.json': there is no such file; set train_data_dir"]),
    ({"concepts": [{"path": "p", "include_subdirectories": True, "text": {"prompt_source": "filename"}}]},
     ["concepts text.prompt_source = 'filename': python -m trainer caption writes captions beside the images"]),
    ({"sample_after": 1, "sample_after_unit": "EPOCH"},
     ["sample_after = '1 EPOCH': set sample_every, in optimizer steps"]),
    ({"text_encoder": {"train": False, "stop_training_after": 30, "stop_training_after_unit": "EPOCH"}}, []),
    ({"unmasked_weight": 0.1, "optimizer": {"optimizer": "ADAMW", "safeguard_warmup": False, "d_coef": None}}, []),
    ({"lora_rnk": 8}, ["lora_rnk = 8: unknown"]),
]  # fmt: skip


@pytest.mark.parametrize(("more", "expected"), TOLD, ids=[str(more)[:50] for more, _ in TOLD])
def test_what_is_told(more: dict[str, Any], expected: list[str]) -> None:
    assert told(read(**more)) == expected


BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"lora_rank": "x"}, ["lora_rank: expected a number, got 'x'"]),
    ({"epochs": 2.5}, ["epochs: expected a whole number, got 2.5"]),
    ({"masked_training": "maybe"}, ["masked_training: expected true or false, got 'maybe'"]),
    ({"base_model_name": 3}, ["base_model_name: expected a text, got 3"]),
    ({"resolution": "wide"}, ["resolution: expected a side such as 512, or 512x768, got 'wide'"]),
    ({"concepts": {}, "samples": "x"}, ["samples: expected a list, got str"]),
    ({"concepts": [1]}, ["concepts: expected a list, got list"]),
]  # fmt: skip


@pytest.mark.parametrize(("more", "problems"), BAD, ids=[str(more)[:50] for more, _ in BAD])
def test_a_bad_file(more: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        read(**more)
    assert [*error.value.problems] == problems


@pytest.mark.parametrize(
    ("more", "message", "cure"),
    [
        ({"training_method": "EMBEDDING"}, "training_method EMBEDDING is not trained by this version", "expected LORA"),
        ({"model_type": "FLUX_DEV_1"}, "model_type FLUX_DEV_1 is not trained by this version",
         "expected STABLE_DIFFUSION_15, STABLE_DIFFUSION_XL_10_BASE"),
    ],
)  # fmt: skip
def test_what_this_version_does_not_train(more: dict[str, Any], message: str, cure: str) -> None:
    with pytest.raises(UserError) as error:
        read(**more)
    assert (error.value.message, error.value.cure) == (f"/f/\u98ce \u00fc.json: {message}", cure)


def test_concepts_and_samples_of_their_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "tr\u00e4iner \u98ce" / "training_configs"
    folder.mkdir(parents=True)
    (folder.parent / "concepts.json").write_text(json.dumps([{"path": "D:/x", "balancing": 2.0}]), encoding="utf-8")
    (folder / "samples.json").write_text(json.dumps([{"prompt": "a house", "seed": -1}]), encoding="utf-8")
    whole = {
        **START,
        "concept_file_name": "concepts.json",
        "sample_definition_file_name": "training_samples/samples.json",
    }
    source = folder / "my.json"
    source.write_text(json.dumps(whole), encoding="utf-8-sig")
    found = command.read(source).config
    assert (found.train_data_dir, found.repeats, found.sample_prompts[0].prompt) == (Path("D:/x"), 2, "a house")
    (folder.parent / "concepts.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"concepts\.json has 1 fault:\n  - not JSON: "):
        command.read(source)


def test_the_command_writes_what_it_read(tmp_path: Path) -> None:
    source = tmp_path / "w\u00fc \u98ce.json"
    source.write_text(json.dumps(WHOLE), encoding="utf-8")
    assert command.run(argparse.Namespace(file=source, output=None)) == 0
    assert load(tmp_path / "w\u00fc \u98ce.yaml") == command.read(source).config


def test_the_tables_agree() -> None:
    assert not IGNORED & LEFT_OUT.keys() - {"vae.model_name"}
    assert not TAKEN & LEFT_OUT.keys()
    assert DEFAULTS.keys() <= LEFT_OUT.keys()
