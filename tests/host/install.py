"""Install the pack's requirements into a ComfyUI as ComfyUI-Manager does, and see that both still work.

    COMFYUI_PATH=/path/of/ComfyUI python -m tests.host.install

That ComfyUI's own environment (its .venv) is changed as it is by installing the pack. Each line of requirements.txt is
installed by a pip of its own; afterwards `pip check` must find nothing that it did not find before, ComfyUI must start,
and the demo base must be trained and applied. Some minutes; not part of the test suite.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import REPO, find_comfy
from tests.host.graphs import apply_lora, demo_loader, node, picture, training
from tests.host.server import PACK_NAME, ComfyServer, comfy_python
from trainer.dependencies import wanted

TOLD = ("torch", "transformers", "huggingface-hub", "diffusers", "peft", "accelerate", "pydantic", "numpy")


def pip(python: str, *arguments: str, fails: bool = False) -> str:
    """What pip prints; AssertionError with it where pip fails."""
    done = subprocess.run([python, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert fails or done.returncode == 0, f"pip {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def versions(python: str) -> dict[str, str]:
    """Name -> version of what is installed."""
    lines = pip(python, "list", "--format=freeze").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def install(python: str) -> None:
    """Every line of requirements.txt, each alone; AssertionError if one fails or breaks something."""
    before, faults = versions(python), set(pip(python, "check", fails=True).splitlines())
    for line in wanted():
        pip(python, "install", line)
    broken = set(pip(python, "check", fails=True).splitlines()) - faults - {"No broken requirements found."}
    assert not broken, f"pip check: {broken}"
    after = versions(python)
    for name in sorted(after.keys() | before.keys()):
        if before.get(name) != after.get(name):
            print(f"  {name}: {before.get(name, 'not there')} -> {after.get(name, 'gone')}")


def try_demo(comfy: Path) -> None:
    """Start the ComfyUI, train the demo base, save, apply and draw; queue again; AssertionError on whatever fails."""
    graph = {**demo_loader(), **training(), **picture("base ")}
    graph["save"] = node("Darkroom_SaveLoRA", lora=["train", 0], samples=["train", 2], filename="installed")
    graph |= {"apply": apply_lora(), **picture(model=["apply", 0])}
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(Path(folder))
        try:
            loaded = [line for line in server.log().splitlines() if "seconds" in line and PACK_NAME in line]
            assert loaded, server.log()
            assert not any("FAILED" in line for line in loaded), server.log()
            print(*loaded)
            assert server.get("/darkroom/presets")["presets"], "the routes are missing"
            began = time.monotonic()
            shown = server.run(graph)
            print(
                f"  trained and drawn in {time.monotonic() - began:.1f} s: {shown['train']['text'][0].splitlines()[0]}"
            )
            drawn = [server.pixels(shown[name]["images"][0]) for name in ("base picture", "picture")]
            assert not drawn[0].equal(drawn[1]), "the LoRA changes nothing"
            assert (server.base / "models" / "loras" / "installed.safetensors").is_file()
            server.post("/free", {"free_memory": True})
            began = time.monotonic()
            server.run({**demo_loader(), **training()})
            assert time.monotonic() - began < 10, "an unchanged graph trained anew"
        finally:
            server.stop()
            print(*[line for line in server.log().splitlines() if "WARN" in line or "Traceback" in line], sep="\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as-it-is", action="store_true", help="install nothing, only start it and train")
    args = parser.parse_args()
    comfy = find_comfy()
    assert comfy is not None, "no ComfyUI found: set COMFYUI_PATH"
    python = comfy_python(comfy)
    version = (comfy / "comfyui_version.py").read_text(encoding="utf-8").rpartition("=")[2].strip().strip('"')
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    (least,) = re.findall(r'^requires-comfyui = "(.*)"$', project, re.MULTILINE)
    print(f"ComfyUI {version} (the pack asks for {least}), {pip(python, '--version').strip()}")
    if not args.as_it_is:
        install(python)
    found = versions(python)
    print("  " + ", ".join(f"{name} {found.get(name) or found.get(name.replace('-', '_'))}" for name in TOLD))
    try_demo(comfy)
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
