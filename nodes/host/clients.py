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
MARK, USER = "darkroom_local", "darkroom_user"  # in a prompt's extra data

_local: ContextVar[bool | None] = ContextVar("darkroom_local", default=None)  # None: outside of a request
_user: ContextVar[str] = ContextVar("darkroom_user", default="")


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


def user() -> str:
    """The profile (``--multi-user``) of the request at hand, or of the prompt that is being executed; empty: none."""
    from comfy_execution.utils import get_executing_context

    if _local.get() is not None:
        return _user.get()
    context = get_executing_context()
    return "" if context is None else str(_extra(context.prompt_id).get(USER) or "")


def _profile(request: web.Request) -> str:
    """The profile that a request says it is of, as ComfyUI's user manager takes it; empty where it knows no such."""
    from comfy.cli_args import args

    named = request.headers.get("comfy-user", "")
    return named if args.multi_user and named in PromptServer.instance.user_manager.users else ""


def _address(text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_marked(prompt_id: str) -> bool:
    """Whether a prompt that is being executed came from this machine."""
    return _extra(prompt_id).get(MARK) is True


def _extra(prompt_id: str) -> dict[str, Any]:
    """The extra data of a prompt that is being executed."""
    running = list(PromptServer.instance.prompt_queue.currently_running.values())
    return next((item[3] for item in running if item[1] == prompt_id), {})


@web.middleware
async def _watch(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    _local.set(is_local(request))
    _user.set(_profile(request))
    return await handler(request)


def _mark(data: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's hook for every queued prompt: the marks of its client, whatever that says of itself."""
    extra = data.get("extra_data")
    data["extra_data"] = {**(extra if isinstance(extra, dict) else {}), MARK: _local.get() is True, USER: _user.get()}
    return data
