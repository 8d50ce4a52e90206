"""Save LoRA and Apply LoRA."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from .host import lora as loras
from .host import places, saving
from .host.graph import NodeProgress
from .payloads import CATEGORY

WIRED = "(the wired LoRA)"


class SaveLoRA(io.ComfyNode):
    """LORA_MODEL to a file that every LoRA list shows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_SaveLoRA",
            display_name="Save LoRA",
            category=CATEGORY,
            description="Writes the LoRA into ComfyUI's folder for LoRAs, with a preview picture. It never writes "
            "over another file: a number is added to the name.",
            search_aliases=["export lora", "write lora", "save", "\u4fdd\u5b58LoRA", "\u4fdd\u5b58"],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA, from Train LoRA."),
                io.String.Input(
                    "filename",
                    default="my_style_lora",
                    tooltip="The name of the file, without ending. May name a subfolder: styles/my_style.",
                ),
                io.Image.Input(
                    "samples", optional=True, tooltip="The first picture becomes the preview beside the file."
                ),
            ],
            outputs=[io.String.Output(display_name="lora_name", tooltip="The file's name in ComfyUI's LoRA lists.")],
        )

    @classmethod
    def execute(
        cls, lora: dict[str, torch.Tensor], filename: str, samples: torch.Tensor | None = None
    ) -> io.NodeOutput:
        """Write the file and its preview, and let the page know."""
        name = saving.save(lora, filename, samples)
        NodeProgress().say(f"Saved as {name}")
        return io.NodeOutput(name, ui={"text": [f"Saved as {name}"]})


class ApplyLoRA(io.ComfyNode):
    """MODEL and CLIP with a LoRA; anything of it that does not fit is an error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        strength = "0: not at all, 1: as trained. Begin with 0.7 to 0.8: too high loses the picture."
        return io.Schema(
            node_id="Darkroom_ApplyLoRA",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Patches a LoRA onto MODEL and CLIP: the one that was just trained, or a file. Where ComfyUI's "
            "own loader leaves out what does not fit, this node stops and says what.",
            search_aliases=["load lora", "use lora", "lora loader", "\u5e94\u7528LoRA", "\u52a0\u8f7dLoRA"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change."),
                io.Combo.Input(
                    "lora_name",
                    options=[WIRED, *places.loras()],
                    default=WIRED,
                    tooltip="A LoRA file, where none is wired.",
                ),
                io.Float.Input(
                    "strength_model", default=0.8, min=-20.0, max=20.0, step=0.05, round=0.01, tooltip=strength
                ),
                io.Float.Input(
                    "strength_clip",
                    default=0.8,
                    min=-20.0,
                    max=20.0,
                    step=0.05,
                    round=0.01,
                    tooltip="The same for the text encoder, where the LoRA changes it.",
                    advanced=True,
                ),
                io.LoraModel.Input("lora", optional=True, tooltip="The LoRA from Train LoRA. Wins over lora_name."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder, for LoRAs that change it."),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder with the LoRA."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str = WIRED, **_: Any) -> Any:
        """Changes when the file does."""
        if lora_name == WIRED:
            return WIRED
        stat = places.lora(lora_name).stat()
        return f"{lora_name} {stat.st_size} {stat.st_mtime_ns}"

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        lora: dict[str, torch.Tensor] | None = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Check the LoRA, and patch it on."""
        if lora is None:
            lora = saving.chosen(lora_name, WIRED)
        return io.NodeOutput(*loras.apply(model, clip, lora, strength_model, strength_clip))
