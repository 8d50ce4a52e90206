"""The one writer of commented YAML: every field once, the few that matter first.

The comments have their home here. ``configs/`` is written by it (``python -m trainer.setup.presets``), and so is what
``init`` and ``import`` write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import yaml_text
from ..config import TrainConfig
from ..errors import UserError

_WIDTH = 120
_COLUMN = 36  # comments of a block stand below each other, but not further right than this

INTRODUCTION = (
    "Paths may be relative to the folder that you start from, and may hold spaces and any letters.",
    "The golden rule: change one thing at a time, then look at the loss and at the samples.",
    "Your images and your card can decide: write auto for lora_rank, lora_alpha, learning_rate, epochs, batch_size,",
    "gradient_accumulation_steps, gradient_checkpointing, resolution or validation_images. The log says what and why.",
)
THE_REST = (
    "The rest. It is good as it stands; touch it when its comment speaks of your trouble.",
    "A line that you delete, or leave empty, has its default. The names of the sections (model_config, ...) are for",
    "the eye: a field may stand under any of them, or at the top.",
)

PATHS = (
    "base_model",
    "train_data_dir",
    "metadata_path",
    "output_dir",
    "cache_dir",
    "reg_data_dir",
    "init_lora",
    "tokenizer",
)
_ABSOLUTE = re.compile(r"[/\\~.]|[A-Za-z]:")

Comments = dict[str, str]
FIRST: Comments = {
    "base_model": "an SD 1.5 or SDXL file, or a diffusers folder",
    "train_data_dir": "folder with the images; 50 to 200 good ones of one theme",
    "metadata_path": "table filename,prompt; empty: metadata.csv in the folder, or .txt files",
    "output_dir": "folder of this run; its last part names the LoRA",
    "trigger_word": "put in front of every caption that does not hold it; calls the style in a prompt",
    "resolution": "pixels, a multiple of 64; 512 for SD 1.5, 1024 for SDXL; no image is enlarged",
    "lora_rank": "4 to 16: 16 if the result is flat, 4 or 6 if it is stiff; 32 learns by heart",
    "learning_rate": "1e-4 to 3e-4; too high oscillates, too low (2e-6!) moves nothing",
    "epochs": "15 to 20 for 50-100 images, 10 for 200-500, at most 5 for more; hundreds for ten",
    "batch_size": "images at a time; memory grows with it",
    "gradient_accumulation_steps": "batches in an optimizer step: 2 x 2 trains like 4 x 1, in half the memory",
    "gradient_checkpointing": "true: about half the memory, for a third more time",
    "sample_prompts": "a list; empty: captions, one without the trigger word, one far from the data set",
}
SECTIONS: dict[str, dict[str, Comments]] = {
    "model_config": {
        "The base model, and what is trained on top of it.": {
            "task_type": "image-generation, or text-generation (a language model; see docs/training.md)",
            "tokenizer": "text: folder of the tokenizer, where the base model comes without one",
            "prediction_type": "auto (as the file says), epsilon or v_prediction",
            "zero_terminal_snr": "true or false: whether the noise reaches pure noise; empty: as the file says",
            "clip_skip": "1 to 12: the text encoder's layer, from the end; empty: 1 for SD 1.5, 2 for SDXL",
            "lora_alpha": "the change is scaled by alpha / rank; empty: as the rank, so by 1",
            "lora_targets": "attention, linear (all linear layers of the transformers) or conv (convolutions too)",
            "lora_method": "lora, rslora, dora (slower, closer to a full training), lokr or loha (small files)",
            "lora_blocks": "only these blocks, such as [mid_block, up_blocks.1]; empty: all",
            "lora_ranks": "another rank for some layers, such as {mid_block: 16}",
            "lora_alphas": "another alpha for some layers",
            "lora_dropout": "0 to 1: share of a LoRA's inputs that is dropped; against overfitting",
            "lokr_factor": "lokr only; -1: factors as near to square as can be, so the smallest file",
            "init_lora": "a LoRA file to go on from, of the same method and rank; empty: from nothing",
            "train_text_encoder": "true: for words that the base does not know; slower, and overfits sooner",
            "text_encoder_learning_rate": "its own rate, mostly lower; empty: half of learning_rate",
        },
    },
    "data_config": {
        "What is seen, and how.": {
            "caption_source": "auto (table, then .txt), table, files (.txt), names (file names) or none (trigger word)",
            "exclude": "images to leave out, by their names in the folder, such as [blurred.png, cats/05.jpg]",
            "repeats": "1 to 1000: how often each image is seen in an epoch",
            "caption_dropout": "0 to 1: share of the time that an image is shown without its caption",
            "caption_shuffle": "true: tags (the parts between commas) in another order each time; not for sentences",
            "keep_tokens": "tags that stay in front when shuffled, beside the trigger word",
            "flip": "true: mirrored half of the time; not for faces, text, left and right",
            "mask": "where the loss counts: no (everywhere), alpha (where opaque), files (where a mask is white)",
            "mask_outside": "0 to 1: weight of the loss outside of a mask",
            "reg_data_dir": "folder with ordinary images of the class, against forgetting it; empty: none",
            "prior_weight": "weight of the loss on these",
            "prior_preservation": "0 to 10: the same aim without images, by class_prompt; 2.5 times the time; 0: off",
            "class_prompt": "what the images show, without the trigger word, such as: a woman",
            "max_length": "text: tokens of a sample at most; the front of a longer one is cut away",
            "chat_template": "text: empty (the tokenizer's own), none, or the path of a Jinja file",
            "validation_images": "images held out to measure overfitting; 0: measured on a few training images",
            "cache_dir": "folder for encoded images and captions, shared by all runs; empty: your user cache",
        },
    },
    "train_config": {
        "How long, and how fast.": {
            "max_steps": "at most so many optimizer steps; empty: no limit",
            "optimizer": "adamw, adamw8bit, adafactor, prodigy (learning_rate: 1.0), lion (a tenth), schedulefree",
            "optimizer_args": "its other settings by its own names, such as {eps: 1e-7, betas: [0.9, 0.99]}",
            "lr_scheduler": "constant, linear, cosine, cosine_with_restarts or polynomial: how the rate falls",
            "lr_cycles": "cycles of cosine_with_restarts",
            "lr_power": "power of polynomial; 1 is linear",
            "warmup_steps": "steps over which the rate rises, at most a tenth of the run; auto: a twentieth",
            "weight_decay": "0 to 1: pulls the LoRA's weights towards zero",
            "max_grad_norm": "gradients are clipped to this norm; 0: not clipped",
            "noise_offset": "0 to 1; a little (0.1) helps very dark or very bright styles",
            "min_snr_gamma": "5 weighs fine noise down; 0: off; empty: 5 for v-prediction, else off",
            "loss_type": "mse, or huber, which minds single odd pixels less",
            "huber_delta": "where huber turns from square to straight",
            "ema_decay": "0.99 to 0.9999: the LoRA is a moving average of what is trained; 0: off",
            "seed": "the same seed and settings give the same LoRA (bit for bit on a CPU)",
        },
        "What it runs on.": {
            "mixed_precision": "auto, no, fp16 or bf16; on a CPU fp16 becomes fp32. `use_fp16: true` means fp16 too",
            "device": "auto, cpu, cuda, cuda:1, mps, xpu",
            "base_weights": "auto (less where memory is short), full, int8 (half), fp8 (half, coarser), nf4 (a third)",
            "vram_limit": "GB of the card to use at most; empty: what is free",
        },
        "What you see of it. None of these changes the LoRA.": {
            "log_interval": "optimizer steps between two lines of the log",
            "save_steps": "optimizer steps between two checkpoints; there are at least five, and the last step",
            "validation_steps": "optimizer steps between two validations, more if these take too long; 0: none",
            "early_stopping_patience": "ends the run after so many validations without any gain; 0: never",
            "sample_every": "optimizer steps between two rounds of samples; 0: none",
            "sample_inference_steps": "denoising steps of a sample",
            "sample_guidance": "1 to 50: how hard a sample is pulled towards its prompt",
            "sample_max_tokens": "text: tokens of an answer at most",
            "sample_strength": "0 to 2: strength of the LoRA in a sample",
        },
    },
}


def write(config: TrainConfig, title: Sequence[str], schema: str = "") -> str:
    """A config as commented YAML that loads to an equal config.

    Every field has its line but ``auto``, which says of those that a file does not set what they shall be.

    Args:
        config: its values are written, also where they are the defaults.
        title: the first lines, what the file is and is for, without the ``#``.
        schema: where the schema for editors lies, relative to the file; empty: not named.
    """
    plain = config.to_plain()
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += [f"# {line}" for line in (*title, *INTRODUCTION)]
    lines += ["", *_block(plain, FIRST, "")]
    lines += ["", f"# {'-' * 40}", *(f"# {line}" for line in THE_REST)]
    for section, blocks in SECTIONS.items():
        lines += ["", f"{section}:"]
        for number, (heading, comments) in enumerate(blocks.items()):
            lines += [""] * (number > 0) + [f"  # {heading}", *_block(plain, comments, "  ")]
    return "\n".join(lines) + "\n"


def save_new(path: Path, text: str) -> None:
    """Writes a file that is not there yet.

    Raises:
        UserError: it is there, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; it is not overwritten", "give another name with -o") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}", "give another name with -o") from None


def command_for(path: Path) -> str:
    """The command that trains a config file, as it is typed."""
    name = f'"{path}"' if re.search(r"[^\w./\\:~-]", str(path)) else str(path)
    return f"python train.py --config {name}"


def _block(plain: dict[str, Any], comments: Comments, indent: str) -> Iterator[str]:
    texts = {name: _value(name, plain[name]) for name in comments}
    heads = [f"{name}: {lines[0]}".rstrip() for name, lines in texts.items()]
    width = max((len(head) for head in heads if len(head) <= _COLUMN), default=0)
    for head, lines, comment in zip(heads, texts.values(), comments.values(), strict=True):
        room = _WIDTH - len(indent) - len(f" # {comment}")
        if len(head) <= room:
            yield f"{indent}{head:<{min(width, room)}} # {comment}"
        else:
            yield from (f"{indent}# {comment}", f"{indent}{head}")
        yield from (f"{indent}  {line}" for line in lines[1:])


def _value(name: str, value: Any) -> list[str]:
    """What stands behind ``name:``; of a list or mapping that is not empty: nothing, and its items below."""
    if value is None:
        return [""]
    if isinstance(value, list) and value:
        return ["", *yaml_text.dumps(value).splitlines()]
    if isinstance(value, dict) and value:
        return ["", *(f"{_scalar(key)}: {_scalar(item)}" for key, item in value.items())]
    if name in PATHS and not _ABSOLUTE.match(str(value)):
        return [_scalar(f"./{value}")]  # so that a relative path is seen to be one
    if name in ("mask", "mixed_precision") and value == "no":
        return ["no"]  # bare, as people write it; the config knows what is meant
    return [_scalar(value)]


def _scalar(value: Any) -> str:
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        short = re.sub(r"\.?0*e-0*", "e-", f"{value:.9e}")  # 2e-4, as people write it
        return short if float(short) == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if value == "":
        return '""'
    lines = yaml_text.dumps([value]).splitlines()
    return lines[0][2:] if len(lines) == 1 else _quoted(str(value))


def _quoted(text: str) -> str:
    """A text on one line, where YAML's own writer would fold it."""

    def escaped(character: str) -> str:
        if character in '"\\':
            return f"\\{character}"
        return character if character.isprintable() else f"\\U{ord(character):08X}"

    return f'"{"".join(map(escaped, text))}"'
