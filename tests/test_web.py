"""Texts of the page's scripts: there in every language, and used."""

from __future__ import annotations

import json
import re
from typing import get_args

from tests.conftest import REPO
from trainer.dataset import KINDS
from trainer.dataset.findings import FINDINGS
from trainer.estimate import How

SCRIPTS = "\n".join(path.read_text("utf-8") for path in sorted((REPO / "web").rglob("*.*js")))
TEXTS: dict[str, dict[str, str]] = {
    path.parent.name: json.loads(path.read_text("utf-8"))["darkroom"]
    for path in sorted((REPO / "locales").glob("*/main.json"))
}


def values(text: str) -> list[str]:
    """What is filled in."""
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_every_language_has_every_text_with_the_same_values():
    assert TEXTS.keys() == {path.name for path in (REPO / "locales").iterdir()}
    for texts in TEXTS.values():
        assert texts.keys() == TEXTS["en"].keys()
        assert all(texts.values())
        assert {name: values(text) for name, text in texts.items()} == {
            name: values(text) for name, text in TEXTS["en"].items()
        }


def test_texts_that_are_asked_for_are_there_and_others_are_not():
    named = set(re.findall(r'"(\w+)"', SCRIPTS))
    asked = set(re.findall(r'\bt\("(\w+)"', SCRIPTS))
    counted = set(re.findall(r'count\("(\w+)"', SCRIPTS))
    made = {f"by_{how}" for how in get_args(How)} | {"running", "finished", "stopped", "failed"}
    made |= {f"one_{thing}" for thing in counted} | {f"many_{thing}s" for thing in counted}
    assert not (asked | made) - TEXTS["en"].keys()
    assert not TEXTS["en"].keys() - named - made


def test_every_node_has_a_help_page_in_every_language():
    nodes = json.loads((REPO / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    docs = REPO / "web" / "docs"
    others = TEXTS.keys() - {"en"}
    expected = {docs / f"{node}.md" for node in nodes} | {docs / node / f"{one}.md" for node in nodes for one in others}
    assert set(docs.rglob("*.md")) == expected


def test_every_finding_of_pictures_has_a_word_on_the_page():
    text = (REPO / "web" / "dataset" / "kinds.mjs").read_text("utf-8")
    assert set(re.findall(r'^  "([\w-]+)": \[', text, re.MULTILINE)) == KINDS.keys() | FINDINGS.keys()
