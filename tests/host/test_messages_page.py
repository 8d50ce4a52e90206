"""The trainer's messages on the page, in its language: by the module that knows them, and on the panel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import REPO
from tests.host.browser import close_dialogs, finish, new_graph, open_page, settle
from tests.host.graphs import BARE_DATA, node
from tests.host.server import ComfyServer
from tests.host.test_train_panel import ADD, LOOK_AT, NOBODY, TELL
from tests.trainer.test_comparison import Made
from trainer import comparison
from trainer.comparison import Trial

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
SAID = "([texts, of]) => texts.map((one) => window.plain(one, of))"
# Shows a node what it said, and puts it into sight.
SHOW = """([type, output]) => {
  const node = app.graph.nodes.find((one) => one.comfyClass === type) ?? LiteGraph.createNode(type);
  if (!node.graph) app.graph.add(node);
  node.onExecuted(output);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [100 - node.pos[0], 100 - node.pos[1]];
  app.canvas.setDirty(true, true);
}"""
CELLS = "table => [...table.rows].map((row) => [...row.cells].map((one) => one.textContent))"
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
    cells = dict(example("cell", english) for english in CHINESE["cell"])
    for language in ("zh", "en"):
        page.evaluate(SPEAK, language)
        for texts, of in ((told, "line"), (cells, "cell")):
            said = page.evaluate(SAID, [[*texts], of])
            assert said == [texts[one] if language == "zh" else one for one in texts]


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


def test_what_nodes_said_is_in_the_language_of_the_page(page: Page, comfy: ComfyServer):
    graph = {
        "data": node("Darkroom_LoadDataset", folder=BARE_DATA, path="", trigger_word="", repeats=1),
        "caption": node(
            "Darkroom_AutoCaption", dataset=["data", 0], method="filename", mode="missing", format="csv",
            trigger_word="",
        ),
        "images": node("Darkroom_DatasetImages", dataset=["caption", 0], size="original", resolution=64, limit=1),
        "shown": node("PreviewImage", images=["images", 0]),
        "save": node("Darkroom_SaveLoRA", filename="none"),
    }  # fmt: skip
    new_graph(page)
    page.evaluate(SPEAK, "zh")
    page.evaluate("graph => app.loadApiJson(graph, 'said')", graph)
    settle(page)
    known = set(comfy.get("/history"))
    page.evaluate("() => app.queuePrompt(0)")  # the button has another name in Chinese
    finish(comfy, known)
    said = page.locator(".darkroom-said")
    said.filter(has_text="\u672a\u63a5\u5165 LoRA").wait_for(state="attached")  # no LoRA is wired
    captioned = said.filter(has_text="metadata.csv").text_content() or ""
    assert re.search(r"12 \u6761\u63cf\u8ff0|12 \u6761\u4fdd\u6301\u539f\u6837", captioned), captioned
    assert "12 \u5f20\u56fe\u7247" in captioned, "12 images"
    assert "captions" not in captioned


def test_the_table_of_a_training_sweep_has_its_columns_below_each_other(page: Page, tmp_path: Path):
    made = Made(tmp_path)
    trials = [made.trial("1e-4", 5.0), Trial("9", tmp_path, failure="there is nothing to train"), made.trial("2e-4", 4)]
    verdict = comparison.judge("learning_rate", trials)
    rows = [*comparison.rows("learning_rate", trials, verdict), [verdict.text]]
    new_graph(page)
    for language, keep, step in (("en", "<- keep", "40 of 50"), ("zh", "\u2190 \u4fdd\u7559", "40 / 50")):
        page.evaluate(SPEAK, language)
        page.evaluate(SHOW, ["Darkroom_TrainingSweep", {"text": ["as lines"], "rows": rows}])
        table = page.locator(".darkroom-said table")
        table.get_by_text(keep, exact=True).wait_for(state="attached")
        cells = table.evaluate(CELLS)
        assert [len(row) for row in cells] == [9, 9, 2, 9, 1]
        assert [row[0] for row in cells[:4]] == ["learning_rate", "1e-4", "9", "2e-4"]
        assert step in cells[3]
        if language == "zh":
            assert cells[2][1] == "\u5931\u8d25\uff1a\u6ca1\u6709\u53ef\u8bad\u7ec3\u7684\u5185\u5bb9"
            assert not re.search("[a-z]{3}", "".join([*cells[0][1:], *cells[1], *cells[3]]))
            assert cells[4][0].startswith("\u4fdd\u7559 learning_rate 2e-4\uff1a")
