"""The trainer's messages on the page, in its language: by the module that knows them, and on the panel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import REPO
from tests.host.browser import close_dialogs, new_graph, open_page
from tests.host.server import ComfyServer
from tests.host.test_train_panel import ADD, LOOK_AT, NOBODY, TELL

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
# Switched as a person does it: the page draws anew what it says, and asks for what it lacks.
SPEAK = """async (language) => {
  await app.extensionManager.setting.set("Comfy.Locale", language);
  const train = performance.getEntriesByType("resource").find((one) => one.name.endsWith("/train.js")).name;
  const { plain } = await import(new URL("messages/plain.mjs", train).href);
  const known = "nothing to change: it rose from 1 to 2";
  for (let look = 0; (plain(known) === known) !== (language === "en") && look < 100; look += 1) {
    await new Promise((done) => setTimeout(done, 100));
  }
  window.plain = plain;
}"""
SAID = "texts => texts.map((one) => window.plain(one))"
WHOLE = ("choice", "detail", "error", "finding", "line", "message", "problem", "reason")  # what is said by itself
CHINESE: dict[str, dict[str, str]] = json.loads((REPO / "web" / "messages" / "zh.json").read_text("utf-8"))
ONE = re.compile(r"\{(\w+)\}")
EPOCHS = "epochs: pictures are shown 400 times in all; for 10 different ones 1,500 are usual: so few may leave no trace"
SHOWN = next(one for one in CHINESE["message"] if "so few may leave no trace" in one)
LINES: list[dict[str, Any]] = [
    {"type": "Advised", "kind": "warning", "field": "epochs", "message": EPOCHS, "cure": "epochs: 150"},
    {"type": "Chosen", "field": "lora_rank", "value": "8", "why": "10 different pictures of 12; 16 from 30 on"},
    {"type": "RunStarted", "step": 0, "total_steps": 10, "seconds": 60.0},
    {"type": "Warned", "message": "a b.png: is empty (0 bytes)"},
    {"type": "Warned", "message": "what no sentence of the table fits"},
]


@pytest.fixture(scope="module")
def page(comfy: ComfyServer) -> Iterator[Page]:
    """A page with an empty graph, which speaks English before and afterwards."""
    with open_page(comfy) as (page, _):
        close_dialogs(page)
        new_graph(page)
        page.evaluate(SPEAK, "en")
        yield page
        page.evaluate(SPEAK, "en")


def example(table: str, english: str) -> tuple[str, str]:
    """A text that a sentence of a table fits, and what is to be said instead."""
    filled = {name: value(name) for name in ONE.findall(english)}
    told = re.sub(r"\[\w+\]", "", english)
    return (
        ONE.sub(lambda found: filled[found[1]][0], told),
        ONE.sub(lambda found: filled[found[1]][1], CHINESE[table][english]),
    )


def value(name: str) -> tuple[str, str]:
    """Something that may be filled in, in both languages."""
    table = name if name in CHINESE else name.removesuffix("s")
    if table in CHINESE:
        return example(table, next(iter(CHINESE[table])))
    return ("7", "7") if len(name) == 1 else ("x", "x")


def test_every_sentence_is_said_in_chinese_and_in_english_as_it_is(page: Page):
    told = dict(example(table, english) for table in WHOLE for english in CHINESE[table])
    for lead, said in CHINESE["lead"].items():  # of a sentence that begins with anything, too
        told |= {f"{lead}{english}": f"{said}{chinese}" for english, chinese in [example("message", SHOWN)]}
    page.evaluate(SPEAK, "zh")
    assert dict(zip(told, page.evaluate(SAID, [*told]), strict=True)) == told
    page.evaluate(SPEAK, "en")
    assert page.evaluate(SAID, [*told]) == [*told]


def test_the_panel_says_what_the_trainer_does_in_the_language_of_the_page(page: Page):
    page.evaluate(SPEAK, "zh")
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    page.evaluate(TELL, [NOBODY, [{"seq": number, "t": 1000.0 + number, **line} for number, line in enumerate(LINES)]])
    words = page.locator(".darkroom-training .words").first
    words.get_by_text(LINES[-1]["message"]).wait_for()
    told = words.inner_text()
    assert "10 \u4e2a\u4e0d\u540c\u7684\u56fe\u7247\u901a\u5e38\u9700\u8981 1,500 \u6b21" in told, "epochs"
    assert "\u662f\u7a7a\u6587\u4ef6" in told, "an empty file"
    assert "epochs: 150" in told, "as it is typed in"
    assert "usual" not in told
    chosen = page.locator(".darkroom-training details .words").text_content()
    assert chosen is not None
    assert "12 \u4e2a\u4e2d\u6709 10 \u4e2a\u4e0d\u540c\u7684\u56fe\u7247" in chosen, "lora_rank"
