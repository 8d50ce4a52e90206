"""Texts in the graph of the real server: a language model is trained, found again, and asked in one queueing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.accidents import new_run, reach, starts, told
from tests.host.graphs import SAILOR_DATA, SMOLLM, WIRED, Graph, demo_loader, node, training
from tests.host.measure import run_id, runs
from tests.host.server import ComfyServer, PromptFailed, failure
from tests.host.test_language import MOST, loader
from tests.trainer.languages.test_smollm import real
from trainer import languages
from trainer.events import RunFinished, RunStopped
from trainer.languages import smollm, toys
from trainer.text import Chat

pytestmark = [
    pytest.mark.host,
    # PEFT asks transformers by an old name.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
QUESTION = "What is the capital of France?"
SETTINGS = {
    "epochs": 4, "lora_rank": 4, "learning_rate": 2e-2, "batch_size": 4, "gradient_accumulation_steps": 1,
    "mixed_precision": "no", "gradient_checkpointing": False, "validation_images": 0, "validation_steps": 0,
    "save_steps": 100, "sample_every": 1000, "sample_max_tokens": 8, "max_length": 128, "log_interval": 1,
    "warmup_steps": 0, "training_seed": 1,
}  # fmt: skip
"""40 answers in 40 steps."""


@pytest.fixture(scope="module")
def toy(comfy: ComfyServer) -> Path:
    """A language model that knows nothing yet."""
    return toys.write_tiny(comfy.base / "models" / "language_models" / "toy to train")


def text_training(*, clip: Any = ("llm", 0), folder: str = SAILOR_DATA, **config: Any) -> Graph:
    """Load Dataset, LoRA Train Config and Train LoRA on a CLIP alone."""
    wired = {} if clip is None else {"clip": list(clip)}
    return {
        "data": node("Darkroom_LoadDataset", folder=folder),
        "config": node("Darkroom_LoRATrainConfig", **{**SETTINGS, **config}),
        "train": node("Darkroom_TrainLoRA", dataset=["data", 0], config=["config", 0], **wired),
    }


def train_then_ask(model: str, strength: float = 1.0, **config: Any) -> Graph:
    """Train, and ask the same question without the LoRA and with it, as `before` and `after`."""
    graph = {**loader(model=model), **text_training(**config)}
    at = {"strength_model": 1.0, "strength_clip": strength, "lora_name": WIRED}
    graph["apply"] = node("Darkroom_ApplyLoRA", clip=["llm", 0], lora=["train", 0], **at)
    for name, clip in (("before", ["llm", 0]), ("after", ["apply", 1])):
        asked = node("TextGenerate", clip=clip, prompt=QUESTION, max_length=MOST, sampling_mode="off")
        graph |= {f"{name} text": asked, name: node("PreviewAny", source=[f"{name} text", 0])}
    return graph


def by_peft(path: Path, peft: Path) -> str:
    """What transformers and PEFT answer with the run's own folder, greedy."""
    from peft import PeftModel

    tokenizer = languages.tokenizer(path)
    asked = list(Chat(tokenizer).question(QUESTION))
    model: Any = PeftModel.from_pretrained(languages.load(path, torch.float32), str(peft))
    stop = languages.ends_of(path, tokenizer)
    with torch.no_grad():
        ids = model.generate(
            input_ids=torch.tensor([asked]), attention_mask=torch.ones(1, len(asked)), max_new_tokens=MOST,
            do_sample=False, use_cache=True, eos_token_id=sorted(stop), pad_token_id=min(stop),
        )  # fmt: skip
    return tokenizer.decode(ids[0, len(asked) :], skip_special_tokens=True)


def check_answers(comfy: ComfyServer, outputs: dict[str, Any], path: Path) -> None:
    """Asserts that both answers of ``train_then_ask`` are there, and the second is PEFT's."""
    (before,), (after,) = outputs["before"]["text"], outputs["after"]["text"]
    assert after == by_peft(path, runs(comfy) / run_id(outputs) / "peft")
    assert after != before


def test_one_queueing_trains_and_answers_as_peft_does(comfy: ComfyServer, toy: Path):
    outputs = comfy.run(train_then_ask(toy.name))
    check_answers(comfy, outputs, toy)
    run = runs(comfy) / run_id(outputs)
    assert starts(run) == [0]
    assert outputs["train"]["text"][0].startswith("40 steps")
    assert comfy.image(outputs["train"]["images"][0]).width >= 512

    comfy.run({**loader(model=toy.name), "seen": node("DarkroomProbe", task="held", path="", clip=["llm", 0])})
    again = comfy.run(train_then_ask(toy.name))
    assert run_id(again) == run.name
    assert starts(run) == [0], "a finished run is found again"
    assert again["after"]["text"] == outputs["after"]["text"]

    further = comfy.run(train_then_ask(toy.name, epochs=5))
    assert run_id(further) == run.name
    assert starts(run) == [0, 40]
    check_answers(comfy, further, toy)
    without = comfy.run(train_then_ask(toy.name, 0.0))
    assert without["after"]["text"] == without["before"]["text"] == outputs["before"]["text"]


def test_what_it_will_be_is_told_before_and_is_what_it_then_is(comfy: ComfyServer, toy: Path):
    settings = {**SETTINGS, "training_seed": 8}
    base = {"kind": "language", "name": toy.name, "path": ""}
    asked = {"dataset": {"folder": SAILOR_DATA, "repeats": 1}, "config": settings, "base": base}
    before = set(runs(comfy).glob("*"))
    found = comfy.post("/darkroom/estimate", asked)
    assert (found["text"], found["images"], found["steps"], found["presentations"]) == (True, 40, 40, 160)
    assert found["memory"] > 0
    assert set(runs(comfy).glob("*")) == before, "nothing was started"
    outputs = comfy.run(train_then_ask(toy.name, training_seed=8))
    assert outputs["train"]["text"][0].startswith(f"{found['steps']} steps")
    after = comfy.post("/darkroom/estimate", asked)
    assert (after["how"], after["run"]) == ("own", run_id(outputs))
    assert after["seconds"] > 0
    chosen = comfy.post("/darkroom/estimate", {**asked, "config": {"auto": True}})["chosen"]
    assert any(line.startswith("auto: learning_rate") for line in chosen)
    for wrong, message in (({"name": "none"}, "no language model none"), ({"kind": "text_encoder"}, "no text encoder")):
        with pytest.raises(PromptFailed, match=message):
            comfy.post("/darkroom/estimate", {**asked, "base": {**base, **wrong}})


def test_cancel_saves_and_the_next_queueing_goes_on(comfy: ComfyServer, toy: Path):
    graph = train_then_ask(toy.name, training_seed=2, epochs=15)
    before = set(runs(comfy).glob("*"))
    prompt = comfy.queue(graph)
    run = new_run(comfy, before)
    reach(run, 3)
    comfy.request("/interrupt", {})
    assert (failure(comfy.wait(prompt)) or {})["kind"] == "execution_interrupted"
    stopped = told(run)[-1]
    assert isinstance(stopped, RunStopped)
    outputs = comfy.run(graph)
    assert run_id(outputs) == run.name
    assert starts(run) == [0, stopped.step]
    assert isinstance(told(run)[-1], RunFinished)
    check_answers(comfy, outputs, toy)


def test_what_is_wired_wrongly_is_named(comfy: ComfyServer, toy: Path):
    plain, images, unwired = loader(model=toy.name), demo_loader(), training(clip=["llm", 0])
    for name in ("model", "vae"):
        del unwired["train"]["inputs"][name]
    for graph, message in (
        (text_training(clip=None), "the data set is text, and no CLIP with a language model is wired"),
        ({**images, **text_training(clip=("base", 1))}, "wire a language model"),
        ({**plain, **images, **training(clip=["llm", 0])}, "this model takes one that is"),
        ({**plain, **unwired}, "no MODEL is wired"),
        ({**plain, **text_training(flip=True)}, "flip: is of images"),
    ):
        with pytest.raises(PromptFailed) as caught:
            comfy.run(graph)
        assert message in json.dumps(caught.value.details)


@real
@pytest.mark.long
def test_the_real_model_answers_like_a_sailor(comfy: ComfyServer):
    settings = {"lora_rank": 8, "learning_rate": 5e-4, "warmup_steps": -1}
    outputs = comfy.run(train_then_ask(SMOLLM, **settings), limit=1200)
    check_answers(comfy, outputs, smollm.folder())
    (before,), (after,) = outputs["before"]["text"], outputs["after"]["text"]
    assert "Paris" in before
    assert after.startswith("Aye, captain!")
    assert "Paris" in after
