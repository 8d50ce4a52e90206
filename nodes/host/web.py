"""HTTP routes of the pack: how one is registered, what it may be asked, and how it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ...trainer.errors import DarkroomError, HostError
from . import clients

log = logging.getLogger("lora-darkroom")
PREFIX = "/darkroom"


class Route(NamedTuple):
    """One route.

    Args:
        method: ``GET`` or ``POST``.
        path: below ``/darkroom``, such as ``/runs/{run}``.
        answer: from the query, the path's parts, and a POST's JSON, all in one dict, to plain data. It runs in a
            thread, so it may read the disk.
        local: only for clients on this machine.
    """

    method: str
    path: str
    answer: Callable[[dict[str, Any]], Any]
    local: bool = False


def register(routes: Iterable[Route]) -> None:
    """Add routes to ComfyUI's server; each also answers below ``/api``."""
    for route in routes:
        PromptServer.instance.routes.route(route.method, PREFIX + route.path)(_handler(route))


def _handler(route: Route) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        if route.local and not clients.is_local(request):
            return _failure(403, HostError(f"{PREFIX}{route.path} is for the machine that ComfyUI runs on"))
        asked = {**request.query, **request.match_info}
        if route.method == "POST":
            fault = _foreign_post(request)
            if fault is not None:
                return _failure(403, fault)
            try:
                data = await request.json()
            except ValueError:
                data = None
            if not isinstance(data, dict):
                return _failure(400, HostError("the request's body is not a JSON object"))
            asked = {**data, **asked}
        try:
            return web.json_response(await asyncio.to_thread(route.answer, asked))
        except DarkroomError as error:
            return _failure(400, error)
        except Exception:
            log.exception("%s %s", route.method, request.path)
            return _failure(500, HostError("an error in LoRA Darkroom", "see ComfyUI's log"))

    return handle


def _foreign_post(request: web.Request) -> HostError | None:
    """Why a POST is not answered: a page of another site could have sent it."""
    if request.content_type != "application/json":
        return HostError("expected the content type application/json")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        return HostError("the request comes from a page of another site")
    return None


def _failure(status: int, error: DarkroomError) -> web.Response:
    return web.json_response({"error": error.message, "cure": error.cure}, status=status)
