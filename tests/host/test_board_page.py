"""The button TensorBoard of the tab Runs: TensorBoard's own page with the run's curves, or what is to be installed."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import find_comfy
from tests.host.accidents import told, wait_for
from tests.host.browser import close_dialogs, open_page
from tests.host.graphs import demo_loader, training
from tests.host.measure import run_id, runs
from tests.host.server import BASE_NAME, ComfyServer, comfy_python
from trainer.events import Step

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
# As in a Python without it: importing it fails, and nothing of it is found.
WITHOUT = "import sys\nsys.modules['tensorboard'] = None\nNODE_CLASS_MAPPINGS = {}\n"


def has_board() -> bool:
    """Whether tensorboard is installed in ComfyUI's Python."""
    comfy = find_comfy()
    assert comfy is not None
    probe = "import importlib.util as u; raise SystemExit(u.find_spec('tensorboard') is None)"
    return subprocess.run([comfy_python(comfy), "-c", probe], check=False).returncode == 0


def trained(comfy: ComfyServer) -> str:
    """A short run."""
    return run_id(comfy.run({**demo_loader(), **training(training_seed=957, validation_images=2, validation_steps=2)}))


def press(page: Page, run: str) -> None:
    """Open the run's line in the tab, and press its button."""
    close_dialogs(page)
    page.locator(".lora-darkroom-runs-tab-button").click()
    line = page.locator(f".darkroom-tab [data-run='{run}']")
    line.locator(".summary").click()
    line.get_by_role("button", name="TensorBoard").click()


def asked(root: str, path: str, **query: str) -> Any:
    """What TensorBoard answers."""
    with urllib.request.urlopen(f"{root}{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return json.load(answer)


def test_the_button_opens_tensorboard_with_the_runs_curves(comfy: ComfyServer):
    if not has_board():
        pytest.skip("tensorboard is not installed in ComfyUI's Python: pip install tensorboard")
    run = trained(comfy)
    with open_page(comfy) as (page, complaints):
        with page.context.expect_page() as opening:
            press(page, run)
        board = opening.value
        status = page.locator(".darkroom-tab [role=status]")
        status.filter(has_text="TensorBoard is at").wait_for()
        address = urllib.parse.urlsplit(str(status.get_by_role("link").get_attribute("href")))
        assert address.hostname == "127.0.0.1"
        root = f"{address.scheme}://{address.netloc}/"
        board.wait_for_url(f"{root}**")
        board.wait_for_function("() => document.title === 'LoRA Darkroom'")
        logs = f"{run}/logs"
        tags = wait_for(lambda: asked(root, "data/plugin/scalars/tags").get(logs), "the run's curves")
        assert "train/loss" in tags
        losses = asked(root, "data/plugin/scalars/scalars", run=logs, tag="train/loss")
        steps = [(one.step, one.loss) for one in told(runs(comfy) / run) if isinstance(one, Step)]
        assert [step for _, step, _ in losses] == [step for step, _ in steps]
        assert [loss for _, _, loss in losses] == pytest.approx([loss for _, loss in steps], rel=1e-6)
        board.get_by_text("/loss", exact=True).first.wait_for()  # a card of its page
        assert board.evaluate("() => window.opener") is None, "a page of another program has no hold on ours"
        assert not complaints


@pytest.mark.long
def test_without_tensorboard_the_page_says_what_to_install(start_comfy: Callable[..., ComfyServer], tmp_path: Any):
    nodes = tmp_path / BASE_NAME / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "no_tensorboard.py").write_text(WITHOUT, encoding="utf-8")
    comfy = start_comfy()
    run = trained(comfy)
    with open_page(comfy) as (page, _):
        press(page, run)
        page.locator(".darkroom-tab, .p-toast").get_by_text("pip install tensorboard").first.wait_for()
        wait_for(lambda: len(page.context.pages) == 1, "the end of the tab that has nothing to show")
