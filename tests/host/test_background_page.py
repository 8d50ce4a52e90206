"""Train LoRA in the background, in ComfyUI's page: the user's own graph draws every checkpoint, once."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.browser import MINUTES, press_run, settle, wait_until_ready
from tests.host.measure import run_id
from tests.host.server import ComfyServer
from tests.host.test_background import BACKGROUND, graph, has_checkpoint, has_finished, told, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
STEPS, SAVING = 60, 12
SETTINGS: dict[str, Any] = {"epochs": STEPS // 3, "save_steps": SAVING, "sample_every": 1000}
LABEL = "Draw each checkpoint with the graph behind this node"
IDS = "() => Object.fromEntries(app.graph.nodes.map((one) => [one.title, String(one.id)]))"
FAILURES = """() => {
  window.failures = [];
  const { api } = window.comfyAPI.api;
  api.addEventListener("execution_error", ({ detail }) => window.failures.push(detail.exception_message));
}"""
SEED = "() => app.graph.nodes.find((one) => one.type === 'KSampler').widgets.find((one) => one.name === 'seed').value"


def numbered(made: dict[str, Any]) -> dict[str, Any]:
    """The graph with numbers for ids, as the page wants them."""
    ids = {name: str(number) for number, name in enumerate(made, 1)}

    def link(value: Any) -> Any:
        return [ids[value[0]], value[1]] if isinstance(value, list) else value

    return {
        ids[name]: {**one, "inputs": {key: link(value) for key, value in one["inputs"].items()}}
        for name, one in made.items()
    }


def drawn(comfy: ComfyServer, known: set[str]) -> list[dict[str, Any]]:
    """Prompts since then that drew a picture with a LoRA, in order."""
    history = comfy.get("/history")
    new = [entry for name, entry in history.items() if name not in known]
    images = {"PreviewImage"}
    made = []
    for entry in sorted(new, key=lambda one: one["prompt"][0]):
        nodes = entry["prompt"][2]
        if any(nodes[node]["class_type"] in images and "images" in out for node, out in entry["outputs"].items()):
            made.append(entry)
    return made


@MINUTES
def test_every_checkpoint_is_drawn_once_by_the_user_s_own_graph(page: Page, nodes_2: bool, comfy: ComfyServer):
    made = numbered(graph(training_seed=4800 + nodes_2, **SETTINGS))
    del made[next(name for name, one in made.items() if one["class_type"] == "PreviewAny")]
    page.evaluate("graph => app.loadApiJson(graph, 'background')", made)
    # As a saved workflow: one in API form has no id of its own.
    workflow = {**page.evaluate("() => app.rootGraph.serialize()"), "id": str(uuid.uuid4())}
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    settle(page)
    box = page.get_by_label(LABEL)
    box.wait_for()
    box.check()
    page.evaluate(FAILURES)
    known = set(comfy.get("/history"))
    press_run(page)
    waits = f"Nothing of it is saved yet. Until its first checkpoint, at step {SAVING}, what is behind this node"
    page.locator(".darkroom-background", has_text=waits).wait_for()
    page.locator("[role=alert]", has_text=waits).wait_for()
    entry = until(comfy, lambda: next((e for n, e in comfy.get("/history").items() if n not in known), None))
    seed = page.evaluate(SEED)  # Run itself may have changed it, as the user has chosen
    texts = [text for out in entry["outputs"].values() for text in out.get("text", ())]
    (run,) = (text.rsplit("\nrun ", 1)[1] for text in texts if "\nrun " in text)

    # A second page with the same workflow, that is as eager.
    workflow = page.evaluate("() => app.rootGraph.serialize()")
    other = page.context.new_page()
    other.goto(comfy.url, wait_until="domcontentloaded")
    wait_until_ready(other)
    other.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    assert other.get_by_label(LABEL).is_checked(), "the choice is in the workflow"
    assert other.evaluate("() => app.rootGraph.id") == page.evaluate("() => app.rootGraph.id")

    until(comfy, has_finished(comfy, run))
    until(comfy, lambda: comfy.get("/prompt")["exec_info"]["queue_remaining"] == 0)
    time.sleep(2)
    until(comfy, lambda: comfy.get("/prompt")["exec_info"]["queue_remaining"] == 0)
    other.close()
    assert page.evaluate("() => window.failures") == [], "nothing has failed, and nothing says so"
    assert page.locator(".darkroom-background", has_text=waits).count() == 0
    checkpoints = told(comfy, run)["checkpoints"]
    pictures = drawn(comfy, known)
    assert len(checkpoints) == STEPS // SAVING
    assert len(pictures) == len(checkpoints), [one["status"]["status_str"] for one in pictures]
    files = [img["filename"] for one in pictures for out in one["outputs"].values() for img in out.get("images", ())]
    assert len(set(files)) >= len(checkpoints)
    assert page.evaluate(SEED) == seed
    assert not page.evaluate("() => 'darkroom_drawing' in (app.rootGraph.extra ?? {})"), (
        "the mark is in the prompt alone"
    )


def test_the_row_is_there_only_in_the_background_and_says_where_the_run_is(page: Page, comfy: ComfyServer):
    made = numbered(graph(training_seed=4810, **SETTINGS))
    page.evaluate("graph => app.loadApiJson(graph, 'two')", made)
    settle(page)
    page.get_by_label(LABEL).wait_for()
    page.evaluate(
        """(value) => { const one = app.graph.nodes.find((n) => n.type === 'Darkroom_TrainLoRA');
        const when = one.widgets.find((w) => w.name === 'when'); when.value = value; when.callback(value); }""",
        "wait for it",
    )
    page.get_by_label(LABEL).wait_for(state="hidden")
    page.evaluate(
        """(value) => { const one = app.graph.nodes.find((n) => n.type === 'Darkroom_TrainLoRA');
        const when = one.widgets.find((w) => w.name === 'when'); when.value = value; when.callback(value); }""",
        BACKGROUND,
    )
    page.get_by_label(LABEL).wait_for()
    busy = run_id(comfy.run(graph(training_seed=4811, epochs=400)))
    until(comfy, lambda: comfy.get("/darkroom/queue")["running"] == busy)
    press_run(page)
    page.get_by_text("In the queue: behind one other run.").first.wait_for()
    page.locator(".darkroom-training .head", has_text="Waiting for its turn").wait_for()
    (mine,) = comfy.get("/darkroom/queue")["waiting"]
    for run in (mine, busy):
        comfy.post("/darkroom/queue", {"action": "remove", "run": run})
    page.get_by_text("In the queue: behind one other run.").first.wait_for(state="hidden")
    until(comfy, lambda: comfy.get("/darkroom/queue")["running"] is None)
    assert not has_checkpoint(comfy, mine, SAVING)()
