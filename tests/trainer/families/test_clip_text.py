"""Tokens and chunks. Parity with ComfyUI itself is in tests/host/test_tokenizer_parity.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.clip_tokens import SHIPPED, ClipTokenizer
from trainer.errors import BaseModelError
from trainer.families.random_weights import byte_vocabulary

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer()


def tokens(tokenizer: ClipTokenizer, caption: str) -> list[int]:
    """Without begin, end and padding."""
    return [i for chunk in tokenizer.chunks(caption) for i in chunk if i not in (START, END)]


def test_the_shipped_tables() -> None:
    vocab = json.loads((SHIPPED / "vocab.json").read_text(encoding="utf-8"))
    merges = (SHIPPED / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(vocab) == 49_408
    assert sorted(vocab.values()) == list(range(49_408))
    assert merges[0].startswith("#version")
    assert len(merges) - 1 == 48_894
    assert all(vocab[merge.replace(" ", "")] == 512 + i for i, merge in enumerate(merges[1:]))
    assert (vocab["<|startoftext|>"], vocab["<|endoftext|>"]) == (START, END)


def test_known_captions(tokenizer: ClipTokenizer) -> None:
    assert len(tokenizer) == 49_408
    assert (tokenizer.start, tokenizer.end) == (START, END)
    assert tokenizer.chunks("a photo of a cat") == [[START, 320, 1125, 539, 320, 2368, *[END] * 71]]
    assert tokenizer.chunks("") == [[START, *[END] * 76]]
    assert tokens(tokenizer, "A  Photo\tof\na cat ") == tokens(tokenizer, "a photo of a cat")
    assert tokens(tokenizer, "\U0001f600") == [7334]
    assert tokens(tokenizer, "cafe\u0301") == tokens(tokenizer, "caf\u00e9") == [15304]


def test_brackets_weights_and_embeddings_are_text(tokenizer: ClipTokenizer) -> None:
    plain = tokens(tokenizer, "name_(series)")
    assert plain == tokens(tokenizer, r"name_\(series\)")
    assert len(plain) > len(tokens(tokenizer, "name_series"))
    assert len(tokens(tokenizer, "(cat:1.3)")) > len(tokens(tokenizer, "cat"))
    assert len(tokens(tokenizer, "a embedding:cat")) > 3


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (74, 1), (75, 1), (76, 2), (100, 2), (150, 2), (151, 3)])
def test_chunks_are_full_before_another_begins(tokenizer: ClipTokenizer, count: int, chunks: int) -> None:
    cut = tokenizer.chunks("cat " * count)
    assert len(cut) == chunks
    assert all(len(chunk) == 77 and chunk[0] == START and chunk[-1] == END for chunk in cut)
    assert [sum(i == 2368 for i in chunk) for chunk in cut] == [75] * (count // 75) + (
        [count % 75] if count % 75 else []
    )


def test_a_long_word_is_broken(tokenizer: ClipTokenizer) -> None:
    word = "xq" * 200
    assert len(tokenizer.chunks(word)) > 1
    assert len(tokenizer.chunks("\u521d\u97f3\u672a\u6765" * 40)) > 2


ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)
WORDS = ["It's", "a", "CAT's", "(fate:1.2)", "red-haired", "\\(x\\)", "'re", "007", "<|x", "_"]
PROSE = st.lists(st.sampled_from(WORDS))


@given(ASCII | PROSE.map(" ".join) | st.text(max_size=20))
def test_as_many_tokens_are_counted_as_there_are(tokenizer: ClipTokenizer, caption: str) -> None:
    chunks = tokenizer.chunks(caption, pad=-1)
    assert tokenizer.count(caption) == sum(i != -1 for chunk in chunks for i in chunk) - 2 * len(chunks)


def test_marks_within_a_caption(tokenizer: ClipTokenizer) -> None:
    chunk = tokenizer.chunks("cat <|endoftext|> cat")[0]
    assert chunk[:4] == [START, 2368, END, 2368]


def test_own_vocabulary() -> None:
    vocab, merges = byte_vocabulary(("cat", "photo"))
    own = ClipTokenizer.from_tables(vocab, merges)
    assert len(own) == len(vocab) == 512 + len(merges) + 2
    assert own.chunks("Photo cat")[0][:4] == [own.start, vocab["photo</w>"], vocab["cat</w>"], own.end]
    assert own.chunks("dog")[0][1:4] == [vocab["d"], vocab["o"], vocab["g</w>"]]


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"vocab\.json and merges\.txt missing"):
        ClipTokenizer(tmp_path)
