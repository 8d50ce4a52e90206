"""The picker of runs in ComfyUI's page, in both renderers: what is clicked is in the node's texts, and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.host.browser import run_by_click, settle
from tests.host.graphs import demo_loader, training
from tests.host.measure import run_id
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
ADD = """type => {
  const node = LiteGraph.createNode(type);
  node.pos = [60, 60];
  app.graph.add(node);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120, 80];
  app.canvas.setDirty(true, true);
}"""
TEXTS = "() => Object.fromEntries(app.graph.nodes[0].widgets.map((one) => [one.name, one.value]))"
SAVED = "() => app.graph.serialize().nodes[0].widgets_values"


@pytest.fixture(scope="module")
def runs(comfy: ComfyServer) -> list[str]:
    """Two runs, the newest last."""
    settings: dict[str, Any] = {"epochs": 1, "save_steps": 1}
    return [run_id(comfy.run({**demo_loader(), **training(training_seed=seed, **settings)})) for seed in (901, 902)]


def test_a_run_and_an_earlier_step_are_chosen(page: Page, comfy: ComfyServer, runs: list[str]):
    page.evaluate(ADD, "Darkroom_LoadTrainedLoRA")
    opener = page.get_by_role("button", name="Choose a run")
    opener.click()
    entries = page.locator(".darkroom-run")
    entries.first.wait_for()
    assert entries.count() == 1 + len(comfy.get("/darkroom/runs")["runs"])
    assert "latest" in entries.first.inner_text()
    assert "finished" in entries.nth(1).inner_text()
    assert "step 3 / 3" in entries.nth(1).inner_text()
    page.locator(f".darkroom-run[title='{runs[0]}']").click()
    assert page.evaluate(TEXTS)["run"] == f"darkroom_demo {runs[0]}"
    page.locator(".darkroom-step[data-step='2']").click()
    assert page.locator(".darkroom-runs").count() == 0
    texts = page.evaluate(TEXTS)
    assert (texts["run"], texts["checkpoint"]) == (f"darkroom_demo {runs[0]}", "step 2")
    assert page.evaluate(SAVED) == [f"darkroom_demo {runs[0]}", "step 2"], "the picker is in no file"
    graph = page.evaluate("() => app.graphToPrompt().then((made) => made.output)")
    (loader,) = graph.values()
    assert loader["inputs"] == {"run": f"darkroom_demo {runs[0]}", "checkpoint": "step 2"}
    shown = {"show": {"class_type": "PreviewAny", "inputs": {"source": ["load", 2]}}}
    assert comfy.run({"load": loader, **shown})["show"]["text"] == ["2"]
    opener.click()
    page.locator(f".darkroom-run[title='{runs[0]}']").click()
    page.locator(".darkroom-step[data-step='best']").click()
    assert page.evaluate(TEXTS)["checkpoint"] == "best"
    opener.click()
    page.locator(".darkroom-run").first.click()
    page.locator(".darkroom-step[data-step='last']").click()
    texts = page.evaluate(TEXTS)
    assert (texts["run"], texts["checkpoint"]) == ("latest", "last")


def test_a_sweep_takes_several_steps(page: Page, runs: list[str]):
    page.evaluate(ADD, "Darkroom_StrengthSweep")
    page.get_by_role("button", name="Choose a run").click()
    page.locator(f".darkroom-run[title='{runs[1]}']").click()
    for step, expected in (("1", "1"), ("last", "1, last"), ("1", "last"), ("all", "all"), ("3", "3"), ("2", "3, 2")):
        page.locator(f".darkroom-step[data-step='{step}']").click()
        assert page.evaluate(TEXTS)["checkpoints"] == expected
    pressed = page.locator(".darkroom-step[aria-pressed='true']")
    assert sorted(pressed.all_inner_texts()) == ["2", "3"]
    page.locator(".darkroom-panel button", has_text="Close").click()
    assert page.locator(".darkroom-runs").count() == 0
    assert page.evaluate(TEXTS)["run"] == f"darkroom_demo {runs[1]}"


def test_what_a_node_said_is_on_it_and_stays(page: Page, comfy: ComfyServer, runs: list[str]):
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}}
    graph = {"1": {"class_type": "Darkroom_LoadTrainedLoRA", "inputs": {"run": runs[0], "checkpoint": "1"}}, "2": show}
    page.evaluate("graph => app.loadApiJson(graph, 'said')", graph)
    settle(page)
    for _ in range(2):  # the second time, everything is cached
        run_by_click(page, comfy)
        page.locator(".darkroom-said").wait_for()
        settle(page)
        assert page.locator(".darkroom-said").inner_text() == f"darkroom_demo {runs[0]}, step 1"
