"""Who asks: a client on this machine may name any path, others only what lies below ComfyUI's own folders.

ComfyUI has no accounts. Where it listens on the network, whoever reaches it can queue a graph; a typed path must not
let them read the disk. A prompt is marked when it arrives, because a node that runs no longer sees the request.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any

from aiohttp import web
from server import PromptServer

MOST_PROMPTS = 10_000
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")  # a proxy's: the client behind it is elsewhere

_foreign = ContextVar("darkroom_foreign", default=False)
_prompts: deque[str] = deque(maxlen=MOST_PROMPTS)


def watch() -> None:
    """Mark requests and prompts from now on; called once, before the server starts."""
    server = PromptServer.instance
    server.app.middlewares.append(_mark)
    server.add_on_prompt_handler(_remember)


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine, and not through a proxy."""
    try:
        return ip_address(request.remote or "").is_loopback and not any(name in request.headers for name in FORWARDED)
    except ValueError:
        return False


def foreign() -> bool:
    """Whether the request at hand, or the prompt that is being executed, came from another machine."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return _foreign.get() if context is None else context.prompt_id in _prompts


@web.middleware
async def _mark(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    _foreign.set(not is_local(request))
    return await handler(request)


def _remember(data: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's hook for every queued prompt: its id, which the server would only choose later, is noted."""
    if _foreign.get():
        data["prompt_id"] = data.get("prompt_id") or str(uuid.uuid4())
        _prompts.append(str(data["prompt_id"]))
    return data
