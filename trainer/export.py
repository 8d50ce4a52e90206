"""LoRA files, and their law: the weight a file makes at strength s is the weight that was trained, at strength s.

Files are in kohya's naming (``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``; LyCORIS' parts of
LoHa and LoKr; ``dora_scale``), which ComfyUI matches wholly and diffusers converts. Numbers are fp32, so that the law
holds to rounding. No dates are written: the same seed gives the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from . import lorafile
from .adapters import Adapted
from .adapters.files import tensors_of
from .errors import ExportError
from .files import write_tensors
from .job import Job

ARCHITECTURES = {"sd15": "stable-diffusion-v1/lora"}
BASE_VERSIONS = {"sd15": "sd_v1"}


def tensors(layers: Iterable[Adapted], export_key: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, fp32 on the CPU."""
    return tensors_of(layers, export_key)


def metadata(job: Job, step: int) -> dict[str, str]:
    """The header of a LoRA file, as kohya's (``ss_*``), ModelSpec's and our own keys."""
    config = job.config
    folder = Path(job.train_items[0].path).parent.name if job.train_items else ""
    return {
        "ss_base_model_version": BASE_VERSIONS.get(job.base.family, job.base.family),
        "ss_sd_model_name": job.base.file.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.lora_rank),
        "ss_network_alpha": str(config.alpha),
        "ss_output_name": job.name,
        "ss_learning_rate": str(config.learning_rate),
        "ss_lr_scheduler": config.lr_scheduler,
        "ss_num_train_images": str(sum(item.repeats for item in job.train_items)),
        "ss_epoch": str(config.epochs),
        "ss_steps": str(step),
        "ss_seed": str(config.seed),
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_tag_frequency": json.dumps({folder: _frequencies(job)}, ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURES.get(job.base.family, f"{job.base.family}/lora"),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": job.base.prediction,
        **({"modelspec.trigger_phrase": config.trigger_word} if config.trigger_word else {}),
        "darkroom.run": job.run_id,
        "darkroom.base": job.base.content,
        "darkroom.config": json.dumps(config.identity(), ensure_ascii=False),
    }


def write(path: Path, lora: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Writes a LoRA file atomically and reads it back.

    Raises:
        ExportError: a number is not finite, the LoRA changes nothing, or the file is not what was given.
    """
    check(lora)
    store(path, lora, header)


def store(path: Path, lora: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> None:
    """Writes tensors of any LoRA, in whatever naming, atomically, and reads them back.

    Raises:
        ExportError: a number is not finite, or the file is not what was given.
    """
    check_finite(lora)
    try:
        write_tensors(path, lora, header)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}", "free some space on the disk") from None
    back, _ = read(path)
    if back.keys() != lora.keys() or not all(torch.equal(back[name], tensor) for name, tensor in lora.items()):
        raise ExportError(f"{path} was written, but reads back differently", "check the disk")


def check(lora: dict[str, torch.Tensor]) -> float:
    """The norm of a LoRA's change of the weights.

    Raises:
        ExportError: it is not finite, or zero.
        LoraFileError: it holds what is no LoRA, DoRA, LoHa or LoKr.
    """
    check_finite(lora)
    norm = change_norm(lora)
    if norm == 0:
        raise ExportError(
            "the LoRA changes nothing: the change of every weight is zero",
            "no optimizer step was done, or all were skipped: check learning_rate and the log",
        )
    return norm


def check_finite(lora: dict[str, torch.Tensor]) -> None:
    """Makes sure that every number is finite.

    Raises:
        ExportError: one is not.
    """
    for name, tensor in lora.items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"the LoRA is not finite ({name})",
                "lower learning_rate, or train with mixed_precision: bf16 or no",
            )


def change_norm(lora: dict[str, torch.Tensor]) -> float:
    """Frobenius norm of the change of all weights at strength 1, a layer at a time.

    Of a DoRA's it is the low-rank part, which is zero as long as nothing was trained: the whole change depends on the
    base model's weights.

    Raises:
        LoraFileError: it holds what is no LoRA, DoRA, LoHa or LoKr.
    """
    layers = lorafile.parse(lora, "the LoRA").values() if lora else ()
    return sum(layer.norm() ** 2 for layer in layers) ** 0.5


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the header of a LoRA file.

    Raises:
        ExportError: the file is missing or no safetensors file.
    """
    try:
        # Copied out of the mapping: a mapped file could not be replaced on Windows.
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return found, file.metadata() or {}
    except Exception as error:
        raise ExportError(f"{path} cannot be read as a LoRA: {error}", "choose another file") from None


def _frequencies(job: Job) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in job.train_items:
        for caption in item.captions:
            for tag in filter(None, map(str.strip, caption.split(","))):
                counts[tag] = counts.get(tag, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
