"""HTTP routes of the pack: how one is registered, what it may be asked, and how it answers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from server import PromptServer

from ...trainer.errors import DarkroomError, HostError
from ..asked import Asked, Nothing, read
from . import clients, places

log = logging.getLogger("lora-darkroom")
PREFIX = "/darkroom"
MODULES = Path(__file__).resolve().parents[2] / "web"
KIB = 2**10
AT_ONCE = 64 * KIB


class Route(NamedTuple):
    """One route.

    Args:
        method: ``GET`` or ``POST``.
        path: below ``/darkroom``, such as ``/runs/{run}``.
        answer: from what was asked to plain data, a ``Picture``, or a file of the pack's private folder. It runs in a
            thread, so it may read the disk.
        asks: the schema of the query, the path's parts and a POST's JSON, all in one.
        local: only for clients on this machine.
        most: bytes of a POST's body.
    """

    method: str
    path: str
    answer: Callable[[Any], Any]
    asks: type[Asked] = Nothing
    local: bool = False
    most: int = 64 * KIB


class Picture(NamedTuple):
    """An answer that is a picture. Args: data: its bytes. kind: such as image/webp."""

    data: bytes
    kind: str


def register(routes: Iterable[Route]) -> None:
    """Add routes to ComfyUI's server; each also answers below ``/api``."""
    for route in routes:
        PromptServer.instance.routes.route(route.method, PREFIX + route.path)(_handler(route))


def serve_modules() -> None:
    """The page's modules (``.mjs``), which are loaded when they are needed, as what they are, and anew after an update.

    A system may know the suffix by another type, with which no browser takes it; and ComfyUI keeps only ``.js`` from
    being cached.
    """

    ours = {file.name for file in MODULES.rglob("*.mjs")}

    async def mend(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.rpartition("/")[2] in ours and response.status in (200, 304):
            response.content_type = "text/javascript"
            response.headers["Cache-Control"] = "no-cache"

    PromptServer.instance.app.on_response_prepare.append(mend)


def _handler(route: Route) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            if route.local and not clients.is_local(request):
                raise _Refused(403, f"{PREFIX}{route.path} is for the machine that ComfyUI runs on")
            asked = {**request.query, **request.match_info}
            if route.method == "POST":
                _check_origin(request)
                asked = {**request.query, **await _json(request, route.most), **request.match_info}
            return _response(await asyncio.to_thread(route.answer, read(route.asks, asked)))
        except _Refused as error:
            return _failure(error.status, error)
        except DarkroomError as error:
            return _failure(400, error)
        except Exception:
            log.exception("%s %s", route.method, request.path)
            return _failure(500, HostError("an error in LoRA Darkroom", "see ComfyUI's log"))

    return handle


class _Refused(HostError):
    """A request that is not listened to."""

    def __init__(self, status: int, message: str, cure: str = "") -> None:
        super().__init__(message, cure)
        self.status = status


def _check_origin(request: web.Request) -> None:
    """Of a POST: a page of another site could have sent it. ComfyUI's own check lets some of these pass."""
    if request.content_type != "application/json":
        raise _Refused(403, "expected the content type application/json")
    scheme, _, host = request.headers.get("Origin", "").partition("://")
    if scheme not in ("http", "https"):
        cure = "a program sends ComfyUI's own address as the header Origin, such as http://127.0.0.1:8188"
        raise _Refused(403, "the request does not say which page it comes from", cure)
    if host.lower() != request.headers.get("Host", "").lower():
        raise _Refused(403, "the request comes from a page of another site")


async def _json(request: web.Request, most: int) -> dict[str, Any]:
    """The object in a request's body; no more than so many bytes are read."""
    data = bytearray()
    async for part in request.content.iter_chunked(AT_ONCE):
        data += part
        if len(data) > most:
            raise _Refused(413, f"the request is larger than {most // KIB} KiB")
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HostError("the request's body is not a JSON object")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _response(answer: Any) -> web.StreamResponse:
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    if isinstance(answer, Picture):
        return web.Response(body=answer.data, content_type=answer.kind, headers=headers)
    if isinstance(answer, Path):
        file = answer.resolve()
        if not file.is_relative_to(places.private().resolve()) or not file.is_file():
            raise HostError(f"{answer.name}: there is no such file")
        return web.FileResponse(file, headers=headers)
    return web.json_response(answer)


def _failure(status: int, error: DarkroomError) -> web.Response:
    return web.json_response({"error": error.message, "cure": error.cure}, status=status)
