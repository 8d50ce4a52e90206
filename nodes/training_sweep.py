"""Training Sweep: the same training with one setting varied, side by side, and which value to keep."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..trainer import comparison, sheet, yaml_text
from ..trainer import config as configs
from ..trainer.comparison import Trial
from ..trainer.errors import ConfigError, DarkroomError, HostError, RunError
from .host.graph import RunProgress, executing_node
from .payloads import CATEGORY, ConfigFields, ConfigType, DatasetRef, DatasetType
from .settings import NAMES
from .sources import Folder
from .training import train
from .working import Trained, count_kept, times_kept, to_the_end

MOST = 20
_AT_THE_END = 1_000_000


class TrainingSweep(io.ComfyNode):
    """Train LoRA, once for each value of a setting."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_TrainingSweep",
            display_name="Training Sweep",
            category=CATEGORY,
            description="Trains once for each value of one setting, one after the other, and puts the samples side by "
            "side. Says which value to keep, and whether the difference is more than noise. What is trained already "
            "is found again.",
            search_aliases=[
                "sweep", "compare", "xy plot", "hyperparameters", "grid search",
                "\u8bad\u7ec3\u5bf9\u6bd4", "\u53c2\u6570\u5bf9\u6bd4", "\u5bf9\u6bd4",
            ],
            is_output_node=True,
            inputs=[
                DatasetType.Input("dataset", tooltip="The images and captions, from Load Dataset or Auto Caption."),
                io.Model.Input("model", tooltip="The model to train on."),
                io.Clip.Input("clip", tooltip="Encodes the captions."),
                io.Vae.Input("vae", tooltip="Encodes the images, and decodes the samples."),
                io.Combo.Input(
                    "setting",
                    options=[name for name in NAMES if name not in ("sample_prompts", "reg_data_dir", "init_lora")],
                    default="lora_rank",
                    tooltip="What is varied: a setting of LoRA Train Config. Everything else stays the same.",
                ),
                io.String.Input(
                    "values", default="4, 8, 16", tooltip="The values of this setting, with commas between them."
                ),
                ConfigType.Input(
                    "config",
                    optional=True,
                    tooltip="How to train, from LoRA Train Config. Hold pictures out (validation_images), or nothing "
                    "can be called better.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="grid", tooltip="The samples side by side: a row a prompt, a column a value."
                ),
                io.String.Output(
                    display_name="table", tooltip="Loss, drift, size and time of each value, and which one to keep."
                ),
                io.LoraModel.Output(
                    display_name="lora", tooltip="The LoRA of the value to keep, or of the first, where none is better."
                ),
            ],
            hidden=[io.Hidden.extra_pnginfo],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        """A run that was stopped and kept goes on when it is queued again."""
        return times_kept(executing_node())

    @classmethod
    def execute(
        cls,
        dataset: DatasetRef,
        model: Any,
        clip: Any,
        vae: Any,
        setting: str,
        values: str,
        config: ConfigFields | None = None,
    ) -> io.NodeOutput:
        """Check every value, train what is not trained, compare."""
        progress = RunProgress(cls.hidden.extra_pnginfo)
        given = dict(config.values) if config is not None else {}
        field = next(name for name, shown in NAMES.items() if shown == setting)
        wanted = _values(field, setting, values, given)
        done: list[Trained | None] = []
        trials = []
        for number, (word, fields) in enumerate(wanted, 1):
            trial = f"{setting} {word} ({number} of {len(wanted)})"
            progress.say(trial)
            try:
                with progress.panel:
                    progress.panel.trial(trial)
                    trained = train(Folder(dataset), fields, model, clip, vae, "", progress, to_the_end)
            except RunError as error:
                count_kept(progress.panel.at.node)
                done.append(None)
                trials.append(Trial(word, dataset.folder, failure=error.message))
                continue
            done.append(trained)
            trials.append(comparison.trial(word, trained.folder, trained.outcome))
        verdict = comparison.judge(setting, trials)
        table = comparison.table(setting, trials, verdict)
        there = [one for one in done if one is not None]
        if not there:
            raise RunError(f"Training Sweep: none of the runs came to its end\n{table}", "see the reasons above")
        pictures = [{} if one is None else _pictures(one, trial) for one, trial in zip(done, trials, strict=True)]
        drawn = comparison.grid(setting, trials, pictures)
        assert drawn is not None  # the last samples of a run are always drawn
        grid = sheet.to_pixels(drawn).movedim(0, -1)[None]
        kept = (done[verdict.keep] if verdict.keep is not None else None) or there[0]
        progress.say(verdict.text)
        # For the page, which lays them out by itself: in Chinese, spaces would not keep columns below each other.
        rows = [*comparison.rows(setting, trials, verdict), [verdict.text]]
        shown = {**ui.PreviewImage(grid, cls=cls).as_dict(), "text": [table], "rows": rows}
        return io.NodeOutput(grid, table, kept.lora, ui=shown)


def _values(field: str, setting: str, text: str, given: dict[str, Any]) -> list[tuple[str, ConfigFields]]:
    """Each value in words, and the fields of its run; all are checked.

    Raises:
        HostError: there are too few or too many, or one is not valid.
    """
    what = f"values: {text!r} for {setting}"
    try:
        found = list(yaml_text.loads(f"[{text}]"))
    except ConfigError as error:
        raise HostError(what, "give values with commas between: 4, 8, 16") from error
    if not 2 <= len(found) <= MOST:
        raise HostError(f"{what} are {len(found)}, expected 2 to {MOST}", "give values with commas between: 4, 8, 16")
    runs = []
    for value in found:
        fields = {**given, field: value}
        fields["validation_steps"] = fields.get("validation_steps", 100) or _AT_THE_END
        fields["sample_every"] = fields.get("sample_every", 100) or _AT_THE_END
        try:
            configs.parse(fields, source=setting)
        except DarkroomError as error:
            raise HostError(f"{what}: {error}", "give other values") from error
        runs.append((comparison.words(value), ConfigFields(fields)))
    return runs


def _pictures(trained: Trained, trial: Trial) -> dict[str, Any]:
    prompts = comparison.samples(trial)
    pictures: list[torch.Tensor] = list(trained.samples)
    return {prompt: sheet.to_image(picture.movedim(-1, 0)) for prompt, picture in zip(prompts, pictures, strict=False)}
