"""Fixtures: one server for the whole session, and servers of a test's own."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host.browser import Complaints, close_dialogs, new_graph, open_page
from tests.host.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The server that tests share; they may add files, and never stop it."""
    server = ComfyServer(tmp_path_factory.mktemp("host"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def sdxl_alone(comfy: ComfyServer) -> Iterator[None]:
    """One SDXL at a time, however many processes test: its text encoders have full size, and take several GB a side."""
    lock = Path(tempfile.gettempdir()) / "darkroom tests of SDXL"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
        comfy.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1)


@pytest.fixture
def start_comfy(tmp_path: Path) -> Iterator[Callable[..., ComfyServer]]:
    """Start servers that a test may kill: `start_comfy(*arguments)`; all share one base directory."""
    servers: list[ComfyServer] = []

    def start(*arguments: str) -> ComfyServer:
        servers.append(ComfyServer(tmp_path, arguments))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes 2.0"])
def nodes_2(request: pytest.FixtureRequest) -> bool:
    """Which of the page's renderers."""
    return request.param


@pytest.fixture(scope="module")
def opened(comfy: ComfyServer, nodes_2: bool) -> Iterator[tuple[Page, Complaints]]:
    """The page in either renderer. One for all tests of a module, as a person uses one for hours."""
    with open_page(comfy, nodes_2=nodes_2) as (page, complaints):
        close_dialogs(page)
        yield page, complaints


@pytest.fixture
def page(opened: tuple[Page, Complaints]) -> Iterator[Page]:
    """The page with an empty graph; no complaints when the test is over."""
    page, complaints = opened
    complaints.clear()
    new_graph(page)
    yield page
    assert not complaints


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the end of the server's log to a failed test's report."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, ComfyServer):
                report.sections.append(("ComfyUI's log", value.log()[-6000:]))
    return report
