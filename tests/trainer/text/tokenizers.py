"""Small tokenizers, made on the spot, and the chat templates that installed packages carry."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def spoken() -> Any:
    """A byte-level BPE of a few hundred tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the answer to the question is a house on the hill", "hello, what is it?"] * 4, trainer)
    return made.to_str()


def tokenizer(
    *special: str, bos: str = "", eos: str = "</s>", begins: bool = False, template: str | None = None
) -> Any:
    """A tokenizer of transformers with these special tokens.

    Args:
        special: further tokens that are whole.
        bos: the beginning of a sequence.
        eos: its end; also its padding.
        begins: whether every text begins with ``bos``, as with LLaMA and Gemma.
        template: its own chat template; none where empty.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(spoken())
    inner.add_special_tokens([token for token in (bos, eos, *special) if token])
    if begins:
        pair = (bos, inner.token_to_id(bos))
        inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=None, special_tokens=[pair])
    names = {"eos_token": eos, "pad_token": eos} | ({"bos_token": bos} if bos else {})
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.chat_template = template or None
    return made


def folder(package: str) -> Path:
    """Where an installed package lies; skips the test where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed (tests/requirements.txt)")
    return Path(found.submodule_search_locations[0])


def template(name: str) -> str:
    """A real chat template, of those that the package trl carries."""
    return (folder("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def marks_of(text: str) -> list[str]:
    """The special tokens that a template writes: ``<|im_end|>`` and the like."""
    pipes = re.findall(r"<[|\uff5c][^<>|\uff5c\n{}]{1,40}[|\uff5c]>", text)
    return sorted(
        {*pipes, *re.findall(r"</?(?:start_of_turn|end_of_turn|end_of_utterance|think|s|turn\|)>|<\|turn>", text)}
    )
