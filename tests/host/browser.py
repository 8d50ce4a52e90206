"""ComfyUI's page in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.conftest import find_chromium
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUIET = (
    "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-sync", "--disable-background-networking",
    "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
NOISE = (  # what ComfyUI's page says of itself, or when there is no internet
    "Failed to load resource", "Content Security Policy", "is deprecated", "before initialization", "Fetch API",
    "[Settings]", "Autofocus",
)  # fmt: skip


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
    from playwright.sync_api import sync_playwright

    complaints = Complaints()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(QUIET))
        try:
            page = browser.new_context(viewport={"width": width, "height": height}).new_page()
            page.set_default_timeout(60_000)
            page.on("console", lambda message: complaints.take(message.type, message.text))
            page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
            page.goto(comfy.url, wait_until="domcontentloaded")
            wait_until_ready(page)
            # The server remembers it: what another page chose must not count here.
            page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2)
            page.wait_for_timeout(500)
            yield page, complaints
        finally:
            browser.close()


def wait_until_ready(page: Page) -> None:
    """Until the page has its graph and its extensions."""
    page.wait_for_function("() => window.app?.graph && window.app.extensionManager")
    page.wait_for_timeout(1500)


def close_dialogs(page: Page) -> None:
    """A new user is greeted with the template browser."""
    for _ in range(3):
        if page.locator("[role=dialog]").count() == 0:
            return
        page.keyboard.press("Escape")
        page.wait_for_timeout(400)


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
    page.wait_for_timeout(1500)


def press_run(page: Page) -> None:
    """Click Run."""
    page.get_by_role("button", name="Run", exact=True).first.click()
