"""The panel on Train LoRA: what the server tells of a run, and what a person does with it in the page."""

from __future__ import annotations

import io
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.host.accidents import reach, starts, told, wait_for
from tests.host.browser import MINUTES, finish, press_run, quick, wait_until_ready
from tests.host.graphs import Graph, demo_loader, training
from tests.host.measure import runs
from tests.host.server import ComfyServer, PromptFailed
from tests.host.test_language import loader
from tests.host.test_text_training import text_training
from trainer.events import Checkpoint, Sample, Step
from trainer.languages import toys

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.host
FLOW = "0f0e0d0c-1111-2222-3333-444455556666"
EXTRA: dict[str, Any] = {"extra_data": {"extra_pnginfo": {"workflow": {"id": FLOW, "nodes": [], "links": []}}}}


def long_training(seed: int, **more: Any) -> Graph:
    """72 steps of the demo's 12 pictures: some ten seconds."""
    settings: dict[str, Any] = {"epochs": 24, "save_steps": 1000, "sample_every": 1000, "training_seed": seed, **more}
    return {**demo_loader(), **training(**settings)}


def shown(comfy: ComfyServer) -> dict[str, Any]:
    return comfy.get(f"/darkroom/shown?workflow={FLOW}")["nodes"]


def new_run_of(comfy: ComfyServer, before: set[Path]) -> Path:
    """The run that has just begun to train."""
    found = wait_for(
        lambda: {path for path in runs(comfy).glob("*/events.jsonl") if path.parent not in before}, "a run"
    )
    return found.pop().parent


def control(comfy: ComfyServer, run: Path, action: str) -> dict[str, Any]:
    return comfy.post(f"/darkroom/runs/{run.name}/control", {"action": action})


def count(run: Path, kind: type) -> int:
    return sum(isinstance(event, kind) for event in told(run))


def test_a_run_is_paused_saved_sampled_kept_and_goes_on(comfy: ComfyServer):
    graph = long_training(8101)
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph, **EXTRA)
    run = new_run_of(comfy, before)
    reach(run, 3)
    assert shown(comfy)["train"]["run"] == run.name
    story = comfy.get(f"/darkroom/runs/{run.name}/story")
    assert (story["run"]["state"], story["phase"]["name"], story["end"]) == ("running", "training", None)
    assert story["where"] == {"workflow": FLOW, "node": "train"}
    assert [one[0] for one in story["losses"]][:3] == [1, 2, 3]

    control(comfy, run, "pause")
    wait_for(lambda: comfy.get(f"/darkroom/runs/{run.name}/story")["phase"]["name"] == "paused", "the pause")
    paused = count(run, Step)
    control(comfy, run, "save")
    control(comfy, run, "sample")
    control(comfy, run, "resume")
    wait_for(lambda: count(run, Step) > paused, "steps after the pause")
    wait_for(lambda: count(run, Checkpoint) and count(run, Sample), "a checkpoint and samples")

    # The sample is a picture of its own, as large as it was drawn.
    sample = wait_for(
        lambda: (comfy.get(f"/darkroom/runs/{run.name}/story")["samples"] or [{}])[0].get("picture"), "it"
    )
    picture = Image.open(io.BytesIO(comfy.request(f"/darkroom/runs/{run.name}/samples/{sample}")))
    assert (picture.format, picture.size) == ("WEBP", (128, 128))

    control(comfy, run, "keep")
    entry = comfy.wait(prompt)
    assert entry["status"]["status_str"] == "success", comfy.log()[-3000:]
    (text,) = entry["outputs"]["train"]["text"]
    kept = max(event.step for event in told(run) if isinstance(event, Checkpoint))
    assert kept < 72
    assert f"stopped after {kept} of 72 steps, and kept" in text
    assert entry["outputs"]["train"]["images"]
    assert comfy.get(f"/darkroom/runs/{run.name}")["state"] == "stopped"
    with pytest.raises(PromptFailed, match="not running"):
        control(comfy, run, "pause")

    again = comfy.run(graph, **EXTRA)
    assert "72 steps" in again["train"]["text"][0]
    assert starts(run) == [0, kept]
    third = comfy.wait(comfy.queue(graph, **EXTRA))
    assert "train" not in comfy.executed(third), "what has finished comes out of the cache"
    assert starts(run) == [0, kept]


def test_a_training_on_texts_is_kept_too(comfy: ComfyServer):
    toys.write_tiny(comfy.base / "models" / "language_models" / "toy to keep")
    graph = {**loader(model="toy to keep"), **text_training(epochs=200, training_seed=8102)}
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph, **EXTRA)
    run = new_run_of(comfy, before)
    reach(run, 3)
    control(comfy, run, "keep")
    entry = comfy.wait(prompt)
    assert entry["status"]["status_str"] == "success", comfy.log()[-3000:]
    assert "of 2000 steps, and kept" in entry["outputs"]["train"]["text"][0]
    answers = comfy.get(f"/darkroom/runs/{run.name}/story")["samples"]
    assert answers
    assert all(one["prompt"] and not one["picture"] for one in answers), "they are asked where none was yet"


@pytest.mark.parametrize("name", ["../job.yaml", "..%2fjob.yaml", "job.yaml", "step-000072-0.safetensors", "", "."])
def test_only_pictures_of_samples_are_served(comfy: ComfyServer, name: str):
    (run,) = {one["run"] for one in shown(comfy).values()} or {"latest"}
    with pytest.raises(PromptFailed, match=r"^40[0345]"):
        comfy.request(f"/darkroom/runs/{run}/samples/{name}")


@pytest.mark.parametrize("asked", [{}, {"action": "dance"}, {"action": "stop", "more": 1}, {"action": ["stop"]}])
def test_what_is_no_request_is_refused(comfy: ComfyServer, asked: dict[str, Any]):
    with pytest.raises(PromptFailed, match=r"^400"):
        comfy.post("/darkroom/runs/latest/control", asked)


OPEN = """async graph => {
  await app.loadApiJson(graph, "panel");
  const saved = app.graph.serialize();
  saved.id = crypto.randomUUID();
  await app.loadGraphData(saved);
  return app.graph.serialize();
}"""
LOOK_AT = """() => {
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_TrainLoRA");
  node.pos = [60, 60];
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120, 40];
  app.canvas.setDirty(true, true);
}"""
ADD = """() => {
  const node = LiteGraph.createNode("Darkroom_TrainLoRA");
  app.graph.add(node);
  return String(node.id);
}"""
TELL = """([run, events]) => {
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_TrainLoRA");
  comfyAPI.api.api.dispatchCustomEvent("darkroom.run",
    { run, workflow: app.rootGraph.id, node: String(node.id), events });
}"""
MODULE = """() => new URL("training/panel.mjs",
  performance.getEntriesByType("resource").find((one) => one.name.endsWith("/train.js")).name).href"""
TWICE = """() => {
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_TrainLoRA");
  const own = LiteGraph.vueNodesMode ? [] : [...(node.imgs ?? [])];
  const seen = [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)].filter((one) => one.checkVisibility());
  return [...own, ...seen.filter((one) => !one.closest(".darkroom-panel"))].map((one) => one.src);
}"""
NOBODY = "0123456789ab"  # a run that the server knows nothing of
PROMPTS = ("a red circle", "a blue house at night")


def head(page: Page, text: str, limit: float = 60.0) -> str:
    """What stands at the panel's head, once it has this text in it."""
    found = page.locator(".darkroom-training .head", has_text=text)
    found.wait_for(timeout=limit * 1000)
    return found.inner_text()


def press(page: Page, name: str) -> None:
    page.locator(".darkroom-training").get_by_role("button", name=name).click()


def story_lines(steps: int, every: int = 100) -> list[dict[str, Any]]:
    """A run's journal, made up: losses, validations, checkpoints and samples."""
    lines: list[dict[str, Any]] = []

    def tell(kind: str, /, **fields: Any) -> None:
        lines.append({"seq": len(lines), "t": 1000.0 + len(lines) / 4, "type": kind, **fields})

    tell("Advised", kind="warning", field="learning_rate", message="learning_rate 0.1 is high", cure="1e-4 is usual")
    tell("RunStarted", step=0, total_steps=2 * steps, seconds=60.0)
    for step in range(1, steps + 1):
        loss = 0.05 + 0.1 / step + 0.01 * (step * 7919 % 13 / 13)
        tell("Step", step=step, total=2 * steps, loss=loss, lr=1e-3, seconds=0.25, memory=10**9, eta=0.25 * steps)
        if step % every == 0:
            tell("Validation", step=step, signal="held_out", loss=0.06 + 0.1 / step)
            tell("Validation", step=step, signal="drift", loss=step / 1e5)
            tell("Checkpoint", step=step, change=1.0)
            for index, prompt in enumerate(PROMPTS):
                tell("Sample", step=step, index=index, prompt=prompt, picture="", answer="")
    return lines


@MINUTES
@pytest.mark.browser
def test_a_training_is_seen_and_steered_from_the_first_second_to_the_end(page: Page, comfy: ComfyServer):
    graph = long_training(8200 + int(page.evaluate("() => Number(LiteGraph.vueNodesMode)")), validation_images=2)
    graph["config"]["inputs"] |= {"validation_steps": 10, "save_steps": 10}
    saved = page.evaluate(OPEN, graph)
    page.evaluate(LOOK_AT)
    before, known = set(runs(comfy).glob("*")), set(comfy.get("/history"))
    press_run(page)
    page.locator(".darkroom-training .head").wait_for()  # before there is a run
    run = new_run_of(comfy, before)
    head(page, "Training \u00b7")
    page.locator(".darkroom-training canvas").wait_for()
    assert "left" in head(page, "step")

    press(page, "Pause")
    head(page, "Paused")
    page.reload(wait_until="domcontentloaded")
    wait_until_ready(page)
    page.add_style_tag(content="* { animation: none !important }")
    page.evaluate(LOOK_AT)
    head(page, "Paused")
    assert page.evaluate("() => app.rootGraph.id") == saved["id"]
    second = page.context.new_page()
    second.goto(comfy.url, wait_until="domcontentloaded")
    wait_until_ready(second)
    second.evaluate("async saved => { await app.loadGraphData(saved); }", saved)
    second.evaluate(LOOK_AT)
    head(second, "Paused")
    press(second, "Resume")
    head(page, "Training \u00b7")
    second.close()

    drawn, checkpoints = count(run, Sample), count(run, Checkpoint)
    press(page, "Sample now")
    press(page, "Save now")
    wait_for(lambda: count(run, Sample) > drawn and count(run, Checkpoint) > checkpoints, "a checkpoint and samples")
    shot = page.locator(".darkroom-strip .shot img").first
    shot.wait_for()
    page.wait_for_function("one => one.naturalWidth === 128", arg=shot.element_handle())
    page.wait_for_timeout(500)  # ComfyUI's own preview of it comes by another way
    assert page.evaluate(TWICE) == [], "what the strip shows is shown once"

    press(page, "Stop and keep")
    entry = finish(comfy, known)
    assert entry["status"]["status_str"] == "success", comfy.log()[-3000:]
    assert "and kept" in "\n".join(text for one in entry["outputs"].values() for text in one.get("text", []))
    head(page, "Stopped")
    page.locator(".darkroom-training .words", has_text="Queue again").wait_for()
    assert page.locator(".darkroom-training").get_by_role("button", name="Pause").count() == 0

    press_run(page)
    head(page, "Training \u00b7")
    head(page, "Finished", 120)
    assert len(starts(run)) == 2
    assert starts(run)[1] > 0
    snapshot = page.locator(".darkroom-training").aria_snapshot()
    for name in (
        'group "The training of this node"',
        "Finished",
        'slider "Loss of the training',
        "Enlarge and compare",
    ):
        assert name in snapshot


@pytest.mark.browser
def test_curves_and_samples_are_read_and_compared_with_keys_alone(page: Page):
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    page.evaluate(TELL, [NOBODY, story_lines(300)])
    assert "step 300 / 600" in head(page, "Training \u00b7")
    page.locator(".darkroom-training", has_text="learning_rate 0.1 is high").wait_for()
    chart = page.get_by_role("slider", name="Loss of the training, by steps")
    page.wait_for_function("one => one.getAttribute('aria-valuenow') === '300'", arg=chart.element_handle())
    chart.focus()
    for key, step in (("ArrowLeft", 299), ("Home", 1), ("ArrowRight", 2), ("End", 300)):
        page.keyboard.press(key)
        page.wait_for_function("([one, step]) => one.ariaValueNow === String(step)", arg=[chart.element_handle(), step])
    assert "held-out loss 0.06033" in str(chart.get_attribute("aria-valuetext"))
    slider = page.get_by_role("slider", name="Samples of the step")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "step 200"
    shot = page.get_by_role("button", name=f"Enlarge and compare the sample of step 200: {PROMPTS[1]}")
    shot.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Samples")
    assert dialog.get_by_role("combobox", name="Prompt").input_value() == "1"
    dialog.get_by_role("button", name="Side by side").press("Enter")
    assert dialog.get_by_role("figure").count() == 2
    dialog.get_by_role("slider").nth(1).press("End")
    assert "step 300" in dialog.get_by_role("figure").nth(1).inner_text()
    page.keyboard.press("Escape")
    assert dialog.count() == 0
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == shot.get_attribute("aria-label")


@pytest.mark.browser
def test_a_picture_lies_where_it_will_lie_when_all_are_drawn(page: Page):
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    lines = story_lines(100)
    place = next(number for number, line in enumerate(lines) if line["type"] == "Sample")
    drawing = {"seq": place, "t": 1.0, "type": "Phase", "name": "drawing samples", "done": 0, "total": 3}
    page.evaluate(TELL, [NOBODY, [*lines[:place], drawing, {**lines[place], "seq": place + 1}]])
    head(page, "Drawing samples")
    shot = page.locator(".darkroom-strip .shot").first
    shot.wait_for()
    measures = "one => [one.offsetLeft, one.offsetWidth]"
    first = shot.evaluate(measures)
    more = [{**lines[place], "seq": place + 1 + index, "index": index} for index in (1, 2)]
    page.evaluate(TELL, [NOBODY, more])
    page.wait_for_function("() => document.querySelectorAll('.darkroom-strip .shot').length === 3")
    assert shot.evaluate(measures) == first
    tops = page.locator(".darkroom-strip .shot").evaluate_all("all => all.map((one) => one.offsetTop)")
    assert len(set(tops)) == 1, "three fit side by side"


@pytest.mark.browser
def test_of_several_runs_it_is_said_which_this_is(page: Page):
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    lines = [{"type": "Trial", "text": "lora_rank 8 (2 of 2)"}, *story_lines(5)]
    page.evaluate(TELL, [NOBODY, lines])
    assert "lora_rank 8 (2 of 2) \u00b7 Training \u00b7 step 5 / 10" in head(page, "lora_rank")
    page.evaluate(TELL, [NOBODY, [{"type": "Idle", "failure": ""}]])
    page.locator(".darkroom-training .head", has_text="lora_rank").wait_for(state="detached")


@pytest.mark.browser
def test_a_model_of_language_answers_in_place_of_pictures(page: Page):
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    lines = [one | ({"answer": "Aye, it be Paris."} if one["type"] == "Sample" else {}) for one in story_lines(20, 10)]
    page.evaluate(TELL, [NOBODY, lines])
    page.locator(".darkroom-strip .answer", has_text="Aye").first.wait_for()
    assert page.locator(".darkroom-strip img").count() == 0
    page.get_by_role("button", name="Compare steps").first.click()
    assert "Aye" in page.get_by_role("dialog", name="Samples").inner_text()
    page.keyboard.press("Escape")


REPLAY = """async ([run, lines, each]) => {
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_TrainLoRA");
  const at = { run, workflow: app.rootGraph.id, node: String(node.id) };
  for (let begin = 0; begin < lines.length; begin += each) {
    comfyAPI.api.api.dispatchCustomEvent("darkroom.run", { ...at, events: lines.slice(begin, begin + each) });
    await new Promise((done) => setTimeout(done, 20));
  }
  await new Promise((done) => setTimeout(done, 300));
}"""


@pytest.mark.browser
def test_fifty_events_a_second_hold_nothing_up(page: Page):
    page.evaluate(ADD)
    page.evaluate(LOOK_AT)
    page.wait_for_selector(".darkroom-training", state="attached")
    lines = story_lines(2000 + 3 * 400)
    page.evaluate(TELL, [NOBODY, lines[:2000]])
    each = iter(range(2000, 3200, 400))
    page.locator(".darkroom-training canvas").wait_for()
    page.wait_for_timeout(1000)
    longest = quick(page, lambda: page.evaluate(REPLAY, [NOBODY, lines[(first := next(each)) : first + 400], 1]))
    assert longest.ms < 50, longest


MOUNT = """async ([module, times, lines]) => {
  const { mount } = await import(module);
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_TrainLoRA");
  const place = document.body.appendChild(document.createElement("div"));
  place.className = "darkroom-panel";
  for (let time = 0; time < times; time += 1) {
    const one = mount(node, place);
    one.story.take(lines);
    one.run = "0123456789ab";
    one.seen = true;
    one.draw();
    if (time % 50 === 0) await new Promise((done) => requestAnimationFrame(done));
    one.destroy();
  }
  place.remove();
  await new Promise((done) => setTimeout(done, 500));
}"""


@MINUTES
@pytest.mark.browser
def test_a_thousand_panels_leave_nothing_behind(page: Page):
    page.evaluate(ADD)
    page.wait_for_selector(".darkroom-training", state="attached")
    tools, module = page.context.new_cdp_session(page), page.evaluate(MODULE)

    def counted() -> dict[str, int]:
        for _ in range(3):
            tools.send("HeapProfiler.collectGarbage")
            page.wait_for_timeout(200)
        heap = tools.send("Runtime.getHeapUsage")["usedSize"]
        return {**tools.send("Memory.getDOMCounters"), "heap": heap}

    lines = story_lines(40, 10)
    page.evaluate(MOUNT, [module, 50, lines])
    before = counted()
    # Drawing is the same in both renderers: once a thousand are enough.
    page.evaluate(MOUNT, [module, 200 if page.evaluate("() => LiteGraph.vueNodesMode") else 1000, lines])
    after = counted()
    assert after["nodes"] - before["nodes"] < 1000, (before, after)  # a panel has over a hundred
    assert after["jsEventListeners"] - before["jsEventListeners"] < 200, (before, after)  # a panel has over ten
    assert after["heap"] - before["heap"] < 8e6, (before, after)
    page.evaluate("() => app.graph.remove(app.graph.nodes[0])")
    page.wait_for_function("() => document.querySelectorAll('.darkroom-training').length === 0")


def test_modules_of_the_page_are_javascript_and_asked_for_anew(comfy: ComfyServer):
    (address,) = {one for one in comfy.get("/extensions") if one.endswith("/train.js")}
    assert not [one for one in comfy.get("/extensions") if one.endswith(".mjs")], "they are loaded when they are needed"
    for path in ("charts/curve.mjs", "training/panel.mjs"):
        with urllib.request.urlopen(comfy.url + address.replace("train.js", path)) as answer:
            assert answer.headers["Content-Type"].startswith("text/javascript")
            assert answer.headers["Cache-Control"] == "no-cache"
