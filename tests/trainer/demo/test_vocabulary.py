from __future__ import annotations

import pytest

from trainer.clip_tokens import ClipTokenizer
from trainer.demo import vocabulary, world


def test_every_word_of_the_world_is_one_token():
    vocab = vocabulary.vocabulary()
    assert all(f"{word}</w>" in vocab for word in world.WORDS)
    for word in world.WORDS:
        assert len(vocabulary.encode([word])[0]) == vocabulary.CONTEXT
        assert vocabulary.encode([word])[0][2] == vocab[vocabulary.END]


def test_the_layout_is_clips():
    vocab = vocabulary.vocabulary()
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert len(vocabulary.byte_symbols()) == len(set(vocabulary.byte_symbols())) == 256
    assert [vocab[vocabulary.START], vocab[vocabulary.END]] == [len(vocab) - 2, len(vocab) - 1]


def test_the_ids_are_those_of_the_tokenizer_that_users_get():
    tables = vocabulary.tokenizer_json()
    tokenizer = ClipTokenizer.from_tables(tables["vocab"], tables["merges"])  # type: ignore[arg-type]
    for seed in range(40):
        caption = f"{world.TRIGGER_WORD}, {world.draw(seed).caption}"
        assert tokenizer.chunks(caption) == vocabulary.encode([caption])
    # Words from outside are spelled in bytes, and nothing is lost.
    assert len(tokenizer.chunks("\u6f2b\u753b na\u00efve zebra")) == 1


def test_a_foreign_word_in_pre_training_is_a_mistake():
    with pytest.raises(KeyError):
        vocabulary.encode(["a neon star"])
