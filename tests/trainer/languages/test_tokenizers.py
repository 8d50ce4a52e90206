"""Tokenizers out of single files, against the libraries that they were made with."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import languages
from trainer.errors import BaseModelError
from trainer.languages import toys

TEXTS = (
    "The capital of France is Paris.",
    "  two spaces  and three   ",
    "line\nbreaks\n\n\tand tabs",
    "Stra\u00dfe, \u4f60\u597d, \U0001f431 12345",
    "",
    "<start_of_turn>user\nWhat?<end_of_turn>\n<start_of_turn>model\n",
)


@pytest.fixture(scope="module")
def pieces() -> bytes:
    """A SentencePiece model of Gemma's kind."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(toys.TEXTS * 20),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n"],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def with_tokenizer(path: Path, kind: str, name: str, model: bytes) -> Path:
    toys.write_tiny(path, kind, vocabulary=512)
    save_file({**load_file(path), name: torch.frombuffer(bytearray(model), dtype=torch.uint8).clone()}, path)
    return path


def test_gemmas_is_what_sentencepiece_reads(tmp_path: Path, pieces: bytes):
    path = with_tokenizer(tmp_path / "gemma.safetensors", "gemma3_text", "spiece_model", pieces)
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces, add_bos=True)
    mine = languages.tokenizer(path)
    for text in TEXTS:
        assert mine(text)["input_ids"] == theirs.encode(text), text
        assert mine.decode(mine(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False) == text
    assert len(mine) == theirs.get_piece_size()
    assert (mine.bos_token_id, mine.eos_token_id, mine.pad_token_id) == (2, 1, 0)
    # What is in the file beside the weights changes nothing of them.
    assert languages.size(path) == sum(t.numel() for n, t in load_file(path).items() if n != "spiece_model")


def test_gemmas_chat_is_the_published_one(tmp_path: Path, pieces: bytes):
    tokenizer = languages.tokenizer(with_tokenizer(tmp_path / "g.safetensors", "gemma3_text", "spiece_model", pieces))
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello "},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("<end_of_turn>")) == 3


@pytest.mark.parametrize("harm", ["cut", "strange", "empty"])
def test_a_broken_one_is_named(tmp_path: Path, pieces: bytes, harm: str):
    broken = {"cut": pieces[: len(pieces) // 2], "strange": b"\x0b" + pieces, "empty": b"\0"}[harm]
    path = with_tokenizer(tmp_path / "g.safetensors", "gemma2", "spiece_model", broken)
    with pytest.raises(BaseModelError, match=r"tokenizer in it is (broken|none of Gemma's)"):
        languages.tokenizer(path)


def tekken() -> dict:
    """A tekken.json: bytes, and what a byte-level tokenizer joins, by rank."""
    words = [b"th", b"the", b" t", b" the", b"er", b"in", b"he", b"12", b"123", " \u4f60".encode()]
    tokens = [*(bytes([i]) for i in range(256)), *words]
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 10))]
    return {
        "config": {"default_vocab_size": len(tokens) + 10, "default_num_special_tokens": 10, "pattern": None},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode()} for i, t in enumerate(tokens)],
        "special_tokens": [{"rank": i, "token_str": mark} for i, mark in enumerate(marks)],
    }


def test_mistrals_joins_the_lowest_ranks_first(tmp_path: Path):
    path = with_tokenizer(tmp_path / "m.safetensors", "mistral", "tekken_model", json.dumps(tekken()).encode())
    tokenizer = languages.tokenizer(path)
    ranks = {base64.b64decode(w["token_bytes"]): w["rank"] + 10 for w in tekken()["vocab"]}
    assert tokenizer("the", add_special_tokens=False)["input_ids"] == [ranks[b"the"]]
    assert tokenizer("in the")["input_ids"] == [1, ranks[b"in"], ranks[b" the"]]
    # "the" is joined before "he": its halves have the lower ranks.
    assert tokenizer("ther 12345", add_special_tokens=False)["input_ids"] == [
        ranks[t] for t in (b"the", b"r", b" ", b"123", b"4", b"5")
    ]
    for text in TEXTS[:-1]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    asked = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "in"}]
    assert tokenizer.apply_chat_template(asked, return_dict=False) == [1, 3, ranks[b"the"], 4, ranks[b"in"], 2]


def test_a_folder_goes_before_what_the_file_has(tmp_path: Path, pieces: bytes):
    path = with_tokenizer(tmp_path / "g.safetensors", "gemma3_text", "spiece_model", pieces)
    mine = languages.tokenizer(path, toys.tokenizer_folder(path))
    assert len(mine) == len(toys.train_tokenizer(vocabulary=512, gemma=True))
    assert mine("The capital")["input_ids"] != languages.tokenizer(path)("The capital")["input_ids"]
