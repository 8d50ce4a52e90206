"""Load Dataset in ComfyUI's page: files dropped or chosen become a folder and are shown, also after a reload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.browser import wait_until_ready
from tests.host.server import ComfyServer
from tests.host.test_dataset import draw, two

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
NAME = "Mein B\u00fcro \u6f2b\u753b \U0001f408"
ADD = """() => {
  const node = LiteGraph.createNode("Darkroom_LoadDataset");
  node.pos = [60, 60];
  app.graph.add(node);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [120, 80];
  app.canvas.setDirty(true, true);
  return node.id;
}"""
MIDDLE = """() => {
  const node = app.graph.nodes.find((one) => one.type === "Darkroom_LoadDataset");
  const { scale, offset } = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
  return [box.left + (node.pos[0] + offset[0] + 40) * scale, box.top + (node.pos[1] + offset[1] - 15) * scale];
}"""
CHOSEN = """() => app.graph.nodes.find((one) => one.type === "Darkroom_LoadDataset")
  .widgets.find((one) => one.name === "folder").value"""
KEPT = "text => Object.values(localStorage).some((one) => one.includes(text))"  # the graph, for the next time


@pytest.fixture
def page(page: Page) -> Page:
    """The page with nothing but a Load Dataset in it."""
    page.evaluate(ADD)
    page.locator(".darkroom-panel img").wait_for()
    return page


def drop(page: Page, *paths: Path) -> None:
    """Files or folders, as if from the desktop's file manager, onto the node's title."""
    x, y = page.evaluate(MIDDLE)
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
        page.wait_for_timeout(150)


def said(page: Page, text: str) -> None:
    page.locator(".darkroom-panel", has_text=text).wait_for(timeout=15_000)


def shown(page: Page) -> str:
    """The contact sheet's address, once it is loaded."""
    page.wait_for_function("() => document.querySelector('.darkroom-panel img')?.naturalWidth > 300")
    return str(page.locator(".darkroom-panel img").get_attribute("src"))


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_a_dropped_folder_is_a_data_set(comfy: ComfyServer, page: Page, tmp_path: Path):
    first = shown(page)  # the demo's
    source = two(tmp_path / NAME)
    draw(source / "sub \u6f2b" / "deeper.png", seed=5)
    drop(page, source)
    said(page, "5 files are now in")
    page.wait_for_function(f"() => !({CHOSEN})().startsWith('(')")
    chosen = page.evaluate(CHOSEN)
    assert chosen.startswith(NAME)
    assert names(comfy.base / "input" / chosen) == names(source)
    said(page, "3 images (")
    page.wait_for_function("first => !document.querySelector('.darkroom-panel img').src.endsWith(first)", arg=first)
    sheet = shown(page)

    drop(page, source)
    page.wait_for_function(f"chosen => ({CHOSEN})() !== chosen", arg=chosen)
    again = page.evaluate(CHOSEN)
    assert names(comfy.base / "input" / again) == names(source)
    assert names(comfy.base / "input" / chosen) == names(source)
    said(page, again)

    page.wait_for_function(KEPT, arg=again)
    page.reload(wait_until="domcontentloaded")
    wait_until_ready(page)
    assert page.evaluate(CHOSEN) == again
    said(page, "3 images (")
    assert shown(page) != sheet  # another folder, so another text and picture
    page.screenshot(path=str(tmp_path / "dropped.png"))


def test_dropped_and_chosen_files_are_a_data_set(comfy: ComfyServer, page: Page, tmp_path: Path):
    source = two(tmp_path / "some files")
    (source / "notes.pdf").write_bytes(b"no picture")
    (source / "a..b.png").write_bytes((source / "red_house \u00fc0.png").read_bytes())
    drop(page, *source.iterdir())
    said(page, "notes.pdf: no picture, no caption")
    page.wait_for_function(f"() => !({CHOSEN})().startsWith('(')")
    dropped = page.evaluate(CHOSEN)
    assert dropped.startswith("dataset-20")
    assert set(names(comfy.base / "input" / dropped)) == set(names(source)) - {"notes.pdf"}

    page.get_by_placeholder("name (optional)").fill("Mein: Stil")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files...").click()
    chooser.value.set_files([file for file in source.iterdir() if file.suffix != ".pdf"])
    page.wait_for_function(f"dropped => ({CHOSEN})() !== dropped", arg=dropped)
    chosen = page.evaluate(CHOSEN)
    assert chosen.startswith("Mein Stil")
    assert page.get_by_placeholder("name (optional)").input_value() == ""
    assert names(comfy.base / "input" / chosen) == names(comfy.base / "input" / dropped)
    said(page, "3 images (")
    page.screenshot(path=str(tmp_path / "chosen.png"))

    drop(page, source / "notes.pdf")
    page.get_by_text("there is neither a picture among the files").first.wait_for()
    assert page.evaluate(CHOSEN) == chosen


def test_dropped_text_is_a_data_set_without_a_picture(comfy: ComfyServer, page: Page, tmp_path: Path):
    file = tmp_path / "answers \u6f2b.jsonl"
    file.write_text('{"prompt": "Who?", "completion": "Me."}\n', "utf-8")
    drop(page, file)
    said(page, "1 sample: 1 conversation with 1 answer")
    said(page, "assistant: Me.")
    assert page.locator(".darkroom-panel img").is_hidden()
    assert names(comfy.base / "input" / page.evaluate(CHOSEN)) == [file.name]


def test_a_file_that_is_too_large_is_named(comfy: ComfyServer, page: Page, tmp_path: Path):
    limit = """bytes => { const { api } = comfyAPI.api, flags = api.serverFeatureFlags, before = flags.value;
      flags.value = { ...before, max_upload_size: bytes };
      return before.max_upload_size; }"""
    source = two(tmp_path / "large")
    draw(source / "too large.png", 300, 300, seed=9)
    usual = page.evaluate(limit, 50_000)
    try:
        drop(page, source)
        said(page, "too large.png: larger than 0.048 MB")
        said(page, "2 images (")
    finally:
        page.evaluate(limit, usual)
    assert "too large.png" not in names(comfy.base / "input" / page.evaluate(CHOSEN))


def test_a_typed_path_is_looked_at_before_run(comfy: ComfyServer, page: Page, tmp_path: Path):
    source = two(tmp_path / NAME)
    set_path = """path => { const node = app.graph.nodes.find((one) => one.type === "Darkroom_LoadDataset");
      node.widgets.find((one) => one.name === "path").value = path; }"""
    page.evaluate(set_path, str(source))
    said(page, "2 images (1 at 64x64")
    page.evaluate(set_path, str(source / "gone"))
    said(page, "gone does not exist")
    assert page.locator(".darkroom-panel img").is_hidden()
    page.evaluate(set_path, str(source))
    page.get_by_role("button", name="Open folder").click()
    page.get_by_text("it cannot be opened").first.wait_for()
    saved = page.evaluate("() => [app.graph.serialize(), 0]")[0]
    assert len(saved["nodes"][0]["widgets_values"]) == 6, "the panel is in no file"


def test_wired_pictures_are_shown_after_run_and_after_a_reload(page: Page, tmp_path: Path):
    page.evaluate(
        """() => {
          const data = app.graph.nodes[0], add = (type, x, y) => {
            const node = LiteGraph.createNode(type);
            node.pos = [x, y];
            app.graph.add(node);
            return node;
          };
          const made = add("EmptyImage", 560, 60), pictures = add("Darkroom_DatasetImages", 560, 300);
          made.widgets.find((one) => one.name === "batch_size").value = 3;
          const shown = add("PreviewImage", 900, 60);
          made.connect(0, data, data.inputs.findIndex((one) => one.name === "images"));
          data.connect(0, pictures, 0);
          pictures.connect(0, shown, 0);
        }"""
    )
    said(page, "What is wired is shown when the graph has run.")
    page.get_by_role("button", name="Run", exact=True).first.click()
    said(page, "3 images (3 at 512x512), 0 with captions")
    shown(page)
    page.mouse.click(1200, 900)  # the page keeps its graph after a click
    page.wait_for_function(KEPT, arg="EmptyImage")
    page.reload(wait_until="domcontentloaded")
    wait_until_ready(page)
    page.screenshot(path=str(tmp_path / "wired.png"))
    said(page, "3 images (3 at 512x512)")
    shown(page)
