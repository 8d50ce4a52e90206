"""Strength Sweep and Labelled Grid: one LoRA at several strengths and checkpoints, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..trainer import sheet
from ..trainer.errors import HostError
from . import trained
from .host import places
from .host.graph import say
from .host.lora import LoraModel, apply_at
from .lora import RUN_TOOLTIP
from .payloads import CATEGORY
from .runs import LATEST, folder_of

MOST = 200


class StrengthSweep(io.ComfyNode):
    """Lists of MODEL and CLIP with a LoRA at every strength, of every checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_StrengthSweep",
            display_name="Strength Sweep",
            category=CATEGORY,
            description="One LoRA at several strengths, and of several checkpoints: a list of patched models. Wire it "
            "where a single model would go; every node behind it runs once for each. Labelled Grid puts the pictures "
            "side by side.",
            search_aliases=[
                "xy plot", "compare", "strength", "checkpoints", "grid",
                "\u5f3a\u5ea6\u5bf9\u6bd4", "\u5bf9\u6bd4", "XY\u56fe\u8868",
            ],
            has_intermediate_output=True,  # what it says is told again when it comes out of the cache
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.String.Input(
                    "strengths",
                    default="0, 0.7, 0.8, 1.0",
                    tooltip="The strengths, with commas between them. 0 is the base model itself.",
                ),
                io.String.Input(
                    "checkpoints",
                    default="",
                    optional=True,
                    tooltip="Steps of the run to compare, such as: 100, 200, best, last. all: every one. Empty: the "
                    "wired LoRA alone, or the last one of the run.",
                ),
                io.String.Input(
                    "run", default=LATEST, optional=True, tooltip=f"{RUN_TOOLTIP} A wired LoRA wins."
                ),
                io.LoraModel.Input("lora", optional=True, tooltip="The LoRA, from Train LoRA or Load Trained LoRA."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder, for LoRAs that change it; else wire it past."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", is_output_list=True, tooltip="The models, a list."),
                io.Clip.Output(display_name="CLIP", is_output_list=True, tooltip="The text encoders, a list."),
                io.String.Output(
                    display_name="labels", is_output_list=True, tooltip="What each is, for Labelled Grid."
                ),
                io.Int.Output(display_name="columns", tooltip="How many there are in a row, for Labelled Grid."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, run: str | None = LATEST, checkpoints: str | None = "", **others: Any) -> Any:
        """Changes when the LoRAs of the run do; a wired one, which ComfyUI gives as None, is known by its link, but not
        which others there are of its run."""
        if "lora" not in others:
            return trained.fingerprint(run, checkpoints)
        return "wired" if checkpoints is not None and not checkpoints.strip() else float("nan")

    @classmethod
    def execute(
        cls,
        model: Any,
        strengths: str,
        checkpoints: str = "",
        run: str = LATEST,
        lora: Mapping[str, torch.Tensor] | None = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        """Patch every LoRA at every strength: a row a LoRA, a column a strength."""
        wanted = read_strengths(strengths)
        name, rows, notes = _rows(lora, run, checkpoints)
        if len(rows) * len(wanted) > MOST:
            raise HostError(
                f"Strength Sweep: {len(rows)} checkpoints at {len(wanted)} strengths are {len(rows) * len(wanted)} "
                f"models; expected at most {MOST}",
                "name fewer",
            )
        cells = [cell for one in rows.values() for cell in apply_at(model, clip, one, wanted)]
        several = len(rows) > 1
        labels = [_label(row if several else "", strength) for row in rows for strength in wanted]
        lines = [f"{name}: {len(cells)} models", *(f"- {note}" for note in notes)]
        models, clips = [cell[0] for cell in cells], [cell[1] for cell in cells]
        return io.NodeOutput(models, clips, labels, len(wanted), ui=say("\n".join(lines)))


def read_strengths(text: str) -> list[float]:
    """Numbers with commas, spaces or lines between them.

    Raises:
        HostError: there is none, or something else is among them.
    """
    words = re.split(r"[,;\s]+", text.strip(" ,;\n"))
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if not found or not all(abs(strength) <= 20 for strength in found):
        raise HostError(
            f"strengths: {text!r} are no numbers from -20 to 20", "give numbers with commas between: 0, 0.7, 0.8, 1.0"
        )
    return found


def _rows(
    lora: Mapping[str, torch.Tensor] | None, run: str, checkpoints: str
) -> tuple[str, dict[str, Mapping[str, torch.Tensor]], list[str]]:
    """What the LoRAs are called together, the LoRAs by their labels, and what the user should know."""
    if lora is not None and not checkpoints.strip():
        return "the wired LoRA", {"": lora}, []
    if lora is None:
        loaded = trained.load(run, checkpoints)
    else:
        folder = folder_of(places.runs(), lora.path, lora.run) if isinstance(lora, LoraModel) else None
        if folder is None:
            raise HostError(
                "checkpoints: the wired LoRA is of no run that is here, so it has no other checkpoints",
                "wire one from Train LoRA or Load Trained LoRA, or leave checkpoints empty",
            )
        loaded = trained.load_of(folder, checkpoints)
    return loaded.name, {f"step {step}": one for step, one in loaded.loras.items()}, loaded.notes


def _label(row: str, strength: float) -> str:
    shown = f"{strength:g}" if strength else "base"
    return f"{row}, {shown}" if row else shown


class LabelledGrid(io.ComfyNode):
    """Pictures and labels to one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LabelledGrid",
            display_name="Labelled Grid",
            category=CATEGORY,
            description="Puts pictures side by side, each under its label: behind Strength Sweep, or for any list of "
            "images.",
            search_aliases=[
                "grid", "contact sheet", "xy plot", "compare", "collage",
                "\u7f51\u683c", "\u62fc\u56fe", "\u5bf9\u6bd4\u56fe",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures: a list, or a batch."),
                io.String.Input(
                    "labels",
                    optional=True,
                    force_input=True,
                    tooltip="One text for each picture, such as the labels of Strength Sweep.",
                ),
                io.Int.Input(
                    "columns", default=0, min=0, max=100, optional=True, tooltip="Pictures in a row. 0: as it fits."
                ),
                io.String.Input("title", default="", optional=True, tooltip="A line above all."),
                io.Int.Input(
                    "cell_width",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="The width of a picture in the grid, in pixels. 0: as wide as the pictures are.",
                ),
            ],
            outputs=[io.Image.Output(display_name="grid", tooltip="One picture of all.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        labels: list[str] | None = None,
        columns: list[int] | None = None,
        title: list[str] | None = None,
        cell_width: list[int] | None = None,
    ) -> io.NodeOutput:
        """Lay out, draw, and show."""
        in_row = (columns or [0])[0]
        pixels, texts, in_row = arranged(images, labels or [], in_row)
        drawn = sheet.grid(
            [sheet.to_image(one.movedim(-1, 0)) for one in pixels],
            texts,
            columns=in_row,
            title=(title or [""])[0],
            width=(cell_width or [0])[0],
        )
        grid = sheet.to_pixels(drawn).movedim(0, -1)[None]
        return io.NodeOutput(grid, ui=ui.PreviewImage(grid, cls=cls))


def arranged(
    images: Sequence[torch.Tensor], labels: Sequence[str], columns: int
) -> tuple[list[torch.Tensor], list[str], int]:
    """Pictures [H, W, 3] in the order of the grid, their labels, and the number of columns.

    A list of batches becomes a row for each picture of a batch: what was drawn from the same noise lies side by side.

    Args:
        images: [B, H, W, 3] each; batches of one size, or one batch.
        labels: one a batch, one a picture, or none.
        columns: 0 for as it fits.

    Raises:
        HostError: the labels are of another number.
    """
    if len(images) == 1:
        images = images[0].split(1)
    sizes = {len(batch) for batch in images}
    if len(sizes) > 1:
        images, sizes = [one for batch in images for one in batch.split(1)], {1}
    texts = list(labels) or [""] * len(images)
    if len(texts) != len(images):
        raise HostError(
            f"labels: there are {len(labels)} for {len(images)} pictures",
            "wire labels and images of the same list, or leave labels unwired",
        )
    columns = columns or _fitting(len(images))
    order = [
        (batch, index)
        for start in range(0, len(images), columns)
        for index in range(len(images[start]))
        for batch in range(start, min(start + columns, len(images)))
    ]
    return [images[batch][index] for batch, index in order], [texts[batch] for batch, _ in order], columns


def _fitting(count: int) -> int:
    """As many columns that a few lie in one row, and many in something like a square."""
    return count if count <= 5 else -(-count // round(count**0.5))
