"""A folder of transformers as a CLIP of ComfyUI's own classes, so that core's Generate Text writes with it.

ComfyUI's ``Llama2_`` takes its sizes from an object. Filled from a folder's config it is that model; its tokenizer and
chat template are the folder's own, through the very code that trains on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from comfy.text_encoders import llama

from ...trainer import languages
from ...trainer.errors import HostError
from ...trainer.languages.architecture import Architecture, architecture, weights
from ...trainer.text import Chat

NAME = "language_model"
"""What ComfyUI calls it within the CLIP; keys of LoRAs need not say it."""


def load(path: Path) -> Any:
    """The language model of a folder as a CLIP.

    Raises:
        BaseModelError: it is no model of Llama's architecture, or broken.
        HostError: this ComfyUI cannot generate text.
    """
    clip = _clip(path)
    clip.patcher.cached_patcher_init = (_patcher, (str(path),))
    return clip


def own_folder(clip: Any) -> Path | None:
    """The folder that ``load`` read a CLIP from; None if it came another way."""
    origin = getattr(clip.patcher, "cached_patcher_init", None)
    return Path(origin[1][0]) if origin and origin[0] is _patcher else None


def _patcher(path: str, disable_dynamic: bool = False) -> Any:
    """What ComfyUI loads the model anew by."""
    return _clip(Path(path), disable_dynamic).patcher


def _clip(path: Path, disable_dynamic: bool = False) -> Any:
    if not hasattr(llama, "BaseGenerate") or not hasattr(comfy.sd.CLIP, "generate"):
        raise HostError("this ComfyUI cannot generate text", "update ComfyUI")
    shape = architecture(path)
    own = languages.tokenizer(path)
    device = comfy.model_management.text_encoder_device()
    # On a CPU fp16 and bf16 are slow, and other tokens than transformers' come out.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    state = weights(path, dtype)
    if "lm_head.weight" in state:
        state["model.lm_head.weight"] = state.pop("lm_head.weight")
    known = {"disable_dynamic": disable_dynamic} if disable_dynamic else {}
    return comfy.sd.CLIP(
        _target(shape, Chat(own), sorted(languages.ends_of(path, own))),
        parameters=sum(tensor.numel() for tensor in state.values()),
        state_dict=[state],
        model_options={"dtype": dtype},
        **known,
    )


def _target(shape: Architecture, chat: Chat, stop: Sequence[int]) -> Any:
    """The classes that ComfyUI makes a CLIP of."""
    config = _config(shape, stop)

    class Decoder(llama.Llama2_):
        def compute_freqs_cis(self, position_ids: torch.Tensor, device: Any) -> Any:
            if shape.slowed is None or isinstance(config.rope_theta, list):
                return super().compute_freqs_cis(position_ids, device)
            slowed = torch.tensor(shape.slowed, device=device)
            return llama.precompute_freqs_cis(shape.head, position_ids, config.rope_theta, slowed, device=device)

    class Model(llama.BaseLlama, llama.BaseQwen3, llama.BaseGenerate, torch.nn.Module):
        def __init__(self, config_dict: Any, dtype: Any, device: Any, operations: Any) -> None:
            super().__init__()
            self.num_layers = shape.layers
            self.model = Decoder(config, device=device, dtype=dtype, ops=operations)
            self.dtype = dtype

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config={},
                model_class=Model,
                special_tokens={"pad": -1},  # nothing is padded
                layer_norm_hidden_state=False,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class Wrapped(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, dtype=dtype, name=NAME, clip_model=Encoder, model_options=model_options or {}
            )

    class Own(Tokenizer):
        def __init__(self, **_: Any) -> None:
            super().__init__(chat)

    return comfy.supported_models_base.ClipTarget(Own, Wrapped)


class Tokenizer:
    """What ComfyUI asks of a tokenizer, by the chat that the trainer trains on.

    Args:
        chat: of the folder's tokenizer and template.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self._raw = Chat(chat.tokenizer, "none")

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, skip_template: bool = False, **_: Any
    ) -> dict[str, list[list[tuple[Any, ...]]]]:
        """The tokens of a question, each with the weight 1."""
        ids = (self._raw if skip_template else self.chat).question(text)
        return {NAME: [[(token, 1.0, index) if return_word_ids else (token, 1.0) for index, token in enumerate(ids)]]}

    def untokenize(self, token_weight_pair: Sequence[tuple[Any, ...]]) -> list[tuple[Any, str]]:
        """Each token with its text."""
        return [(pair, self.chat.tokenizer.convert_ids_to_tokens(int(pair[0]))) for pair in token_weight_pair]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Tokens as text."""
        return self.chat.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the tokenizer is not saved with the weights."""
        return {}


def _config(shape: Architecture, stop: Sequence[int]) -> SimpleNamespace:
    """ComfyUI's words for an architecture; see ``comfy/text_encoders/llama.py``."""
    gemma = shape.kind == "gemma3_text"
    norm = "gemma3" if shape.normed else None
    return SimpleNamespace(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.eps,
        rope_theta=list(shape.theta) if gemma else shape.theta[0],
        rope_scale=[shape.slowed[0] if shape.slowed else 1.0, 1.0] if gemma else None,
        rope_dims=None,
        transformer_type="gemma3" if gemma else "llama",
        head_dim=shape.head,
        rms_norm_add=gemma,
        mlp_activation="gelu_pytorch_tanh" if gemma else "silu",
        qkv_bias=shape.bias,
        q_norm=norm,
        k_norm=norm,
        sliding_attention=[size or False for size in shape.sliding] or None,
        final_norm=True,
        lm_head=not shape.tied,
        stop_tokens=list(stop),
    )
