"""Chat templates that a program has built in, as the trainer needs them."""

from __future__ import annotations

import pytest

from trainer.languages import toys
from trainer.languages.templates import around
from trainer.text import Chat, Message, Sample

THOUGHT = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        ("", THOUGHT, "<|im_end|>"),
        ("Say 'it':\t\"", '"', "<|endoftext|>"),
    ],
    ids=["chatml", "thought", "quotes"],
)
def test_a_question_is_what_the_program_writes_around_it(before: str, after: str, end: str):
    tokenizer = toys.train_tokenizer()
    chat = Chat(tokenizer, around(before, after, "<|endoftext|>"))
    assert tokenizer.decode(chat.question("What {is} it?")) == f"{before}What {{is}} it?{after}"
    asked = [
        Message("system", "Be brief."),
        Message("user", "Who?"),
        Message("assistant", "I."),
        Message("user", "And?"),
    ]
    whole = [*asked, Message("assistant", "You.")]
    text = f"{before}Be brief.\n\nWho?{after}I.{end}{before}And?{after}"
    assert tokenizer.decode(chat.question(asked)) == text
    encoded = chat.encode(Sample("1", "a.jsonl:1", messages=tuple(whole)))
    assert tokenizer.decode(encoded.ids) == f"{text}You.{end}"
    trained = [tokenizer.decode(encoded.ids[start:stop]) for start, stop in encoded.answers]
    assert trained == [f"I.{end}", f"You.{end}"]


def test_nothing_around_it_is_raw_text():
    assert around("", "", "<eos>") == "none"
