"""Auto Caption: writes captions for a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..trainer import captioning
from ..trainer.errors import HostError
from . import stored
from .host import places
from .host.graph import say
from .overview import counted
from .payloads import CATEGORY, DatasetRef, DatasetType, explained

# What reads the captions that are written in a format.
READ_BY = {"csv": ("auto", "table"), "txt": ("auto", "files")}


class AutoCaption(io.ComfyNode):
    """A data set with the captions that it lacked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        known = captioning.all_captioners()
        methods = " ".join(f"{name}: {captioner.description}" for name, captioner in known.items())
        return io.Schema(
            node_id="Darkroom_AutoCaption",
            display_name="Auto Caption",
            category=CATEGORY,
            description="Writes captions into the data set's folder, as one metadata.csv that you can edit, or as a "
            ".txt file beside each image. Your own captions stay, unless you choose otherwise; then the former file is "
            "kept beside the new one.",
            search_aliases=[
                "caption", "tag", "label", "auto label", "tagger",
                "\u6253\u6807", "\u6807\u6ce8", "\u81ea\u52a8\u6807\u6ce8",
            ],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                DatasetType.Input("dataset", tooltip="From Load Dataset."),
                io.Combo.Input("method", options=list(known), default="filename", tooltip=methods),
                io.Combo.Input(
                    "mode",
                    options=list(captioning.MODES),
                    default="missing",
                    tooltip=f"What happens to an image that has a caption. {explained(captioning.MODES)}",
                ),
                io.Combo.Input(
                    "format",
                    options=list(captioning.FORMATS),
                    default="csv",
                    tooltip=explained(captioning.FORMATS),
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    tooltip="Stands first in every caption that is written. Empty: the data set's own trigger word.",
                ),
            ],
            outputs=[DatasetType.Output(display_name="dataset", tooltip="The data set with its new captions.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, dataset: DatasetRef, method: str, mode: str, format: str, trigger_word: str) -> io.NodeOutput:
        """Write the captions, and say what was done."""
        if dataset.captions not in READ_BY[format]:
            raise HostError(
                f"Load Dataset: captions is {dataset.captions}, so that what is written as {format} would not be used",
                f"choose {' or '.join(READ_BY[format])} there, or another format here",
            )
        word = trigger_word.strip() or dataset.trigger_word
        reports: list[str] = []

        def write(folder: Path) -> None:
            report = captioning.label(folder, method=method, mode=mode, format=format, trigger_word=word)
            reports.append(str(report))

        if dataset.folder.parent == places.datasets():  # wired pictures: their folder is named by what is in it
            dataset = replace(dataset, folder=stored.changed(dataset.folder, write))
        else:
            write(dataset.folder)
        scanned = dataset.scan()
        lines = [*reports, counted(scanned), places.shown(scanned.root), *(f"- {one}" for one in scanned.problems[:12])]
        return io.NodeOutput(dataset, ui=say("\n".join(lines)))
