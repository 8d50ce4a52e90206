"""ComfyUI's page in Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.conftest import find_chromium
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

QUIET = (
    "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-sync", "--disable-background-networking",
    "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
NOISE = (  # what ComfyUI's page says of itself, or when there is no internet
    "Failed to load resource", "Content Security Policy", "is deprecated", "before initialization", "Fetch API",
    "[Settings]", "Autofocus",
)  # fmt: skip

# Half a minute and more in either renderer: in the classic one it is a long form.
MINUTES = pytest.mark.parametrize(
    "nodes_2", [pytest.param(False, marks=pytest.mark.long), True], ids=["classic", "nodes 2.0"], indirect=True,
    scope="module",
)  # fmt: skip

# On a busy machine this takes as long as it takes; a fixed time would be too short there, and too long elsewhere.
SETTLED = """async () => {
  const idle = () => new Promise((done) => requestIdleCallback(done, { timeout: 5000 }));
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  for (let quiet = 0; quiet < 5; quiet++) { await frame(); await idle(); await new Promise((d) => setTimeout(d, 50)); }
}"""


class Complaints(list[str]):
    """Errors and warnings of the page that are not ComfyUI's usual ones."""

    def take(self, kind: str, text: str) -> None:
        """One message of the console."""
        if kind in ("error", "warning") and not any(noise in text for noise in NOISE):
            self.append(f"{kind}: {text}")


@contextmanager
def open_page(
    comfy: ComfyServer, width: int = 1900, height: int = 1100, *, nodes_2: bool = False
) -> Iterator[tuple[Page, Complaints]]:
    """The page, ready, in one of its renderers; and what it complains about."""
    from playwright.sync_api import TimeoutError as Late
    from playwright.sync_api import sync_playwright

    complaints = Complaints()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(QUIET))
        size: ViewportSize = {"width": width, "height": height}
        try:
            try:
                page = _ready(browser.new_context(viewport=size).new_page(), comfy, complaints, nodes_2)
            except Late:  # a machine that was at something else for a minute: once more
                browser.contexts[0].close()
                complaints.clear()
                page = _ready(browser.new_context(viewport=size).new_page(), comfy, complaints, nodes_2)
            yield page, complaints
        finally:
            browser.close()


def _ready(page: Page, comfy: ComfyServer, complaints: Complaints, nodes_2: bool) -> Page:
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.take(message.type, message.text))
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.goto(comfy.url, wait_until="domcontentloaded")
    wait_until_ready(page)
    # While a graph runs, the page pulses: without a graphics card that takes a third of a core.
    page.add_style_tag(content="* { animation: none !important }")
    # The server remembers it: what another page chose must not count here.
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2)
    page.wait_for_function("on => LiteGraph.vueNodesMode === on", arg=nodes_2)
    settle(page)
    return page


def wait_until_ready(page: Page) -> None:
    """Until the page has its graph and its extensions, and shows them."""
    page.wait_for_function("() => window.app?.vueAppReady && window.app.extensionManager?.spinner === false")
    settle(page)


def settle(page: Page) -> None:
    """Until the page has done what it has begun: it has drawn, and has had nothing to do for a while."""
    page.evaluate(SETTLED)


def close_dialogs(page: Page) -> None:
    """A new user is greeted with the template browser."""
    for _ in range(3):
        if page.locator("[role=dialog]").count() == 0:
            return
        page.keyboard.press("Escape")
        settle(page)


def new_graph(page: Page) -> None:
    """An empty graph in a tab of its own: one that is only cleared gives new nodes the values of former ones."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => app.graph.nodes.length === 0")
    settle(page)


def nodes_of(page: Page) -> list[dict[str, Any]]:
    """Type, title, mode and errors of every node of the open graph."""
    return page.evaluate(
        "() => window.app.graph.nodes.map(n => ({id: n.id, type: n.type, title: n.title, missing: !!n.has_errors}))"
    )


def open_template(page: Page, name: str) -> None:
    """By clicks: the template browser, our pack in it, the template."""
    if page.locator("[role=dialog]").count() == 0:
        page.get_by_role("button", name="Templates").first.click()
    page.get_by_text("LoRA-Darkroom", exact=True).first.click()
    page.get_by_text(name).first.click()
    page.wait_for_function("() => window.app.graph.nodes.some(n => n.type === 'Darkroom_TrainLoRA')")
    settle(page)


def overlaps(page: Page) -> list[list[str]]:
    """Titles of nodes of the open graph that lie over each other, two by two."""
    return page.evaluate("""() => {
      const boxes = app.graph.nodes.map(({ title, pos: [x, y], size: [width, height] }) =>
        ({ title, left: x, right: x + width, top: y - LiteGraph.NODE_TITLE_HEIGHT, bottom: y + height }));
      return boxes.flatMap((a, index) => boxes.slice(index + 1)
        .filter((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        .map((b) => [a.title, b.title]));
    }""")


class Task(NamedTuple):
    """A task of the page's main thread. Args: ms: of its own work. of: the longest parts of it, with theirs."""

    ms: float
    of: dict[str, float]


@contextmanager
def tasks(page: Page) -> Iterator[list[Task]]:
    """The longest task of the page's main thread, by the time that it had the processor: what else the machine does is
    left out. Filled when the context ends."""
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline", "v8", "__metadata"])
    longest: list[Task] = []
    try:
        yield longest
    finally:
        events = json.loads(browser.stop_tracing())["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e.get("args", {}).get("name") == "CrRendererMain"}
    mine = [e for e in events if (e["pid"], e["tid"]) in named and "tdur" in e]
    found = [e for e in mine if "RunTask" in e["name"]]
    assert len(found) > 100, "the trace tells of tasks"
    worst = max(found, key=lambda e: e["tdur"])
    inside = [e for e in mine if e["tid"] == worst["tid"] and worst["ts"] <= e["ts"] < worst["ts"] + worst["dur"]]
    parts = sorted(inside, key=lambda e: -e["tdur"])[:12]
    longest.append(Task(worst["tdur"] / 1000, {_part(e): e["tdur"] / 1000 for e in parts if e is not worst}))


def quick(page: Page, act: Callable[[], object], ms: float = 50) -> Task:
    """The longest task of the main thread while something is done; if that took long, the best of three: what else
    a machine is at may add to a task, and never takes away."""
    found: list[Task] = []
    while not found or (found[-1].ms >= ms and len(found) < 3):
        with tasks(page) as longest:
            act()
        found += longest
    return min(found, key=lambda one: one.ms)


def _part(event: dict[str, Any]) -> str:
    data = event.get("args", {}).get("data") or {}
    where = f"{str(data.get('url', '')).rpartition('/')[2]}:{data.get('lineNumber')}" if "url" in data else ""
    return f"{event['name']} {data.get('functionName', '')} {where}".strip()


def press_run(page: Page) -> None:
    """Click Run."""
    page.get_by_role("button", name="Run", exact=True).first.click()


def finish(comfy: ComfyServer, known: set[str], limit: float = 900.0) -> dict[str, Any]:
    """The history entry of the prompt that the page has queued since."""
    deadline = time.monotonic() + limit
    while not (new := set(comfy.get("/history")) - known):
        assert time.monotonic() < deadline, comfy.log()[-3000:]
        time.sleep(0.5)
    return comfy.wait(new.pop(), limit)


def run_by_click(page: Page, comfy: ComfyServer) -> dict[str, Any]:
    """Press Run, and wait until the server is done; its history entry."""
    known = set(comfy.get("/history"))
    press_run(page)
    entry = finish(comfy, known)
    assert entry["status"]["status_str"] == "success", entry["status"]
    settle(page)
    return entry


def shown_pictures(page: Page) -> dict[str, int]:
    """How many pictures each node of the page that is about pictures shows."""
    counts = """() => window.app.graph.nodes
        .filter(n => ["PreviewImage", "Darkroom_LabelledGrid"].includes(n.type))
        .map(n => [n.title, n.imgs?.length ?? 0])"""
    return dict(page.evaluate(counts))


def check_pictures(page: Page, wanted: dict[str, int]) -> None:
    """That ``shown_pictures`` are these; they come one by one after a run."""
    deadline = time.monotonic() + 20
    while (shown := shown_pictures(page)) != wanted:
        assert time.monotonic() < deadline, f"the page shows {shown}, expected {wanted}"
        page.wait_for_timeout(100)


def set_widgets(page: Page, **values: Any) -> None:
    """Type values into the widgets of these names, wherever they are."""
    page.evaluate(
        """values => window.app.graph.nodes.forEach(n => (n.widgets ?? []).forEach(w => {
            if (w.name in values) w.value = values[w.name];
        }))""",
        values,
    )
