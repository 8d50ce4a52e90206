"""LoRA Blocks, Resize LoRA and Merge LoRAs: LORA_MODELs made of other ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..trainer import lorafile, sheet
from ..trainer.errors import HostError
from ..trainer.loras import blocks, drawing, files, merge, resize
from ..trainer.loras.files import Layers
from .host.graph import say
from .host.lora import LoraModel
from .payloads import CATEGORY, strength

Lora = Mapping[str, torch.Tensor]


class LoRABlocks(io.ComfyNode):
    """Where a LoRA acts, and how much it shall in each block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoRABlocks",
            display_name="LoRA Blocks",
            category=CATEGORY,
            description="Shows how much of a LoRA lies in which block of the model, and makes blocks weaker or "
            "stronger: to keep a style and lose what it does to the composition, for example.",
            search_aliases=[
                "block weight", "lbw", "inspect lora", "norms",
                "\u5206\u5c42", "\u5206\u5c42\u6743\u91cd", "\u5206\u5757",
            ],
            is_output_node=True,
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA, from Train LoRA or Load Trained LoRA."),
                io.String.Input(
                    "strengths",
                    default="",
                    multiline=True,
                    tooltip="A line for each block that shall be stronger or weaker: mid: 0.5. The picture names the "
                    "blocks. 0 leaves a block out, 1 is as trained; blocks that are not named stay.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA with these strengths."),
                io.Image.Output(display_name="picture", tooltip="The norm of its change, by block."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, lora: Lora, strengths: str) -> io.NodeOutput:
        """Scale, and draw before and after."""
        layers = _layers(lora, "LoRA Blocks")
        wanted = blocks.read_strengths(strengths, layers)
        scaled = blocks.scaled(layers, wanted)
        drawn = drawing.picture(scaled, layers, wanted)
        picture = sheet.to_pixels(drawn).movedim(0, -1)[None]
        changed = {name: strength for name, strength in wanted.items() if strength != 1}
        made = lora
        if changed:
            told = ", ".join(f"{name}: {strength:g}" for name, strength in changed.items())
            made = _made(scaled, {**_header(lora), "darkroom.blocks": told})
        return io.NodeOutput(made, picture, ui=ui.PreviewImage(picture, cls=cls))


class ResizeLoRA(io.ComfyNode):
    """A LoRA at a lower rank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_ResizeLoRA",
            display_name="Resize LoRA",
            category=CATEGORY,
            description="The nearest LoRA of a lower rank: a smaller file that does almost the same. The node says how "
            "near it is.",
            search_aliases=[
                "resize lora", "rank", "svd", "shrink", "compress",
                "\u7f29\u5c0f", "\u964d\u79e9", "\u538b\u7f29LoRA",
            ],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                io.LoraModel.Input("lora", tooltip="The LoRA. LoHa, LoKr and DoRA cannot be resized."),
                io.Int.Input("rank", default=8, min=1, max=1024, tooltip="The highest rank that a layer may have."),
                io.Float.Input(
                    "energy",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of each layer's squared norm that is enough: 0.95 gives every layer the lowest "
                    "rank that keeps 95 % of it, up to rank. 1: by rank alone.",
                    advanced=True,
                ),
            ],
            outputs=[io.LoraModel.Output(display_name="lora", tooltip="The smaller LoRA.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, lora: Lora, rank: int, energy: float) -> io.NodeOutput:
        """Cut, and say what was lost."""
        layers = _layers(lora, "Resize LoRA")
        smaller, done = resize.cut(layers, "the wired LoRA", rank=rank, energy=energy)
        if not done.smaller:
            highest = max(layer.rank or 0 for layer in layers.values())
            return io.NodeOutput(lora, ui=say(f"Unchanged: it is of rank {highest} already"))
        text = f"{done.smaller} of {done.layers} layers at a lower rank\n{resize.report(done)}"
        header = {**_header(lora), **resize.note(_name(lora), layers, smaller)}
        return io.NodeOutput(_made(smaller, header), ui=say(text))


class MergeLoRAs(io.ComfyNode):
    """Several LoRAs as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""

        def pair(number: int) -> list[io.Input]:
            more = number > 2
            return [
                io.LoraModel.Input(f"lora_{number}", optional=more, tooltip=f"LoRA number {number}."),
                strength(f"strength_{number}", 1.0, f"How much of LoRA number {number} goes in.", optional=more),
            ]

        return io.Schema(
            node_id="Darkroom_MergeLoRAs",
            display_name="Merge LoRAs",
            category=CATEGORY,
            description="Two to four LoRAs for the same base model as one file: exactly what they do together, each at "
            "its strength. At strength 1 it is the sum.",
            search_aliases=["merge lora", "combine", "sum", "\u5408\u5e76LoRA", "\u878d\u5408"],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                *pair(1),
                *pair(2),
                *pair(3),
                *pair(4),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="Cut the sum to this rank, so that the file stays small. 0: exact, the ranks add up.",
                ),
            ],
            outputs=[io.LoraModel.Output(display_name="lora", tooltip="The sum.")],
        )

    @classmethod
    def execute(cls, rank: int = 0, **given: Lora | float | None) -> io.NodeOutput:
        """Add, and say how near the result is."""
        wired: list[tuple[str, Lora, float]] = []
        for number in range(1, 5):
            lora, at = given.get(f"lora_{number}"), given.get(f"strength_{number}", 1.0)
            if isinstance(lora, Mapping) and isinstance(at, (int, float)) and at:
                wired.append((f"lora_{number}", lora, float(at)))
        if not wired:
            raise HostError("Merge LoRAs: every strength is 0", "give at least one another strength")
        parts = [(name, _layers(lora, name), strength) for name, lora, strength in wired]
        merged, done = merge.add(parts, rank=rank or None)
        header = merge.note([(_name(lora), _header(lora), strength) for _, lora, strength in wired])
        text = f"{done.layers} layers, rank {done.rank}, norm {done.norm:.4g}\n{merge.report(done)}"
        return io.NodeOutput(_made(merged, header), ui=say(text))


def _layers(lora: Lora, name: str) -> Layers:
    """The layers of a LORA_MODEL.

    Raises:
        LoraFileError: it holds what is no LoRA, DoRA, LoHa or LoKr.
    """
    return lorafile.parse(lora, f"{name}: the wired LoRA")


def _header(lora: Lora) -> dict[str, str]:
    return dict(lora.metadata) if isinstance(lora, LoraModel) else {}


def _name(lora: Lora) -> str:
    """What a LORA_MODEL is called in a header: its own name, or that of its file."""
    path: Path | None = getattr(lora, "path", None)
    return _header(lora).get("ss_output_name") or (path.stem if path else "a LoRA")


def _made(layers: Layers, header: Mapping[str, str]) -> LoraModel:
    """A LORA_MODEL of changed layers: no checkpoint of a run any more, though its header tells where it is from."""
    return LoraModel(files.tensors(layers), files.told(layers, header))
