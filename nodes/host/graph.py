"""The run of a graph as a node sees it: progress, texts on the node, interruption, events for the page."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
from PIL import Image
from server import PromptServer

from . import compat

log = logging.getLogger("lora-darkroom")
Interrupted = comfy.model_management.InterruptProcessingException


class NodeProgress:
    """Progress of the node that is executing now."""

    def __init__(self) -> None:
        from comfy_execution.utils import get_executing_context

        context = get_executing_context()
        self._node = context.node_id if context is not None else None
        self._set = compat.progress_setter()
        self._text = ""

    def set(self, value: float, total: float, preview: Image.Image | None = None) -> None:
        """Move the node's bar, and show a picture on it."""
        if self._node is not None:
            self._set(value, max(total, 1), self._node, preview)

    def say(self, text: str) -> None:
        """Show a line of text on the node."""
        if self._node is not None and text != self._text:
            self._text = text
            PromptServer.instance.send_progress_text(text, self._node)

    def tell(self, event: str, **data: Any) -> None:
        """Send an event of the node to every open page."""
        tell_page(event, {"node": self._node, **data})


def say(text: str) -> dict[str, Any]:
    """A node's ui with a text, which the page shows on the node (``web/said.js``)."""
    return {"text": [text]}


def check_interrupted() -> None:
    """Raise ``Interrupted`` (a BaseException) if the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def tell_page(event: str, data: dict[str, Any]) -> None:
    """Send an event to every open page."""
    PromptServer.instance.send_sync(f"darkroom.{event}", data, None)
