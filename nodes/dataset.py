"""Load Dataset: a folder of captioned images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..trainer.dataset import Dataset, fingerprint, scan
from .host import demo_pictures, places
from .host.graph import NodeProgress
from .payloads import CATEGORY, DatasetRef, DatasetType

DEMO = "(demo: 12 drawn pictures)"
MOST_PROBLEMS = 12


class LoadDataset(io.ComfyNode):
    """A folder below ComfyUI's input, or a typed path, as DARKROOM_DATASET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            description="A folder of images to train on, with their captions: a .txt or .caption file beside each "
            "image, or one metadata.csv (filename,prompt) or metadata.jsonl. Subfolders are read too; one named "
            "10_name is seen ten times. The folder is never changed.",
            search_aliases=[
                "training images", "image folder", "train", "finetune", "captions",
                "\u6570\u636e\u96c6", "\u8bad\u7ec3\u96c6", "\u8bad\u7ec3",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[DEMO, *places.input_folders()],
                    default=DEMO,
                    tooltip="A folder with images below ComfyUI's input folder. The demo pictures are drawn by "
                    "LoRA Darkroom, in a style that its demo base does not know.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    tooltip="The path of a folder anywhere else, such as D:\\pictures\\my style. "
                    "Wins over the folder above.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    tooltip="A word that is put in front of every caption which does not hold it already. "
                    "Used in a prompt it calls the style.",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="How often each image is seen in one epoch.",
                ),
            ],
            outputs=[DatasetType.Output(display_name="dataset", tooltip="For Train LoRA and Auto Caption.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, folder: str) -> bool:
        """Any folder's name: a shared workflow may name one that is not here, and a typed path wins over it."""
        return isinstance(folder, str)

    @classmethod
    def fingerprint_inputs(cls, folder: str, path: str, trigger_word: str, repeats: int) -> Any:
        """Changes when an image or a caption does, so that edited captions train anew."""
        return f"{fingerprint(chosen(folder, path))} {repeats} {trigger_word}"

    @classmethod
    def execute(cls, folder: str, path: str, trigger_word: str, repeats: int) -> io.NodeOutput:
        """Scan the folder, and say what is in it and what is wrong with it."""
        found, word = chosen(folder, path), trigger_word.strip()
        progress = NodeProgress()
        dataset = scan(found, trigger_word=word, repeats=repeats, on_progress=progress.set)
        text = describe(dataset)
        progress.say(text)
        return io.NodeOutput(DatasetRef(found.absolute(), word, repeats), ui={"text": [text]})


def chosen(folder: str, path: str) -> Path:
    """The folder that the inputs name; the demo's pictures are drawn when they are first asked for.

    Raises:
        HostError: it does not exist.
    """
    if folder == DEMO and not path.strip():
        return demo_pictures.folder()
    return places.dataset_folder(path if path.strip() else folder)


def describe(dataset: Dataset) -> str:
    """What is in a dataset and what is wrong with it, as lines for people."""
    buckets = Counter(item.bucket for item in dataset.items)
    sizes = ", ".join(f"{count} at {width}x{height}" for (width, height), count in buckets.most_common(4))
    captioned = sum(1 for item in dataset.items if item.captions != ("",))
    lines = [f"{len(dataset.items)} images ({sizes}), {captioned} with captions", dataset.root.as_posix()]
    lines += [f"- {problem}" for problem in dataset.problems[:MOST_PROBLEMS]]
    if len(dataset.problems) > MOST_PROBLEMS:
        lines.append(f"- and {len(dataset.problems) - MOST_PROBLEMS} more")
    return "\n".join(lines)
