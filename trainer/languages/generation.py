"""Having a language model write: greedy, or drawn from its probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import read_json

# What ends an answer in the chat templates of the models known here; a base model's file may not say it.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>", "</s>")


def ends(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """The tokens that end what a model writes: by its generation config, its tokenizer, and the usual chat templates.

    Args:
        model: a causal model of transformers.
        tokenizer: its own, of transformers.
    """
    configs = (getattr(model, "generation_config", None), getattr(model, "config", None))
    return _ends([getattr(config, "eos_token_id", None) for config in configs], tokenizer)


def ends_of(path: Path, tokenizer: Any) -> frozenset[int]:
    """As ``ends``, of a folder or file of a model that is not loaded."""
    said = [read_json(path / name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    return _ends(said, tokenizer)


def _ends(said: Iterable[Any], tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    for one in said:
        found.update([one] if isinstance(one, int) else one or ())
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    known = tokenizer.get_added_vocab()
    return frozenset(found | {known[token] for token in _ENDS if token in known})


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: Any,
    ids: Sequence[int],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    say: Callable[[int], None] | None = None,
) -> tuple[int, ...]:
    """What a model writes behind some tokens.

    Args:
        model: a causal model of transformers, possibly with adapters; its mode is as before afterwards.
        tokenizer: its own: it knows what ends an answer.
        ids: the question, as ``trainer.text.chat.Chat.question`` gives it.
        max_new_tokens: after so many it is cut off.
        temperature: 0: the likeliest token each time. Above: drawn, the more freely the higher.
        seed: of what is drawn; on the CPU, so that the device makes no difference.
        say: called with each token as it is written.

    Returns:
        the new tokens alone, with the one that ends the answer, where it came.
    """
    causal: Any = model
    device = next(model.parameters()).device
    stop = ends(model, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    new: list[int] = []
    was_training = model.training
    model.eval()
    try:
        step, past = torch.tensor([list(ids)], device=device), None
        name = _cache_name(causal)
        while len(new) < max_new_tokens:
            out = causal(input_ids=step, use_cache=True, **{name: past})
            past, logits = getattr(out, name), out.logits[0, -1].float().cpu()
            if temperature > 0:
                token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            else:
                token = int(logits.argmax())
            new.append(token)
            if say is not None:
                say(token)
            if token in stop:
                break
            step = torch.tensor([[token]], device=device)
    finally:
        model.train(was_training)
    return tuple(new)


def answer(model: nn.Module, tokenizer: Any, ids: Sequence[int], **how: Any) -> str:
    """What a model writes behind some tokens, as a text without marks; ``how``: further arguments of ``generate``."""
    return tokenizer.decode(generate(model, tokenizer, ids, **how), skip_special_tokens=True).strip()


def _cache_name(model: Any) -> str:
    """What a model of the installed transformers calls the keys and values of the tokens before."""
    known = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "cache_params") if name in known), "past_key_values")
