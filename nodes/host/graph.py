"""The run of a graph as a node sees it: progress, texts on the node, interruption, events for the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.model_management
from PIL import Image
from server import PromptServer

from .. import where
from ..live import Phases
from . import clients, compat

log = logging.getLogger("lora-darkroom")
Interrupted = comfy.model_management.InterruptProcessingException


class NodeProgress:
    """Progress of the node that is executing now."""

    def __init__(self) -> None:
        self._node = executing_node()
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


class RunProgress(NodeProgress):
    """Progress of the executing node that trains, which the panel on it shows (``live``).

    Args:
        extra: the prompt's ``extra_pnginfo``.
    """

    def __init__(self, extra: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.panel = Phases(where.of_prompt(extra, self._node), tell_page, clients.user())
        self.mark, self.prompt = where.mark(extra), executing_prompt()

    def tell(self, event: str, **data: Any) -> None:
        """Send an event of the node to every open page."""
        tell_page(event, {**self.panel.at._asdict(), **data})

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done, and the part of it that is done, where that is known."""
        self.panel(name, done, total)
        self.say(f"{name}: {done + 1} of {total}" if total else name)
        if total:
            self.set(done, total)


def executing_node() -> str | None:
    """The execution id of the node that is executing, or being looked at for what changed; None outside of a graph."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return context.node_id if context is not None else None


def executing_prompt() -> str:
    """The id of the prompt that is being executed; empty outside of one."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return context.prompt_id if context is not None else ""


def blocker() -> Any:
    """What an output hands on that has nothing yet: whatever would take it does not run.

    It is quiet. With a message, the page says of each node that would have taken it that it has failed, as an error.
    """
    from comfy_execution.graph import ExecutionBlocker

    return ExecutionBlocker(None)


def say(text: str) -> dict[str, Any]:
    """A node's ui with a text, which the page shows on the node (``web/said.js``)."""
    return {"text": [text]}


def check_interrupted() -> None:
    """Raise ``Interrupted`` (a BaseException) if the user pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def tell_page(event: str, data: dict[str, Any]) -> None:
    """Send an event to every open page."""
    PromptServer.instance.send_sync(f"darkroom.{event}", data, None)
