"""LoRA files, and their law: the weight a file makes at strength s is the weight that was trained, at strength s.

Files are in kohya's naming (``lora_unet_<module>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``; LyCORIS' parts of
LoHa and LoKr; ``dora_scale``), which ComfyUI matches wholly and diffusers converts. Numbers are fp32, so that the law
holds to rounding. No dates are written: the same seed gives the same file.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open

from . import lorafile
from .errors import ConfigError, ExportError
from .files import write_tensors


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
    if not math.isfinite(norm):
        raise ExportError("the LoRA's change of the weights is not finite", "lower learning_rate")
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


def beginning(path: Path, *, text: bool | None) -> dict[str, torch.Tensor]:
    """The tensors of the LoRA file that a run starts from.

    Args:
        path: the file.
        text: whether the run trains text encoders; None: a language model, of which this is no question.

    Raises:
        ConfigError: there is no such file, or one of the two has text encoders and the other has not.
        ExportError: it cannot be read.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError([f"init_lora: {path} {what}; expected a LoRA file"])
    tensors, _ = read(path)
    theirs = any(name.startswith(("lora_te", "text_encoder.", "text_encoder_2.")) for name in tensors)
    if text is not None and theirs != text:
        holds = "holds text encoders' layers too" if theirs else "holds nothing of the text encoders"
        raise ConfigError(
            [f"init_lora: {path} {holds}; set train_text_encoder: {str(theirs).lower()}, or choose another file"]
        )
    return tensors
