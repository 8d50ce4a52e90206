"""A language model's LoRA for everybody else: PEFT's folder, which llama.cpp converts, and a merged model."""

from __future__ import annotations

import re
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import lorafile
from ..errors import ExportError, LoraFileError
from ..files import write_json, write_tensors
from ..lorafile import FileLayer
from ..weights import read_header, read_tensors
from ..weights.header import read_json
from .base import module_name

_BLOCK = re.compile(r"(.+\.)(\d+)(\..+)")


def write(folder: Path, lora: Mapping[str, torch.Tensor], base: str, *, layers: int = 0) -> Path:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT's ``save_pretrained`` does.

    ``PeftModel.from_pretrained(model, folder)`` reads it, and so does llama.cpp's ``convert_lora_to_gguf.py``. That one
    scales every layer with one alpha over the layer's rank, so where alphas differ the rest is in the weights.

    Args:
        folder: made if it is not there.
        lora: the tensors of a file for ComfyUI.
        base: the model's name on a hub, or its path, for whoever reads the folder.
        layers: how many blocks the model has; where all of these are trained alike, the config names kinds of layers.

    Raises:
        ExportError: there are layers of another method than LoRA, or not of a language model; or it cannot be written.
    """
    found = _layers(lora)
    ranks = {name: layer.parts["down"].shape[0] for name, layer in found.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alphas = {name: layer.scale * ranks[name] for name, layer in found.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0] or 1.0
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in found.items():
        up = layer.parts["up"].float()
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.plain_down()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up if alphas[name] == alpha else up * (alphas[name] / alpha)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "rank_pattern": {name: size for name, size in ranks.items() if size != rank},
        "alpha_pattern": {},
        "target_modules": _targets(list(found), layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    try:
        write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
        write_json(folder / "adapter_config.json", config)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror or error}", "free some space on the disk") from None
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of PEFT's folder as those of a file for ComfyUI.

    Raises:
        LoraFileError: it is none, or not of LoRA alone.
        BaseModelError: a file of it is missing or broken.
    """
    if not (folder / "adapter_config.json").is_file():
        raise LoraFileError(f"{folder} is no folder of PEFT: it has no adapter_config.json", "give a LoRA file")
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise LoraFileError(f"{folder} is of another method than LoRA", "use the file that was written for ComfyUI")
    tensors = read_tensors(read_header(folder / "adapter_model.safetensors"), "", None)
    result: dict[str, torch.Tensor] = {}
    for key, layer in lorafile.parse(tensors, str(folder)).items():
        rank, name = layer.rank or 1, module_name(key) or key
        alpha = _of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", rank))
        alpha *= rank**0.5 if config.get("use_rslora") else 1
        result |= FileLayer(key, layer.parts, float(alpha)).written()
    return result


def merge(base: Path, lora: Mapping[str, torch.Tensor], target: Path, *, strength: float = 1.0) -> Path:
    """Writes a folder of transformers with the LoRA added to the model's weights, and the model's tokenizer.

    Args:
        base: a folder, or a single file.
        lora: the tensors of a file for ComfyUI, of whatever method.
        target: must not be there.
        strength: what its change is multiplied with.

    Raises:
        BaseModelError: the model cannot be read.
        LoraFileError: the LoRA is not for this model.
        ExportError: there is something at ``target``, or it cannot be written.
    """
    from .. import adapters
    from . import detect, export_key, load, tokenizer

    if target.exists():
        raise ExportError(f"{target} exists", "give another name")
    model: Any = load(base, _stored_dtype(base))
    adapters.from_file(model, lora, export_key, "the LoRA")
    with torch.no_grad():
        for layer in list(adapters.layers(model)):
            weight = layer.weight
            weight.copy_((weight.float() + strength * layer.change()).to(weight.dtype))
            parent, _, last = layer.name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer.layer.get_base_layer())
    model.config.use_cache = True
    temporary = target.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        model.save_pretrained(temporary)
        if detect(base).folder:
            tokenizer(base).save_pretrained(temporary)
        temporary.rename(target)
    except OSError as error:
        raise ExportError(f"cannot write {target}: {error.strerror or error}", "free some space on the disk") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _stored_dtype(base: Path) -> torch.dtype:
    from . import source_of

    stored = {info.dtype for info in source_of(base).header.tensors.values()}
    if stored <= {"F16"}:
        return torch.float16
    return torch.float32 if "F32" in stored else torch.bfloat16


def _layers(lora: Mapping[str, torch.Tensor]) -> dict[str, FileLayer]:
    """The layers of a file by transformers' names of their modules."""
    found: dict[str, FileLayer] = {}
    for key, layer in lorafile.parse(lora, "the LoRA").items():
        name = module_name(key)
        if name is None:
            raise ExportError(f"{key} is no layer of a language model", "give the LoRA of a language model")
        if layer.method != "lora":
            title = lorafile.TITLES[layer.method]
            raise ExportError(
                f"PEFT's folder is written of plain LoRA layers alone, and this is {title}",
                "train with lora_method: lora, or use the merged model",
            )
        found[name] = layer
    return found


def _targets(names: list[str], layers: int) -> list[str]:
    """What PEFT finds the modules by: the ends of their names where every block has them, else the whole names."""
    blocks: dict[str, set[int]] = {}
    for name in names:
        match = _BLOCK.fullmatch(name)
        if match is None:
            return sorted(names)
        blocks.setdefault(match[3], set()).add(int(match[2]))
    if layers and all(found == set(range(layers)) for found in blocks.values()):
        return sorted({end.rpartition(".")[2] for end in blocks})
    return sorted(names)


def _of_pattern(patterns: Any, name: str, otherwise: float) -> float:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return float(value)
    return float(otherwise)
