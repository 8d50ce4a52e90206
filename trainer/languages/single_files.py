"""Language models in single files, as ComfyUI has them for text encoders: recognised by keys and shapes.

The file says no more than that; heads, rotary embeddings and the like are those of the published models, as in
ComfyUI's ``comfy/text_encoders/llama.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..weights import read_header
from ..weights.header import Header
from ..weights.quantised import check
from .base import TITLES, Kind, Source, check_known, numbers, text_name, text_only

_EMBEDDING, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_BLOCK = "model.layers.0."
_WHICH = (
    "choose a language model: a folder of transformers, or a text encoder of Qwen3, Qwen2.5-VL, Gemma 2, Gemma 3, "
    "Llama 3 or Mistral as a single file"
)
# A key that only one architecture has -> what it is; these are read from a folder of transformers, or not at all.
_OTHERS = (
    ("model.layers.0.self_attn.sinks", "GPT-OSS"),
    ("layers.0.self_attn.sinks", "GPT-OSS"),
    ("model.layers.0.linear_attn.A_log", "Qwen3.5"),
    ("model.layers.0.layer_scalar", "Gemma 4"),
    ("model.embed_tokens_per_layer.weight", "Gemma 4"),
    ("model.layers.0.mlp.experts.gate_up_proj", "a mixture of experts"),
    ("model.layers.0.mlp.experts.0.gate_proj.weight", "a mixture of experts"),
)


def read(path: Path) -> Source:
    """What the keys and shapes of a file say.

    Raises:
        BaseModelError: it is missing, broken, quantised to something else than fp8, or no language model known here.
    """
    header = text_only(read_header(path))
    shapes = {text_name(name): info.shape for name, info in header.tensors.items()}
    config = _config(path, shapes)
    check(header)
    name = config["model_type"]
    check_known(path, name)
    kind = Kind(
        name,
        TITLES[name],
        False,
        config["num_hidden_layers"],
        config["hidden_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
        numbers(header),
    )
    return Source(kind, header, config)


def _config(path: Path, shapes: Mapping[Any, tuple[int, ...]]) -> dict[str, Any]:
    """Transformers' config of the model that has these tensors."""
    for key, what in _OTHERS:
        if key in shapes:
            raise BaseModelError(f"{path} is {what}, which cannot be trained from a single file", _WHICH)
    needed = (_EMBEDDING, *(f"{_BLOCK}{n}.weight" for n in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj")))
    lacking = [name for name in needed if len(shapes.get(name, ())) != 2]
    if lacking:
        raise BaseModelError(f"{path} is {_instead(shapes)}", _WHICH)
    if _NORM not in shapes:
        raise BaseModelError(
            f"{path} is a language model without its last layers (no {_NORM}), which cannot write text",
            "choose the whole model: what was cut off is not needed for pictures, but for text",
        )
    vocabulary, hidden = shapes[_EMBEDDING]
    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": 1 + max(int(n.split(".")[2]) for n in shapes if n and n.startswith("model.layers.")),
        "intermediate_size": shapes[f"{_BLOCK}mlp.gate_proj.weight"][0],
        "tie_word_embeddings": _HEAD not in shapes,
    }
    own = _architecture(shapes, common)
    size = own["head_dim"]
    heads = {
        "num_attention_heads": shapes[f"{_BLOCK}self_attn.q_proj.weight"][0] // size,
        "num_key_value_heads": shapes[f"{_BLOCK}self_attn.k_proj.weight"][0] // size,
    }
    return {**common, **heads, **own}


def _architecture(shapes: Mapping[Any, tuple[int, ...]], common: Mapping[str, Any]) -> dict[str, Any]:
    """What the shapes do not say of each architecture."""
    norm = shapes.get(f"{_BLOCK}self_attn.q_norm.weight")
    if f"{_BLOCK}post_feedforward_layernorm.weight" in shapes:
        if norm is None:
            return {"model_type": "gemma2", "head_dim": 256, "max_position_embeddings": 8192}
        return {
            "model_type": "gemma3_text",
            "head_dim": norm[0],
            "query_pre_attn_scalar": norm[0],
            "max_position_embeddings": 131072,
            "sliding_window": 1024,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        }
    if norm is not None:
        return {"model_type": "qwen3", "head_dim": norm[0], "rms_norm_eps": 1e-6, **_rotary(1e6, 40960)}
    if f"{_BLOCK}self_attn.k_proj.bias" in shapes:
        return {"model_type": "qwen2", "head_dim": 128, "rms_norm_eps": 1e-6, **_rotary(1e6, 128000)}
    if common["vocab_size"] == 131072:  # Tekken
        small = common["hidden_size"] == 3072
        return {
            "model_type": "mistral",
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            **_rotary(1e6 if small else 1e9, 262144 if small else 131072),
        }
    return {"model_type": "llama", "head_dim": 128, "rms_norm_eps": 1e-5, **_rotary(5e5, 8192)}


def _rotary(theta: float, context: int) -> dict[str, Any]:
    return {"rope_theta": theta, "max_position_embeddings": context}


def _instead(shapes: Mapping[Any, tuple[int, ...]]) -> str:
    """What a file is that is no language model."""
    names = [name for name in shapes if name]
    if any(".lora_" in n or n.startswith("lora_") for n in names):
        return "a LoRA, which is trained on top of a model"
    if any(n.startswith(("encoder.block.", "shared.")) for n in names):
        return "an encoder (T5), which does not write text"
    if any("text_model.encoder." in n for n in names) and not any("diffusion_model" in n for n in names):
        return "a text encoder of CLIP, which does not write text"
    if any(n.startswith(("model.diffusion_model.", "double_blocks.", "input_blocks.")) for n in names):
        return "a model of images, not a language model"
    listed = ", ".join(names[:3])
    return f"no language model known here ({len(names)} tensors{', beginning with ' + listed if listed else ''})"


def inside(header: Header, name: str) -> bytes | None:
    """A tokenizer that a file has in a tensor (``spiece_model``, ``tekken_model``); None where it has none."""
    if name not in header.tensors:
        return None
    from safetensors import safe_open

    with safe_open(header.files[name], framework="pt", device="cpu") as file:
        return file.get_tensor(name).numpy().tobytes()
