"""The header of a LoRA file: what other programs show of it, and what tells us how it came to be.

- ``ss_*`` as kohya's sd-scripts writes it, which A1111, Forge and LoRA managers read;
- ``modelspec.*``, Stability AI's ModelSpec 1.0.0;
- ``darkroom.*``, our own: the run, the base model's content, the settings.

No dates, no paths of a machine, nothing that does not shape the LoRA: the same seed gives the same file. All of it is
small: ComfyUI's /view_metadata shows no header above a megabyte, and the list of the tensors is in it, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from . import __version__
from .config import TrainConfig
from .dataset.sampler import windows_per_epoch
from .job import Item, Job

ARCHITECTURES = {"sd15": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}
BASE_VERSIONS = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}
# What the keys of such a file follow.
IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
# The algorithm's name in LyCORIS, whose files these are.
_LYCORIS: dict[str, dict[str, str]] = {
    "dora": {"algo": "lora", "dora_wd": "True"},
    "loha": {"algo": "loha"},
    "lokr": {"algo": "lokr"},
}
TAG_BYTES = 100_000  # of the frequencies, as they stand in the header; the rarest go first
FOLDERS = 100  # of the data set that are told of


def header(job: Job, step: int, lora: Mapping[str, torch.Tensor] | None = None) -> dict[str, str]:
    """The header of a run's LoRA.

    Args:
        job: the run.
        step: optimizer steps done.
        lora: the tensors of the file, for its hashes; without them it has none.
    """
    told = _of_texts(job, step) if job.config.text else {**_kohya(job, step), **_modelspec(job)}
    found = {**told, **_own(job), **(hashes(lora) if lora is not None else {})}
    # A file's name that is no UTF-8 (Linux) is written as an escape.
    return {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in found.items()}


def hashes(lora: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The SHA-256 of a file's tensors, by which managers know it whatever its header says.

    ``sshs_model_hash`` and ``modelspec.hash_sha256`` are the same: of all that follows the header. kohya's
    ``sshs_legacy_hash`` is not written: it is of 64 kB at a fixed place in the file, and so of the order in which the
    library happened to write the header; no reader could find it again.
    """
    data = save({name: tensor.detach().to("cpu").contiguous() for name, tensor in lora.items()})
    start = 8 + int.from_bytes(data[:8], "little")
    found = hashlib.sha256(memoryview(data)[start:]).hexdigest()
    return {"sshs_model_hash": found, "modelspec.hash_sha256": f"0x{found}"}


def _of_texts(job: Job, step: int) -> dict[str, Any]:
    """Of a language model's LoRA; there is no custom for these, so it is what managers understand of the other kind."""
    config, own = job.config, job.train_items
    return {
        "ss_output_name": job.name,
        "ss_sd_model_name": job.base.file.name,
        "ss_base_model_version": job.base.family,
        **_network(config),
        "ss_steps": step,
        "ss_num_epochs": config.epochs,
        "ss_total_batch_size": config.window,
        "ss_learning_rate": config.learning_rate,
        "ss_lr_scheduler": config.schedule,
        "ss_lr_warmup_steps": config.warmup_steps,
        "ss_optimizer": f"{config.optimizer}({_arguments(config)})",
        "ss_mixed_precision": config.mixed_precision,
        "ss_seed": config.seed,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{job.base.family}/lora",
        "modelspec.implementation": "transformers",
        "modelspec.implementation_version": f"lora-darkroom/{__version__}",
        "modelspec.title": job.name,
        "darkroom.task": config.task_type,
        "darkroom.texts": len(own),
        "darkroom.tokens": sum(len(item.tokens) for item in own),
    }


def _kohya(job: Job, step: int) -> dict[str, Any]:
    config, items = job.config, [item for item in job.train_items if not item.regular]
    regular = [item for item in job.train_items if item.regular]
    frequencies = _limited(_by_folder(items, _frequencies))
    per_epoch = windows_per_epoch(job.train_items, config.window) if job.train_items else 0
    found: dict[str, Any] = {
        "ss_output_name": job.name,
        "ss_sd_model_name": job.base.file.name,
        "ss_base_model_version": BASE_VERSIONS.get(job.base.family, job.base.family),
        "ss_v2": False,
        "ss_zero_terminal_snr": job.base.zero_terminal_snr,
        **_network(config),
        "ss_steps": step,
        "ss_epoch": min(config.epochs, math.ceil(step / per_epoch)) if per_epoch else 0,
        "ss_num_epochs": config.epochs,
        "ss_num_batches_per_epoch": per_epoch,
        "ss_total_batch_size": config.window,
        "ss_learning_rate": config.learning_rate,
        "ss_unet_lr": config.learning_rate,
        "ss_lr_scheduler": config.schedule,
        "ss_lr_warmup_steps": config.warmup_steps,
        "ss_optimizer": f"{config.optimizer}({_arguments(config)})",
        "ss_max_grad_norm": config.max_grad_norm,
        "ss_mixed_precision": config.mixed_precision,
        "ss_seed": config.seed,
        "ss_noise_offset": config.noise_offset,
        "ss_loss_type": "l2" if config.loss_type == "mse" else config.loss_type,
        "ss_prior_loss_weight": config.prior_weight,
        "ss_caption_dropout_rate": config.caption_dropout,
        "ss_shuffle_caption": config.caption_shuffle,
        "ss_keep_tokens": config.keep_tokens,
        "ss_flip_aug": config.flip,
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_enable_bucket": True,
        "ss_num_train_images": sum(item.repeats for item in items),
        "ss_num_reg_images": sum(item.repeats for item in regular),
        "ss_num_validation_images": len(job.items) - len(job.train_items),
        "ss_bucket_info": _json(_buckets(job.train_items)),
        "ss_dataset_dirs": _json(_by_folder(items, _counts)),
        "ss_reg_dataset_dirs": _json(_by_folder(regular, _counts)),
        "ss_tag_frequency": _json(frequencies),
        "ss_datasets": _json(_datasets(job, items)),
    }
    if config.train_text_encoder:
        found["ss_text_encoder_lr"] = config.text_rate
    if config.clip_skip is not None:
        found["ss_clip_skip"] = config.clip_skip
    if gamma := config.gamma(job.base.prediction):
        found["ss_min_snr_gamma"] = gamma
    if job.base.file.suffix == ".safetensors" and re.fullmatch("[0-9a-f]{64}", job.base.content):
        found["ss_new_sd_model_hash"] = job.base.content  # of the file's bytes, as A1111 knows it
    return found


def _network(config: TrainConfig) -> dict[str, Any]:
    rank, alpha = config.lora_rank, config.alpha
    if config.lora_method == "rslora":
        alpha *= math.sqrt(rank)  # so that alpha / rank is what the file's own alphas say
    conv = {"conv_dim": str(rank), "conv_alpha": str(alpha)} if config.lora_targets == "conv" else {}
    extra = _LYCORIS.get(config.lora_method)
    if extra is not None and config.lora_method == "lokr":
        extra = {**extra, "factor": str(config.lokr_factor)}
    arguments = {**(extra or {}), **conv}
    return {
        "ss_network_module": "networks.lora" if extra is None else "lycoris.kohya",
        "ss_network_dim": "Dynamic" if config.lora_ranks else rank,
        "ss_network_alpha": "Dynamic" if config.lora_ranks or config.lora_alphas else alpha,
        "ss_network_dropout": config.lora_dropout,
        **({"ss_network_args": _json(arguments)} if arguments else {}),
    }


def _modelspec(job: Job) -> dict[str, str]:
    config, family = job.config, job.base.family
    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES.get(family, family)}/lora",
        "modelspec.implementation": IMPLEMENTATIONS.get(family, "diffusers"),
        "modelspec.implementation_version": f"lora-darkroom/{__version__}",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": "v" if job.base.prediction == "v_prediction" else job.base.prediction,
    }
    if config.trigger_word:
        found["modelspec.trigger_phrase"] = config.trigger_word
    if config.clip_skip is not None:
        found["modelspec.encoder_layer"] = str(config.clip_skip)
    return found


def _own(job: Job) -> dict[str, str]:
    return {
        "darkroom.run": job.run_id,
        "darkroom.base": job.base.content,
        "darkroom.config": _json(job.config.identity(job.base.prediction)),
    }


def _datasets(job: Job, items: list[Item]) -> list[dict[str, Any]]:
    """As kohya's: a manager reads the trigger word from ``class_tokens``."""
    config = job.config
    subsets = [
        {
            "image_dir": name,
            "img_count": counts["img_count"],
            "num_repeats": counts["n_repeats"],
            "class_tokens": config.trigger_word or None,
            "is_reg": False,
            "flip_aug": config.flip,
            "shuffle_caption": config.caption_shuffle,
            "keep_tokens": config.keep_tokens,
        }
        for name, counts in _by_folder(items, _counts).items()
    ]
    return [
        {
            "is_dreambooth": True,
            "num_train_images": sum(item.repeats for item in items),
            "resolution": [config.resolution, config.resolution],
            "enable_bucket": True,
            "subsets": subsets,
        }
    ]


def _by_folder(items: list[Item], tell: Callable[[list[Item]], dict[str, int]]) -> dict[str, dict[str, int]]:
    """What there is to tell of each folder, by its name; those with most images first."""
    folders: dict[str, list[Item]] = {}
    for item in items:
        folders.setdefault(Path(item.path).parent.name, []).append(item)
    most = sorted(folders.items(), key=lambda pair: -len(pair[1]))
    return {name: tell(inside) for name, inside in most[:FOLDERS]}


def _counts(items: list[Item]) -> dict[str, int]:
    return {"n_repeats": items[0].repeats, "img_count": len(items)}


def _frequencies(items: list[Item]) -> dict[str, int]:
    """In how many images' captions each tag is; the frequent ones first."""
    counts: Counter[str] = Counter()
    for item in items:
        tags = (tag.strip() for caption in item.captions for tag in caption.split(","))
        counts.update({*tags} - {""})
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _limited(frequencies: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The most frequent tags of all folders, as many as there is room for."""
    room, kept = TAG_BYTES, {name: {} for name in frequencies}
    every = ((count, name, tag) for name, tags in frequencies.items() for tag, count in tags.items())
    for count, name, tag in sorted(every, key=lambda one: -one[0]):
        room -= len(json.dumps(_json({tag: count}), ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if room < 0:
            break
        kept[name][tag] = count
    return kept


def _buckets(items: Iterable[Item]) -> dict[str, Any]:
    counts: Counter[tuple[int, int]] = Counter()
    for item in items:
        counts[item.bucket] += item.repeats
    ordered = sorted(counts.items())
    return {"buckets": {str(n): {"resolution": list(size), "count": count} for n, (size, count) in enumerate(ordered)}}


def _arguments(config: TrainConfig) -> str:
    return ",".join(
        f"{name}={value}" for name, value in {"weight_decay": config.weight_decay, **config.optimizer_args}.items()
    )


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)
