"""Auto Caption: writes captions for a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from comfy_api.latest import io

from ..trainer import captioning
from ..trainer.captioning.base import Captioner, Length, Tagging, Wish
from ..trainer.captioning.rules import Rules
from ..trainer.captioning.rules import read as read_rules
from ..trainer.captioning.work import PURPOSES, Job, tags
from ..trainer.dataset import fingerprint
from ..trainer.errors import HostError
from . import captions, stored
from .host import memory, places
from .host.clip_captioner import ClipCaptioner
from .host.graph import executing_node, say
from .overview import counted
from .payloads import CATEGORY, DatasetRef, DatasetType, explained

# What reads the captions that are written in a format.
READ_BY = {"csv": ("auto", "table"), "txt": ("auto", "files")}
USUAL = "(the usual one)"
# The inputs that say what is asked of a captioner, by the fields of ``Wish``; and those of captioners with a model.
ASKED = {
    "purpose": ("purpose",),
    "prompt": ("prompt",),
    "length": ("length",),
    "tagging": ("general_threshold", "character_threshold", "rating", "underscores", "exclude", "first"),
}
OF_MODELS = ("model", "model_path", "download", "batch")
WIRED = "clip"  # in place of a method
_written: Counter[str] = Counter()  # how often a node has written captions


class AutoCaption(io.ComfyNode):
    """A data set with the captions that it lacked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        known = captioning.all_captioners()
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
                io.Combo.Input(
                    "method",
                    options=list(known),
                    default="filename",
                    tooltip=explained({name: one.description.rstrip(".") for name, one in known.items()}),
                    extra_dict={"darkroom_inputs": _of_methods()},
                ),
                io.Combo.Input(
                    "mode",
                    options=list(captioning.MODES),
                    default="missing",
                    tooltip=f"What happens to an image that has a caption.\n{explained(captioning.MODES)}",
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
                *_model_inputs(),
                *_text_inputs(),
                *_tag_inputs(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="A vision-language model, such as Qwen3-VL or Gemma 3 by Load CLIP: it writes the "
                    "captions, in place of the method, as Generate Text does; purpose, prompt and length count.",
                ),
            ],
            outputs=[DatasetType.Output(display_name="dataset", tooltip="The data set with its new captions.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, model: str | None = USUAL, model_path: str | None = "") -> bool | str:
        """Whether the client may name this model; any name of the list passes: a shared graph loads anywhere."""
        try:
            for what, value in (("model", model), ("model_path", model_path)):
                if value and value != USUAL:
                    places.captioner_model(value, what)
        except HostError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        """Another one once it has written: captions that were deleted since are written again, although all is then as
        it was before the first time."""
        return _written[executing_node() or ""]

    @classmethod
    def execute(
        cls,
        dataset: DatasetRef,
        method: str,
        mode: str,
        format: str,
        trigger_word: str,
        model: str = USUAL,
        model_path: str = "",
        download: bool = False,
        batch: int = 0,
        purpose: Any = "plain",
        prompt: str = "",
        length: Any = "medium",
        prefix: str = "",
        suffix: str = "",
        replace_words: str = "",
        general_threshold: float = 0.35,
        character_threshold: float = 0.85,
        rating: bool = False,
        underscores: bool = False,
        exclude: str = "",
        first: str = "",
        clip: Any = None,
    ) -> io.NodeOutput:
        """Write the captions, and say what was done."""
        if dataset.captions not in READ_BY[format]:
            raise HostError(
                f"Load Dataset: captions is {dataset.captions}, so that what is written as {format} would not be used",
                f"choose {' or '.join(READ_BY[format])} there, or another format here",
            )
        named = model_path.strip() or ("" if model == USUAL else model)
        tagging = Tagging(general_threshold, character_threshold, rating, underscores, tags(exclude), tags(first))
        job = Job(
            folder="",
            method=method,
            mode=mode,
            format=format,
            wish=Wish(trigger_word.strip() or dataset.trigger_word, purpose, prompt, length, tagging),
            rules=Rules(prefix, suffix, read_rules(replace_words)),
            model=places.captioner_model(named, "model_path"),
            folders=tuple(map(str, places.captioner_folders())),
            download=download,
            device=memory.device(),
            batch=batch,
            exclude=dataset.exclude,
        )
        captioner = None if clip is None else ClipCaptioner(clip)
        kind = captioner.kind if captioner else ""
        reports: list[str] = []

        def write(folder: Path) -> None:
            reports.append(captions.caption(replace(job, folder=str(folder)), captioner))

        if dataset.folder.parent == places.datasets():  # wired pictures: their folder is named by what is in it
            dataset = replace(dataset, folder=stored.changed(dataset.folder, write, f"{job} {kind}"))
        else:
            before = fingerprint(dataset.folder)
            write(dataset.folder)
            _written[executing_node() or ""] += fingerprint(dataset.folder) != before
        scanned = dataset.scan()
        lines = [*reports, counted(scanned), places.shown(scanned.root), *(f"- {one}" for one in scanned.problems[:12])]
        return io.NodeOutput(dataset, ui=say("\n".join(lines)))


def _of_methods() -> dict[str, list[str]]:
    """The inputs that make a difference to each method, of those that not every method has: the page shows no other."""
    methods: dict[str, Captioner] = {**captioning.all_captioners(), WIRED: ClipCaptioner(None)}
    return {
        name: [*(OF_MODELS if one.models else ()), *(given for field in one.takes for given in ASKED[field])]
        for name, one in methods.items()
    }


def _model_inputs() -> list[Any]:
    """Of methods with a model."""
    return [
        io.Combo.Input(
            "model",
            options=[USUAL, *places.captioner_models()],
            default=USUAL,
            optional=True,
            tooltip="For methods with a model: one of ComfyUI's folder models/captioners. The usual one: the first "
            "there that fits the method, else the method's own on the hub.",
        ),
        io.String.Input(
            "model_path",
            default="",
            optional=True,
            advanced=True,
            tooltip="A model elsewhere: the path of its folder, or its name on the Hugging Face hub, such as "
            "Qwen/Qwen3-VL-4B-Instruct. Wins over the list above.",
        ),
        io.Boolean.Input(
            "download",
            default=False,
            optional=True,
            tooltip="Fetch the model from the Hugging Face hub if it is not on this machine. Its size is shown first.",
        ),
        io.Int.Input(
            "batch",
            default=0,
            min=0,
            max=256,
            optional=True,
            advanced=True,
            tooltip="Pictures that the model looks at together. 0: as many as suit the card. Where memory runs out, "
            "half as many.",
        ),
        io.Combo.Input(
            "purpose",
            options=list(PURPOSES),
            default="plain",
            optional=True,
            tooltip=f"What a model describes.\n{explained(PURPOSES)}",
        ),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Your own question, for models that can be asked. Empty: the purpose's.",
        ),
        io.Combo.Input(
            "length",
            options=list(get_args(Length)),
            default="medium",
            optional=True,
            advanced=True,
            tooltip="How much a model writes.",
        ),
    ]


def _text_inputs() -> list[Any]:
    """Of all methods: what is done to every caption."""
    return [
        io.String.Input(
            "prefix",
            default="",
            optional=True,
            advanced=True,
            tooltip="Stands before every new caption, with the comma that you type.",
        ),
        io.String.Input("suffix", default="", optional=True, advanced=True, tooltip="Stands behind every new caption."),
        io.String.Input(
            "replace_words",
            default="",
            multiline=True,
            optional=True,
            advanced=True,
            tooltip="Rules, one a line: a woman -> sks woman. Whole words, in whatever case. Nothing behind the arrow "
            "takes the words out.",
        ),
    ]


def _tag_inputs() -> list[Any]:
    """Of taggers."""
    usual = Tagging()
    bounds = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True, "advanced": True}
    return [
        io.Float.Input(
            "general_threshold", default=usual.general, tooltip="Taggers: the least probability of a tag.", **bounds
        ),
        io.Float.Input(
            "character_threshold",
            default=usual.character,
            tooltip="Taggers: the least probability of a character's name.",
            **bounds,
        ),
        io.Boolean.Input(
            "rating", default=usual.rating, optional=True, advanced=True, tooltip="Taggers: write the rating as a tag."
        ),
        io.Boolean.Input(
            "underscores",
            default=usual.underscores,
            optional=True,
            advanced=True,
            tooltip="Taggers: long_hair instead of long hair.",
        ),
        io.String.Input(
            "exclude",
            default="",
            optional=True,
            advanced=True,
            tooltip="Taggers: tags that are never written, with commas between them.",
        ),
        io.String.Input(
            "first",
            default="",
            optional=True,
            advanced=True,
            tooltip="Taggers: tags that stand first in every caption, seen or not, with commas between them.",
        ),
    ]
