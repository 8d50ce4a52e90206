"""The pictures of a data set in ComfyUI's page: many of them, captions edited and undone, pictures left out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.host.accidents import wait_for
from tests.host.browser import MINUTES, quick, settle
from tests.host.graphs import BARE_DATA, DEMO_DATA, SAILOR_DATA, demo_loader, node, training
from tests.host.measure import planned_run, runs
from tests.host.server import ComfyServer
from tests.host.test_dataset import draw
from tests.host.test_dataset_page import ADD
from tests.host.test_routes import post

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.host, pytest.mark.browser]
MANY = 5000
NAME = "Galerie \u00fc \u6f2b\u753b"
FIRST, SECOND, THIRD = "1 m\u00fcller.png", "2 \u6f2b\u753b.png", "sub/3.png"
SET = """([name, value]) => { const node = app.graph.nodes.find((one) => one.type === "Darkroom_LoadDataset");
  const widget = node.widgets.find((one) => one.name === name);
  widget.value = value; widget.callback?.(value); }"""
VALUE = """name => app.graph.nodes.find((one) => one.type === "Darkroom_LoadDataset")
  .widgets.find((one) => one.name === name).value"""
SCROLL = """async (step) => {
  const grid = document.querySelector(".darkroom-grid"), most = [];
  grid.scrollTop = 0;
  for (let turn = 0; turn < 60; turn += 1) {
    grid.scrollTop += step;
    await new Promise((done) => requestAnimationFrame(done));
    most.push(document.querySelectorAll(".darkroom-tile").length);
  }
  await new Promise((done) => setTimeout(done, 300));
  if (Math.max(...most) >= 150) throw new Error(`${Math.max(...most)} tiles are in the page, not only those in sight`);
}"""
END = "() => { const grid = document.querySelector('.darkroom-grid'); grid.scrollTop = grid.scrollHeight; }"
ORDERED = """() => {
  const names = [...document.querySelectorAll(".darkroom-tile")].map((one) => one.item.name);
  return names.every((name, index) => !index || names[index - 1] < name);
}"""
OFTEN = """async (times) => {
  window.dialogs = [];
  const buttons = [...document.querySelectorAll(".darkroom-panel button")];
  const look = buttons.find((one) => one.textContent === "Look at the pictures");
  const until = async (right) => { while (!right()) await new Promise((done) => setTimeout(done, 1)); };
  for (let turn = 0; turn < times; turn += 1) {
    await until(() => look.ariaDisabled !== "true");
    look.click();
    await until(() => document.querySelector("dialog.darkroom-dialog[open] .darkroom-tile"));
    window.dialogs.push(new WeakRef(document.querySelector("dialog.darkroom-dialog")));
    document.querySelector("dialog.darkroom-dialog .close").click();
    await until(() => !document.querySelector("dialog.darkroom-dialog"));
  }
}"""


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """The page with nothing but a Load Dataset in it."""
    page.evaluate(ADD)
    page.locator(".darkroom-panel img").wait_for()
    yield page
    if page.locator("dialog.darkroom-dialog[open]").count():
        page.locator("dialog.darkroom-dialog .close").click()


@pytest.fixture
def data(comfy: ComfyServer) -> Path:
    """Three pictures: two with a caption file, one with a row of a table."""
    folder = comfy.base / "input" / f"{NAME} {uuid.uuid4().hex[:8]}"  # a history of its own
    for number, name in enumerate((FIRST, SECOND, THIRD)):
        draw(folder / name, 96 + 64 * number, 128, seed=number + 50)
    (folder / "1 m\u00fcller.txt").write_bytes(b"\xef\xbb\xbfa red house, left \r\n")
    (folder / "2 \u6f2b\u753b.caption").write_bytes("\u7ea2\u8272\u7684\u623f\u5b50\n".encode())
    (folder / "metadata.csv").write_bytes(b"id;filename;prompt\r\n7; 3 ;a red car\r\n")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with very many small pictures."""
    folder = tmp_path_factory.mktemp("many")
    colours = np.random.default_rng(0).integers(0, 256, (MANY, 3), dtype=np.uint8)
    for number, colour in enumerate(colours):
        pixels = np.full((64, 64 + number % 3 * 32, 3), colour, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=0)
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def look(page: Page, **values: str) -> None:
    """Chooses a folder, and opens its pictures."""
    for name, value in values.items():
        page.evaluate(SET, [name, value])
    page.get_by_role("button", name="Look at the pictures").click()
    page.locator("dialog.darkroom-dialog[open] .darkroom-tile").first.wait_for()


def caption(page: Page, name: str) -> Any:
    return page.get_by_label(f"Caption of {name}", exact=True)


def said(page: Page, text: str) -> None:
    page.locator(".darkroom-dialog .status", has_text=text).wait_for(timeout=15_000)


def test_very_many_pictures_are_scrolled_through(page: Page, many: Path):
    look(page, path=str(many))
    settle(page)
    for step in (100, 2000):
        longest = quick(page, partial(page.evaluate, SCROLL, step))
        assert longest.ms < 50, longest
    page.evaluate(END)
    page.wait_for_function(ORDERED)
    last = page.get_by_role("gridcell", name=f"{MANY - 1:05d}.png")
    last.wait_for()
    page.wait_for_function("() => [...document.querySelectorAll('.darkroom-tile img')].at(-1).naturalWidth === 192")
    grid = page.get_by_role("grid", name="Pictures of the data set")
    assert int(str(grid.get_attribute("aria-rowcount"))) * int(str(grid.get_attribute("aria-colcount"))) >= MANY
    page.get_by_label("Find in names and captions").fill("04321")
    page.wait_for_function("() => document.querySelector('.darkroom-grid').ariaRowCount === '1'")
    assert page.get_by_role("gridcell").count() == 1
    assert page.get_by_text("1 shown").is_visible()


def test_captions_are_edited_in_their_files_and_undone(page: Page, data: Path):
    look(page, folder=data.name)
    before = everything(data)
    first = caption(page, FIRST)
    first.fill("a blue h\u00e4uschen, \u84dd")
    first.press("Control+Enter")
    said(page, "Saved to 1 m\u00fcller.txt")
    after = "\ufeffa blue h\u00e4uschen, \u84dd \r\n".encode()
    assert everything(data) == {**before, "1 m\u00fcller.txt": after}
    third = caption(page, THIRD)
    third.fill('a "blue"; car')
    page.locator(".darkroom-dialog h2").click()  # another place: it is left
    said(page, "Saved to metadata.csv")
    row = b'id;filename;prompt\r\n7; 3 ;"a ""blue""; car"\r\n'
    assert everything(data) == {**before, "1 m\u00fcller.txt": after, "metadata.csv": row}

    second = caption(page, SECOND)
    second.fill("never")
    second.press("Escape")
    assert second.input_value() == "\u7ea2\u8272\u7684\u623f\u5b50"
    assert page.locator("dialog.darkroom-dialog[open]").count() == 1

    page.keyboard.press("Control+z")
    said(page, f"Undone: {THIRD}")
    assert everything(data) == {**before, "1 m\u00fcller.txt": after}
    page.get_by_role("button", name="Undo").click()
    said(page, f"Undone: {FIRST}")
    assert everything(data) == before
    page.wait_for_function(
        "text => document.querySelector('.darkroom-tile textarea').value === text", arg="a red house, left"
    )
    assert page.get_by_role("button", name="Undo").is_disabled()
    page.get_by_role("button", name="Redo").click()
    said(page, f"Done again: {FIRST}")
    assert everything(data)["1 m\u00fcller.txt"] == after
    page.get_by_role("gridcell", name=FIRST).focus()
    page.keyboard.press("Control+z")
    said(page, f"Undone: {FIRST}")
    assert everything(data) == before
    assert page.evaluate("() => app.graph.nodes.length") == 1, "Ctrl+Z was the dialog's alone"

    first.fill("mine")
    (data / "1 m\u00fcller.txt").write_text("theirs", "utf-8")
    first.press("Control+Enter")
    said(page, "its caption was changed meanwhile: theirs")
    assert (data / "1 m\u00fcller.txt").read_text("utf-8") == "theirs"
    assert first.input_value() == "mine", "what was typed is not lost"


def test_what_was_typed_is_saved_though_the_gallery_is_closed_at_once(page: Page, data: Path):
    before = everything(data)
    closings = {
        "a click": lambda: page.locator("dialog.darkroom-dialog .close").click(),
        "a key": lambda: page.locator("dialog.darkroom-dialog .close").press("Enter"),
        "a script": lambda: page.evaluate("() => document.querySelector('dialog.darkroom-dialog').close()"),
    }
    for how, close in closings.items():
        look(page, folder=data.name)
        caption(page, FIRST).fill(f"closed by {how}")
        close()
        page.locator("dialog.darkroom-dialog").wait_for(state="detached")
        after = f"\ufeffclosed by {how} \r\n".encode()
        wait_for(lambda after=after: (data / "1 m\u00fcller.txt").read_bytes() == after, f"what was typed before {how}")
        assert everything(data) == {**before, "1 m\u00fcller.txt": after}


def test_what_is_left_out_while_the_pictures_are_asked_for_stays_out(page: Page, data: Path):
    look(page, path=str(data))
    held: list[Route] = []
    page.route("**/darkroom/dataset/pictures", lambda route: held.append(route))
    page.get_by_role("gridcell", name=FIRST).press(" ")
    while not held:  # what the reload after it asks, with the first left out
        page.wait_for_timeout(50)
    page.get_by_role("gridcell", name=SECOND).press(" ")
    with page.expect_response("**/darkroom/dataset/pictures"):
        held.pop(0).continue_()
    page.wait_for_timeout(300)
    page.get_by_role("gridcell", name=THIRD).press(" ")
    assert page.evaluate(VALUE, "excluded").split("\n") == [FIRST, SECOND, THIRD]
    page.unroute("**/darkroom/dataset/pictures")
    said(page, f"{THIRD} is left out")


def test_nothing_is_replaced_that_was_not_seen_before(page: Page, data: Path):
    look(page, path=str(data))
    before = everything(data)
    page.get_by_role("button", name="Find and replace").click()
    find = page.get_by_label("Find", exact=True)
    find.fill("red")
    page.get_by_text("2 captions").first.wait_for()
    find.fill("r")
    find.press("Enter")
    page.wait_for_timeout(500)
    assert everything(data) == before


def test_words_are_found_and_replaced_as_one_step(page: Page, data: Path):
    look(page, folder=data.name)
    before = everything(data)
    page.get_by_role("button", name="Find and replace").click()
    page.get_by_label("Find", exact=True).fill("red")
    page.get_by_label("Replace by", exact=True).fill("green")
    page.get_by_text("Will change 2 captions, in 2 places").wait_for()
    assert everything(data) == before, "a preview writes nothing"
    page.get_by_role("button", name="Replace", exact=True).click()
    said(page, "Replaced in 2 captions, 2 times")
    after = {"1 m\u00fcller.txt": b"\xef\xbb\xbfa green house, left \r\n"}
    after["metadata.csv"] = b"id;filename;prompt\r\n7; 3 ;a green car\r\n"
    assert everything(data) == {**before, **after}
    assert caption(page, THIRD).input_value() == "a green car"
    page.get_by_role("button", name="Undo").click()
    said(page, "Undone: red")
    assert everything(data) == before

    # Of the pictures that are shown alone.
    page.locator(".darkroom-dialog aside button", has_text="car").click()
    page.get_by_text("1 shown").wait_for()
    page.get_by_text("Will change 1 caption, in 1 places").wait_for()
    assert page.get_by_role("gridcell").count() == 1
    page.get_by_role("button", name="Show all").click()
    page.get_by_text("Will change 2 captions").wait_for()


def test_a_picture_is_left_out_and_its_file_stays(comfy: ComfyServer, page: Page, data: Path):
    look(page, folder=data.name)
    before = everything(data)
    page.get_by_label(f"Train on {SECOND}").uncheck()
    said(page, f"{SECOND} is left out; its file stays.")
    page.get_by_role("gridcell", name=THIRD).focus()
    page.keyboard.press("Space")
    said(page, f"{THIRD} is left out")
    assert page.evaluate(VALUE, "excluded") == f"{SECOND}\n{THIRD}"
    assert page.get_by_text("2 left out").is_visible()
    page.keyboard.press("Space")
    said(page, f"{THIRD} is trained")
    assert page.evaluate(VALUE, "excluded") == SECOND
    page.locator("dialog.darkroom-dialog .close").click()
    page.locator(".darkroom-panel", has_text="2 images").filter(has_text="1 left out").wait_for()
    assert everything(data) == before

    graph = {**demo_loader(), **training(folder=data.name, training_seed=4711)}
    graph["data"]["inputs"]["excluded"] = page.evaluate(VALUE, "excluded")
    graph["shown"] = node("Darkroom_DatasetImages", dataset=["data", 0], size="original", resolution=64, limit=0)
    graph["texts"] = node("DarkroomProbe", task="plain", path="", anything=["shown", 1])
    seen = comfy.run({name: graph[name] for name in ("data", "shown", "texts")})["texts"]["seen"]
    assert seen == ["a red house, left", "a red car"]
    images = (runs(comfy) / planned_run(comfy, {k: v for k, v in graph.items() if k not in ("shown", "texts")})) / (
        "dataset.jsonl"
    )
    assert len(images.read_text("utf-8").splitlines()) == 2


def test_findings_crops_and_keys(page: Page, data: Path):
    (data / "2 \u6f2b\u753b.caption").unlink()
    look(page, folder=data.name)
    tile = page.get_by_role("gridcell", name=SECOND)
    assert tile.locator(".badge", has_text="no caption").get_attribute("title")
    assert "trained at" in str(tile.get_attribute("aria-label"))
    page.locator(".darkroom-dialog aside button", has_text="no caption").click()
    page.get_by_text("1 shown").wait_for()
    page.locator(".darkroom-dialog aside button", has_text="no caption").click()
    assert page.locator(".darkroom-tile .crop:visible").count() == 0
    page.get_by_role("spinbutton", name="Trained at").fill("64")
    page.keyboard.press("Tab")
    page.get_by_label("Show crops").check()
    page.wait_for_function("() => document.querySelector('.darkroom-tile .bucket').textContent === '64\u00d764'")
    shares = page.evaluate(
        """() => [...document.querySelectorAll(".darkroom-tile .crop")].map((one) => {
          const { width, height } = one.getBoundingClientRect(), whole = one.parentElement.getBoundingClientRect();
          return [width / whole.width, height / whole.height]; })"""
    )
    # 96, 160, and 224 pixels wide, 128 high, trained at 64x64.
    assert np.allclose(shares, [[1, 64 / 85], [64 / 80, 1], [64 / 112, 1]], atol=0.02)

    named = page.evaluate("() => [...document.querySelectorAll('.darkroom-tile')].map((one) => one.item.name)")
    assert named == [FIRST, SECOND, THIRD]
    page.get_by_role("gridcell", name=FIRST).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.ariaLabel").startswith(SECOND)
    page.keyboard.press("End")
    assert page.evaluate("() => document.activeElement.ariaLabel").startswith(THIRD)
    page.keyboard.press("l")
    page.wait_for_function("() => document.querySelector('.darkroom-large img').naturalWidth === 224")
    page.keyboard.press("ArrowLeft")
    page.locator(".darkroom-large", has_text=SECOND).wait_for()
    page.keyboard.press("Escape")
    page.wait_for_function("name => document.activeElement.ariaLabel?.startsWith(name)", arg=SECOND)
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.ariaLabel") == f"Caption of {SECOND}"
    named = page.evaluate(
        """() => [...document.querySelectorAll(".darkroom-dialog :is(button, input, textarea, [role])")]
          .filter((one) => one.checkVisibility() && !one.labels?.length && one.role !== "row" && one.role !== "status"
            && !(one.ariaLabel || one.textContent.trim())).map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert named == [], "whatever can be reached has a name"


def test_the_demo_is_looked_at_and_not_changed(page: Page):
    look(page, folder=BARE_DATA)
    page.get_by_text("the demo's pictures and captions are never changed").wait_for()
    assert page.get_by_text("drop pictures of your own on Load Dataset").is_visible()
    assert not page.locator(".darkroom-tile textarea").first.is_editable()
    assert page.get_by_role("button", name="Undo").count() == 0


def test_samples_of_text_are_read(page: Page):
    page.evaluate(SET, ["folder", SAILOR_DATA])
    page.get_by_role("button", name="Read the samples").click()
    page.locator("dialog.darkroom-dialog[open] .sample").first.wait_for()
    assert page.locator(".sample").count() == 40
    assert page.locator(".sample").first.locator(".text").count() >= 2


@MINUTES
def test_opened_and_closed_again_and_again_nothing_is_left(page: Page, data: Path):
    page.evaluate(SET, ["folder", data.name])
    page.locator(".darkroom-panel", has_text="3 images").wait_for()
    devtools = page.context.new_cdp_session(page)
    page.evaluate(OFTEN, 100)
    for _ in range(3):
        devtools.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(200)
    # ComfyUI's own page gains listeners meanwhile: so it is told by the dialogs, which whatever is left would hold.
    assert page.evaluate("() => dialogs.filter((one) => one.deref()).length") <= 1


def test_what_is_not_the_clients_is_not_changed(comfy: ComfyServer, data: Path, tmp_path: Path):
    away = {"X-Forwarded-For": "192.0.2.7"}
    draw(tmp_path / "a.png", seed=99)
    new: dict[str, Any] = {"dataset": {"path": str(tmp_path)}, "image": "a.png", "before": [], "after": ["new"]}
    status, answer = post(comfy, "/darkroom/dataset/caption", new, **away)
    assert status == 400
    assert "lies outside of the folders that another machine may use" in answer["error"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]

    (data / "4.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "4.txt").write_text("elsewhere", "utf-8")
    (data / "4.txt").symlink_to(tmp_path / "4.txt")
    new |= {"dataset": {"folder": data.name}, "image": "4.png", "before": ["elsewhere"]}
    assert post(comfy, "/darkroom/dataset/caption", new, **away)[0] == 400
    assert (tmp_path / "4.txt").read_text("utf-8") == "elsewhere"
    for name in ("4.png", "4.txt"):
        (data / name).unlink()

    for folder in (DEMO_DATA, BARE_DATA):
        asked = {"dataset": {"folder": folder}, "find": "a", "put": "b", "preview": False}
        status, answer = post(comfy, "/darkroom/dataset/replace", asked)
        assert status == 400
        assert "are never changed" in answer["error"]
