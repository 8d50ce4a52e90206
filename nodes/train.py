"""Train LoRA: the training, in the middle of the graph."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .host import places
from .host.graph import NodeProgress
from .payloads import CATEGORY, ConfigFields, ConfigType, DatasetRef, DatasetType
from .training import train

MOST_NOTES = 8
OWN_FILE = "(the file of the wired MODEL)"


class TrainLoRA(io.ComfyNode):
    """Dataset, config, MODEL, CLIP and VAE to a trained LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_TrainLoRA",
            display_name="Train LoRA",
            category=CATEGORY,
            description="Trains a LoRA on the wired model, in a process of its own, and hands it on: wire it into "
            "Apply LoRA and see it work in the same graph. If nothing changed, the finished LoRA comes back at once; "
            "Cancel saves, and the next run goes on from there; more epochs extend the run.",
            search_aliases=[
                "train", "training", "finetune", "fine-tune", "lora trainer", "dreambooth", "style",
                "\u8bad\u7ec3", "\u8bad\u7ec3LoRA", "\u5fae\u8c03", "\u70bc\u4e39",
            ],
            is_output_node=True,
            inputs=[
                DatasetType.Input("dataset", tooltip="The images and captions, from Load Dataset or Auto Caption."),
                ConfigType.Input("config", tooltip="How to train, from LoRA Train Config."),
                io.Model.Input(
                    "model",
                    tooltip="The model to train on. Its own file is read by the trainer; LoRAs or merges that are "
                    "patched onto it are trained on top of.",
                ),
                io.Clip.Input("clip", tooltip="Encodes the captions, exactly as it will encode your prompts."),
                io.Vae.Input("vae", tooltip="Encodes the images."),
                io.Combo.Input(
                    "base_file",
                    options=[OWN_FILE, *places.checkpoints()],
                    default=OWN_FILE,
                    optional=True,
                    advanced=True,
                    tooltip="A checkpoint to train on in place of the wired MODEL's own file, for a MODEL that is "
                    "quantised (GGUF) or comes from another loader.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA, for Apply LoRA and Save LoRA."),
                io.LossMap.Output(display_name="loss_map", tooltip="The training loss, for Plot Loss Graph."),
                io.Image.Output(display_name="samples", tooltip="The last samples that the trainer drew."),
                io.Int.Output(display_name="steps", tooltip="Optimizer steps done."),
                io.String.Output(display_name="run", tooltip="The run's id."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        dataset: DatasetRef,
        config: ConfigFields,
        model: Any,
        clip: Any,
        vae: Any,
        base_file: str = OWN_FILE,
    ) -> io.NodeOutput:
        """Train, or find the finished run again."""
        progress = NodeProgress()
        done = train(dataset, config, model, clip, vae, "" if base_file == OWN_FILE else base_file, progress)
        lines = [f"{done.steps} steps, loss {done.losses[-1]:.4f}" if done.losses else f"{done.steps} steps"]
        lines += [f"- {note}" for note in done.notes[:MOST_NOTES]]
        if len(done.notes) > MOST_NOTES:
            lines.append(f"- and {len(done.notes) - MOST_NOTES} more, in ComfyUI's log")
        text = "\n".join([*lines, f"run {done.run}"])
        progress.say(text)
        shown = {**ui.PreviewImage(done.samples, cls=cls).as_dict(), "text": [text]}
        return io.NodeOutput(done.lora, {"loss": done.losses}, done.samples, done.steps, done.run, ui=shown)
