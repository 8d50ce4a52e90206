"""Apply LoRA in ComfyUI's page, in both renderers: slider and widget are one, and the checkpoint is upstream's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.browser import run_by_click, settle
from tests.host.graphs import demo_loader, training
from tests.host.measure import run_id
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
BUILD = """run => {
  const add = (type, x, y) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    return node;
  };
  const wire = (from, slot, to, name) => from.connect(slot, to, to.inputs.findIndex((one) => one.name === name));
  const base = add("Darkroom_LoadDemoBase", 40, 60), loader = add("Darkroom_LoadTrainedLoRA", 40, 300);
  const apply = add("Darkroom_ApplyLoRA", 460, 60), show = add("PreviewAny", 900, 60);
  loader.widgets.find((one) => one.name === "run").value = run;
  wire(base, 0, apply, "model");
  wire(loader, 0, apply, "lora");
  wire(apply, 0, show, "source");
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [80, 60];
  app.canvas.setDirty(true, true);
}"""
VALUES = """() => Object.fromEntries(app.graph.nodes.flatMap((node) => (node.widgets ?? [])
  .filter((one) => ["strength_model", "strength_clip", "checkpoint"].includes(one.name))
  .map((one) => [one.name, one.value])))"""
SET = """([name, value]) => {
  for (const node of app.graph.nodes) for (const one of node.widgets ?? []) if (one.name === name) one.value = value;
}"""
SLIDER = ".darkroom-strength input[type=range]"


@pytest.fixture(scope="module")
def run(comfy: ComfyServer) -> str:
    """A run of three checkpoints."""
    return run_id(comfy.run({**demo_loader(), **training(training_seed=961, epochs=1, save_steps=1)}))


@pytest.fixture
def page(page: Page, run: str) -> Page:
    """The page with a demo base and the run's LoRA wired into Apply LoRA."""
    page.evaluate(BUILD, run)
    page.locator(SLIDER).wait_for()
    return page


def test_slider_and_widget_are_one(page: Page):
    slider, said = page.locator(SLIDER), page.locator(".darkroom-strength output")
    assert slider.input_value() == "0.8"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(VALUES) == {"strength_model": 0.85, "strength_clip": 0.85, "checkpoint": "last"}
    assert slider.get_attribute("aria-valuetext") == "0.85 · above the usual"
    page.evaluate(SET, ["strength_model", 0.7])  # as a graph that is loaded sets it: without a word
    said.filter(has_text="0.70 · usual").wait_for()
    assert slider.input_value() == "0.7"
    page.evaluate(SET, ["strength_model", -3])  # further than the slider goes
    said.filter(has_text="-3.00 · below the usual").wait_for()
    assert page.evaluate(VALUES)["strength_model"] == -3, "the slider changes nothing by itself"
    slider.focus()
    page.keyboard.press("End")
    values = page.evaluate(VALUES)
    assert (values["strength_model"], values["strength_clip"]) == (1.5, 0.85), "the two were told apart"
    box = slider.bounding_box()
    assert box is not None
    position = page.evaluate("() => [...app.graph.nodes.find((one) => one.comfyClass === 'Darkroom_ApplyLoRA').pos]")
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.evaluate(VALUES)["strength_model"] == 0.75
    assert position == page.evaluate(
        "() => [...app.graph.nodes.find((one) => one.comfyClass === 'Darkroom_ApplyLoRA').pos]"
    ), "the node was dragged along"


def test_a_wired_strength_is_not_the_sliders(page: Page):
    page.evaluate("""() => {
      const node = LiteGraph.createNode("PrimitiveFloat");
      app.graph.add(node);
      const to = app.graph.nodes.find((one) => one.comfyClass === "Darkroom_ApplyLoRA");
      node.connect(0, to, to.inputs.findIndex((one) => one.name === "strength_model"));
    }""")
    page.locator(f"{SLIDER}:disabled").wait_for()
    assert "comes from a link" in page.locator(".darkroom-strength output").inner_text()


def test_another_checkpoint_is_chosen_beside_the_strength(page: Page, comfy: ComfyServer, run: str):
    choice = page.locator(".darkroom-strength select")
    choice.locator("option").first.wait_for(state="attached")
    assert choice.input_value() == "last"
    assert choice.locator("option").all_inner_texts()[1:] == ["last: step 3", "step 3", "step 2", "step 1"]
    choice.select_option("step 2")
    assert page.evaluate(VALUES)["checkpoint"] == "step 2"
    page.locator(".darkroom-strength").get_by_text(f"darkroom_demo {run[:4]} · step 2 / 3").wait_for()
    run_by_click(page, comfy)
    said = page.locator(".darkroom-said").filter(has_text=" at ")
    said.wait_for()
    assert said.inner_text() == f"step 2 of darkroom_demo {run} at 0.8"
    page.evaluate(SET, ["checkpoint", "1"])  # as typed
    page.wait_for_function("() => document.querySelector('.darkroom-strength select').value === 'step 1'")


def test_a_node_that_is_gone_leaves_nothing(page: Page):
    page.evaluate("() => [...app.graph.nodes].forEach((one) => app.graph.remove(one))")
    settle(page)
    assert page.locator(".darkroom-strength").count() == 0
