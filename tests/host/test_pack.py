"""The pack in the real server: it loads, quickly, and brings nothing heavy with it."""

from __future__ import annotations

import re

import pytest

from tests.host.server import PACK_NAME, ComfyServer

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
    assert float(seconds) < 1.0  # 0.1 s measured; what it must not do is import a library of seconds


def test_web_files_are_served_once(comfy: ComfyServer):
    ours = [path for path in comfy.get("/extensions") if PACK_NAME in path or "lora-darkroom" in path]
    assert ours
    assert len(ours) == len({path.rsplit("/", 1)[1] for path in ours})
