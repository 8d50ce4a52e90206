"""Which language model a wired CLIP holds: its file, its tokenizer, and whether ComfyUI can write with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.text_encoders
import torch

from ...trainer import languages
from ...trainer.errors import HostError
from ...trainer.languages.templates import around
from . import language

_CURE = "wire a language model: Load Language Model, or Load CLIP with a text encoder of Qwen3, Gemma 3 or Mistral"
_PROMPT = "prompt"
_QWEN = Path(comfy.text_encoders.__path__[0]) / "qwen25_tokenizer"


@dataclass(frozen=True)
class Held:
    """The language model of a CLIP.

    Args:
        path: its folder, or its single file.
        tokenizer: the folder of its tokenizer, where it has none of its own.
        writes: whether core's Generate Text can write with it.
        template: the chat template that Generate Text uses, in the words of ``chat_template``; "" for the tokenizer's.
    """

    path: Path
    tokenizer: Path | None
    writes: bool
    template: str = ""


def held(clip: Any) -> Held:
    """The language model of a CLIP, as a loader of ours or of core's read it.

    Raises:
        HostError: the CLIP is none of these, has patches on it, or is of several files.
        BaseModelError: what it holds is no language model that can be trained.
    """
    if getattr(clip.patcher, "patches", None):
        raise HostError(
            "clip: a LoRA is applied to it already, and training goes on from the file without it",
            "wire the CLIP before Apply LoRA; init_lora begins with a LoRA's values",
        )
    if (own := language.own_folder(clip)) is not None:
        return Held(own, None, writes(clip))
    file = _file(clip)
    folder = tokenizer_of(file)
    return Held(file, folder, writes(clip), _template(clip, languages.tokenizer(file, folder)))


def tokenizer_of(file: Path) -> Path | None:
    """The folder of a single file's tokenizer: ComfyUI has one for every Qwen; None: the others have theirs in them.

    Raises:
        BaseModelError: it is no language model that can be trained.
    """
    return _QWEN if languages.detect(file).name.startswith("qwen") else None


def writes(clip: Any) -> bool:
    """Whether core's Generate Text can write with a CLIP."""
    model = clip.cond_stage_model
    inner = getattr(model, getattr(model, "clip", ""), model)
    return hasattr(getattr(inner, "transformer", None), "generate")


def _template(clip: Any, tokenizer: Any) -> str:
    """What core writes around a prompt, seen by having it write one."""
    tokens = next(iter(clip.tokenize(_PROMPT, min_length=1).values()))[0]
    ids = [int(pair[0]) for pair in tokens if not isinstance(pair[0], torch.Tensor)]
    text = tokenizer.decode(ids, skip_special_tokens=False)
    before, found, after = text.partition(_PROMPT)
    if not found:
        raise HostError("clip: its tokens are not those of its file's tokenizer", _CURE)
    return around(before.removeprefix(tokenizer.bos_token or ""), after, tokenizer.eos_token)


def _file(clip: Any) -> Path:
    origin = getattr(clip.patcher, "cached_patcher_init", None)
    loaders = (getattr(comfy.sd, "load_clip_model_patcher", None), comfy.sd.load_clip)
    if not origin or origin[0] not in loaders:
        raise HostError("clip: it was not read by ComfyUI's Load CLIP or by Load Language Model", _CURE)
    paths = origin[1][0]
    files = [Path(str(path)) for path in ([paths] if isinstance(paths, str) else paths)]
    if len(files) != 1:
        raise HostError(f"clip: it is made of {len(files)} text encoders", _CURE)
    if files[0].suffix.lower() not in (".safetensors", ".sft"):
        raise HostError(f"clip: {files[0].name} is no safetensors file", _CURE)
    return files[0]
