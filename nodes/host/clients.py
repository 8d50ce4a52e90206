"""Who asks: a client on this machine may name any path, others only what lies below ComfyUI's own folders.

ComfyUI has no accounts. Where it listens on the network, whoever reaches it can queue a graph; a typed path must not
let them read the disk. A prompt is marked when it arrives, because a node that runs no longer sees the request. Whoever
is not known to be local is foreign.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")  # a proxy's: the client behind it is elsewhere
MARK = "darkroom_local"  # in a prompt's extra data

_local: ContextVar[bool | None] = ContextVar("darkroom_local", default=None)  # None: outside of a request


def watch() -> None:
    """Mark requests and prompts from now on; called once, before the server starts."""
    server = PromptServer.instance
    server.app.middlewares.append(_watch)
    server.add_on_prompt_handler(_mark)


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine, not through a proxy, and by an address that is this machine's.

    The last, because a page on the internet may have its own name lead here (DNS rebinding): its requests then come
    from this machine's browser.
    """
    if any(name in request.headers for name in FORWARDED):
        return False
    asked = (urlsplit(f"//{request.host}").hostname or "").lower()
    named_here = asked in ("localhost", socket.gethostname().lower()) or _address(asked) is not None
    address = _address(request.remote or "")
    return named_here and address is not None and address.is_loopback


def foreign() -> bool:
    """Whether the request at hand, or the prompt that is being executed, came from another machine."""
    from comfy_execution.utils import get_executing_context

    local = _local.get()
    if local is None:
        context = get_executing_context()
        local = context is not None and _is_marked(context.prompt_id)
    return not local


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_marked(prompt_id: str) -> bool:
    """Whether a prompt that is being executed came from this machine."""
    running = list(PromptServer.instance.prompt_queue.currently_running.values())
    return any(item[1] == prompt_id and item[3].get(MARK) is True for item in running)


@web.middleware
async def _watch(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    _local.set(is_local(request))
    return await handler(request)


def _mark(data: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's hook for every queued prompt: the mark of its client, whatever that says of itself."""
    extra = data.get("extra_data")
    data["extra_data"] = {**(extra if isinstance(extra, dict) else {}), MARK: _local.get() is True}
    return data
