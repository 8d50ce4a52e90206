"""The pictures of docs/pages: Train LoRA and Training Sweep while they train, and after it, on the demo's base."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.conftest import REPO
from tests.host.browser import close_dialogs, open_page, press_run, settle
from tests.host.graphs import demo_loader, training
from tests.host.measure import empty_queue
from tests.host.server import ComfyServer
from tests.host.test_background import graph as in_background
from tests.host.test_background_page import LABEL, numbered
from tests.host.test_training_sweep import sweep

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDER = REPO / "docs" / "pages"
TRAIN, SWEEP = "Darkroom_TrainLoRA", "Darkroom_TrainingSweep"
PROMPTS = "a red circle, neon\na blue house, neon\na yellow star, neon"
LENGTH: dict[str, Any] = {
    "epochs": 40, "save_steps": 20, "sample_every": 20, "validation_images": 2, "validation_steps": 20,
}  # fmt: skip
OPEN = """async graph => {
  await app.loadApiJson(graph, "pages");
  await app.loadGraphData({ ...app.graph.serialize(), id: crypto.randomUUID() });
}"""
LOOK_AT = """type => {
  const node = app.graph.nodes.find((one) => one.type === type), canvas = app.canvas;
  canvas.ds.scale = 1;
  canvas.ds.offset = [200 - node.pos[0], 120 - node.pos[1]];
  canvas.deselectAll?.();
  canvas.setDirty(true, true);
}"""
BOX = """type => {
  const node = app.graph.nodes.find((one) => one.type === type), { scale, offset } = app.canvas.ds;
  const box = app.canvas.canvas.getBoundingClientRect();
  return [box.left + (node.pos[0] + offset[0]) * scale, box.top + (node.pos[1] - 30 + offset[1]) * scale,
          node.size[0] * scale, (node.size[1] + 30) * scale];
}"""
PALETTE = "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)"
_seeds = itertools.count(7001)


def write_pages(comfy: ComfyServer) -> None:
    """All of them; a run each, of a minute or two."""
    FOLDER.mkdir(exist_ok=True)
    for nodes_2 in (False, True):
        _training(comfy, nodes_2)
    _background(comfy)
    _sweep(comfy)


@contextmanager
def _opened(comfy: ComfyServer, graph: dict[str, Any], nodes_2: bool = False) -> Iterator[Page]:
    with open_page(comfy, 1900, 1400, nodes_2=nodes_2) as (page, _):
        close_dialogs(page)
        page.evaluate(PALETTE, "dark")
        page.evaluate(OPEN, numbered(graph))
        settle(page)
        yield page


def _drawn(page: Page, steps: int) -> None:
    """Until the strip has the samples of so many steps, and trains on."""
    page.wait_for_function(
        """steps => document.querySelectorAll(".darkroom-strip .film > *").length >= steps
          && document.querySelector(".darkroom-training .head").textContent.includes("Training \u00b7")""",
        arg=steps,
        timeout=400_000,
    )


def _node(page: Page, kind: str, name: str) -> None:
    """A picture of a node as it is now."""
    page.evaluate(LOOK_AT, kind)
    page.mouse.move(1700, 1390)  # where nothing shows a hint
    page.wait_for_timeout(1000)
    left, top, width, height = page.evaluate(BOX, kind)
    clip: Any = {"x": left - 8, "y": top - 8, "width": width + 16, "height": height + 16}
    page.screenshot(path=str(FOLDER / f"{name}.png"), clip=clip)


def _in_both_palettes(page: Page, take: Callable[[str], None]) -> None:
    for palette in ("light", "dark"):
        page.evaluate(PALETTE, palette)
        page.wait_for_timeout(500)
        take(palette)


def _finished(page: Page) -> None:
    page.locator(".darkroom-training .head", has_text="Finished").wait_for(timeout=400_000)
    page.wait_for_timeout(2000)


def _training(comfy: ComfyServer, nodes_2: bool) -> None:
    """While it trains, and when it is done."""
    graph = {**demo_loader(), **training(training_seed=next(_seeds), sample_prompts=PROMPTS, **LENGTH)}
    graph["config"]["inputs"]["sample_inference_steps"] = 8
    name = "nodes2" if nodes_2 else "classic"
    with _opened(comfy, graph, nodes_2) as page:
        press_run(page)
        _drawn(page, 3)
        _node(page, TRAIN, f"train-running-{name}")
        _finished(page)
        _in_both_palettes(page, lambda palette: _node(page, TRAIN, f"train-{name}-{palette}"))


def _background(comfy: ComfyServer) -> None:
    graph = in_background(**{**LENGTH, "training_seed": next(_seeds)})
    with _opened(comfy, graph) as page:
        page.get_by_label(LABEL).check()
        press_run(page)
        _drawn(page, 2)
        _node(page, TRAIN, "background")
    empty_queue(comfy)


def _sweep(comfy: ComfyServer) -> None:
    graph = sweep("2, 8", save_steps=12, sample_every=12, validation_steps=12)
    del graph["save"]
    graph["config"]["inputs"] |= {"training_seed": next(_seeds), "epochs": 20}
    with _opened(comfy, graph) as page:
        press_run(page)
        _drawn(page, 2)
        _node(page, SWEEP, "sweep")
        page.locator(".darkroom-said").wait_for(timeout=400_000)
        _node(page, SWEEP, "sweep-finished")
