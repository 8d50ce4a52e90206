"""Finding a real ComfyUI and a Chromium, saying loudly when tests went without, and spreading many over the cores."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MOST_PROCESSES = 4
LONG = os.environ.get("DARKROOM_LONG") == "1"
"""Whether long forms are wanted."""


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
    if not LONG:
        reasons["long"] = "a long form: set DARKROOM_LONG=1"
    if find_comfy() is None:
        reasons["host"] = "no ComfyUI found: set COMFYUI_PATH to a checkout"
    if find_chromium() is None:
        reasons["browser"] = "no Chromium found: set CHROMIUM_PATH"
    elif importlib.util.find_spec("playwright") is None:
        reasons["browser"] = "playwright is not installed: pip install -r tests/requirements.txt"
    return reasons


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """The million objects of the libraries are not looked through again: a run collects garbage three times, each of
    which took a quarter of a second, a third of a small run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes test folders: one a core, up to four. Single files are done before a second one would start.

    Each has one thread: more would only wait for each other, and a server and a worker are beside it anyway.
    """
    if not all(Path(argument).is_dir() for argument in config.args):
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return min(os.cpu_count() or 1, MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here; with DARKROOM_REQUIRE_HOST=1 nothing is skipped, so it fails instead."""
    if os.environ.get("DARKROOM_REQUIRE_HOST") == "1":
        return
    reasons = _reasons()
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
                break


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Name what fails at once, and why: of a run that is cut off nobody sees the summary."""
    if not report.failed:
        return None
    kind = "failed" if report.when == "call" else "error"
    crash = getattr(report.longrepr, "reprcrash", None)
    why = crash.message if crash else report.longreprtext
    return kind, f"\n{kind.upper()} {report.nodeid}: {why[:500]}\n", kind.upper()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skipped host is no green host: say so where nobody can miss it.

    Told by the reports, which also come from other processes.
    """
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    left_out = {}
    for marker, reason in _reasons().items():
        if count := sum(reason in why for why in skipped):
            left_out[marker] = f"{count} {marker} tests were skipped: {reason}"
    if "long" in left_out:
        terminalreporter.line(left_out.pop("long"))
    if left_out:
        terminalreporter.section("NOT TESTED IN A REAL COMFYUI", sep="!", red=True, bold=True)
        for what in left_out.values():
            terminalreporter.line(what, red=True)
