"""Files of kohya's sd-scripts and of lora-scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.config import TrainConfig, parse
from trainer.errors import ConfigError
from trainer.importers import kohya
from trainer.importers.base import Imported
from trainer.importers.kohya_keys import LEFT_OUT, TAKEN

START = 'network_module = "networks.lora"\nunet_lr = 1e-4\nseed = 1\nmax_train_epochs = 10\n'


def read(text: str, path: Path = Path("/f/\u98ce \u00fc.toml")) -> Imported:
    return kohya.read(text, path)


def config(text: str) -> TrainConfig:
    return read(START + text).config


def changed(found: Imported) -> dict[str, Any]:
    """What is not at our own default."""
    default = parse({})
    return {name: value for name, value in found.config if value != getattr(default, name)}


# --- whole files

ILLUSTRIOUS = """
# A style on Illustrious, with sd-scripts.
pretrained_model_name_or_path = "D:/models/Illustrious-XL-v1.0.safetensors"
train_data_dir = "D:/trainingsdaten/m\u00e4rz \u98ce\u683c"
output_dir = "D:/loras"
output_name = "m\u00e4rz_v2"
save_model_as = "safetensors"
save_precision = "bf16"
network_module = "networks.lora"
network_dim = 16
network_alpha = 8
network_train_unet_only = true
resolution = "1024,1024"
enable_bucket = true
min_bucket_reso = 512
max_bucket_reso = 2048
bucket_no_upscale = true
train_batch_size = 2
gradient_accumulation_steps = 2
max_train_epochs = 12
learning_rate = 1e-4
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 3
lr_warmup_steps = 50
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1"]
mixed_precision = "bf16"
gradient_checkpointing = true
cache_latents = true
cache_latents_to_disk = true
xformers = true
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"
caption_dropout_rate = 0.1
min_snr_gamma = 5
noise_offset = 0.0357
max_grad_norm = 1.0
seed = 1234
save_every_n_epochs = 2
logging_dir = "./logs"
"""


def test_a_whole_sdxl_file() -> None:
    found = read(ILLUSTRIOUS)
    assert changed(found) == {
        "base_model": Path("D:/models/Illustrious-XL-v1.0.safetensors"),
        "train_data_dir": Path("D:/trainingsdaten/m\u00e4rz \u98ce\u683c"), "output_dir": Path("D:/loras/m\u00e4rz_v2"),
        "lora_rank": 16, "lora_alpha": 8.0, "resolution": 1024, "batch_size": 2, "gradient_accumulation_steps": 2,
        "epochs": 12, "learning_rate": 1e-4, "lr_scheduler": "cosine_with_restarts", "lr_cycles": 3,
        "warmup_steps": 50, "optimizer": "adamw8bit", "weight_decay": 0.1, "mixed_precision": "bf16",
        "caption_shuffle": True, "keep_tokens": 1, "caption_dropout": 0.1, "min_snr_gamma": 5.0,
        "noise_offset": 0.0357, "seed": 1234, "sample_every": 0,
    }  # fmt: skip
    assert [str(note) for note in found.left_out] == [
        "save_precision = 'bf16': files are fp32: what was trained, to the last bit",
        "min_bucket_reso = 512: sizes follow resolution: the same area, in steps of 64",
        "max_bucket_reso = 2048: sizes follow resolution: the same area, in steps of 64",
        "cache_latents = true: not needed: images are encoded once, and kept",
        "cache_latents_to_disk = true: not needed: images are encoded once, and kept",
        "xformers = true: not needed: PyTorch's own attention is used",
        "save_every_n_epochs = 2: set save_steps: checkpoints are counted in optimizer steps",
        "logging_dir = './logs': logs lie in <output_dir>/logs, for TensorBoard",
    ]
    assert [str(note) for note in found.differing] == [
        f"train_data_dir = 'D:/trainingsdaten/m\u00e4rz \u98ce\u683c': {kohya.TAKEN_WHOLE}",
        "shuffle_caption = true: of lists of tags alone (not of sentences), in up to eight orders an image",
        "lr_warmup_steps = 50: warmup_steps: 50, but at most a tenth of the run",
    ]


LORA_SCRIPTS = """
[model]
v2 = false
v_parameterization = false
pretrained_model_name_or_path = "./sd-models/anything.ckpt"
[dataset]
train_data_dir = "./train/\u6c34\u58a8"
reg_data_dir = "./train/reg"
prior_loss_weight = 0.5
shuffle_caption = true
[additional_network]
network_dim = 32
network_alpha = 16
network_train_unet_only = false
network_module = "lycoris.kohya"
network_args = ["conv_dim=8", "conv_alpha=1", "algo=lokr", "factor=8", "dropout=0.1"]
[optimizer]
learning_rate = "1e-4"
unet_lr = "1e-4"
text_encoder_lr = "1e-5"
optimizer_type = "Prodigy"
optimizer_args = ["d_coef=2.0", "betas=0.9,0.99", "x=None", "weight_decay=0.01"]
lr_scheduler = "constant_with_warmup"
lr_restart_cycles = 1
[training]
resolution = "512,768"
train_batch_size = 4
max_train_steps = 2000
lr_warmup_steps = 0.05
clip_skip = 2
mixed_precision = "fp16"
v_parametrization = true
seed = 1337
[others]
max_token_length = 225
wandb_api_key = "12345678"
color_aug = false
"""


def test_a_whole_file_in_sections() -> None:
    found = read(LORA_SCRIPTS)
    own = {"conv1", "conv2", "downsamplers", "upsamplers"}
    assert changed(found) == {
        "base_model": Path("sd-models/anything.ckpt"), "train_data_dir": Path("train/\u6c34\u58a8"),
        "reg_data_dir": Path("train/reg"), "prior_weight": 0.5, "caption_shuffle": True, "caption_dropout": 0.0,
        "output_dir": Path("output/last"), "lora_rank": 32, "lora_alpha": 16.0, "lora_method": "lokr",
        "lora_targets": "conv", "lokr_factor": 8, "lora_dropout": 0.1, "lora_ranks": dict.fromkeys(own, 8),
        "lora_alphas": dict.fromkeys(own, 1.0), "train_text_encoder": True, "text_encoder_learning_rate": 1.0,
        "learning_rate": 1.0, "optimizer": "prodigy", "lr_scheduler": "constant", "resolution": 640,
        "optimizer_args": {
            "use_bias_correction": False, "safeguard_warmup": False, "decouple": True, "d_coef": 2.0,
            "betas": [0.9, 0.99],
        },
        "max_steps": 2000, "epochs": 100_000, "clip_skip": 2, "seed": 1337, "gradient_checkpointing": False,
        "min_snr_gamma": 0.0, "sample_every": 0,
    }  # fmt: skip
    assert [str(note) for note in found.left_out] == [
        "pretrained_model_name_or_path = './sd-models/anything.ckpt': a pickle is not read: give base_model as "
        ".safetensors",
        "optimizer_args x = None: no number, text or list",
        "v_parametrization = true: unknown; did you mean v_parameterization?",
        "max_token_length = 225: not needed: captions of any length are encoded, in chunks of 75 tokens",
        "wandb_api_key = ...: logs lie in <output_dir>/logs, for TensorBoard",
    ]
    assert [str(note) for note in found.differing] == [
        "resolution = '512,768': 640: a square of this area; every image keeps its own shape",
        f"train_data_dir = './train/\u6c34\u58a8': {kohya.TAKEN_WHOLE}",
        "reg_data_dir = './train/reg': images without a caption have class_prompt, not their folder's name: set it",
        "shuffle_caption = true: of lists of tags alone (not of sentences), in up to eight orders an image",
        "max_train_steps = 2000: max_steps: 2000 alone ends the run; epochs is set to 100000",
        "network_args preset = 'full': conv: all but conv_in, conv_out and the time embedding",
        "lr_warmup_steps = 0.05: warmup_steps: 100, but at most a tenth of the run",
        "learning_rate = 0.0001: 1.0 is written: prodigy finds the rate by itself, and multiplies it with this",
    ]


def test_what_the_file_does_not_say_is_as_there_not_as_here() -> None:
    found = read('network_module = "networks.lora"\ntrain_data_dir = "x"\n')
    assert changed(found) == {
        "train_data_dir": Path("x"), "output_dir": Path("output/last"), "lora_rank": 4, "lora_alpha": 1.0,
        "learning_rate": 2e-6, "train_text_encoder": True, "text_encoder_learning_rate": 2e-6,
        "lr_scheduler": "constant", "warmup_steps": 0, "batch_size": 1, "epochs": 100_000, "max_steps": 1600,
        "mixed_precision": "no", "gradient_checkpointing": False, "caption_dropout": 0.0, "min_snr_gamma": 0.0,
        "sample_every": 0,
    }  # fmt: skip
    assert found.left_out == []
    assert [str(note) for note in found.differing] == [
        f"train_data_dir = 'x': {kohya.TAKEN_WHOLE}",
        "max_train_steps (not given): max_steps: 1600 alone ends the run; epochs is set to 100000",
        "learning_rate (not given): 2e-6 is written, as there; it moves hardly anything: 1e-4 is usual",
        "seed (not given): 42 is written; sd-scripts draws another one each time",
    ]


DATASET = """
[general]
shuffle_caption = true
keep_tokens = 2
caption_extension = ".txt"

[[datasets]]
resolution = 768
batch_size = 4
keep_tokens = 1
  [[datasets.subsets]]
  image_dir = "data/\u732b cat"
  num_repeats = 5
  flip_aug = true
  caption_prefix = "mycat, "
  alpha_mask = true
  [[datasets.subsets]]
  image_dir = "data/another"
  [[datasets.subsets]]
  is_reg = true
  class_tokens = "a cat"
  image_dir = "data/reg"
"""


def test_a_data_set_file_alone_keeps_our_defaults_for_all_else() -> None:
    found = read(DATASET)
    assert changed(found) == {
        "train_data_dir": Path("data/\u732b cat"), "reg_data_dir": Path("data/reg"), "repeats": 5, "resolution": 768,
        "class_prompt": "a cat", "caption_shuffle": True, "keep_tokens": 1, "flip": True, "trigger_word": "mycat",
        "mask": "alpha", "mask_outside": 0.0, "caption_dropout": 0.0,
    }  # fmt: skip
    assert [str(note) for note in found.left_out] == [
        "image_dir = 'data/another': a run has one folder: put both below one, as 10_name for 10 repeats",
    ]
    assert [str(note) for note in found.differing] == [
        f"train_data_dir = 'data/\u732b cat': {kohya.TAKEN_WHOLE}",
        "shuffle_caption = true: of lists of tags alone (not of sentences), in up to eight orders an image",
        "caption_prefix = 'mycat, ': trigger_word: put in front of those captions that do not hold it",
        "alpha_mask = true: each image's loss is the mean over its mask, so a small mask weighs as much as a large one",
        "the training options (not given): the file is of a data set alone; what it does not say has this program's "
        "defaults",
    ]


def test_a_file_that_names_its_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "\u98ce \u00fc"
    folder.mkdir()
    (folder / "data.toml").write_text(DATASET, encoding="utf-8")
    main = START + 'network_dim = 8\ntrain_batch_size = 1\ndataset_config = "data.toml"\n'
    found = read(main, folder / "main.toml").config
    assert (found.lora_rank, found.batch_size, found.repeats, found.epochs) == (8, 4, 5, 10)
    with pytest.raises(ConfigError, match=r"  - dataset_config: none\.toml cannot be read: "):
        read(main.replace("data.toml", "none.toml"), folder / "main.toml")


def test_prompts_come_from_the_file_that_is_named(tmp_path: Path) -> None:
    prompts = tmp_path / "pr\u00f6mpts.txt"
    prompts.write_text(
        "# comment\n"
        "a house, red --n blurry, lowres --w 830 --h 512 --d 42 --l 7.5 --s 28 --ss euler_a\n\n"
        "\u6c34\u58a8, a tree --d -1\n",
        encoding="utf-8",
    )
    text = f'{START}sample_prompts = "{prompts.as_posix()}"\nsample_every_n_steps = 200\nsample_sampler = "euler_a"\n'
    found = read(text)
    first, second = found.config.sample_prompts
    assert first.model_dump() == {
        "prompt": "a house, red", "negative": "blurry, lowres", "seed": 42, "steps": 28, "guidance": 7.5, "width": 824,
        "height": 512,
    }  # fmt: skip
    assert second.model_dump() == "\u6c34\u58a8, a tree"
    assert (found.config.sample_every, found.config.sample_strength) == (200, 1.0)
    assert (found.config.sample_inference_steps, found.config.sample_guidance) == (30, 7.5)
    assert [str(note) for note in found.left_out] == ["sample_sampler = 'euler_a': samples are drawn by Euler steps"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '["a house --s 20", {"prompt": "a tree", "negative_prompt": "b", "scale": 5}]'),
        ("p.toml", '[prompt]\nsample_steps = 20\n[[prompt.subset]]\nprompt = "a house"\n'),
    ],
)
def test_prompt_files_of_every_kind(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read(f'{START}sample_prompts = "{(tmp_path / name).as_posix()}"\n').config.sample_prompts
    assert (found[0].prompt, found[0].steps) == ("a house", 20)
    if len(found) > 1:
        assert (found[1].prompt, found[1].negative, found[1].guidance) == ("a tree", "b", 5)


# --- key by key

LYCORIS = 'network_module = "lycoris.kohya"\nnetwork_args = ['
FIELDS = [
    ("max_train_steps = 400", {"epochs": 10, "max_steps": None}),
    ("network_alpha = 0", {"lora_alpha": None}),
    ('network_args = ["conv_dim=4"]', {"lora_targets": "conv", "lora_ranks": {}, "lora_alphas": {}}),
    ('network_args = ["conv_dim=0"]', {"lora_targets": "linear"}),
    (f'{LYCORIS}"algo=loha", "preset=attn-mlp"]', {"lora_method": "loha", "lora_targets": "linear", "lora_ranks": {}}),
    (f'{LYCORIS}"dora_wd=True", "preset=attn-only"]', {"lora_method": "dora", "lora_targets": "attention"}),
    (f'{LYCORIS}"algo=locon", "rs_lora=True"]', {"lora_method": "rslora", "lora_targets": "conv"}),
    ("network_train_unet_only = true", {"train_text_encoder": False, "text_encoder_learning_rate": None}),
    ("text_encoder_lr = 0", {"train_text_encoder": False}),
    ("text_encoder_lr = [5e-5, 5e-5]", {"train_text_encoder": True, "text_encoder_learning_rate": 5e-5}),
    ("learning_rate = 3e-5", {"learning_rate": 1e-4, "text_encoder_learning_rate": 3e-5}),
    ('network_weights = "a b.safetensors"', {"init_lora": Path("a b.safetensors")}),
    ("use_8bit_adam = true", {"optimizer": "adamw8bit", "weight_decay": 0.01}),
    ("use_lion_optimizer = true", {"optimizer": "lion", "weight_decay": 0.0}),
    ('optimizer_type = "AdamWScheduleFree"', {"optimizer": "schedulefree", "weight_decay": 0.0}),
    ('optimizer_args = ["eps=1e-7", "amsgrad=True"]', {"optimizer_args": {"eps": 1e-7, "amsgrad": True}}),
    ('lr_scheduler = "polynomial"\nlr_scheduler_power = 2', {"lr_scheduler": "polynomial", "lr_power": 2.0}),
    ('lr_scheduler = "linear"', {"lr_scheduler": "linear", "warmup_steps": 0}),
    ("lr_warmup_steps = 0.1", {"warmup_steps": "auto"}),
    ('resolution = "512"', {"resolution": 512}),
    ("resolution = [768, 768]", {"resolution": 768}),
    ("v_parameterization = true", {"prediction_type": "v_prediction", "min_snr_gamma": 0.0}),
    ("v_parameterization = true\nzero_terminal_snr = true", {"zero_terminal_snr": True}),
    ("masked_loss = true", {"mask": "files", "mask_outside": 0.0}),
    ('loss_type = "huber"\nhuber_schedule = "constant"\nhuber_c = 0.2', {"loss_type": "huber", "huber_delta": 0.2}),
    ("save_every_n_steps = 250", {"save_steps": 250}),
    ("sample_every_n_epochs = 1", {"sample_every": 100}),
    ('reg_data_dir = "r"\nprior_loss_weight = 0', {"reg_data_dir": None}),
    ('reg_data_dir = ""', {"reg_data_dir": None}),
    ("max_grad_norm = 0", {"max_grad_norm": 0.0}),
    ('optimizer_type = "AdaFactor"\noptimizer_args = ["scale_parameter=False", "relative_step=False"]',
     {"optimizer": "adafactor", "optimizer_args": {"scale_parameter": False}}),
    ('optimizer_type = "AdaFactor"', {"optimizer": "adafactor", "optimizer_args": {"scale_parameter": True}}),
    ("clip_skip = 1", {"clip_skip": 1}),
    ('model_train_type = "sdxl-lora"\nclip_skip = 2', {"clip_skip": None, "resolution": 1024}),
    ('output_dir = "o"\noutput_name = "m\u00e4rz"', {"output_dir": Path("o/m\u00e4rz")}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FIELDS, ids=[text[:50] for text, _ in FIELDS])
def test_a_key_and_its_field(text: str, expected: dict[str, Any]) -> None:
    start = START if "network_module" not in text else START.partition("\n")[2]
    found = read(start + text).config
    assert {name: getattr(found, name) for name in expected} == expected


TOLD = [
    ('optimizer_type = "CAME"', ["optimizer_type = 'CAME': adamw is written; check learning_rate"]),
    ('optimizer_type = "DAdaptAdam"', ["optimizer_type = 'DAdaptAdam': prodigy, which finds the rate by itself, too",
        "learning_rate = 0.0001: 1.0 is written: prodigy finds the rate by itself, and multiplies it with this"]),
    ('optimizer_type = "AdaFactor"\noptimizer_args = ["scale_parameter=False"]', [
        "optimizer_args relative_step = true: learning_rate counts; the rate is not found by itself"]),
    ('optimizer_type = "AdaFactor"\noptimizer_args = ["relative_step=False", "warmup_init=True"]', [
        "optimizer_args warmup_init = true: it goes with relative_step alone"]),
    ('lr_scheduler = "inverse_sqrt"', ["lr_scheduler = 'inverse_sqrt': cosine is written"]),
    ('loss_type = "l1"', ["loss_type = 'l1': mse is written; expected l2 or huber"]),
    ('loss_type = "huber"', ["huber_schedule = 'snr': huber_delta is the same at every timestep, as with constant"]),
    ("network_dropout = 0.1", [
        "network_dropout = 0.1: lora_dropout: of the layers' inputs; there it is of what lies between down and up"]),
    ("text_encoder_lr = [1e-5, 2e-5]", [
        "text_encoder_lr = [1e-05, 2e-05]: both text encoders have the first of these rates"]),
    ("enable_bucket = false", [
        "enable_bucket = false: images are not cropped to one shape: each is trained in its own"]),
    ("bucket_no_upscale = false", [
        "bucket_no_upscale = false: no image is enlarged: a small one is trained at its own size"]),
    ("zero_terminal_snr = true", ["zero_terminal_snr = true: it makes no sense without v_parameterization"]),
    ('pretrained_model_name_or_path = "some/base-v1.5"', [
        "pretrained_model_name_or_path = 'some/base-v1.5': nothing is downloaded: where this is a name on a hub, give "
        "base_model as a file or a folder"]),
    ('network_args = ["block_dims=4,4"]', ["network_args block_dims = (4, 4): left out"]),
    ('network_module = "networks.dylora"', ["network_module = 'networks.dylora': an ordinary LoRA is trained instead"]),
    ("xformers = false\ncolor_aug = false\nvae = \"\"\nmin_timestep = 0", []),
    ('sample_prompts = "none.txt"', ["sample_prompts = 'none.txt': there is no such file; set sample_prompts"]),
    ("nteork_dim = 4", ["nteork_dim = 4: unknown; did you mean network_dim?"]),
    ("qqqqq = 4", ["qqqqq = 4: unknown"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TOLD, ids=[text[:50] for text, _ in TOLD])
def test_what_is_told(text: str, expected: list[str]) -> None:
    start = START if "network_module" not in text else START.partition("\n")[2]
    found = read(start + text)
    assert [str(note) for note in (*found.left_out, *found.differing)] == expected


def test_a_rate_for_another_optimizer_is_not_kept() -> None:
    assert config('optimizer_type = "SGDNesterov"').learning_rate == 1e-4
    assert read(START.replace("1e-4", "1.0") + 'optimizer_type = "SGDNesterov"').config.learning_rate == 1e-4


def test_no_key_is_both_taken_and_left() -> None:
    assert not {*TAKEN} & LEFT_OUT.keys()
    assert len(LEFT_OUT) > 100
