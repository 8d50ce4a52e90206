"""Caption Words: how often tags and words are in the captions of a data set."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..trainer.dataset.frequencies import KINDS, drawn, frequencies
from ..trainer.sheet import to_pixels
from .payloads import CATEGORY, DatasetRef, DatasetType, explained


class CaptionWords(io.ComfyNode):
    """DARKROOM_DATASET as a picture with bars, and as a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_CaptionWords",
            display_name="Caption Words",
            category=CATEGORY,
            description="How many captions each tag or word is in. What is in all of them becomes part of what is "
            "trained; what is in a few can be called by its name.",
            search_aliases=[
                "word frequency", "tag frequency", "tag count", "caption statistics", "histogram",
                "\u8bcd\u9891", "\u6807\u7b7e\u7edf\u8ba1",
            ],
            is_output_node=True,
            inputs=[
                DatasetType.Input("dataset", tooltip="From Load Dataset or Auto Caption."),
                io.Combo.Input(
                    "count",
                    options=list(KINDS),
                    default="auto",
                    optional=True,
                    tooltip=explained(KINDS),
                ),
                io.Int.Input(
                    "limit",
                    default=30,
                    optional=True,
                    min=1,
                    max=200,
                    tooltip="At most so many, the most frequent first.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="A bar for each tag or word."),
                io.String.Output(display_name="text", tooltip="The same as a table."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, dataset: DatasetRef, count: str = "auto", limit: int = 30) -> io.NodeOutput:
        """Count, draw, and show."""
        found = frequencies(dataset.scan().items, count)
        picture = to_pixels(drawn(found, limit)).movedim(0, -1)[None]
        return io.NodeOutput(picture, found.table(limit), ui=ui.PreviewImage(picture, cls=cls))
