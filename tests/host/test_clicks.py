"""What a newcomer clicks: from a template and dropped pictures to a picture at 0.8; the blueprint as a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPO
from tests.host.browser import (
    check_pictures,
    close_dialogs,
    nodes_of,
    open_page,
    open_template,
    run_by_click,
    set_widgets,
    settle,
)  # fmt: skip
from tests.host.checkpoints import SD15 as CHECKPOINT
from tests.host.checkpoints import add_random_sd15
from tests.host.measure import runs
from tests.host.regenerate import FIT, QUICK
from tests.host.server import ComfyServer
from tests.host.templates import SD15, SHOWN
from tests.host.test_dataset import two
from tests.host.test_dataset_page import CHOSEN, drop, said
from trainer import job as jobs

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
MOST_CLICKS = 5
WIDGETS = ("COMBO", "STRING", "INT", "FLOAT", "BOOLEAN")
LOOK_AT = """
title => {
  const node = app.graph.nodes.find((one) => one.title === title), canvas = app.canvas;
  canvas.ds.scale = 1;
  canvas.ds.offset = [300 - node.pos[0], 200 - node.pos[1]];
  canvas.setDirty(true, true);
}"""
WIDGET = """
([title, name]) => {
  const node = app.graph.nodes.find((one) => one.title === title), { scale, offset } = app.canvas.ds;
  const widget = node.widgets.find((one) => one.name === name), box = app.canvas.canvas.getBoundingClientRect();
  const at = (slot, inside) => box[slot ? "top" : "left"] + (node.pos[slot] + offset[slot] + inside) * scale;
  return [at(0, node.size[0] / 2), at(1, widget.last_y + 10)];
}"""


def count_clicks(page: Page) -> None:
    """From now on, in ``window.clicksMade``."""
    page.evaluate("""() => {
        window.clicksMade = 0;
        window.addEventListener("pointerdown", () => { window.clicksMade += 1; }, true);
    }""")


def test_from_a_template_to_a_picture_at_08_in_five_clicks(comfy: ComfyServer, tmp_path: Path):
    add_random_sd15(comfy.base)
    folder = two(tmp_path / "meine Bilder \u6f2b")
    before = set(runs(comfy).glob("*")) if runs(comfy).exists() else set()
    with open_page(comfy) as (page, complaints):
        open_template(page, SD15)
        # As short as can be: what a user would leave alone.
        set_widgets(
            page, auto=False, epochs=1, resolution=64, steps=2, width=64, height=64, sample_inference_steps=2
        )  # fmt: skip
        count_clicks(page)
        page.evaluate(LOOK_AT, "Load Dataset")
        settle(page)
        drop(page, folder)
        said(page, "4 files are now in")
        page.evaluate(LOOK_AT, "Load Checkpoint")
        settle(page)
        page.mouse.click(*page.evaluate(WIDGET, ["Load Checkpoint", "ckpt_name"]))
        page.get_by_text(CHECKPOINT, exact=True).last.click()
        chosen = page.evaluate(CHOSEN)
        run_by_click(page, comfy)
        assert 0 < page.evaluate("() => window.clicksMade") <= MOST_CLICKS
        page.evaluate(FIT)  # what is out of sight has no pictures yet
        check_pictures(page, {title: 1 for title, _ in SHOWN})
        assert not complaints
    (run,) = set(runs(comfy).glob("*")) - before
    assert Path(jobs.load(run).items[0].path).parent == comfy.base / "input" / chosen
    assert jobs.load(run).base.file.name == CHECKPOINT


def test_what_is_shipped_has_the_widgets_that_the_nodes_have_now(comfy: ComfyServer):
    """A graph that was saved before a node got another input would open without it."""
    info = comfy.get("/object_info")
    files = [REPO / "subgraphs" / f"{QUICK}.json", *sorted((REPO / "workflows").glob("*.json"))]
    behind = {}
    for file in files:
        saved = json.loads(file.read_text("utf-8"))
        inner = [node for graph in saved.get("definitions", {}).get("subgraphs", []) for node in graph["nodes"]]
        for node in (*saved["nodes"], *inner):
            if not node["type"].startswith("Darkroom_"):
                continue
            groups = info[node["type"]]["input"]
            now = [name for name, spec in {**groups.get("required", {}), **groups.get("optional", {})}.items()
                   if (isinstance(spec[0], list) or spec[0] in WIDGETS) and not spec[1].get("forceInput")]  # fmt: skip
            there = [one["widget"]["name"] for one in node["inputs"] if "widget" in one]
            if sorted(there) != sorted(now):
                behind[f"{file.stem}: {node['type']}"] = sorted(set(now) ^ set(there))
    assert behind == {}


@pytest.mark.long
def test_the_blueprint_trains_as_one_node(comfy: ComfyServer):
    with open_page(comfy) as (page, complaints):
        close_dialogs(page)
        page.evaluate("() => app.graph.clear()")
        settle(page)
        page.mouse.dblclick(1200, 800)
        page.locator("input:focus").wait_for()  # the search
        page.keyboard.type(QUICK)
        page.get_by_text(QUICK).first.wait_for()
        settle(page)
        page.keyboard.press("Enter")
        page.wait_for_function("title => app.graph.nodes.some((one) => one.title === title)", arg=QUICK)
        (node,) = nodes_of(page)
        assert not node["missing"]
        page.evaluate(
            """title => {
                const quick = app.graph.nodes.find((one) => one.title === title);
                const make = (type) => { const one = LiteGraph.createNode(type); app.graph.add(one); return one; };
                const slot = (one, name) => one.inputs.findIndex((input) => input.name === name);
                const base = make("Darkroom_LoadDemoBase"), apply = make("Darkroom_ApplyLoRA");
                const show = make("PreviewImage");
                show.title = "Samples";
                ["model", "clip", "vae"].forEach((name, index) => base.connect(index, quick, slot(quick, name)));
                quick.connect(quick.outputs.findIndex((one) => one.name === "samples"), show, 0);
                quick.connect(quick.outputs.findIndex((one) => one.name === "lora"), apply, slot(apply, "lora"));
            }""",
            QUICK,
        )
        outside = page.evaluate(
            "title => app.graph.nodes.find((one) => one.title === title).widgets.map((one) => one.name)", QUICK
        )
        assert {"epochs", "lora_rank", "learning_rate", "resolution", "folder", "trigger_word"} <= set(outside)
        set_widgets(page, epochs=1, resolution=128)
        entry = run_by_click(page, comfy)
        check_pictures(page, {"Samples": 4})  # of three captions, and one that is far from them
        assert not complaints
    kinds = {one["class_type"] for one in entry["prompt"][2].values()}
    assert {"Darkroom_TrainLoRA", "Darkroom_LoadDataset", "Darkroom_LoRATrainConfig"} <= kinds
