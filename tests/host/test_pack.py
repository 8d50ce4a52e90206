"""The pack in the real server: it loads, quickly, and brings nothing heavy with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.host.graphs import demo_loader, picture, training
from tests.host.measure import runs
from tests.host.server import PACK_NAME, ComfyServer, PromptFailed, comfy_python

pytestmark = pytest.mark.host


def test_loads_without_a_complaint(comfy: ComfyServer):
    start = comfy.log().partition("Starting server")[0]
    lines = [line for line in start.splitlines() if PACK_NAME in line or "Darkroom" in line]
    assert any("seconds:" in line for line in lines), comfy.log()[-3000:]
    assert not [line for line in lines if re.search("FAILED|WARN|ERROR|Traceback", line)]


def test_imports_nothing_heavy(comfy: ComfyServer):
    modules = comfy.probe("modules", {}, {}).plain
    assert "torch" in modules
    assert not {"diffusers", "peft", "accelerate", "tensorboard"} & set(modules)


def test_start_up_is_quick(comfy: ComfyServer):
    (seconds,) = re.findall(rf"([\d.]+) seconds: .*{PACK_NAME}", comfy.log())
    # Import, routes and schemas of all nodes: 0.2 s on two cores, 0.15 of it imports; the rest is for a busy machine.
    assert float(seconds) <= 0.5


def test_web_files_are_served_once(comfy: ComfyServer):
    ours = [path for path in comfy.get("/extensions") if PACK_NAME in path or "lora-darkroom" in path]
    assert ours
    assert len(ours) == len({path.rsplit("/", 1)[1] for path in ours})


def test_a_package_that_is_missing_or_too_old_is_one_line_that_names_it(tmp_path: Path):
    server = ComfyServer(tmp_path, start=False)
    requirements = server.pack / "requirements.txt"
    given = requirements.read_text(encoding="utf-8")
    too_new = re.sub(r"(?m)^peft.*$", "peft>=99.1", re.sub(r"(?m)^accelerate.*$", "no-such-accelerate", given))
    requirements.write_text(too_new, encoding="utf-8")
    python = re.escape(comfy_python(server.comfy))
    server.start()
    try:  # what only the worker needs is missed when a training is about to begin, before anything is encoded
        message = rf"peft [\d.]+ is installed, peft>=99\.1 is needed\n  -> install with: {python} -m pip install"
        with pytest.raises(PromptFailed) as caught:
            server.run({**demo_loader(), **training(), **picture()})
        assert re.search(message, caught.value.details["exception_message"])
        assert caught.value.details["node_type"] == "Darkroom_TrainLoRA"
        assert not list(runs(server).glob("*/job.yaml"))
        assert server.run({**demo_loader(), **picture()})["picture"]["images"]
    finally:
        server.stop()

    requirements.write_text(re.sub(r"(?m)^pydantic.*$", "pydantic>=99", given), encoding="utf-8")
    config = server.pack / "trainer" / "config" / "fields.py"
    broken = config.read_text(encoding="utf-8").replace(
        "from pydantic import", "from pydantic import of_the_future,", 1
    )
    config.write_text(broken, encoding="utf-8")
    before = len(server.log())
    server.start()
    try:  # what the nodes themselves need: they are not there, and ComfyUI is
        log = server.log()[before:]
        (line,) = [one for one in log.splitlines() if "pydantic" in one]
        wanted = (
            rf"LoRA Darkroom is not loaded: pydantic [\d.]+ is installed, pydantic>=99 is needed; install .*{python}"
        )
        assert re.search(wanted, line)
        assert "Traceback" not in log
        info = server.get("/object_info")
        assert "KSampler" in info
        assert not [name for name in info if name.startswith("Darkroom_")]
    finally:
        server.stop()
