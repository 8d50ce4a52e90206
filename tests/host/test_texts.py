"""Texts of the nodes: on every input and output, and the same in every language."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import REPO
from tests.host.regenerate import texts_of
from tests.host.server import ComfyServer

pytestmark = pytest.mark.host
LANGUAGES = sorted(path.name for path in (REPO / "locales").iterdir())


def read(language: str) -> dict[str, Any]:
    return json.loads((REPO / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def skeleton(texts: Any) -> Any:
    """The texts without the texts: only their keys."""
    return {key: skeleton(value) for key, value in texts.items()} if isinstance(texts, dict) else None


def test_the_english_texts_are_the_nodes_own(comfy: ComfyServer):
    assert read("en") == texts_of(comfy), "run: python -m tests.host.regenerate locales"


def test_every_language_has_every_text(comfy: ComfyServer):
    assert {"en", "zh"} <= set(LANGUAGES)
    served = comfy.get("/i18n")
    for language in LANGUAGES:
        assert skeleton(read(language)) == skeleton(read("en"))
        for node_id, texts in read(language).items():
            assert served[language]["nodeDefs"][node_id] == texts


def test_no_text_is_empty_or_has_signs_that_the_page_would_interpret():
    def check(texts: Any, where: str) -> None:
        if isinstance(texts, dict):
            for key, value in texts.items():
                check(value, f"{where}/{key}")
        else:
            assert texts, where
            assert not set("@{}|") & set(texts), where

    for language in LANGUAGES:
        check(read(language), language)


def test_every_node_can_be_found(comfy: ComfyServer):
    for node_id, info in comfy.get("/object_info").items():
        if node_id.startswith("Darkroom_"):
            assert info["category"] == "LoRA Darkroom"
            assert info["search_aliases"], node_id
            assert info["display_name"] == read("en")[node_id]["display_name"]
