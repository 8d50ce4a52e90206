"""What a page hears, asks for and makes anew, in any order: it shows what is so. In one renderer: no matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.host.test_train_panel import ADD, LOOK_AT, NOBODY, TELL, head, story_lines

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [
    pytest.mark.host,
    pytest.mark.browser,
    pytest.mark.parametrize("nodes_2", [True], ids=["nodes 2.0"], indirect=True, scope="module"),
]
HAPPENS = "event => { comfyAPI.api.api.dispatchCustomEvent(event, {}); }"
PHASE = {"type": "Phase", "name": "loading", "done": 0, "total": 0, "t": 1.0}
STOPPED: dict[str, Any] = {
    "run": {"state": "stopped", "best": None, "step": 5, "total": 10, "label": "a run"}, "seq": 99, "now": 2000.0,
    "begun": {"step": 0, "total_steps": 10}, "phase": None, "plan": None, "losses": [[5, 0.1, 1e-3, 0.2, 1]],
    "validations": [], "samples": [], "checkpoints": [5], "warnings": [], "chosen": [], "advice": [], "end": None,
}  # fmt: skip
NEW = """types => {
  const nodes = types.map((type) => LiteGraph.createNode(`Darkroom_${type}`));
  nodes.forEach((node, index) => { node.pos = [60 + 500 * index, 60]; app.graph.add(node); });
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120, 40];
  return nodes.map((node) => node.id);
}"""
SAYS = "([id, text]) => { app.graph.getNodeById(id).onExecuted({ text: [text] }); }"
INTO_A_SUBGRAPH = "ids => { app.graph.convertToSubgraph(new Set(ids.map((id) => app.graph.getNodeById(id)))); }"
MADE_ANEW = "async () => { await app.loadGraphData(app.rootGraph.serialize()); }"


@pytest.fixture
def node(page: Page) -> str:
    """A Train LoRA, in sight."""
    node = page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    return node


def test_what_it_hears_counts_more_than_an_answer_that_comes_later(page: Page):
    asked: list[Route] = []
    page.route("**/darkroom/shown?*", lambda route: asked.append(route))
    node = page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    lines = [{"type": "Trial", "text": "lora_rank 8 (2 of 2)"}, *story_lines(5)]
    page.evaluate(TELL, [NOBODY, lines])
    head(page, "step 5 / 10")
    old = {"run": "", "trial": "lora_rank 4 (1 of 2)", "phase": PHASE}
    with page.expect_response("**/darkroom/shown?*"):
        for one in asked:
            one.fulfill(json={"nodes": {node: old}})
    page.wait_for_timeout(500)
    assert "lora_rank 8 (2 of 2)" in head(page, "step 5 / 10")
    page.unroute("**/darkroom/shown?*")


def test_what_was_said_while_the_server_was_away_is_asked_for(page: Page, node: str):
    page.evaluate(TELL, ["", [{"type": "Trial", "text": "lora_rank 8 (1 of 2)"}, PHASE]])
    head(page, "lora_rank 8 (1 of 2)")
    shown = {"trial": "lora_rank 8 (2 of 2)", "phase": PHASE}
    page.route("**/darkroom/shown?*", lambda route: route.fulfill(json={"nodes": {node: shown}}))
    page.evaluate(HAPPENS, "reconnected")
    head(page, "lora_rank 8 (2 of 2)")
    page.unroute("**/darkroom/shown?*")
    page.evaluate(HAPPENS, "reconnected")  # the server knows of nothing
    page.locator(".darkroom-training").wait_for(state="hidden")


@pytest.mark.usefixtures("node")
def test_of_a_run_that_died_without_a_word_it_is_asked_what_became_of_it(page: Page):
    page.evaluate(TELL, [NOBODY, story_lines(5)])
    head(page, "Training")
    page.route("**/darkroom/runs/*/story", lambda route: route.fulfill(json=STOPPED))
    page.evaluate(HAPPENS, "darkroom.queue")
    assert "step 5 / 10" in head(page, "Stopped")
    page.unroute("**/darkroom/runs/*/story")


def test_what_is_said_of_one_run_is_not_said_of_the_next(page: Page, node: str):
    lines = story_lines(5)
    page.evaluate(TELL, [NOBODY, [*lines, {"type": "RunFinished", "seq": len(lines), "t": 2000.0, "step": 5}]])
    head(page, "Finished")
    page.evaluate(SAYS, [node, "5 steps, loss 0.1\n- a note of the first run"])
    words = page.locator(".darkroom-training .words", has_text="a note of the first run")
    words.wait_for()
    page.evaluate(TELL, ["", [PHASE]])
    words.wait_for(state="detached")
    page.evaluate(TELL, ["", [{"type": "Idle", "failure": "there is no such folder"}]])
    assert "step" not in head(page, "Failed"), "what failed had come to no run"
    page.locator(".darkroom-training .words", has_text="there is no such folder").wait_for()


def test_what_a_node_said_is_there_when_it_is_made_anew(page: Page):
    (node,) = page.evaluate(NEW, ["SaveLoRA"])
    page.evaluate(SAYS, [node, "saved as my_style"])
    for _ in range(2):
        page.locator(".darkroom-said", has_text="saved as my_style").wait_for()
        page.evaluate(MADE_ANEW)
    page.locator(".darkroom-said", has_text="saved as my_style").wait_for()


def test_a_node_in_a_subgraph_is_let_go_when_it_is_made_anew(page: Page):
    asked: list[Route] = []

    def count(route: Route) -> None:
        asked.append(route)
        route.continue_()

    def all_asked() -> int:
        """How often in all, once nobody has asked for three seconds: a new node asks at its second look, on a busy
        machine some seconds after it came."""
        known = -1
        while known < len(asked):
            known = len(asked)
            page.wait_for_timeout(3000)
        return known

    def asks_when_it_has_run(times: int) -> int:
        """Requests of all that is alive, once the graph was opened so many times more."""
        for _ in range(times):
            page.evaluate(MADE_ANEW)
        before = all_asked()
        page.evaluate(HAPPENS, "execution_success")
        return all_asked() - before

    page.route("**/darkroom/dataset", count)
    page.evaluate(INTO_A_SUBGRAPH, page.evaluate(NEW, ["LoadDataset", "LoRATrainConfig"]))
    few, many = asks_when_it_has_run(1), asks_when_it_has_run(4)
    assert few == many > 0
    page.unroute("**/darkroom/dataset")
