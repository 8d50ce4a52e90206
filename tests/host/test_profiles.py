"""On a server with profiles (--multi-user) each sees its own runs, and those of nobody; see ``nodes/owners.py``."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.host.graphs import demo_loader, node, training
from tests.host.measure import empty_queue, run_id, runs
from tests.host.server import ComfyServer, PromptFailed

pytestmark = pytest.mark.host
ANOTHERS = "(another's)"


def ask(comfy: ComfyServer, path: str, user: str = "", data: Any = None) -> tuple[int, Any]:
    """Status and JSON of a request of a profile."""
    headers = {"Content-Type": "application/json", "Origin": comfy.url} | ({"Comfy-User": user} if user else {})
    body = None if data is None else json.dumps(data).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(comfy.url + path, body, headers), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def trained(comfy: ComfyServer, user: str, seed: int) -> str:
    """The id of a run that a profile trains."""
    graph = {**demo_loader(), **training(training_seed=seed, epochs=1)}
    outputs = done(comfy, user, graph)
    return run_id(outputs)


def done(comfy: ComfyServer, user: str, graph: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a graph that a profile queues."""
    _, answer = ask(comfy, "/prompt", user, {"prompt": graph, "client_id": "x"})
    entry = comfy.wait(answer["prompt_id"])
    if entry["status"]["status_str"] != "success":
        raise PromptFailed("the prompt failed", entry["status"])
    return entry["outputs"]


def seen(comfy: ComfyServer, user: str = "") -> set[str]:
    """Ids of the runs that a profile is told of."""
    return {run["id"] for run in ask(comfy, "/darkroom/runs", user)[1]["runs"]}


def latest(comfy: ComfyServer, user: str) -> str:
    """The run that Load Trained LoRA loads for a profile."""
    load = node("Darkroom_LoadTrainedLoRA", run="latest", checkpoint="last")
    shown = {"load": load, "show": node("PreviewAny", source=["load", 1])}
    return done(comfy, user, shown)["show"]["text"][0]


def test_each_profile_has_its_own_runs(start_comfy: Callable[..., ComfyServer]):
    comfy = start_comfy("--multi-user")
    ann, ben = (ask(comfy, "/users", data={"username": name})[1] for name in ("Ann", "Ben"))
    of_ann, of_ben = trained(comfy, ann, 1), trained(comfy, ben, 2)
    of_nobody = "eeeeeeeeeeee"  # as one from before there were profiles
    shutil.copytree(runs(comfy) / of_ben, runs(comfy) / of_nobody)
    (runs(comfy) / of_nobody / "owners.json").unlink()
    (runs(comfy) / of_nobody / "job.yaml").touch()  # the newest
    assert seen(comfy, ann) == {of_ann, of_nobody}
    assert seen(comfy, ben) == {of_ben, of_nobody}
    assert seen(comfy) == {of_ann, of_ben, of_nobody}, (
        "a program that names no profile sees all, as it does the history"
    )
    assert latest(comfy, ann) == of_nobody
    # What is another's is not there: not to look at, to keep, or to delete.
    for path, data in (("", None), ("/story", None), ("/size", None), ("/keep", {"name": "stolen"}), ("/delete", {})):
        status, answer = ask(comfy, f"/darkroom/runs/{of_ben}{path}", ann, data)
        assert status == 400, path
        assert "there is no run" in answer["error"], path
    assert ask(comfy, f"/darkroom/runs/{of_nobody}/delete", ann, {})[0] == 200
    assert latest(comfy, ann) == of_ann
    # The same graph is the same run: it is found, not trained again, and is both's until both give it up.
    assert trained(comfy, ben, 1) == of_ann
    assert seen(comfy, ben) == {of_ann, of_ben}
    assert ask(comfy, f"/darkroom/runs/{of_ann}/delete", ann, {}) == (200, {"bytes": 0})
    assert (seen(comfy, ann), seen(comfy, ben)) == (set(), {of_ann, of_ben})
    assert ask(comfy, f"/darkroom/runs/{of_ann}/delete", ben, {})[1]["bytes"] > 0
    assert not (runs(comfy) / of_ann).exists()


def test_of_the_queue_a_profile_sees_its_own_runs_and_that_there_are_others(start_comfy: Callable[..., ComfyServer]):
    comfy = start_comfy("--multi-user")
    ann, ben = (ask(comfy, "/users", data={"username": name})[1] for name in ("Ann", "Ben"))

    def queued(user: str, seed: int) -> str:
        when = "in the background"
        return run_id(done(comfy, user, {**demo_loader(), **training(training_seed=seed, epochs=2000, when=when)}))

    def waiting(user: str) -> list[str]:
        told = ask(comfy, "/darkroom/queue", user)[1]
        return [*filter(None, [told["running"]]), *told["waiting"]]

    first, second, third = queued(ann, 1), queued(ben, 2), queued(ann, 3)
    assert waiting(ann) == [first, ANOTHERS, third]
    assert waiting(ben) == [ANOTHERS, second, ANOTHERS]
    assert waiting("") == [first, second, third]
    for action in ("remove", "up", "add"):
        for run in (first, ANOTHERS):
            assert ask(comfy, "/darkroom/queue", ben, {"action": action, "run": run})[0] == 400
    assert waiting(ben) == [ANOTHERS, second, ANOTHERS]
    told = ask(comfy, "/darkroom/queue", ben, {"action": "remove", "run": second})[1]
    assert (told["running"] or told["waiting"][0], told["waiting"][-1]) == (ANOTHERS, ANOTHERS)
    assert waiting("") == [first, third]
    # The same workflow of two profiles: a node shows the run that its own profile trained last.
    for run in (first, second):
        (runs(comfy) / run / "shown.json").write_text(json.dumps({"workflow": "shared", "node": "4"}))
    shown = [ask(comfy, "/darkroom/shown?workflow=shared", user)[1]["nodes"]["4"]["run"] for user in (ann, ben, "")]
    assert shown == [first, second, second]
    empty_queue(comfy)


def test_no_profile_reaches_the_folder_of_runs_by_the_files_of_profiles(start_comfy: Callable[..., ComfyServer]):
    comfy = start_comfy("--multi-user")
    ann = ask(comfy, "/users", data={"username": "Ann"})[1]
    secret = comfy.base / "user" / "__lora_darkroom" / "secret.txt"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("secret")
    for user, path in ((ann, "..%2F__lora_darkroom%2Fsecret.txt"), ("__lora_darkroom", "secret.txt")):
        request = urllib.request.Request(f"{comfy.url}/userdata/{path}", headers={"Comfy-User": user})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert b"secret" not in refused.value.read().replace(b"secret.txt", b"")
        assert refused.value.code >= 400
