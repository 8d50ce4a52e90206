"""The trainer's messages on the page: every one of them is said in every language that has a table."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import REPO
from tests.messages import UNKNOWN, messages
from trainer.dataset.findings import FINDINGS
from trainer.dataset.items import KINDS
from trainer.text.items import KINDS as TEXT_KINDS
from trainer.text.lint import FINDINGS as TEXT_FINDINGS

TABLES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((REPO / "web" / "messages").glob("*.json"))}
ONE = re.compile(r"\{(\w+)\}")
SETTING = re.compile(r"\w+: \S+")  # as it is typed into a config, which is the same in every language
languages = pytest.mark.parametrize("language", TABLES)


def expression(language: str, sentence: str) -> str:
    """What a sentence fits, as web/messages/plain.mjs has it; what is not known fits all that is filled in."""
    parts = ONE.split(sentence)
    literal = [re.sub(r"\\\[(\w+)\\\]", r"(?:\1)?", re.escape(part)) for part in parts[::2]]
    filled = [f"(?:{UNKNOWN}|{inside(language, name)})" for name in parts[1::2]]
    return "".join(text for pair in zip(literal, [*filled, ""], strict=True) for text in pair)


def inside(language: str, name: str) -> str:
    """What may be filled in."""
    tables = TABLES[language]
    if name not in tables and (one := name.removesuffix("s")) != name and one in tables:
        each = f"(?:{UNKNOWN}|{inside(language, one)})"
        return f"{each}(?:(?:; |, ){each})*"
    if name in tables:
        return "|".join(expression(language, sentence) for sentence in tables[name])
    return rf"[-+\d.,e%{UNKNOWN}]+" if len(name) == 1 else ".+?"


def fitting(language: str, table: str, text: str) -> list[str]:
    """The sentences of a table that a text fits: of several the one with the most words of its own is said."""
    found = [one for one in TABLES[language].get(table, ()) if re.fullmatch(expression(language, one), text)]
    most = max((len(ONE.sub("", one)) for one in found), default=0)
    return [one for one in found if len(ONE.sub("", one)) == most]


@languages
def test_every_message_of_the_trainer_is_said_by_one_sentence(language: str):
    file = f"web/messages/{language}.json"
    wrong = [
        f"{message.file}: {message.text!r} fits {found or 'none'}; see {message.table!r} in {file}"
        for message in messages()
        if not SETTING.fullmatch(message.text) and len(found := fitting(language, message.table, message.text)) != 1
    ]
    assert not wrong, "\n".join(wrong)


@languages
def test_what_a_sentence_fills_in_is_filled_in_by_the_other_language_too(language: str):
    for table, sentences in TABLES[language].items():
        for english, said in sentences.items():
            assert said, f"{table}: {english}"
            assert set(ONE.findall(said)) == set(ONE.findall(english)), f"{table}: {english}"


@languages
def test_every_kind_of_finding_has_a_name(language: str):
    kinds = KINDS.keys() | FINDINGS.keys() | TEXT_KINDS.keys() | TEXT_FINDINGS.keys()
    assert TABLES[language]["kind"].keys() == kinds


@languages
def test_no_table_is_left_that_nobody_asks(language: str):
    tables = TABLES[language]
    named = {one for sentences in tables.values() for sentence in sentences for one in ONE.findall(sentence)}
    assert tables.keys() == {
        one for name in named | {"line", "cell"} for one in (name, name.removesuffix("s")) if one in tables
    }
