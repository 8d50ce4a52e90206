"""Save LoRA, Apply LoRA and Load Trained LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io

from ..trainer import runstate
from ..trainer.errors import HostError
from . import runs
from .host import lora as loras
from .host import places, saving
from .host.graph import say
from .payloads import CATEGORY, strength
from .runs import LAST, LATEST
from .trained import fingerprint, load

WIRED = "(the wired LoRA)"
RUN_TOOLTIP = (
    "Which run: latest, its id or the beginning of it, or the name of the data set's folder; the button below lists "
    "them. Or the name of a LoRA file, such as styles/neon.safetensors."
)


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
                io.LoraModel.Input(
                    "lora", optional=True, tooltip="The LoRA, from Train LoRA. Without one, nothing is written."
                ),
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
        cls, filename: str, lora: dict[str, torch.Tensor] | None = None, samples: torch.Tensor | None = None
    ) -> io.NodeOutput:
        """Write the file and its preview, and let the page know."""
        name = "" if lora is None else saving.save(lora, filename, samples)
        return io.NodeOutput(name, ui=say(f"Saved as {name}" if name else "Nothing to save: no LoRA is wired"))


class ApplyLoRA(io.ComfyNode):
    """MODEL and CLIP with a LoRA; anything of it that does not fit is an error."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_ApplyLoRA",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Patches a LoRA onto MODEL and CLIP: the one that was just trained, or a file. Where ComfyUI's "
            "own loader leaves out what does not fit, this node stops and says what.",
            search_aliases=["load lora", "use lora", "lora loader", "\u5e94\u7528LoRA", "\u52a0\u8f7dLoRA"],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                io.Model.Input(
                    "model", optional=True, tooltip="The model to change. A language model's LoRA needs CLIP alone."
                ),
                io.Combo.Input(
                    "lora_name",
                    options=[WIRED, *places.loras()],
                    default=WIRED,
                    tooltip="A LoRA file, where none is wired.",
                ),
                strength(
                    "strength_model",
                    0.8,
                    "0: not at all, 1: as trained. Begin with 0.7 to 0.8: too high loses the picture.",
                ),
                strength(
                    "strength_clip",
                    0.8,
                    "The same for the text encoder, where the LoRA changes it. Of a language model's LoRA this counts.",
                ),
                io.LoraModel.Input("lora", optional=True, tooltip="The LoRA from Train LoRA. Wins over lora_name."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder, for LoRAs that change it, or the language model that a LoRA is of.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder with the LoRA."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str) -> bool:
        """Any name passes: that of a shared workflow matters only where it is used, and is then named by our error."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = WIRED, **others: Any) -> Any:
        """Changes when the file does, where it is used; what is wired is known by its link."""
        if lora_name in (None, WIRED) or "lora" in others:
            return WIRED
        try:
            stat = places.lora(lora_name).stat()
        except (HostError, OSError) as error:
            return str(error)
        return f"{lora_name} {stat.st_size} {stat.st_mtime_ns}"

    @classmethod
    def execute(
        cls,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        model: Any = None,
        lora: dict[str, torch.Tensor] | None = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Check the LoRA, and patch it on; without one, hand on what came in."""
        if lora is None and lora_name == WIRED:
            return io.NodeOutput(model, clip, ui=say("No LoRA: none is wired, and no file is chosen"))
        name = _called(lora) if lora is not None else lora_name
        if lora is None:
            lora = loras.read(places.lora(lora_name))
        patched = loras.apply(model, clip, lora, strength_model, strength_clip)
        used = strength_clip if model is None else strength_model
        return io.NodeOutput(*patched, ui=say(f"{name} at {used:g}"))


def _called(lora: Mapping[str, torch.Tensor]) -> str:
    """What a wired LoRA is called, for people: which step of which run, if it is of one that is here."""
    run, steps = getattr(lora, "run", ""), getattr(lora, "metadata", {}).get("ss_steps", "")
    folder = runs.folder_of(places.runs(), getattr(lora, "path", None), run) if run else None
    if folder is None or not steps:
        return "the wired LoRA"
    state = runstate.state(folder)
    best = " (the best)" if state.best is not None and str(state.best.step) == steps else ""
    return f"step {steps}{best} of {runs.label(state)}"


class LoadTrainedLoRA(io.ComfyNode):
    """A LoRA of a run, finished or not, as LORA_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoadTrainedLoRA",
            display_name="Load Trained LoRA",
            category=CATEGORY,
            description="A LoRA that was trained here, without training: of the latest run or of any other one, the "
            "last, the best or an earlier step. Going back is choosing an earlier step.",
            search_aliases=[
                "load lora", "checkpoint", "rollback", "history", "runs", "resume",
                "\u52a0\u8f7dLoRA", "\u8bad\u7ec3\u8bb0\u5f55", "\u56de\u6eda",
            ],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                io.String.Input("run", default=LATEST, tooltip=RUN_TOOLTIP),
                io.String.Input(
                    "checkpoint",
                    default=LAST,
                    tooltip="Which step: last, best, or the number of a checkpoint, such as step 200. last is the "
                    "finished LoRA, or the newest checkpoint of a run that has not finished. best is the one that "
                    "Train LoRA would hand on: the last, or an earlier one that the validations show to be better by "
                    "more than noise.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA, for Apply LoRA and Save LoRA."),
                io.String.Output(display_name="run", tooltip="The run's id."),
                io.Int.Output(display_name="steps", tooltip="Optimizer steps that this LoRA was trained for."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, run: str | None = LATEST, checkpoint: str | None = LAST, **_: Any) -> Any:
        """Changes when another run becomes the latest, or the LoRA does."""
        return fingerprint(run, checkpoint)

    @classmethod
    def execute(cls, run: str, checkpoint: str) -> io.NodeOutput:
        """Find the run, and read the LoRA."""
        loaded = load(run, checkpoint)
        steps, lora = next(iter(loaded.loras.items()))
        text = "\n".join(
            [f"{loaded.name}, step {steps}" if steps else loaded.name, *(f"- {note}" for note in loaded.notes)]
        )
        return io.NodeOutput(lora, loaded.id, steps, ui=say(text))
