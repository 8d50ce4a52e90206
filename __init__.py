"""LoRA Darkroom as ComfyUI loads it: nothing is imported before ComfyUI asks for the nodes."""

from __future__ import annotations

import logging
from typing import Any

WEB_DIRECTORY = "./web"
__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI when it loads the pack; returns the extension that names the nodes."""
    try:
        from .nodes import DarkroomExtension, begin

        begin()
        return DarkroomExtension()
    except Exception as error:
        from .trainer import dependencies

        if why := dependencies.explained(error):
            raise RuntimeError(f"LoRA Darkroom is not loaded: {why}") from error  # ComfyUI prints this line
        # ComfyUI prints the message of what an entrypoint raises, but not where it came from.
        logging.exception("LoRA Darkroom could not be loaded")
        raise
