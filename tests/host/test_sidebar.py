"""The tab Runs of ComfyUI's sidebar, with real runs: what is seen, kept, loaded and deleted is so on the disk."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.browser import Complaints, close_dialogs, open_page, settle
from tests.host.graphs import demo_loader, node, training
from tests.host.measure import empty_queue, planned_run, run_id
from tests.host.measure import runs as folder_of_runs
from tests.host.server import ComfyServer, PromptFailed

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Route

pytestmark = [pytest.mark.host, pytest.mark.browser]
SETTINGS: dict[str, Any] = {
    "epochs": 2, "save_steps": 2, "sample_every": 1, "sample_prompts": "a red circle", "validation_images": 2,
    "validation_steps": 2,
}  # fmt: skip
# The tab itself, as ComfyUI opens and closes it; a frame in between, for what it does later.
RENDERED = """async (times) => {
  const tab = app.extensionManager.getSidebarTabs().find((one) => one.id === "lora-darkroom-runs");
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  for (let at = 0; at < times; at += 1) {
    const place = document.body.appendChild(document.createElement("div"));
    tab.render(place);
    if (at % 10 === 0) await frame();
    tab.destroy();
    place.remove();
  }
  await new Promise((done) => setTimeout(done, 1500));
}"""
# Texts of the tab that stand out from their ground by less than 4.5 to 1.
FAINT = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (...colours) => { // as they are painted over each other
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
    }
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => rgb.slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const found = [];
  for (const one of document.querySelectorAll(".darkroom-tab *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.disabled || one.tagName === "OPTION") continue;
    const grounds = [];
    for (let at = one; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const [ground, text] = [light(over(...grounds)), light(over(...grounds, getComputedStyle(one).color))];
    const contrast = (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05);
    if (contrast < 4.5) found.push(`${one.outerHTML.slice(0, 90)}: ${contrast.toFixed(1)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def runs(comfy: ComfyServer) -> list[str]:
    """Two runs of another rank and rate, the newest first."""
    chosen: tuple[dict[str, Any], ...] = ({"lora_rank": 2}, {"learning_rate": 2e-3})
    made = [run_id(comfy.run({**demo_loader(), **training(training_seed=941, **SETTINGS, **one)})) for one in chosen]
    return made[::-1]


@pytest.fixture(autouse=True)
def emptied(comfy: ComfyServer) -> None:
    """Nothing is in the queue, whatever a test left there."""
    empty_queue(comfy)


@pytest.fixture(scope="module")
def opened(comfy: ComfyServer, runs: list[str]) -> Iterator[tuple[Page, Complaints]]:
    """The page, for all tests."""
    with open_page(comfy, 1500, 1000) as (page, complaints):
        close_dialogs(page)
        yield page, complaints


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """The page with the tab just opened."""
    page.locator(".lora-darkroom-runs-tab-button").click()
    page.locator(".darkroom-tab .run").first.wait_for()
    yield page
    page.locator(".lora-darkroom-runs-tab-button").click()
    page.locator(".darkroom-tab").wait_for(state="detached")


def row(page: Page, run: str) -> Locator:
    """A run's line."""
    return page.locator(f".darkroom-tab [data-run='{run}']")


def opened_row(page: Page, run: str) -> Locator:
    """A run's line with everything of it, drawn."""
    one = row(page, run)
    one.locator(".spark").wait_for()
    one.locator(".summary").click()
    one.locator("figure img").wait_for()
    return one


def copied(comfy: ComfyServer, run: str, name: str) -> str:
    """A run of another id that is wholly like one that is there."""
    shutil.copytree(folder_of_runs(comfy) / run, folder_of_runs(comfy) / name)
    return name


def reopened(page: Page) -> None:
    """Close the tab, and open it again."""
    for state in ("detached", "visible"):
        page.locator(".lora-darkroom-runs-tab-button").click()
        page.locator(".darkroom-tab").wait_for(state=state)
    page.locator(".darkroom-tab .run").first.wait_for()


def test_every_run_is_there_the_newest_first(page: Page, comfy: ComfyServer, runs: list[str]):
    there = [run["id"] for run in comfy.get("/darkroom/runs")["runs"]]
    shown = page.locator(".darkroom-tab .run").evaluate_all("all => all.map((one) => one.dataset.run)")
    assert shown == there[: len(shown)]
    assert shown.index(runs[0]) < shown.index(runs[1])
    one = row(page, runs[0])
    one.scroll_into_view_if_needed()
    one.locator(".thumb img").wait_for()
    told = comfy.get(f"/darkroom/runs/{runs[0]}/story")
    assert f"loss {told['run']['loss']:.4f}" in one.inner_text()
    assert f"best: step {told['run']['best']['step']}" in one.inner_text()
    assert one.locator(".thumb img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 128


def test_a_reader_of_the_screen_hears_all_of_it(page: Page, comfy: ComfyServer, runs: list[str]):
    one = opened_row(page, runs[0])
    name = f"darkroom_demo {runs[0][:4]}"
    said = one.aria_snapshot()
    for expected in (
        f'checkbox "Compare {name}"', "finished · step 6 / 6", "[expanded]", f'slider "Loss of {name} over steps"',
        'button "Load into the graph"', 'button "TensorBoard"', 'textbox "Name of the file"', 'combobox "Checkpoint"',
        'button "Keep as LoRA"', 'button "Delete', "a red circle",
    ):  # fmt: skip
        assert expected in said, said
    summary = one.locator(".summary")
    summary.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("() => document.activeElement.closest('.run').dataset.run") != runs[0]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert summary.get_attribute("aria-expanded") == "false"
    assert one.locator("canvas").count() == 0


def test_words_filter(page: Page, comfy: ComfyServer, runs: list[str]):
    page.get_by_label("Filter by name").fill(f"darkroom FINISHED {runs[1][:5]}")
    assert page.locator(".darkroom-tab .run").evaluate_all("all => all.map((one) => one.dataset.run)") == [runs[1]]
    page.get_by_label("Filter by name").fill("no such run")
    assert "No run matches" in page.locator(".darkroom-tab .runs").inner_text()


def test_an_answer_that_a_later_one_overtook_changes_nothing(page: Page):
    there = page.locator(".darkroom-tab .run").count()
    asked: list[Route] = []
    page.route("**/darkroom/runs", lambda route: asked.append(route))
    for number in (1, 2):
        page.evaluate(LOOK_AGAIN)
        while len(asked) < number:
            page.wait_for_timeout(50)
    earlier, later = asked
    with page.expect_response("**/darkroom/runs"):
        later.continue_()
    with page.expect_response("**/darkroom/runs"):
        earlier.fulfill(json={"runs": []})
    page.wait_for_timeout(500)
    assert page.locator(".darkroom-tab .run").count() == there > 0
    page.unroute("**/darkroom/runs")


LOOK_AGAIN = "() => { comfyAPI.api.api.dispatchCustomEvent('darkroom.queue', {}); }"


def test_what_is_pressed_or_typed_stays_while_a_run_goes_on(page: Page, comfy: ComfyServer, runs: list[str]):
    first, second = runs
    told = {"running": first, "paused": False, "waiting": [second], "failed": [], "note": ""}
    page.route("**/darkroom/queue", lambda route: route.fulfill(json=told))
    page.evaluate(LOOK_AGAIN)
    stop = page.locator(".darkroom-tab .queue button").first
    stop.wait_for()
    stop.focus()
    pressed = stop.element_handle()
    step = {"type": "Step", "step": 5, "total": 6, "loss": 0.1, "lr": 0.001, "seconds": 1, "memory": 1, "eta": 1}
    page.evaluate(
        """([run, step]) => { comfyAPI.api.api.dispatchCustomEvent(
            "darkroom.run", { run, workflow: "", node: "", events: [step] }); }""",
        [first, step],
    )
    page.locator(".darkroom-tab .queue", has_text="step 5 / 6").wait_for()
    assert pressed.evaluate("one => one.isConnected && document.activeElement === one")

    one = row(page, second)
    one.locator(".summary").click()
    name = one.get_by_label("Name of the file")
    name.fill("halb getippt")
    one.get_by_label("Checkpoint").select_option("6")
    listed = comfy.get("/darkroom/runs")
    (mine,) = (run for run in listed["runs"] if run["id"] == second)
    mine["steps"].append(8)
    page.route("**/darkroom/runs", lambda route: route.fulfill(json=listed))
    page.evaluate(LOOK_AGAIN)
    one.locator("option", has_text="step 8").first.wait_for(state="attached")
    assert (name.input_value(), one.get_by_label("Checkpoint").input_value()) == ("halb getippt", "6")
    assert name.evaluate("one => one.closest('form').isConnected")
    for what in ("queue", "runs"):
        page.unroute(f"**/darkroom/{what}")
    page.evaluate(LOOK_AGAIN)
    page.locator(".darkroom-tab .queue").wait_for(state="hidden")


def test_that_the_server_was_away_is_said_only_until_it_is_back(page: Page):
    page.route("**/darkroom/runs", lambda route: route.abort())
    page.evaluate(LOOK_AGAIN)
    page.locator(".darkroom-tab .error").wait_for()
    page.unroute("**/darkroom/runs")
    page.evaluate("() => { comfyAPI.api.api.dispatchCustomEvent('reconnected'); }")
    page.locator(".darkroom-tab .error").wait_for(state="hidden")


def test_of_compared_runs_only_what_differs_is_told(page: Page, runs: list[str]):
    for run in runs:
        row(page, run).locator("input").check()
    page.get_by_role("button", name="Compare (2)").click()
    page.locator(".compare table").wait_for()
    cells = page.locator(".compare tbody tr").evaluate_all("all => all.map((one) => one.innerText.split(/\\s+/))")
    assert cells == [["lora_rank", "4", "2"], ["learning_rate", "0.002", "0.001"]]
    legend = page.locator(".compare .legend").inner_text()
    assert all(f"darkroom_demo {run[:4]}" in legend for run in runs)
    assert page.locator(".compare figure img").count() == 2
    page.keyboard.press("Escape")
    row(page, runs[0]).wait_for()


def test_a_kept_lora_is_the_chosen_step_and_no_file_is_written_over(page: Page, comfy: ComfyServer, runs: list[str]):
    one = opened_row(page, runs[0])
    loras, status = comfy.base / "models" / "loras", page.locator(".darkroom-tab [role=status]")
    one.get_by_label("Name of the file").fill("kept/of a run")
    saved: list[bytes] = []
    for step, file in (("2", "of a run.safetensors"), ("4", "of a run_002.safetensors")):
        one.get_by_label("Checkpoint").select_option(step)
        one.get_by_role("button", name="Keep as LoRA").click()
        status.filter(has_text=f"Step {step} is saved as").wait_for()
        assert file in status.inner_text()
        saved.append((loras / "kept" / file).read_bytes())
        assert (loras / "kept" / file).with_suffix(".preview.png").is_file()
    assert saved[0] != saved[1]
    assert (loras / "kept" / "of a run.safetensors").read_bytes() == saved[0]
    assert str(Path("kept") / "of a run.safetensors") in comfy.get("/models/loras")
    one.get_by_label("Name of the file").fill("../../outside")
    one.get_by_role("button", name="Keep as LoRA").click()
    status.filter(has_text="is no name for a file").wait_for()
    assert not list(comfy.base.rglob("outside*"))


def test_a_loaded_run_is_a_node_that_runs(page: Page, comfy: ComfyServer, runs: list[str]):
    opened_row(page, runs[1]).get_by_role("button", name="Load into the graph").click()
    graph = page.evaluate("() => app.graphToPrompt().then((made) => made.output)")
    (loader,) = graph.values()
    assert loader == {"class_type": "Darkroom_LoadTrainedLoRA", "_meta": loader["_meta"],
                      "inputs": {"run": f"darkroom_demo {runs[1]}", "checkpoint": "best"}}  # fmt: skip
    shown = {"show": {"class_type": "PreviewAny", "inputs": {"source": ["load", 1]}}}
    assert comfy.run({"load": loader, **shown})["show"]["text"] == [runs[1]]


def test_deleting_asks_says_what_it_frees_and_takes_that_run_alone(page: Page, comfy: ComfyServer, runs: list[str]):
    run = copied(comfy, runs[0], "dddddddddddd")
    reopened(page)
    one = opened_row(page, run)
    size = comfy.get(f"/darkroom/runs/{run}/size")["bytes"]
    assert size == sum(path.stat().st_size for path in (folder_of_runs(comfy) / run).rglob("*") if path.is_file())
    others = {path.name for path in folder_of_runs(comfy).iterdir()} - {run}
    one.get_by_role("button", name="Delete").click()
    question = one.locator(".sure")
    assert f"{size / 1e6:.1f} MB" in question.inner_text()
    assert page.evaluate("() => document.activeElement.textContent") == "Keep it"
    page.keyboard.press("Escape")
    assert question.count() == 0
    assert (folder_of_runs(comfy) / run).is_dir()
    one.get_by_role("button", name="Delete").click()
    question.get_by_role("button", name="Delete it").click()
    one.wait_for(state="detached")
    assert {path.name for path in folder_of_runs(comfy).iterdir()} == others
    assert not any((folder_of_runs(comfy).parent / "deleted").iterdir())
    gone = node("Darkroom_LoadTrainedLoRA", run=f"darkroom_demo {run}", checkpoint="last")
    with pytest.raises(PromptFailed, match=f"there is no run darkroom_demo {run}"):
        comfy.run({"load": gone, "show": node("PreviewAny", source=["load", 1])})


def test_a_run_that_trains_is_told_live_and_cannot_be_deleted(page: Page, comfy: ComfyServer):
    before = {run["id"] for run in comfy.get("/darkroom/runs")["runs"]}
    longer: dict[str, Any] = {**SETTINGS, "epochs": 12, "training_seed": 951}
    prompt = comfy.queue({**demo_loader(), **training(**longer)})
    live = page.locator(".darkroom-tab .run").filter(has_text="running").first
    live.wait_for()
    run = live.get_attribute("data-run")
    assert run not in before
    one = row(page, str(run))
    one.locator(".summary").click()
    one.get_by_text("step 5 / 36").or_(one.get_by_text("step 6 / 36")).first.wait_for()
    assert one.get_by_role("button", name="Delete").is_disabled()
    with pytest.raises(PromptFailed, match="is being trained"):
        comfy.post(f"/darkroom/runs/{run}/delete", {})
    comfy.wait(prompt)
    one.locator(".state.finished").wait_for()
    assert one.get_by_role("button", name="Delete").is_enabled()


def test_runs_wait_in_a_queue_that_can_be_changed(page: Page, comfy: ComfyServer):
    longer: dict[str, Any] = {**SETTINGS, "epochs": 60}
    graphs = [{**demo_loader(), **training(**longer, training_seed=seed)} for seed in (952, 953)]
    first, second = (planned_run(comfy, graph) for graph in graphs)
    reopened(page)
    queue = page.get_by_role("region", name="Queue")
    assert queue.count() == 0
    for run in (first, second):
        row(page, run).locator(".summary").click()
        row(page, run).get_by_role("button", name="Continue").click()
        queue.get_by_text(run[:4]).wait_for()
    stop = queue.get_by_role("button", name=f"Stop darkroom_demo {first[:4]}")
    stop.wait_for()
    assert comfy.get("/darkroom/queue")["waiting"] == [second]
    assert row(page, second).get_by_role("button", name="Delete").is_disabled()
    with pytest.raises(PromptFailed, match="waits in the queue"):
        comfy.post(f"/darkroom/runs/{second}/delete", {})
    queue.get_by_role("button", name=f"Take darkroom_demo {second[:4]} out of the queue").click()
    queue.get_by_text(second[:4]).wait_for(state="detached")
    stop.click()
    queue.wait_for(state="hidden")
    told = comfy.get("/darkroom/queue")
    assert (told["running"], told["waiting"]) == (None, [])
    row(page, first).locator(".state.stopped").wait_for()


def test_all_of_it_can_be_read_in_either_theme(page: Page, comfy: ComfyServer, runs: list[str]):
    """As WCAG has it: text stands out from its ground by 4.5 to 1."""
    failed = copied(comfy, runs[0], "ffffffffffff")
    with (folder_of_runs(comfy) / failed / "events.jsonl").open("a", encoding="utf-8") as file:
        end = {"type": "RunFailed", "t": time.time(), "message": "no such file", "cure": "put it back"}
        file.write(f"{json.dumps(end)}\n")
    reopened(page)
    row(page, failed).locator(".state.failed").wait_for()
    opened_row(page, runs[0])
    try:
        for theme in ("light", "dark"):
            page.evaluate("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", theme)
            settle(page)
            faint = page.evaluate(FAINT)
            assert not faint, f"{theme}: {faint}"
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
        shutil.rmtree(folder_of_runs(comfy) / failed)


def test_of_hundreds_of_runs_only_what_is_seen_is_asked_for(page: Page, comfy: ComfyServer, runs: list[str]):
    names = [f"{number:012x}" for number in range(300)]
    root, asked = folder_of_runs(comfy), []
    for name in names:
        (root / name).mkdir()
        for file in ("job.yaml", "events.jsonl"):
            shutil.copy(root / runs[0] / file, root / name / file)
    try:
        page.on("request", lambda request: asked.append(request.url))
        reopened(page)
        settle(page)
        total = len(comfy.get("/darkroom/runs")["runs"])
        assert page.locator(".darkroom-tab .row .small").first.inner_text() == f"{total} in all"
        assert page.locator(".darkroom-tab .run").count() <= 40
        assert 0 < sum(url.endswith("/story") for url in asked) <= 20
        for _ in range(3):
            page.locator(".darkroom-tab .body").evaluate("one => { one.scrollTop = one.scrollHeight; }")
            settle(page)
        assert 40 < page.locator(".darkroom-tab .run").count() <= total
    finally:
        for name in names:
            shutil.rmtree(root / name)


def test_a_thousand_renders_leave_nothing_behind(page: Page):
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def counted() -> dict[str, float]:
        session.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return {name: metrics[name] for name in ("Nodes", "JSEventListeners", "JSHeapUsedSize")}

    page.evaluate(RENDERED, 50)
    before = counted()
    page.evaluate(RENDERED, 1000)
    after = counted()
    assert after["Nodes"] - before["Nodes"] < 500, json.dumps([before, after])
    assert after["JSEventListeners"] - before["JSEventListeners"] < 50, json.dumps([before, after])
    assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < 4e6, json.dumps([before, after])
    assert page.locator("body > div > .darkroom-tab").count() == 0
