"""Dataset Images: the pictures and captions of a data set, to look at and to use again."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..trainer.dataset import load_pixels
from .host.graph import NodeProgress, check_interrupted
from .payloads import CATEGORY, DatasetRef, DatasetType, explained

SIZES = {
    "original": "as they are, each of its own size",
    "as trained": "shrunk and cropped as they are trained at the resolution",
}


class DatasetImages(io.ComfyNode):
    """DARKROOM_DATASET as a list of IMAGE and a list of captions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_DatasetImages",
            display_name="Dataset Images",
            category=CATEGORY,
            description="The pictures of a data set as a list, and their captions as another: to look at them with "
            "Preview Image, or to use them in the graph. Every picture is decoded, so it is a node of its own.",
            search_aliases=[
                "dataset to images", "training images", "show dataset", "preview dataset", "captions",
                "\u6570\u636e\u96c6\u56fe\u7247", "\u67e5\u770b\u6570\u636e\u96c6",
            ],
            inputs=[
                DatasetType.Input("dataset", tooltip="From Load Dataset or Auto Caption."),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default="original",
                    optional=True,
                    tooltip=explained(SIZES),
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    optional=True,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="The resolution of the training, for 'as trained'.",
                ),
                io.Int.Input(
                    "limit",
                    default=100,
                    optional=True,
                    min=0,
                    max=1_000_000,
                    tooltip="At most so many pictures, the first of the data set; 0 is all. They are kept in memory: "
                    "a hundred of 1024x1024 pixels are 1.2 GB.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="The pictures, one by one."),
                io.String.Output(
                    display_name="captions",
                    is_output_list=True,
                    tooltip="The caption of each picture, with the trigger word; of alternatives, the first.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, dataset: DatasetRef, size: str = "original", resolution: int = 512, limit: int = 100
    ) -> io.NodeOutput:
        """Decode them."""
        progress = NodeProgress()
        scanned = dataset.scan(resolution=resolution)
        items = scanned.items[:limit] if limit else scanned.items
        images = []
        for done, item in enumerate(items, 1):
            check_interrupted()
            shown = item if size == "as trained" else replace(item, bucket=item.size)
            images.append(load_pixels(shown).movedim(0, -1).unsqueeze(0).contiguous())
            progress.set(done, len(items))
        return io.NodeOutput(images, [item.captions[0] for item in items])
