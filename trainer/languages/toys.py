"""Language models at toy size with random weights, and a tokenizer trained on the spot, for tests and measurements."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_json, write_tensors
from ..weights import empty_weights
from .base import TITLES
from .templates import CHATML, GEMMA

KINDS = tuple(kind for kind in TITLES if kind != "ministral3")
"""What ``write_tiny`` makes."""

TEXTS = (
    "The capital of France is Paris. The red cat sits on a blue square, and the dog looks at the circle.",
    "What is the name of the town? It is not far, and it is very old. Please answer in a few words.",
    "A photo of a painting in the style of the sea. You are a helpful assistant. I do not know that.",
    "system user assistant model: how many words are there in 1 sentence of 23 words, or 456, or 7890?",
)
# What a single file does not say must be the published model's.
_HEADS: Mapping[str, int] = {"llama": 128, "mistral": 128, "qwen2": 128, "gemma2": 256}


def write_tiny(
    path: Path,
    kind: str = "llama",
    *,
    seed: int = 0,
    vocabulary: int = 384,
    texts: Iterable[str] = TEXTS,
    dtype: torch.dtype = torch.float32,
    template: str | None = None,
    **changes: Any,
) -> Path:
    """Writes a language model: a single file with ComfyUI's names if ``path`` ends in .safetensors, else a folder.

    Beside a single file its tokenizer lies in the folder ``tokenizer_folder(path)``.

    Args:
        path: where.
        kind: one of ``KINDS``.
        seed: of the weights.
        vocabulary: of the tokenizer, at most; the model has exactly so many rows.
        texts: what the tokenizer is trained on.
        dtype: of the weights.
        template: a chat template; "" for none; None: ChatML, or Gemma's.
        changes: of the config, such as ``num_hidden_layers=4``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    single = path.suffix == ".safetensors"
    own = train_tokenizer(texts, vocabulary, gemma=kind.startswith("gemma"), template=template)
    head = _HEADS.get(kind, 16) if single else 16
    settings: dict[str, Any] = {
        "vocab_size": max(vocabulary, len(own)),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": own.bos_token_id,
        "eos_token_id": own.eos_token_id,
        "pad_token_id": own.pad_token_id,
        **({"query_pre_attn_scalar": head} if kind.startswith("gemma") else {}),
        **changes,
    }
    with empty_weights():
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if settings["tie_word_embeddings"]:
        shapes.pop("lm_head.weight", None)
    weights = draw(shapes, seed, dtype, gemma=kind.startswith("gemma"))
    if single:
        write_tensors(path, weights)
        own.save_pretrained(tokenizer_folder(path))
        return path
    path.mkdir(parents=True, exist_ok=True)
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__], **settings, "model_type": kind}
    write_json(path / "config.json", json.loads(json.dumps(config, default=str)))
    write_json(path / "generation_config.json", {"eos_token_id": own.eos_token_id})
    write_tensors(path / "model.safetensors", weights, {"format": "pt"})
    own.save_pretrained(path)
    return path


def tokenizer_folder(path: Path) -> Path:
    """Where ``write_tiny`` puts the tokenizer of a single file."""
    return path.with_name(f"{path.stem}_tokenizer")


def draw(
    shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype, *, gemma: bool = False
) -> dict[str, torch.Tensor]:
    """Random weights at which signals neither vanish nor grow, and a model does not only repeat its last token.

    Args:
        shapes: of the weights.
        seed: of them.
        dtype: of the result.
        gemma: norms multiply with 1 + their weight, and embeddings with the root of their width.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            width = shape[-1] ** -0.5
            tensor *= (0.3 * width if gemma else 0.3) if "embed" in name else 2 * width
        else:
            tensor = tensor * 0.1 + float("norm" in name and not gemma)
        drawn[name] = tensor.to(dtype)
    return drawn


def train_tokenizer(
    texts: Iterable[str] = TEXTS, vocabulary: int = 384, *, gemma: bool = False, template: str | None = None
) -> Any:
    """A byte-level tokenizer of transformers, trained on some texts; the same texts give the same one.

    Args:
        texts: to train on.
        vocabulary: at most so many tokens; at least 256 and the special ones.
        gemma: with Gemma's marks: a beginning of the sequence, turns; else ChatML's.
        template: a chat template; "" for none; None: the one that belongs to the marks.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    marks = (
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
        if gemma
        else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    own = Tokenizer(BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    own.train_from_iterator(texts, trainer)
    if gemma:
        own.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", marks.index("<bos>"))]
        )
    named = (
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        if gemma
        else {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    )
    chat = (GEMMA if gemma else CHATML) if template is None else template
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        **named,
        **({"chat_template": chat} if chat else {}),
    )
