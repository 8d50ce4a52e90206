"""Training in the background, in the real ComfyUI: handed on as it grows, off the card while a prompt is executed."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.graphs import Graph, apply_lora, demo_loader, node, picture, training
from tests.host.measure import empty_queue, run_id, runs
from tests.host.server import ComfyServer, PromptFailed

pytestmark = pytest.mark.host
BACKGROUND = "in the background"
STEPS, SAVING = 60, 12
SETTINGS: dict[str, Any] = {"epochs": STEPS // 3, "save_steps": SAVING, "sample_every": SAVING, "training_seed": 4711}


def graph(**more: Any) -> Graph:
    """A training in the background, the picture that is drawn with it, and what else is handed on."""
    return {
        **demo_loader(),
        **training(**{**SETTINGS, "when": BACKGROUND, **more}),
        "apply": apply_lora(),
        **picture(model=["apply", 0]),
        "steps": node("PreviewAny", source=["train", 3]),
    }


def until(comfy: ComfyServer, what: Callable[[], Any], limit: float = 400.0) -> Any:
    deadline = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < deadline, comfy.log()[-3000:]
        time.sleep(0.2)
    return found


def told(comfy: ComfyServer, run: str) -> dict[str, Any]:
    return comfy.get(f"/darkroom/runs/{run}")


def has_checkpoint(comfy: ComfyServer, run: str, step: int) -> Callable[[], bool]:
    return lambda: step in told(comfy, run)["checkpoints"]


def has_finished(comfy: ComfyServer, run: str) -> Callable[[], bool]:
    return lambda: told(comfy, run)["state"] == "finished" and comfy.get("/darkroom/queue")["running"] is None


def journal(comfy: ComfyServer, run: str, *kinds: str) -> list[dict[str, Any]]:
    file = runs(comfy) / run / "events.jsonl"  # a worker begins it seconds after its run is at work
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [line for line in map(json.loads, lines) if line["type"] in kinds]


def losses(comfy: ComfyServer, run: str) -> list[float]:
    return [line["loss"] for line in journal(comfy, run, "Step")]


def executed(comfy: ComfyServer, made: Graph) -> tuple[set[str], dict[str, Any], tuple[float, float]]:
    """Which nodes a prompt had to execute, its outputs, and from when to when in seconds since 1970."""
    entry = comfy.wait(comfy.queue(made))
    if entry["status"]["status_str"] != "success":
        raise PromptFailed("the prompt failed", entry["status"])
    at = {kind: message["timestamp"] / 1000 for kind, message in entry["status"]["messages"]}
    cached = {n for kind, m in entry["status"]["messages"] if kind == "execution_cached" for n in m["nodes"]}
    return set(made) - cached, entry["outputs"], (at["execution_cached"], at["execution_success"])


@pytest.fixture(autouse=True)
def emptied(comfy: ComfyServer) -> Iterator[None]:
    """The queue is the server's, which other tests have, too."""
    yield
    empty_queue(comfy)


def test_it_is_handed_on_as_it_grows_and_is_the_same_to_the_bit(comfy: ComfyServer):
    made = graph()
    ran, outputs, _ = executed(comfy, made)  # no node fails
    (text,) = outputs["train"]["text"]
    run = run_id(outputs)
    assert text.startswith(f"In the queue, next: step 0 of {STEPS}")
    assert f"Nothing of it is saved yet: its first checkpoint comes at step {SAVING} of {STEPS}" in text
    assert told(comfy, run)["next_checkpoint"] == SAVING
    assert "picture" not in outputs, "nothing is drawn without a LoRA"
    assert outputs["steps"]["text"] == ["0"]
    ran, _, _ = executed(comfy, made)
    if not has_checkpoint(comfy, run, SAVING)():
        assert "train" not in ran, "nothing is new"

    # Undisturbed but for that: its losses.
    until(comfy, has_finished(comfy, run))
    undisturbed, final = losses(comfy, run), (runs(comfy) / run / "lora.safetensors")
    assert len(undisturbed) == STEPS
    (final,) = (runs(comfy) / run).glob("*.safetensors")
    content = final.read_bytes()

    # Once more from the beginning, with prompts in between.
    shutil.rmtree(runs(comfy) / run)
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1)
    executed(comfy, made)
    drawn, spans = [], []
    for step in (SAVING, 2 * SAVING, 3 * SAVING):
        until(comfy, has_checkpoint(comfy, run, step))
        ran, outputs, span = executed(comfy, made)
        assert {"train", "apply", "sampler", "picture"} <= ran
        assert outputs["steps"]["text"] == [str(step)]
        assert f"this is step {step}" in outputs["train"]["text"][0]
        assert outputs["train"]["images"], "the samples so far"
        drawn.append(comfy.pixels(outputs["picture"]["images"][0]))
        spans.append(span)
        ran, _, span = executed(comfy, made)
        if not has_checkpoint(comfy, run, step + SAVING)():
            assert not ran & {"train", "apply", "sampler", "picture"}, "nothing is new"
        spans.append(span)
    assert not any((one == other).all() for one, other in itertools.pairwise(drawn))
    until(comfy, has_finished(comfy, run))
    for began, ended in spans:
        inside = [line["step"] for line in journal(comfy, run, "Step") if began < line["t"] < ended]
        assert not inside, "it trained while a prompt was executed"
    phases = [line["name"] for line in journal(comfy, run, "Phase") if line["name"] in ("paused", "training")]
    assert phases.count("paused") >= 3
    assert losses(comfy, run) == undisturbed
    assert final.read_bytes() == content

    ran, outputs, _ = executed(comfy, made)
    assert "picture" in ran, "what it finished with is new"
    assert outputs["train"]["text"][0].startswith(f"{STEPS} steps, loss")
    assert outputs["steps"]["text"] == [str(STEPS)]
    ran, _, _ = executed(comfy, made)
    assert not ran & {"train", "picture"}


def test_runs_wait_for_each_other_and_for_a_training_in_the_foreground(comfy: ComfyServer):
    first, second = (run_id(comfy.run(graph(training_seed=seed))) for seed in (4712, 4713))
    until(comfy, lambda: comfy.get("/darkroom/queue")["running"] == first)
    assert comfy.get("/darkroom/queue")["waiting"] == [second]
    until(comfy, lambda: losses(comfy, first))
    _, outputs, (began, ended) = executed(comfy, {**demo_loader(), **training(training_seed=4714)})
    assert "12 steps" in outputs["train"]["text"][0]
    inside = [line["step"] for line in journal(comfy, first, "Step") if began < line["t"] < ended]
    assert not inside, "it trained beside the one in the foreground"
    assert not (runs(comfy) / second / "events.jsonl").exists()

    # A node that waits for it takes its run out of the queue; here the one at work, which goes on from where it is.
    text = executed(comfy, graph(training_seed=4712, when="wait for it"))[1]["train"]["text"][0]
    assert text.startswith(f"{STEPS} steps")
    begun = journal(comfy, first, "RunStarted")
    assert [line["step"] > 0 for line in begun] == [False, True]
    (last,) = journal(comfy, first, "RunFinished")
    until(comfy, has_finished(comfy, second))
    assert journal(comfy, second, "RunStarted")[0]["t"] > last["t"]
    assert losses(comfy, second)[-1] != losses(comfy, first)[-1]


def test_one_that_fails_says_why_and_one_that_is_removed_goes_on_when_queued_again(comfy: ComfyServer):
    made = graph(training_seed=4715, epochs=8)
    run = run_id(comfy.run(made))
    cache = comfy.base / "user" / "__lora_darkroom" / "cache"
    shutil.rmtree(cache)  # what the worker reads is gone before it begins
    (failed,) = until(comfy, lambda: comfy.get("/darkroom/queue")["failed"])
    assert failed["run"] == run
    assert "entries of the cache in" in failed["message"]
    assert str(comfy.base) not in failed["message"]
    ran, outputs, _ = executed(comfy, made)
    assert "train" in ran, "queued again, it is prepared again"
    assert outputs["train"]["text"][0].startswith("In the queue, next")
    assert comfy.get("/darkroom/queue")["failed"] == []
    until(comfy, lambda: told(comfy, run)["checkpoints"])
    comfy.post("/darkroom/queue", {"action": "remove", "run": run})
    until(comfy, lambda: comfy.get("/darkroom/queue")["running"] is None)
    stopped = told(comfy, run)
    assert stopped["state"] == "stopped"
    ran, outputs, _ = executed(comfy, made)
    assert {"train", "picture"} <= ran, "it is in the queue again, and what there is of it is drawn"
    assert outputs["steps"]["text"] == [str(stopped["checkpoints"][-1])]
    until(comfy, has_finished(comfy, run))
    assert losses(comfy, run)[-1] > 0


def test_the_queue_goes_on_after_a_restart(start_comfy: Callable[..., ComfyServer]):
    comfy = start_comfy()
    first = run_id(comfy.run(graph(epochs=12)))
    second = run_id(comfy.run(graph(training_seed=4716, epochs=2)))
    saved = until(comfy, lambda: told(comfy, first)["checkpoints"])
    comfy.kill()
    comfy.start()
    until(comfy, has_finished(comfy, second))
    begun = journal(comfy, first, "RunStarted")
    assert [line["step"] >= saved[0] for line in begun] == [False, True], "it goes on from what was saved"
    assert told(comfy, first)["state"] == "finished"
