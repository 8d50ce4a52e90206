"""A real ComfyUI server of a test's own, and a small client of its HTTP interface."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import REPO, find_comfy

BASE_NAME = "Comfy B\u00fcro \u6f2b\u753b"  # a space, a u-umlaut, two Chinese characters
PACK_NAME = "LoRA-Darkroom"
NOT_PART_OF_A_PACK = shutil.ignore_patterns(
    ".git", ".ci", "__pycache__", "tests", "output", "data", "models", ".*_cache", ".venv", ".cache"
)


class PromptFailed(AssertionError):
    """A prompt was refused, or a node of it failed; `details` is what the server said."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(f"{message}\n{json.dumps(details, indent=1, default=str)[:6000]}")
        self.details = details


def comfy_python(comfy: Path) -> str:
    """The interpreter of a ComfyUI: that of its own .venv, else this one."""
    for inside in ("bin/python", "Scripts/python.exe"):
        own = comfy / ".venv" / inside
        if own.exists():
            return str(own)
    return sys.executable


def host_environment(comfy: Path) -> dict[str, str]:
    """The environment of a server: offline, and without paths of the test's own interpreter."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "COV_"))}
    env.update(HF_HUB_OFFLINE="1", PYTHONUNBUFFERED="1", GOMP_SPINCOUNT="2000")
    return env


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def install_pack(base: Path) -> Path:
    """Copy this pack under the base directory's custom_nodes, as a user has it; returns its folder."""
    folder = base / "custom_nodes" / PACK_NAME
    if not folder.exists():
        shutil.copytree(REPO, folder, ignore=NOT_PART_OF_A_PACK)
        shutil.copy(REPO / "tests" / "host" / "probe.py", base / "custom_nodes" / "darkroom_probe.py")
    return folder


class Probed(NamedTuple):
    """What the probe node saw."""

    tensors: dict[str, torch.Tensor]
    plain: Any


class ComfyServer:
    """One `main.py --cpu` on a free port with a base directory of its own, the pack installed in it.

    Args:
        root: an empty or earlier used folder; the base directory is made in it.
        arguments: further arguments of main.py.
        start: whether to start at once.
    """

    DEVICE = ("--cpu",)

    def __init__(self, root: Path, arguments: tuple[str, ...] = (), start: bool = True) -> None:
        comfy = find_comfy()
        assert comfy is not None, "no ComfyUI found: set COMFYUI_PATH"
        self.comfy = comfy
        self.base = root / BASE_NAME
        for folder in ("custom_nodes", "input", "output", "user", "models/checkpoints", "models/loras"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        self.pack = install_pack(self.base)
        self.log_file = root / "server.log"
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._began_at = 0  # of the log, in bytes: where this start's begins
        self._probes = 0
        if start:
            self.start()

    # The process

    def start(self, limit: float = 120.0) -> None:
        """Start, and wait until the server answers; AssertionError with the log if it does not."""
        self.port = free_port()
        command = [
            comfy_python(self.comfy), str(self.comfy / "main.py"), *self.DEVICE, "--listen", "127.0.0.1",
            "--port", str(self.port), "--base-directory", str(self.base), "--disable-api-nodes",
            "--database-url", "sqlite:///:memory:", *self.arguments,
        ]  # fmt: skip
        with self.log_file.open("ab") as log:
            self._began_at = log.tell()
            self.process = subprocess.Popen(
                command, cwd=self.comfy, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=host_environment(self.comfy),
            )  # fmt: skip
        deadline = time.monotonic() + limit
        while True:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                self._check_alive("at start")
                assert time.monotonic() < deadline, f"ComfyUI did not answer in {limit} s\n{self.log()[-4000:]}"
                time.sleep(0.2)

    def _check_alive(self, when: str) -> None:
        """AssertionError if it has ended: how, and the end of what it said since this start."""
        assert self.process is not None, "no server is started"
        code = self.process.poll()
        if code is None:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = self.log_file.read_bytes()[self._began_at :].decode("utf-8", errors="replace")
        free = shutil.disk_usage(self.base).free
        raise AssertionError(
            f"ComfyUI ended {when}, {how} (process {self.process.pid}, port {self.port}, {free / 2**30:.1f} GB of disk "
            f"free); since this start it said:\n{said[-4000:] or '(nothing)'}"
        )

    def stop(self) -> None:
        """End it as a service manager does; by force if that takes over 20 s. (After Ctrl-C, ComfyUI takes 5 s.)"""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_file.read_text("utf-8", errors="replace") if self.log_file.exists() else ""

    # Its HTTP interface

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, path: str, data: Any = None, method: str | None = None) -> bytes:
        """Raw bytes of a GET, or of a POST with `data` as JSON; PromptFailed on an HTTP error."""
        body = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", "Origin": self.url} if body else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", errors="replace")
            try:
                details = json.loads(text)
            except ValueError:
                details = text[:2000]
            raise PromptFailed(f"{error.code} for {path}", details) from None

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        return json.loads(self.request(path))

    def post(self, path: str, data: Any) -> Any:
        """The JSON of a POST (None for an empty answer)."""
        answer = self.request(path, data)
        return json.loads(answer) if answer else None

    def node_info(self, node_id: str) -> dict[str, Any]:
        """What /object_info says of one node."""
        return self.get(f"/object_info/{urllib.parse.quote(node_id)}")[node_id]

    def queue(self, graph: dict[str, Any], **more: Any) -> str:
        """Queue a graph in API form; returns the prompt's id, PromptFailed when it is refused."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": uuid.uuid4().hex, **more})
        if answer.get("node_errors"):
            raise PromptFailed("the prompt has node errors", answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, limit: float = 240.0) -> dict[str, Any]:
        """The history entry of a prompt that has ended, however it ended."""
        deadline = time.monotonic() + limit
        while True:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None and entry.get("status", {}).get("status_str"):
                return entry
            self._check_alive("while a prompt ran")
            assert time.monotonic() < deadline, f"the prompt took over {limit} s\n{self.log()[-4000:]}"
            time.sleep(0.1)

    def run(self, graph: dict[str, Any], limit: float = 240.0, **more: Any) -> dict[str, Any]:
        """Queue, wait, and return its outputs {node: ui}; PromptFailed when a node failed."""
        entry = self.wait(self.queue(graph, **more), limit)
        if entry["status"]["status_str"] != "success":
            raise PromptFailed("the prompt failed", failure(entry) or entry["status"])
        return entry["outputs"]

    def probe(self, task: str, graph: dict[str, Any], wires: dict[str, Any], **arguments: Any) -> Probed:
        """What the probe node sees when `wires` (its inputs, links into `graph`) are given to it."""
        self._probes += 1
        file = self.base.parent / f"probe {self._probes}.safetensors"
        inputs = {"task": task, "path": str(file), "arguments": json.dumps(arguments), **wires}
        outputs = self.run({**graph, "probe": {"class_type": "DarkroomProbe", "inputs": inputs}})
        return Probed(load_file(file), outputs["probe"]["seen"][0])

    def image(self, result: dict[str, str]) -> Image.Image:
        """A picture of a node's output, by the name that the output gives."""
        query = urllib.parse.urlencode({k: result[k] for k in ("filename", "subfolder", "type")})
        return Image.open(io.BytesIO(self.request(f"/view?{query}"))).convert("RGB")

    def pixels(self, result: dict[str, str]) -> torch.Tensor:
        """A picture of a node's output as [H, W, 3] in 0..1."""
        array = np.asarray(self.image(result), dtype=np.float32)
        return torch.from_numpy(array) / 255

    def executed(self, entry: dict[str, Any]) -> list[str]:
        """The nodes that came out of the cache in a history entry are not among these."""
        cached = {n for kind, m in entry["status"]["messages"] if kind == "execution_cached" for n in m["nodes"]}
        return [node for node in entry["prompt"][2] if node not in cached]


def failure(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The execution_error or execution_interrupted message of a history entry."""
    for kind, message in entry["status"]["messages"]:
        if kind in ("execution_error", "execution_interrupted"):
            return {"kind": kind, **message}
    return None
