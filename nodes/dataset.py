"""Load Dataset: a folder of captioned images or of text, or pictures that the graph gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from comfy_api.latest import io
from pydantic import Field, StringConstraints

from ..trainer.dataset import SOURCES, fingerprint
from ..trainer.errors import HostError
from ..trainer.text import fingerprint as text_fingerprint
from ..trainer.text import looks_like_text
from . import overview, stored
from .asked import Asked, Name, Typed
from .host import demo_pictures, places
from .host.graph import NodeProgress
from .payloads import CATEGORY, DatasetRef, DatasetType, explained, one

DEMO, BARE = "(demo: 12 drawn pictures)", "(demo: 12 pictures without captions)"
TEXTS = {
    "(demo: 40 answers of a sailor)": "darkroom_demo_answers",
    "(demo: 36 wishes and their prompts)": "darkroom_demo_wishes",
}


class LoadDataset(io.ComfyNode):
    """A folder below ComfyUI's input, a typed path, or wired pictures, as DARKROOM_DATASET."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            description="A folder of images to train on, with their captions: a .txt or .caption file beside each "
            "image, or one metadata.csv (filename,prompt) or metadata.jsonl. Or text for a language model: plain "
            "lines in .txt files, questions with their answers in .jsonl, .json or .csv. Subfolders are read too; one "
            "named 10_name is seen ten times. Running it only reads the folder. Drop files or a folder on the node, "
            "and they become a folder below ComfyUI's input; or wire pictures that the graph makes.",
            search_aliases=[
                "training images", "image folder", "train", "finetune", "captions", "images to dataset",
                "training text", "jsonl",
                "\u6570\u636e\u96c6", "\u8bad\u7ec3\u96c6", "\u8bad\u7ec3",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[DEMO, BARE, *TEXTS, *places.input_folders(), *places.other_folders()],
                    default=DEMO,
                    optional=True,
                    tooltip="A folder with images or text below ComfyUI's input folder, or one of its datasets folders."
                    " The demo pictures are drawn by LoRA Darkroom, in a style that its demo base does not know; the "
                    "demo texts are for a language model.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    optional=True,
                    tooltip="The path of a folder anywhere else, such as D:\\pictures\\my style, or of a file of text. "
                    "Wins over the folder above. From another machine only folders below ComfyUI's input, its "
                    "datasets folders, and those of lora_darkroom_datasets in extra_model_paths.yaml.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    optional=True,
                    tooltip="A word that is put in front of every caption which does not hold it already. "
                    "Used in a prompt it calls the style.",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    optional=True,
                    min=1,
                    max=1000,
                    tooltip="How often each image, or each sample of text, is seen in one epoch.",
                ),
                io.Combo.Input(
                    "captions",
                    options=list(SOURCES),
                    default="auto",
                    optional=True,
                    tooltip=f"Where captions come from.\n{explained(SOURCES)}",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures that the graph makes or loads, a batch or a list of any sizes. They win over "
                    "the folder and the path.",
                ),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="The captions of the wired pictures: one text for each, or one for all.",
                ),
                io.String.Input(
                    "excluded",
                    default="",
                    optional=True,
                    multiline=True,
                    advanced=True,
                    tooltip="Images of the folder that are not trained, though they stay where they are: a file name "
                    "a line, such as 10_cat/blurred.png. The page fills it in when you look at the pictures.",
                ),
            ],
            outputs=[
                DatasetType.Output(
                    display_name="dataset", tooltip="For Train LoRA; images also for Auto Caption and Dataset Images."
                )
            ],
            is_input_list=True,
            has_intermediate_output=True,  # what it shows is shown again when it comes out of the cache
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, folder: Sequence[str] = (), path: Sequence[str] = ()) -> bool | str:
        """Whether the client may read there; any folder's name passes, as a typed path or pictures win over it."""
        typed = next(iter(path), None)
        try:
            for what, value in (("path", typed), ("folder", None if typed else next(iter(folder), None))):
                if value and value.strip() and value not in (DEMO, BARE, *TEXTS):
                    places.named(value, what)
        except HostError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: Sequence[str | None] = (DEMO,),
        path: Sequence[str | None] = ("",),
        images: list[Any] | None = None,
        **_: Any,
    ) -> Any:
        """Changes when an image or a caption does, so that edited captions train anew."""
        if images is not None:
            return "wired"
        named, typed = one("folder", folder), one("path", path)
        if named is None or typed is None:  # the name is wired: which folder it is, is known only when the node runs
            return float("nan")
        found = chosen(named, typed)
        return text_fingerprint(found) if looks_like_text(found) else fingerprint(found, index=places.index())

    @classmethod
    def execute(
        cls,
        folder: Sequence[str] = (DEMO,),
        path: Sequence[str] = ("",),
        trigger_word: Sequence[str] = ("",),
        repeats: Sequence[int] = (1,),
        captions: Sequence[str] = ("auto",),
        images: list[torch.Tensor] | None = None,
        texts: list[str] | None = None,
        excluded: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        """Look into the folder, and say what is in it and what is wrong with it."""
        progress = NodeProgress()
        if images is not None:
            found = stored.store(places.datasets(), images, texts, progress.set)
        elif texts is not None:
            raise HostError("texts: they are wired, but no images are", "wire the pictures that they belong to, too")
        else:
            found = chosen(one("folder", folder), one("path", path)).absolute()
        ref = DatasetRef(
            found,
            one("trigger_word", trigger_word).strip(),
            one("repeats", repeats),
            one("captions", captions),
            listed(one("excluded", excluded)),
        )
        return io.NodeOutput(ref, ui=overview.overview(ref, progress.set))


def chosen(folder: str, path: str) -> Path:
    """The folder that the inputs name; the demo's pictures are drawn when they are first asked for.

    Raises:
        HostError: it does not exist, or the client may not read it.
    """
    if path.strip():
        return places.dataset_folder(path, "path")
    if folder in TEXTS:
        return demo_pictures.texts(TEXTS[folder])
    if folder in (DEMO, BARE):
        return demo_pictures.folder(captions=folder == DEMO)
    return places.dataset_folder(folder)


def listed(excluded: str) -> tuple[str, ...]:
    """The names in a text with one a line."""
    return tuple(dict.fromkeys(name for line in excluded.splitlines() if (name := line.strip())))


class Values(Asked):
    """The node's values, as the page sends them; what is missing or null has its default."""

    folder: Typed | None = None
    path: Typed | None = None
    trigger_word: Name | None = None
    repeats: Annotated[int, Field(ge=1, le=1000)] | None = None
    captions: Name | None = None
    excluded: Annotated[str, StringConstraints(max_length=2**19)] | None = None


def asked_for(asked: Values) -> DatasetRef:
    """The data set that the node's values name.

    Raises:
        HostError: a value cannot be used, or the client may not read there.
    """
    captions = asked.captions or "auto"
    if captions not in SOURCES:
        raise HostError(f"captions: {captions!r:.60} is unknown", f"choose one of {', '.join(SOURCES)}")
    found = chosen(DEMO if asked.folder is None else asked.folder, asked.path or "")
    exclude = listed(asked.excluded or "")
    return DatasetRef(found.absolute(), (asked.trigger_word or "").strip(), asked.repeats or 1, captions, exclude)


def seen(asked: Values) -> dict[str, Any]:
    """POST /dataset: what the node would say of these values; see ``asked_for``.

    Raises:
        HostError: the folder cannot be read by this client.
        DatasetError: it cannot be trained on.
    """
    return overview.overview(asked_for(asked))
