"""What the pack adds to the start of ComfyUI's page: bytes that are fetched, and time that its modules take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import REPO
from tests.host.browser import open_page, wait_until_ready
from tests.host.server import PACK_NAME, ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.host, pytest.mark.browser]
WEB = REPO / "web"
MOST_BYTES = 60_000
MOST_MS = 50.0
STARTS = 3  # the quickest counts: what else the machine does is not the pack's
FETCHED = """name => performance.getEntriesByType("resource")
  .filter((one) => decodeURIComponent(one.name).includes(`/extensions/${name}/`))
  .map((one) => [one.name.split("/").pop(), one.decodedBodySize])"""


@pytest.fixture(scope="module")
def page(comfy: ComfyServer) -> Any:
    """A page, which is started again by each look at it."""
    with open_page(comfy) as (page, _):
        yield page


def test_little_is_fetched_at_the_start_and_nothing_that_waits_for_its_node(page: Page):
    page.reload(wait_until="domcontentloaded")
    wait_until_ready(page)
    fetched = {name.split("?")[0]: size for name, size in page.evaluate(FETCHED, PACK_NAME)}
    assert {"common.js", "sidebar.js", "apply.js"} <= fetched.keys()
    assert not [name for name in fetched if not name.endswith(".js")]
    total = sum(fetched.values())
    print(f"\n{len(fetched)} modules, {total:,} bytes: {fetched}")
    assert total < MOST_BYTES, fetched


@pytest.mark.parametrize("module", sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*.mjs")))
def test_every_module_that_waits_for_its_node_can_be_loaded(page: Page, module: str):
    page.evaluate("async (path) => { await import(path); }", f"/extensions/{PACK_NAME}/{module}")


def test_the_modules_take_little_time_at_the_start(page: Page):
    session = page.context.new_cdp_session(page)
    session.send("Profiler.enable")
    session.send("Profiler.setSamplingInterval", {"interval": 100})
    found = []
    for _ in range(STARTS):
        session.send("Profiler.start")
        page.reload(wait_until="domcontentloaded")
        wait_until_ready(page)
        found.append(_ours(session.send("Profiler.stop")["profile"]))
    print(f"\nCPU time of the pack's modules at a start: {', '.join(f'{one:.1f}' for one in found)} ms")
    assert min(found) < MOST_MS


def _ours(profile: dict[str, Any]) -> float:
    """Milliseconds in functions of the pack, and in what these call."""
    nodes = {node["id"]: node for node in profile["nodes"]}
    above = {child: node["id"] for node in profile["nodes"] for child in node.get("children", [])}

    def ours(at: int | None) -> bool:
        while at is not None:
            if f"/extensions/{PACK_NAME}/" in nodes[at]["callFrame"]["url"]:
                return True
            at = above.get(at)
        return False

    mine = {name for name in nodes if ours(name)}
    return sum(spent for at, spent in zip(profile["samples"], profile["timeDeltas"], strict=True) if at in mine) / 1000
