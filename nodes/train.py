"""Train LoRA: the training, in the middle of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui

from ..trainer.errors import DarkroomError, HostError
from . import background, sofar
from .host import places
from .host.graph import RunProgress, blocker, executing_node
from .payloads import CATEGORY, ConfigFields, ConfigType, DatasetRef, DatasetType, one
from .sofar import SoFar
from .sources import Encoded, Folder, Source
from .text_training import train_text
from .training import train
from .working import times_kept, to_the_end

MOST_NOTES = 8
OWN_FILE = "(the file of the wired MODEL)"
WAIT_FOR_IT, IN_BACKGROUND = "wait for it", "in the background"


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
            "Cancel saves, and the next run goes on from there; more epochs extend the run. Texts train the language "
            "model that the CLIP holds. It hands on the last "
            "checkpoint, or an earlier one that its validations show to be better by more than noise.",
            search_aliases=[
                "train", "training", "finetune", "fine-tune", "lora trainer", "dreambooth", "style",
                "\u8bad\u7ec3", "\u8bad\u7ec3LoRA", "\u5fae\u8c03", "\u70bc\u4e39",
            ],
            is_output_node=True,
            is_input_list=True,  # of latents and conditioning; everything else is a list of one
            inputs=[
                DatasetType.Input(
                    "dataset",
                    optional=True,
                    tooltip="The images and captions, from Load Dataset or Auto Caption; or the texts of Load Dataset.",
                ),
                ConfigType.Input(
                    "config", optional=True, tooltip="How to train, from LoRA Train Config. Unwired: its defaults."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model to train on. Its own file is read by the trainer; LoRAs or merges that are "
                    "patched onto it are trained on top of.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes the captions, exactly as it will encode your prompts. For texts it is the "
                    "language model that is trained, from Load Language Model or Load CLIP, without MODEL and VAE.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the images, and decodes the samples."),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="In place of a dataset: pictures that are encoded already, as a list from Make Training "
                    "Dataset or Load Training Dataset.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The captions of these latents: one for each, or one for all.",
                ),
                io.Combo.Input(
                    "base_file",
                    options=[OWN_FILE, *places.checkpoints()],
                    default=OWN_FILE,
                    optional=True,
                    advanced=True,
                    tooltip="A checkpoint to train on in place of the wired MODEL's own file, for a MODEL that is "
                    "quantised (GGUF) or comes from another loader.",
                ),
                io.Combo.Input(
                    "when",
                    options=[WAIT_FOR_IT, IN_BACKGROUND],
                    default=WAIT_FOR_IT,
                    optional=True,
                    advanced=True,
                    tooltip="Whether this node waits until the LoRA is trained, or puts the run into a queue and hands "
                    "on at once what there is of it: the newest checkpoint, or a better earlier one. Then your graph "
                    "draws while it trains: queue again after a checkpoint, or let the node do so. Each prompt has the "
                    "card for itself; the training rests meanwhile. The queue survives a restart of ComfyUI.",
                ),
                io.Int.Input(
                    "devices",
                    default=1,
                    min=1,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="How many NVIDIA cards of this machine train it together. Each takes a batch of its own: "
                    "each step learns from as many times the pictures, and an epoch has fewer steps.",
                ),
            ],
            outputs=[
                io.LoraModel.Output(display_name="lora", tooltip="The LoRA, for Apply LoRA and Save LoRA."),
                io.LossMap.Output(display_name="loss_map", tooltip="The training loss, for Plot Loss Graph."),
                io.Image.Output(
                    display_name="samples",
                    tooltip="The last samples that the trainer drew up to the LoRA's step; of texts a page of answers.",
                ),
                io.Int.Output(display_name="steps", tooltip="Optimizer steps that the LoRA was trained for."),
                io.String.Output(display_name="run", tooltip="The run's id."),
            ],
            hidden=[io.Hidden.extra_pnginfo],  # the workflow's id, for the page's panel; it is no part of the cache key
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, when: Sequence[str | None] = (), **_: Any) -> str:
        """A run that was stopped and kept goes on when it is queued again; one in the background has something new."""
        node = executing_node()
        news = background.fingerprint(node) if set(when) & {IN_BACKGROUND, None} else ""  # None: it is wired
        return f"{times_kept(node)} {news}"

    @classmethod
    def execute(
        cls,
        dataset: Sequence[DatasetRef] = (),
        config: Sequence[ConfigFields] = (),
        model: Sequence[Any] = (),
        clip: Sequence[Any] = (),
        vae: Sequence[Any] = (),
        latents: Sequence[Any] = (),
        conditioning: Sequence[Any] = (),
        base_file: Sequence[str] = (),
        when: Sequence[str] = (),
        devices: Sequence[int] = (),
    ) -> io.NodeOutput:
        """Train, or find the finished run again."""
        progress = RunProgress(cls.hidden.extra_pnginfo)
        single = {
            "dataset": dataset,
            "config": config,
            "model": model,
            "clip": clip,
            "vae": vae,
            "base_file": base_file,
            "when": when,
            "devices": devices,
        }
        wired: dict[str, Any] = {name: one(name, values) for name, values in single.items() if values}
        source = _source(wired.get("dataset"), latents, conditioning)
        settings, wired_clip = wired.get("config", ConfigFields({})), wired.get("clip")
        bring = sofar.begin if wired.get("when") == IN_BACKGROUND else to_the_end
        many = wired.get("devices", 1)
        try:
            with progress.panel:
                if isinstance(source, Folder) and source.ref.text:
                    done = train_text(source.ref, settings, wired_clip, progress, bring, many)
                else:
                    file = wired.get("base_file", OWN_FILE)
                    file = "" if file == OWN_FILE else file
                    base = wired.get("model"), wired_clip, wired.get("vae")
                    done = train(source, settings, *base, file, progress, bring, many)
        except DarkroomError as error:
            progress.tell("failed", text=str(error))
            raise
        loss = done.losses[-1] if done.losses else None
        if isinstance(done, SoFar):
            head = done.text
        else:
            head = f"{done.steps} steps"
            if done.anew:
                progress.tell("trained", steps=done.steps, loss=loss)
        lines = [head if loss is None else f"{head}, loss {loss:.4f}"]
        if isinstance(done, SoFar) and done.waits:
            lines.append(done.waits)
        lines += done.advice
        lines += [f"- {note}" for note in done.notes[:MOST_NOTES]]
        if len(done.notes) > MOST_NOTES:
            lines.append(f"- and {len(done.notes) - MOST_NOTES} more, in ComfyUI's log")
        text = "\n".join([*lines, f"run {done.run}"])
        progress.say(text)
        shown: dict[str, Any] = {"text": [text]}
        if done.samples is not None:
            shown |= ui.PreviewImage(done.samples, cls=cls).as_dict()
        loss_map = {"loss": done.losses}
        if not isinstance(done, SoFar):
            return io.NodeOutput(done.lora, loss_map, done.samples, done.steps, done.run, ui=shown)
        return io.NodeOutput(
            blocker() if done.lora is None else done.lora,
            loss_map if len(set(done.losses)) > 1 else blocker(),  # Plot Loss Graph fails with one value
            blocker() if done.samples is None else done.samples,
            done.steps,
            done.run,
            ui=shown,
        )


def _source(dataset: DatasetRef | None, latents: Sequence[Any], conditioning: Sequence[Any]) -> Source:
    """What to train on.

    Raises:
        HostError: nothing, two things, or half a thing is wired.
    """
    if dataset is not None and not latents:
        return Folder(dataset)
    if dataset is None and latents and conditioning:
        return Encoded(latents, conditioning)
    if dataset is not None:
        raise HostError("Train LoRA: both a dataset and latents are wired", "wire one of them")
    if latents or conditioning:
        lacking = "conditioning" if latents else "latents"
        raise HostError(f"Train LoRA: {lacking} is not wired", "wire both outputs of Make Training Dataset")
    raise HostError("Train LoRA: there is nothing to train on", "wire a dataset from Load Dataset")
