"""LoRA Train Config in the real server and in the page: YAML, wires, presets; and Train LoRA's estimate before Run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.conftest import REPO
from tests.host.browser import Complaints, close_dialogs, open_page
from tests.host.checkpoints import add_random_sd15
from tests.host.graphs import DEMO_DATA, Graph, demo_loader, node, training
from tests.host.measure import planned_run, runs
from tests.host.server import ComfyServer, PromptFailed
from trainer import config as configs
from trainer import job as jobs

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.host


def config_alone(**inputs: Any) -> Graph:
    """LoRA Train Config, and its YAML written down."""
    return {
        "config": node("Darkroom_LoRATrainConfig", **inputs),
        "text": node("PreviewAny", source=["config", 1]),
    }


def resolved(comfy: ComfyServer, graph: Graph) -> tuple[configs.TrainConfig, list[str]]:
    """What the node gives as YAML, loaded as the command line loads it; and what it says."""
    outputs = comfy.run(graph)
    said = outputs.get("config", {}).get("text", [""])[0]
    return configs.loads(outputs["text"]["text"][0]), [line for line in said.split("\n") if line]


# --- queued


def test_six_inputs_and_auto_are_in_sight_and_none_is_required(comfy: ComfyServer):
    inputs = comfy.node_info("Darkroom_LoRATrainConfig")["input"]
    assert not inputs.get("required")
    about = {name: spec[1] for name, spec in inputs["optional"].items()}
    in_sight = ["epochs", "lora_rank", "learning_rate", "batch_size", "resolution", "training_seed", "auto"]
    assert [name for name, spec in about.items() if not spec.get("advanced")] == in_sight
    # Bounds are the config's own: what is outside of them it refuses.
    assert (about["lora_rank"]["min"], about["lora_rank"]["max"]) == (1, 1024)
    assert (about["lora_dropout"]["min"], about["lora_dropout"]["max"]) == (0, 0.99)
    assert (about["warmup_steps"]["min"], about["min_snr_gamma"]["min"], about["lora_alpha"]["min"]) == (-1, -1, 0)
    assert (about["resolution"]["min"], about["resolution"]["step"]) == (64, 64)
    assert about["learning_rate"]["min"] > 0


def test_an_api_client_sends_only_what_it_sets(comfy: ComfyServer):
    found, said = resolved(comfy, config_alone(epochs=3))
    assert found == configs.parse({"epochs": 3})
    assert not said


def test_yaml_wins_over_widgets_and_wires_win_over_yaml(comfy: ComfyServer):
    graph = config_alone(
        epochs=["wire", 0],
        lora_rank=4,
        batch_size=1,
        yaml="epochs: 5\nlora_rank: 6\nlora_ranks: {mid_block: 16}\nbase_model: other.safetensors\nrepeats: 3\n",
    )
    graph["wire"] = node("PrimitiveInt", value=9)
    found, said = resolved(comfy, graph)
    assert (found.epochs, found.lora_rank, found.batch_size) == (9, 6, 1)
    assert found.lora_ranks == {"mid_block": 16}
    assert said == [
        "the YAML wins over the widgets: lora_rank 6 (instead of 4), lora_ranks {'mid_block': 16} (instead of nothing)",
        "wired inputs win over the YAML: epochs",
        "ignored in the YAML, because the graph decides: base_model (the wired MODEL); repeats (Load Dataset)",
    ]


def test_a_wire_is_not_in_the_caches_key(comfy: ComfyServer):
    graph = config_alone(epochs=["wire", 0], yaml="lora_rank: 6")
    graph["wire"] = node("PrimitiveInt", value=8)
    comfy.run(graph)
    # Another node elsewhere in the prompt: what is hidden of the prompt does not make this one new.
    entry = comfy.wait(comfy.queue({**graph, "other": node("PreviewAny", source=["wire", 0])}))
    assert "config" not in comfy.executed(entry)


def test_a_presets_name_and_a_file_that_changes(comfy: ComfyServer):
    found, _ = resolved(comfy, config_alone(yaml_file="sdxl_8gb"))
    assert found == configs.load(REPO / "configs" / "sdxl_8gb.yaml")
    file = comfy.base / "input" / "eigene \u00fc \u6f2b.yaml"
    for epochs in (3, 4):
        file.write_text(f"epochs: {epochs}\n", encoding="utf-8")
        assert resolved(comfy, config_alone(yaml_file=f'"{file}"'))[0].epochs == epochs
        assert resolved(comfy, config_alone(yaml_file=file.name))[0].epochs == epochs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"yaml": "lora_rnk: 8"}, "lora_rnk: unknown field; did you mean lora_rank"),
        ({"yaml_file": "not here.yaml"}, "the file does not exist"),
        ({"lora_ranks": "{a: "}, "lora_ranks: not YAML"),
        ({"init_lora": "no such.safetensors"}, "init_lora"),
        ({"reg_data_dir": "no such folder"}, "reg_data_dir"),
    ],
)
def test_faults_are_the_nodes(comfy: ComfyServer, inputs: dict[str, Any], message: str):
    with pytest.raises(PromptFailed, match=message) as caught:
        comfy.run(config_alone(**inputs))
    assert caught.value.details["node_type"] == "Darkroom_LoRATrainConfig"


def test_fields_reach_the_run(comfy: ComfyServer, tmp_path: Path):
    yaml = "lora_method: dora\nlora_ranks: {mid_block: 3}\noptimizer: adafactor\nloss_type: huber\nflip: true\n"
    graph = {**demo_loader(), **training(training_seed=11)}
    graph["config"]["inputs"]["yaml"] = yaml
    graph["config"]["inputs"]["reg_data_dir"] = str(comfy.base / "input" / "darkroom_demo")
    job = jobs.load(runs(comfy) / planned_run(comfy, graph))
    config = job.config
    assert (config.lora_method, config.optimizer, config.loss_type, config.flip) == ("dora", "adafactor", "huber", True)
    assert (config.lora_ranks, config.seed) == ({"mid_block": 3}, 11)
    assert sum(item.regular for item in job.items) == 12


def test_train_lora_decides_what_is_auto(comfy: ComfyServer):
    graph = {**demo_loader(), **training()}
    graph["config"]["inputs"] = {"auto": True, "lora_rank": 64, "resolution": 512, "yaml": "epochs: 2\nseed: 31"}
    job = jobs.load(runs(comfy) / planned_run(comfy, graph))
    config = job.config
    assert (config.auto, config.lora_rank, config.resolution, config.learning_rate) == ((), 8, 128, 5.3e-3)
    assert (config.epochs, config.seed, config.window, config.validation_images) == (2, 31, 4, 1)
    assert {field for field, _, _ in job.choices} == set(configs.AUTO_FIELDS) - {"epochs"}


# --- the routes


def asked(**config: Any) -> dict[str, Any]:
    """What the page asks for the demo."""
    data = {"folder": DEMO_DATA, "path": "", "repeats": 1}
    return {"dataset": data, "config": config, "base": {"kind": "demo"}}


DEMO_CONFIG = {"resolution": 128, "epochs": 4, "mixed_precision": "no", "gradient_checkpointing": False}


def test_presets_are_served(comfy: ComfyServer):
    found = comfy.get("/darkroom/presets")["presets"]
    assert found["sdxl_8gb"]["resolution"] == 1024
    inputs = comfy.node_info("Darkroom_LoRATrainConfig")["input"]["optional"]
    assert found["sd15_6gb"].keys() <= inputs.keys()


def test_an_estimate_starts_nothing_and_is_quick(comfy: ComfyServer):
    comfy.post("/darkroom/estimate", asked(**DEMO_CONFIG))
    before = sorted(runs(comfy).iterdir()) if runs(comfy).is_dir() else []
    began = time.monotonic()
    found = comfy.post("/darkroom/estimate", asked(**DEMO_CONFIG))
    assert time.monotonic() - began < 2
    assert (found["images"], found["steps"], found["presentations"], found["device"]) == (12, 12, 48, "cpu")
    assert found["seconds"] > 0
    assert found["room"] == 0
    assert (sorted(runs(comfy).iterdir()) if runs(comfy).is_dir() else []) == before


def test_an_estimate_knows_yaml_wires_and_files(comfy: ComfyServer):
    file = add_random_sd15(comfy.base)
    question = {
        **asked(**DEMO_CONFIG, yaml="epochs: 8\nbatch_size: 2"),
        "base": {"kind": "checkpoint", "name": file.name},
    }
    assert comfy.post("/darkroom/estimate", question)["steps"] == 48
    assert comfy.post("/darkroom/estimate", {**question, "wired": ["epochs"]})["steps"] == 24


def test_what_a_yaml_names_an_estimate_neither_reads_nor_writes(comfy: ComfyServer, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere \u00fc"
    yaml = f"cache_dir: '{elsewhere.as_posix()}'\nchat_template: '{(tmp_path / 'no such').as_posix()}'\n"
    comfy.post("/darkroom/estimate", asked(**DEMO_CONFIG, yaml=yaml))
    assert not elsewhere.exists()


def test_an_estimate_is_of_what_will_be_chosen_and_says_what_to_mind(comfy: ComfyServer):
    found = comfy.post("/darkroom/estimate", asked(auto=True, lora_rank=64))
    assert (found["images"], found["held_out"], found["steps"]) == (11, 1, 408)
    chosen = {line.split()[1]: line for line in found["chosen"]}
    assert set(chosen) == set(configs.AUTO_FIELDS)
    assert chosen["lora_rank"] == "auto: lora_rank 8 (12 different pictures; 16 from 30 on)"
    assert found["advice"] == []
    given = comfy.post("/darkroom/estimate", asked(**DEMO_CONFIG, lora_rank=64, learning_rate=2e-6))
    assert given["chosen"] == []
    assert [line.split(": ")[1] for line in given["advice"]] == ["learning_rate", "lora_rank", "epochs", "warmup_steps"]


def test_captions_that_auto_caption_will_write_are_not_missed(comfy: ComfyServer):
    folder = comfy.base / "input" / "never captioned"  # the demo's is, by other tests
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (128, 128), (80 * number, 0, 0)).save(folder / f"{number}.png")
    question = {**asked(**DEMO_CONFIG), "dataset": {"folder": folder.name}}

    def missed(more: dict[str, bool]) -> bool:
        return any("captions: no picture has one" in line for line in comfy.post("/darkroom/estimate", more)["advice"])

    assert missed(question)
    assert missed({**question, "captioned": False})
    assert not missed({**question, "captioned": True})


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({**asked(), "dataset": {"folder": "", "path": "/no/such \u6f2b"}}, "/no/such .* does not exist"),
        ({**asked(), "base": {"kind": "checkpoint", "name": "none.safetensors"}}, "none.safetensors"),
        (asked(yaml="epohs: 3"), "epohs: unknown field; did you mean epochs"),
        ({"config": {}, "base": {"kind": "demo"}}, "dataset: is missing"),
        ({**asked(), "dataset": 5}, "dataset: expected an object"),
        ({**asked(), "dataset": {"folder": DEMO_DATA, "repeats": "often"}}, "repeats: 'often' is no whole number"),
        ({**asked(), "dataset": {"folder": DEMO_DATA, "captions": "mine"}}, "captions: 'mine' is unknown"),
        ({**asked(), "dataset": {"folder": ["a"], "path": {"b": 1}}}, r"dataset.folder: expected a text, got \['a'\]"),
        ({**asked(), "dataset": {"folder": "", "path": "\0"}}, "is no path"),
        ({**asked(), "wired": {"epochs": 1}}, "wired: expected a list of names"),
        ({**asked(), "base": {"kind": "checkpoint", "name": ["\0"]}}, "base.name: expected a text"),
        ({**asked(), "base": {"kind": "checkpoint", "name": "\0"}}, "there is no checkpoint"),
        (asked(yaml=["epochs: 3"]), "(?s)yaml has 1 fault.*expected a text"),
        (asked(sample_prompts=5, lora_rank={}), "(?s)sample_prompts: expected a text"),
    ],
)
def test_an_estimate_tells_what_is_wrong(comfy: ComfyServer, question: dict[str, Any], message: str):
    with pytest.raises(PromptFailed, match=message):
        comfy.post("/darkroom/estimate", question)


def test_an_own_run_is_the_better_figure(comfy: ComfyServer):
    comfy.run({**demo_loader(), **training(training_seed=12)})
    found = comfy.post("/darkroom/estimate", asked(**DEMO_CONFIG))
    assert found["how"] == "own"
    assert (runs(comfy) / found["run"]).is_dir()
    assert found["memory"] < 3e9


# --- the page

ADD = """types => types.map(type => {
    const node = window.LiteGraph.createNode(type);
    window.app.graph.add(node);
    return node.id;
})"""
GRAPH = """() => {
    const graph = window.app.graph;
    const names = ["LoadDemoBase", "LoadDataset", "LoRATrainConfig", "TrainLoRA"];
    const [base, data, config, train] = names.map((name, n) => {
        const node = window.LiteGraph.createNode(`Darkroom_${name}`);
        graph.add(node);
        node.pos = [380 * n, 0];
        return node;
    });
    const into = name => train.inputs.findIndex(one => one.name === name);
    base.connect(0, train, into("model"));
    data.connect(0, train, into("dataset"));
    config.connect(0, train, into("config"));
    return [data.id, config.id, train.id];
}"""
VALUE = "([id, name]) => window.app.graph.getNodeById(id).widgets.find(w => w.name === name).value"
SET = "([id, name, value]) => { window.app.graph.getNodeById(id).widgets.find(w => w.name === name).value = value; }"


@pytest.fixture(scope="module")
def opened(comfy: ComfyServer) -> Iterator[tuple[Page, Complaints]]:
    """The page, for all tests."""
    with open_page(comfy) as (page, complaints):
        close_dialogs(page)
        yield page, complaints


def estimate_of(page: Page, starting: str, limit: float = 30_000) -> str:
    """Waits until an estimate begins so; returns it."""
    found = page.locator(".darkroom-panel").filter(has_text=starting).first
    found.wait_for(timeout=limit)
    return found.inner_text()


@pytest.mark.browser
def test_a_preset_fills_the_widgets_and_is_not_serialised(comfy: ComfyServer, page: Page):
    (config,) = page.evaluate(ADD, ["Darkroom_LoRATrainConfig"])
    page.evaluate(SET, [config, "sample_prompts", "mine"])
    chooser = page.locator(".darkroom-panel select")
    chooser.locator("option", has_text="sdxl_8gb").wait_for(state="attached")
    chooser.select_option("sdxl_8gb")
    wanted = comfy.get("/darkroom/presets")["presets"]["sdxl_8gb"]
    assert {name: page.evaluate(VALUE, [config, name]) for name in wanted} == wanted
    assert page.evaluate(VALUE, [config, "sample_prompts"]) == "mine"
    assert chooser.input_value() == ""
    saved = page.evaluate("() => window.app.graph.serialize().nodes[0].widgets_values")
    inputs = comfy.node_info("Darkroom_LoRATrainConfig")["input"]["optional"]
    assert len(saved) == len(inputs)
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert set(prompt[str(config)]["inputs"]) == set(inputs)


@pytest.mark.browser
def test_the_estimate_appears_and_follows_the_widgets(page: Page):
    data, config, train = page.evaluate(GRAPH)
    for name, value in {"resolution": 128, "epochs": 10, "batch_size": 4}.items():
        page.evaluate(SET, [config, name, value])
    assert "12 pictures, 30 steps (pictures shown 120 times)" in estimate_of(page, "12 pictures, 30 steps")
    page.evaluate(SET, [config, "epochs", 20])
    estimate_of(page, "12 pictures, 60 steps")
    page.evaluate(SET, [data, "path", "/no/such folder"])
    estimate_of(page, "/no/such folder does not exist")
    page.evaluate(SET, [data, "path", ""])
    estimate_of(page, "12 pictures, 60 steps")
    page.evaluate("id => window.app.graph.getNodeById(id).disconnectInput(0)", train)
    page.wait_for_function(
        "() => ![...document.querySelectorAll('.darkroom-panel')].some(p => p.textContent.includes('60 steps'))"
    )


@pytest.mark.browser
def test_with_auto_the_widgets_that_do_not_count_are_grey(page: Page):
    _, config, _ = page.evaluate(GRAPH)
    grey = "id => window.app.graph.getNodeById(id).widgets.filter(w => w.disabled).map(w => w.name)"
    switch = """([id, on]) => {
        const one = window.app.graph.getNodeById(id).widgets.find(w => w.name === "auto");
        one.value = on;
        one.callback(on);
    }"""
    assert page.evaluate(grey, config) == []
    page.evaluate(switch, [config, True])
    assert set(page.evaluate(grey, config)) == set(configs.all_auto())
    page.get_by_text("the pictures and the card decide rank").wait_for()
    assert "auto: lora_rank 8 (12 different pictures; 16 from 30 on)" in estimate_of(page, "11 pictures, 1 held out")
    # What is wired counts; and the switch is as it was when the graph is opened again.
    page.evaluate(
        """id => {
            const node = window.app.graph.getNodeById(id), number = window.LiteGraph.createNode("PrimitiveInt");
            window.app.graph.add(number);
            number.connect(0, node, node.inputs.findIndex(i => i.name === "epochs"));
        }""",
        config,
    )
    assert "epochs" not in page.evaluate(grey, config)
    page.evaluate("async () => await window.app.loadGraphData(window.app.graph.serialize())")
    assert set(page.evaluate(grey, config)) == set(configs.all_auto()) - {"epochs"}
    page.evaluate(switch, [config, False])
    assert page.evaluate(grey, config) == []


@pytest.mark.browser
def test_the_many_settings_wait_for_a_button(comfy: ComfyServer, page: Page):
    hidden = "id => window.app.graph.getNodeById(id).widgets.filter(w => w.hidden).map(w => w.name)"
    (config,) = page.evaluate(ADD, ["Darkroom_LoRATrainConfig"])
    inputs = comfy.node_info("Darkroom_LoRATrainConfig")["input"]["optional"]
    assert set(page.evaluate(hidden, config)) == {name for name, spec in inputs.items() if spec[1].get("advanced")}
    low = page.evaluate("id => window.app.graph.getNodeById(id).size[1]", config)
    page.get_by_role("button", name="All settings").click()
    assert page.evaluate(hidden, config) == []
    assert page.evaluate("id => window.app.graph.getNodeById(id).size[1]", config) > 3 * low
    page.evaluate("() => document.querySelector('.darkroom-panel button').click()")
    assert page.evaluate("id => window.app.graph.getNodeById(id).size[1]", config) == pytest.approx(low, abs=30)


BETWEEN = """([train, data, config]) => {
    const graph = window.app.graph;
    const node = id => graph.getNodeById(id);
    const put = (type, from, slot, to, input) => {
        const one = window.LiteGraph.createNode(type);
        graph.add(one);
        from.connect(slot, one, Math.max(0, one.inputs.findIndex(i => i.name === input)));
        const into = to.inputs.findIndex(i => i.name === input);
        one.connect(0, to, into);
        return one;
    };
    const base = graph.nodes.find(n => n.type === "Darkroom_LoadDemoBase");
    const sampling = put("ModelSamplingDiscrete", base, 0, node(train), "model");
    const bypassed = put("LoraLoaderModelOnly", sampling, 0, node(train), "model");
    bypassed.mode = 4;
    put("Darkroom_AutoCaption", node(data), 0, node(train), "dataset");
    put("Reroute", node(config), 0, node(train), "config");
    const number = window.LiteGraph.createNode("PrimitiveInt");
    graph.add(number);
    number.widgets[0].value = 30;
    number.connect(0, node(config), node(config).inputs.findIndex(i => i.name === "epochs"));
}"""
INTO_A_SUBGRAPH = """ids => {
    const graph = window.app.graph;
    return graph.convertToSubgraph(new Set(ids.map(id => graph.getNodeById(id)))).node.id;
}"""


@pytest.mark.browser
def test_the_estimate_sees_through_what_lies_between(page: Page):
    data, config, train = page.evaluate(GRAPH)
    page.evaluate(SET, [config, "resolution", 128])
    estimate_of(page, "12 pictures, 30 steps")
    page.evaluate(BETWEEN, [train, data, config])
    estimate_of(page, "12 pictures, 90 steps")  # of the primitive that is wired into epochs
    page.evaluate(INTO_A_SUBGRAPH, [data, config])
    page.evaluate("() => { window.app.graph.nodes.find(n => n.type === 'PrimitiveInt').widgets[0].value = 20; }")
    estimate_of(page, "12 pictures, 60 steps")
    page.evaluate(INTO_A_SUBGRAPH, [train])
    page.evaluate("() => { window.app.graph.nodes.find(n => n.type === 'PrimitiveInt').widgets[0].value = 10; }")
    inside = """() => {
        const [train] = window.app.graph.nodes.flatMap(n => n.subgraph?.nodes ?? [])
            .filter(n => n.type === "Darkroom_TrainLoRA");
        return train.widgets.find(w => w.type === "darkroom_panel").element.textContent.includes("30 steps");
    }"""
    page.wait_for_function(inside)
