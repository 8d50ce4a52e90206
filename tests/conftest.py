"""Finding a real ComfyUI and a Chromium, and saying loudly when tests went without."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def find_comfy() -> Path | None:
    """The ComfyUI to test in: COMFYUI_PATH, else ~/comfy/ComfyUI, else the one this pack is installed in."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        places = [Path(named).expanduser()]
    else:
        places = [Path.home() / "comfy" / "ComfyUI", REPO.parent.parent]
    for place in places:
        if (place / "main.py").is_file() and (place / "comfy" / "sd.py").is_file():
            return place.resolve()
    return None


def find_chromium() -> str | None:
    """A Chromium or Chrome that is installed here: CHROMIUM_PATH, else the first on the PATH."""
    named = os.environ.get("CHROMIUM_PATH")
    if named:
        return named if Path(named).is_file() else None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _reasons() -> dict[str, str]:
    """Why the tests with a marker cannot run here: marker -> reason."""
    reasons = {}
    if find_comfy() is None:
        reasons["host"] = "no ComfyUI found: set COMFYUI_PATH to a checkout"
    if find_chromium() is None:
        reasons["browser"] = "no Chromium found: set CHROMIUM_PATH"
    elif importlib.util.find_spec("playwright") is None:
        reasons["browser"] = "playwright is not installed: pip install -r tests/requirements.txt"
    return reasons


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here; with DARKROOM_REQUIRE_HOST=1 nothing is skipped, so it fails instead."""
    reasons = _reasons()
    left_out: dict[str, int] = {}
    if os.environ.get("DARKROOM_REQUIRE_HOST") != "1":
        for item in items:
            for marker, reason in reasons.items():
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
                    left_out[marker] = left_out.get(marker, 0) + 1
                    break
    config.stash[_LEFT_OUT] = {f"{count} {marker} tests": reasons[marker] for marker, count in left_out.items()}


_LEFT_OUT = pytest.StashKey[dict[str, str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A skipped host is no green host: say so where nobody can miss it."""
    left_out = config.stash.get(_LEFT_OUT, {})
    if left_out:
        terminalreporter.section("NOT TESTED IN A REAL COMFYUI", sep="!", red=True, bold=True)
        for what, why in left_out.items():
            terminalreporter.line(f"{what} were skipped: {why}", red=True)
