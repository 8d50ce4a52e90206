from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.text.tokenizers import template, tokenizer
from trainer.__main__ import main
from trainer.dataset.findings import Finding
from trainer.text import Chat, scan
from trainer.text.items import KINDS
from trainer.text.lint import FINDINGS, Report, lint

Put = Callable[[str, str | bytes], Path]
TURNS = ("<|im_start|>", "<|im_end|>")


def pair(asked: object, said: object) -> str:
    return json.dumps({"prompt": asked, "completion": said}) + "\n"


def many(count: int = 60) -> str:
    """So many pairs that there is nothing to complain of."""
    return "".join(pair(f"What is {number}?", f"{number}, and no other.") for number in range(count))


def findings(folder: Path, chat: Chat | None = None) -> dict[str, Finding]:
    found = lint(scan(folder), chat).findings
    assert {finding.kind for finding in found} <= {*FINDINGS, *KINDS}
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


def qwen3(**more: int) -> Chat:
    return Chat(tokenizer(*TURNS), template("qwen3"), **more)


def test_the_report_is_data(put: Put, folder: Path):
    put("a.jsonl", many(3))
    put("10_lines/b.txt", "One.\nTwo.\n")
    report = lint(scan(folder, repeats=2))
    assert isinstance(report, Report)
    assert (report.samples, report.talks, report.answers, report.showings) == (5, 3, 3, 6 + 40)
    assert report.files == (("a.jsonl", 3), ("10_lines/b.txt", 2))
    assert report.first[0] == "- user: What is 0?\n  assistant: 0, and no other."
    assert (report.tokens, report.trained) == ((), 0)
    assert str(report).splitlines()[:8] == [
        folder.as_posix(),
        "5 samples: 3 conversations with 3 answers, 2 plain lines; 46 showings an epoch",
        "files:",
        "    a.jsonl  3 samples",
        "    10_lines/b.txt  2 samples",
        "the first:",
        "    - user: What is 0?",
        "      assistant: 0, and no other.",
    ]


def test_good_data_have_nothing_to_complain_of(put: Put, folder: Path):
    put("a.jsonl", many())
    assert not findings(folder)
    assert not findings(folder, qwen3())
    assert str(lint(scan(folder))).endswith("\nnothing to complain of")


def test_lengths_are_told_with_a_tokenizer(put: Put, folder: Path):
    put("a.txt", "abc\nabcdefgh\na\n")
    report = lint(scan(folder), Chat(tokenizer()))
    assert report.tokens == tuple(sorted(report.tokens))
    assert sum(report.tokens) == report.trained
    assert f"tokens: {report.tokens[0]} to {report.tokens[2]} a sample, half have up to {report.tokens[1]}" in str(
        report
    )
    assert f"loss: on {report.trained} of {report.trained} tokens (100%)" in str(report)


#: What stands beside 60 good pairs, what is found in it, and its lines.
FOUND: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "the same question": (
        pair("Who is it?", "Me.") + pair("who is it? ", "You."),
        "same-question",
        "1 question with different answers: the model learns to mix them",
        ("a.jsonl:61, a.jsonl:62: 'Who is it?'",),
    ),
    "the same answer": (
        "".join(pair(f"Who is {number}?", "Me.") for number in range(40)),
        "same-answer",
        "40 of 100 questions have the same answer: it is all that will be learnt",
        ("'Me.'",),
    ),
    "a duplicate": (
        pair("What is 7?", "7, and no other."),
        "duplicate",
        f"1 x {KINDS['duplicate']}",
        ("a.jsonl: line 61: says the same as a.jsonl:8; both are trained",),
    ),
    "an empty answer": (
        pair("Who is it?", ""),
        "no-answer",
        f"1 x {KINDS['no-answer']}",
        ("a.jsonl: line 61: its answer is empty",),
    ),
    "roles out of order": (
        '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}, '
        '{"role": "assistant", "content": "c"}]}',
        "roles",
        f"1 x {KINDS['roles']}",
        ("a.jsonl: line 61: message 1 is the assistant's, expected the user's",),
    ),
    "a broken line": (
        '{"prompt": "a" "completion": "b"}',
        "bad-row",
        f"1 x {KINDS['bad-row']}",
        ("a.jsonl: line 61: is not JSON: Expecting ',' delimiter (column 16)",),
    ),
    "a plain line": (
        '{"text": "One."}',
        "lines-and-talks",
        "1 plain line among conversations: of these the loss is on all, questions too",
        ("a.jsonl:61",),
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found(case: str, put: Put, folder: Path):
    text, kind, message, lines = FOUND[case]
    put("a.jsonl", many() + text)
    assert findings(folder) == {kind: Finding(kind, message, lines)}


def test_few_samples_are_told_and_copies_do_not_count(put: Put, folder: Path):
    put("a.jsonl", many(30) + many(30))
    assert findings(folder)["few-samples"].message == (
        "30 different samples: 50 to 200 good ones of one kind are advised; the fewer, the sooner they are known by "
        "heart"
    )


def test_what_is_too_long_is_told_by_tokens(put: Put, folder: Path):
    put("a.jsonl", many() + pair("Who? " * 200, "Me."))
    assert "long" not in findings(folder)
    (finding,) = findings(folder, qwen3(max_length=128)).values()
    tokens = len(qwen3(max_length=4096).encode(scan(folder).samples[-1]).ids)
    assert finding == Finding(
        "long",
        "1 longer than max_length, 128 tokens: the front is cut away, answers stay",
        (f"a.jsonl:61: {tokens} tokens",),
    )


def test_what_the_chat_template_refuses_is_told(put: Put, folder: Path):
    put("a.jsonl", many() + '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, '
        '{"role": "assistant", "content": "c"}]}')  # fmt: skip
    chat = Chat(tokenizer("<start_of_turn>", "<end_of_turn>", bos="<bos>"), template("gemma"))
    finding = findings(folder, chat)["refused"]
    assert finding.message.startswith("1 conversation that the chat template cannot write. Mend it")
    assert finding.lines[0].startswith("a.jsonl:61: the chat template refuses this conversation: ")


def test_answers_that_a_template_lets_be_trained_no_more_are_told(put: Put, folder: Path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    put("a.jsonl", many() + json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    assert findings(folder, qwen3())["last-answer"].lines == ("a.jsonl:61",)


def test_answers_that_touch_their_question_are_told_without_a_template(put: Put, folder: Path):
    put("a.jsonl", pair("Who?", "Me.") + "".join(pair(f"Who {number}?", f" I {number}.") for number in range(60)))
    assert findings(folder, Chat(tokenizer()))["joined"].lines == ("a.jsonl:1",)
    assert "joined" not in findings(folder, qwen3())


def test_the_command_sees_that_a_folder_holds_text(put: Put, folder: Path, capsys: pytest.CaptureFixture[str]):
    put("a.jsonl", many(2))
    assert main(["lint", str(folder), "--repeats", "3"]) == 0
    assert "2 samples: 2 conversations with 2 answers; 6 showings an epoch" in capsys.readouterr().out
    assert main(["lint", str(folder), "--words", "3"]) == 2
    assert "--words: " in capsys.readouterr().err
    put("a.jsonl", "x")
    assert main(["lint", str(folder)]) == 2
    assert "line 1: is not JSON" in capsys.readouterr().err


def test_the_command_tells_lengths_with_a_tokenizer(
    put: Put, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    put("a.jsonl", many())
    qwen3().tokenizer.save_pretrained(tmp_path / "model")
    given = ["--tokenizer", str(tmp_path / "model"), "--chat-template", "none", "--max-length", "16"]
    assert main(["lint", str(folder), *given]) == 0
    told = capsys.readouterr().out
    assert "tokens: " in told
    assert "60 longer than max_length, 16 tokens" in told
    assert main(["lint", str(folder), "--base", str(folder)]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert main(["lint", str(folder), *given[:2], "--chat-template", "gone.jinja"]) == 2
    assert "gone.jinja: cannot be read" in capsys.readouterr().err
