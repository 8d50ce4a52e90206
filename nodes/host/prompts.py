"""The prompts that ComfyUI executes, for whoever works beside them: when one begins and ends, and whether one waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import comfy.model_management as management
from server import PromptServer

from .. import where
from . import memory

PATIENCE = 10.0  # seconds, for the models to leave the card
_POLL = 0.05
_watching: Any = None


def busy() -> bool:
    """Whether a prompt is being executed, or waits."""
    queue = getattr(PromptServer.instance, "prompt_queue", None)
    return queue is not None and queue.get_tasks_remaining() > 0


def interrupted() -> bool:
    """Whether the user has cancelled the prompt that is being executed."""
    return management.processing_interrupted()


def of_workflow(workflow: str) -> bool:
    """Whether a prompt of this workflow is being executed, or waits."""
    running, waiting = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return any(
        where.of_prompt(item[3].get("extra_pnginfo"), None).workflow == workflow for item in (*running, *waiting)
    )


def leave_card() -> None:
    """Have ComfyUI unload its models, and wait for it. Only the thread that executes prompts may, so it is asked to."""
    if memory.device() == "cpu":  # there is nothing to free, and they would have to be patched anew
        return
    PromptServer.instance.prompt_queue.set_flag("unload_models", True)
    deadline = time.monotonic() + PATIENCE
    while management.current_loaded_models and not busy() and time.monotonic() < deadline:
        time.sleep(_POLL)


def watch(before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """From now on call ``before`` and ``after`` every prompt, with its id, in the thread that executes it.

    ComfyUI's hook for that is one of its cache providers, so nobody watches longer than needed: each has it compute a
    key for every node. One of before March 2026 has none; then ``busy`` alone says when a prompt runs.
    """
    global _watching
    if _watching is not None:
        return
    try:
        from comfy_execution.cache_provider import CacheProvider, register_cache_provider
    except ImportError:
        return

    class Watcher(CacheProvider):
        """Caches nothing."""

        async def on_lookup(self, context: Any) -> None:
            return None

        async def on_store(self, context: Any, value: Any) -> None:
            return None

        def should_cache(self, context: Any, value: Any = None) -> bool:
            return False

        def on_prompt_start(self, prompt_id: str) -> None:
            before(prompt_id)

        def on_prompt_end(self, prompt_id: str) -> None:
            after(prompt_id)

    _watching = Watcher()
    register_cache_provider(_watching)


def watch_no_more() -> None:
    """End ``watch``."""
    global _watching
    if _watching is not None:
        from comfy_execution.cache_provider import unregister_cache_provider

        unregister_cache_provider(_watching)
        _watching = None
