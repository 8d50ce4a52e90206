"""How the nodes look in ComfyUI's page, in both renderers: as tall as what is in them, and in the page's language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.host.browser import MINUTES, press_run, wait_until_ready
from tests.host.graphs import demo_loader, training
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
NODES = (
    "LoadDataset", "AutoCaption", "LoRATrainConfig", "TrainLoRA", "SaveLoRA", "ApplyLoRA", "LoadTrainedLoRA",
    "StrengthSweep", "LabelledGrid", "ResizeLoRA", "MergeLoRAs", "DatasetImages",
)  # fmt: skip
ADD = """types => types.map((type, n) => {
  const node = LiteGraph.createNode(`Darkroom_${type}`);
  node.pos = [(n % 4) * 480, Math.floor(n / 4) * 560];
  app.graph.add(node);
  return node.id;
})"""
# Of each node, by its type: the room below what is in it, in pixels of the graph.
ROOM = """() => Object.fromEntries(app.graph.nodes.map(node => {
  if (!LiteGraph.vueNodesMode) return [node.type, node.size[1] - node.computeSize()[1]];
  const outer = document.querySelector(`[data-node-id='${node.id}']`), scale = app.canvas.ds.scale;
  const widgets = [...outer.querySelectorAll(".lg-node-widget")];
  const low = Math.max(...widgets.map(one => one.getBoundingClientRect().bottom));
  return [node.type, (outer.getBoundingClientRect().bottom - low) / scale];
}))"""
MOST_ROOM = {False: 24, True: 80}  # Nodes 2.0 has the pack's name and a button for the advanced below
SPEAK = "language => app.extensionManager.setting.set('Comfy.Locale', language)"
SHOW = "([x, y]) => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [x, y]; app.canvas.setDirty(true, true); }"


@pytest.fixture
def chinese(page: Page, comfy: ComfyServer) -> Iterator[Page]:
    """The page in Chinese."""

    def speak(language: str) -> None:
        page.evaluate(SPEAK, language)
        page.wait_for_timeout(1000)
        page.goto("about:blank")  # its address names a graph that is gone
        page.goto(comfy.url, wait_until="domcontentloaded")
        wait_until_ready(page)
        page.evaluate("() => app.graph.clear()")
        page.wait_for_timeout(500)

    speak("zh")
    try:
        yield page
    finally:
        speak("en")


def look(page: Page) -> None:
    """Everything in sight, and the pictures there."""
    page.evaluate(SHOW, [250, 150])
    page.wait_for_function("() => document.querySelector('.darkroom-panel img')?.naturalWidth > 300")
    page.wait_for_timeout(1500)


def test_nodes_are_as_tall_as_what_is_in_them(page: Page, nodes_2: bool):
    page.evaluate(ADD, list(NODES))
    look(page)
    room = page.evaluate(ROOM)
    assert len(room) == len(NODES)
    assert {name: room[name] for name in room if not -5 <= room[name] <= MOST_ROOM[nodes_2]} == {}


def test_a_node_shrinks_with_what_is_in_it_and_keeps_the_room_that_the_user_gave(page: Page, nodes_2: bool):
    (node,) = page.evaluate(ADD, ["LoadDataset"])
    look(page)
    path = """([id, path]) => { app.graph.getNodeById(id).widgets.find(one => one.name === "path").value = path; }"""
    height = "id => app.graph.getNodeById(id).size[1]"
    tall = page.evaluate(height, node)
    page.evaluate(path, [node, "/no/such folder"])
    page.get_by_text("no/such folder does not exist").wait_for()
    page.wait_for_timeout(1000)
    assert page.evaluate(height, node) < tall - 150  # the picture is gone
    page.evaluate(path, [node, ""])
    look(page)
    assert page.evaluate(height, node) == pytest.approx(tall, abs=3)
    if nodes_2:
        return
    page.evaluate("id => { const node = app.graph.getNodeById(id); node.setSize([500, node.size[1] + 400]); }", node)
    page.evaluate(path, [node, "/no/such folder"])
    page.get_by_text("no/such folder does not exist").wait_for()
    page.wait_for_timeout(1000)
    assert page.evaluate(ROOM)["Darkroom_LoadDataset"] > 300


def test_advanced_inputs_wait_until_they_are_asked_for_and_a_saved_graph_remembers(page: Page, nodes_2: bool):
    train, config = page.evaluate(ADD, ["TrainLoRA", "LoRATrainConfig"])
    page.evaluate(SHOW, [400, 200])
    page.wait_for_timeout(1500)
    shown = "id => { const n = app.graph.getNodeById(id); return n.widgets.filter(w => n.isWidgetVisible(w)).length; }"
    if nodes_2:
        shown = """id => document.querySelectorAll(`[data-node-id='${id}'] .lg-node-widget`).length"""
    few = {node: page.evaluate(shown, node) for node in (train, config)}
    page.evaluate(
        """id => {
        const node = app.graph.getNodeById(id), made = LiteGraph.createNode("PrimitiveInt");
        app.graph.add(made);
        made.connect(0, node, node.inputs.findIndex(one => one.name === "save_steps"));
    }""",
        config,
    )
    page.wait_for_timeout(500)
    assert page.evaluate(shown, config) == few[config] + 1, "what is wired is in sight"
    for node in (train, config):
        page.evaluate("id => app.graph.getNodeById(id).toggleAdvanced()", node)  # as ComfyUI's menu of a node does
    page.wait_for_timeout(500)
    assert page.evaluate(shown, train) == few[train] + 3  # base_file, when and devices
    assert page.evaluate(shown, config) > 40
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()); }")
    page.wait_for_timeout(2000)
    assert page.evaluate(shown, config) > 40
    if not nodes_2:
        page.get_by_role("button", name="Fewer settings").click()
        assert page.evaluate(shown, config) == few[config] + 1
        assert page.evaluate(ROOM)["Darkroom_LoRATrainConfig"] < 24


# The names of the inputs of a node that are in sight; texts of several lines have theirs in them.
IN_SIGHT = """id => {
  const node = app.graph.getNodeById(id), named = (one) => one.name !== "darkroom";
  if (!LiteGraph.vueNodesMode) return node.widgets.filter(w => named(w) && node.isWidgetVisible(w)).map(w => w.name);
  const found = [...document.querySelectorAll(`[data-node-id='${id}'] .lg-node-widget`)].map(one => one.innerText);
  return node.widgets.filter(w => named(w) && found.some(text => text.split("\\n")[0] === w.name)).map(w => w.name);
}"""
ALWAYS = ["method", "mode", "format", "trigger_word"]
OF_MODELS = ["model", "model_path", "download", "batch"]
OF_TEXTS = ["prefix", "suffix", "replace_words"]
ASKED = ["purpose", "prompt", "length"]
OF_TAGS = ["general_threshold", "character_threshold", "rating", "underscores", "exclude", "first"]


def test_auto_caption_shows_what_the_chosen_method_goes_by(page: Page, nodes_2: bool):
    node, other = page.evaluate(ADD, ["AutoCaption", "AutoCaption"])
    page.evaluate(SHOW, [400, 200])
    page.wait_for_timeout(1000)
    assert page.evaluate(IN_SIGHT, node) == ALWAYS
    for one in (node, other):
        page.evaluate("id => app.graph.getNodeById(id).toggleAdvanced()", one)
    page.wait_for_timeout(500)

    def choose(method: str) -> list[str]:
        """As a click on the list does it; the inputs in sight then."""
        page.evaluate(
            """([id, value]) => {
            const node = app.graph.getNodeById(id), one = node.widgets.find(one => one.name === "method");
            one.value = value;
            one.callback(value, app.canvas, node);
        }""",
            [node, method],
        )
        page.wait_for_timeout(300)
        return page.evaluate(IN_SIGHT, node)

    assert choose("filename") == ALWAYS + OF_TEXTS
    height = "id => app.graph.getNodeById(id).size[1]"
    low = page.evaluate(height, node)
    assert choose("wd14") == ALWAYS + OF_MODELS + OF_TEXTS + OF_TAGS
    assert choose("blip") == [*ALWAYS, *OF_MODELS, "purpose", *OF_TEXTS]
    assert choose("qwen") == ALWAYS + OF_MODELS + ASKED + OF_TEXTS
    assert page.evaluate(height, node) > low + 100
    assert page.evaluate(IN_SIGHT, other) == ALWAYS + OF_TEXTS, "each node has its own"
    link = """([id, name, type, on]) => {
        const node = app.graph.getNodeById(id), slot = node.inputs.findIndex(one => one.name === name);
        if (!on) return node.disconnectInput(slot);
        const made = LiteGraph.createNode(type);
        app.graph.add(made);
        made.connect(0, node, slot);
    }"""
    page.evaluate(link, [node, "clip", "CLIPLoader", True])
    page.wait_for_timeout(300)
    assert page.evaluate(IN_SIGHT, node) == ALWAYS + ASKED + OF_TEXTS
    disabled = "id => app.graph.getNodeById(id).widgets.find(one => one.name === 'method').disabled"
    assert page.evaluate(disabled, node)
    page.evaluate(link, [node, "rating", "PrimitiveBoolean", True])
    page.wait_for_timeout(300)
    assert page.evaluate(IN_SIGHT, node) == [*ALWAYS, *ASKED, *OF_TEXTS, "rating"], "what is wired is in sight"
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()); }")
    page.wait_for_timeout(1500)
    assert page.evaluate(IN_SIGHT, node) == [*ALWAYS, *ASKED, *OF_TEXTS, "rating"]
    for name in ("clip", "rating"):
        page.evaluate(link, [node, name, "", False])
    page.wait_for_timeout(300)
    assert page.evaluate(IN_SIGHT, node) == ALWAYS + OF_MODELS + ASKED + OF_TEXTS
    assert not page.evaluate(disabled, node)
    assert choose("filename") == ALWAYS + OF_TEXTS
    if not nodes_2:
        assert page.evaluate(ROOM)["Darkroom_AutoCaption"] < 24


def test_what_the_scripts_write_is_in_the_pages_language(chinese: Page):
    data, config, train = chinese.evaluate(ADD, ["LoadDataset", "LoRATrainConfig", "TrainLoRA"])
    chinese.evaluate(
        """([data, config, train]) => {
            const [from, how, to] = [data, config, train].map(id => app.graph.getNodeById(id));
            const base = LiteGraph.createNode("Darkroom_LoadDemoBase");
            app.graph.add(base);
            const into = (node, slot, name) => node.connect(slot, to, to.inputs.findIndex(one => one.name === name));
            into(from, 0, "dataset");
            into(how, 0, "config");
            into(base, 0, "model");
        }""",
        [data, config, train],
    )
    look(chinese)
    for button in ("\u9009\u62e9\u6587\u4ef6", "\u6253\u5f00\u6587\u4ef6\u5939"):  # Choose files, Open folder
        assert chinese.get_by_role("button", name=button).is_visible()
    chinese.locator(
        ".darkroom-panel", has_text="12 \u5f20\u56fe\u7247\uff0c30 \u6b65"
    ).wait_for()  # 12 pictures, 30 steps
    ended = """([node, workflow]) => comfyAPI.api.api.dispatchCustomEvent(
        "darkroom.trained", { workflow: workflow ?? app.rootGraph.id, node: String(node), steps: 1200, loss: 0.125 })"""
    for workflow, title in ((None, "\u8bad\u7ec3 LoRA"), ("another", "LoRA Darkroom")):
        chinese.evaluate(ended, [train, workflow])
        toast = chinese.get_by_role("alert").filter(has_text="\u5df2\u8bad\u7ec3 1,200 \u6b65\uff0c\u635f\u5931 0.1250")
        toast.filter(has_text=title).wait_for()
    (caption,) = chinese.evaluate(ADD, ["AutoCaption"])
    named = "id => app.graph.getNodeById(id).widgets.find(one => one.name === 'prompt').element.placeholder"
    assert chinese.evaluate(named, caption) == "\u63d0\u95ee"


LISTEN = """() => {
  const api = comfyAPI.api.api;
  window.heard = { texts: [], previews: 0 };
  api.addEventListener("progress_text", ({ detail }) => heard.texts.push(detail.text));
  api.addEventListener("b_preview_with_metadata", () => { heard.previews += 1; });
}"""


@MINUTES
def test_train_lora_tells_how_far_it_is_shows_samples_and_says_that_it_has_ended(page: Page, nodes_2: bool):
    graph = {**demo_loader(), **training(training_seed=1203 + nodes_2, epochs=2, sample_every=2)}
    page.evaluate("graph => app.loadApiJson(graph, 'training')", graph)
    page.wait_for_timeout(1500)
    page.evaluate(LISTEN)
    press_run(page)
    page.get_by_text("6 steps, loss 0.").first.wait_for(timeout=120_000)
    page.wait_for_timeout(500)
    heard = page.evaluate("() => window.heard")
    told = "\n".join(heard["texts"])
    for text in ("Reading the data set", "Starting the worker", "Training: step 0 of 6, about ", "Step 1 of 6, loss "):
        assert text in told
    assert heard["previews"] >= 3
    page.evaluate(
        "() => { app.graph.nodes.find(one => one.type === 'Darkroom_LoRATrainConfig')"
        ".widgets.find(one => one.name === 'yaml').value = 'optimizer: prodigy'; }"
    )  # wants another rate
    press_run(page)
    page.get_by_text("prodigy").locator("visible=true").first.wait_for(timeout=60_000)


@pytest.fixture
def words(page: Page) -> Callable[..., Any]:
    """`words(script, "name", argument ...)`: what a function of one of the page's scripts gives."""

    def call(script: str, name: str, *arguments: Any) -> Any:
        return page.evaluate(
            """async ([script, name, values]) => {
                const found = performance.getEntriesByType("resource").find(one => one.name.endsWith(script)).name;
                const given = (await import(found))[name](...values);
                return Array.isArray(given) ? given.map(one => one.textContent) : given;
            }""",
            [f"/{script}.js", name, list(arguments)],
        )

    return call


FOUND = {
    "images": 12, "held_out": 1, "regularisation": 0, "steps": 400, "presentations": 1600, "seconds": 119.0,
    "encoding": 0.0, "memory": 1.3e9, "how": "table", "run": "", "device": "cpu", "card": "cpu", "room": 0,
    "chosen": [], "advice": [],
}  # fmt: skip


def test_an_estimate_in_words(words: Callable[..., Any]):
    shown = "12 pictures, 1 held out, 400 steps (pictures shown 1,600 times), about 2 min on the CPU, about 1.3 GB"
    assert words("estimate", "told", FOUND) == [shown, "measured on two CPU cores"]
    first, how = words("estimate", "told", {**FOUND, "images": 1, "held_out": 0, "steps": 1, "seconds": None})
    assert first == "1 picture, 1 step (pictures shown 1,600 times), about 1.3 GB"
    card = {
        "device": "cuda:0",
        "card": "NVIDIA H100",
        "room": 1.2e9,
        "how": "own",
        "run": "0123456789ab",
        "encoding": 80,
    }
    first, before, how, warning = words("estimate", "told", {**FOUND, **card, "regularisation": 3})
    assert first.startswith("12 pictures, 3 for regularisation, 1 held out, ")
    assert "about 2 min on NVIDIA H100" in first
    assert before == "before that, once: encoding pictures and captions, about 80 s"
    assert how == "as your run 0123... did on this card"
    assert warning.startswith("that is more than NVIDIA H100 has (1.2 GB): the training will give up ")
    told = {"chosen": ["a", "b"], "advice": ["warning: c", "note: d"]}
    assert words("estimate", "told", {**FOUND, **told})[2:] == ["a\nb", "warning: c", "note: d"]
    for seconds, text in (
        (0.2, "1 s"), (66, "66 s"), (119, "2 min"), (4000, "67 min"), (7100, "2 h"), (12000, "3 h 20 min"),
        (300_000, "3.5 days"),
    ):  # fmt: skip
        assert words("text", "duration", seconds) == text
