"""Settings of kohya's sd-scripts and of lora-scripts: TOML, as ``--config_file`` and ``--dataset_config`` take it.

What the file does not say is as in sd-scripts, not as here: rank 4, alpha 1, rate 2e-6, constant, batch 1, 1600 steps,
fp32, no checkpointing, no caption dropout, the text encoder trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError
from . import kohya_data, kohya_network, toml
from .base import NOT_GIVEN, SHUFFLED, Imported, Reader, base_notes, looks_like_sdxl, nearest_resolution
from .kohya_keys import LEFT_OUT, TAKEN

TAKEN_WHOLE = "all pictures below it; a .txt is one caption; without one a picture has none, not its folder's name"
NAME = "kohya (sd-scripts, lora-scripts)"
_DATA_FIELDS = {
    "train_data_dir", "reg_data_dir", "prior_weight", "class_prompt", "repeats", "resolution", "batch_size",
    "trigger_word", "caption_dropout", "caption_shuffle", "keep_tokens", "flip", "mask", "mask_outside",
}  # fmt: skip


def read(text: str, path: Path) -> Imported:
    """Reads a TOML file of training options, or of a data set.

    Raises:
        ConfigError: it is no such file, or has faults; all are told at once.
        UserError: it is for something that this version does not train.
    """
    data = toml.loads(text, str(path))
    if "datasets" in data:
        options, further = kohya_data.flatten(data, str(path))
        return _imported(Reader(options, str(path)), path, further, whole=False)
    options = _flat(data)
    further = []
    if not {*TAKEN, *LEFT_OUT} & options.keys():
        raise ConfigError(["holds none of kohya's options, such as network_dim or train_data_dir"], str(path))
    if options.get("dataset_config"):
        named = _beside(str(options.pop("dataset_config")), path)
        try:
            inner = toml.loads(named.read_text(encoding="utf-8-sig"), str(named))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"dataset_config: {named} cannot be read: {error}"], str(path)) from None
        if "datasets" not in inner:
            raise ConfigError(["holds no [[datasets]]"], str(named))
        sub, further = kohya_data.flatten(inner, str(named))
        options |= sub
    return _imported(Reader(options, str(path)), path, further, whole=True)


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """kohya takes all sections as one; their names mean nothing. lora-scripts' presets describe themselves in one."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key == "metadata" and isinstance(value, dict) and len(data) > 1:
            continue
        flat |= value if isinstance(value, dict) else {key: value}
    return flat


def _imported(reader: Reader, path: Path, further: list[tuple[str, Any]], *, whole: bool) -> Imported:
    for key, value in further:
        reader.leave(key, value, "a run has one folder: put both below one, as 10_name for 10 repeats")
    kind = reader.text("model_train_type")
    if kind not in ("", "sd-lora", "sdxl-lora"):
        raise UserError(
            f"{path}: model_train_type {kind} is not trained by this version", "expected sd-lora or sdxl-lora"
        )
    if reader.yes("v2"):
        raise UserError(f"{path}: v2: Stable Diffusion 2 is not trained by this version", "choose SD 1.5 or SDXL")
    base_model = reader.text("pretrained_model_name_or_path")
    resolution = _resolution(reader)
    sdxl = kind == "sdxl-lora" or (kind == "" and looks_like_sdxl(base_model, resolution or 0))
    reader.fields["resolution"] = resolution or (1024 if sdxl else 512)
    if base_model:
        reader.fields["base_model"] = base_model
        base_notes(reader, "pretrained_model_name_or_path", base_model)
    _data(reader)
    _length(reader)
    _model(reader, sdxl)
    kohya_network.network(reader, path)
    kohya_network.optimizer(reader)
    _loss(reader)
    _output(reader)
    _samples(reader, path)
    reader.leave_rest(LEFT_OUT, TAKEN)
    if not whole:
        # The rest of such a run's options are elsewhere: ours stay at our own defaults.
        reader.fields = {name: value for name, value in reader.fields.items() if name in _DATA_FIELDS}
        reader.differing = [note for note in reader.differing if note.value is not NOT_GIVEN]
        text = "the file is of a data set alone; what it does not say has this program's defaults"
        reader.differs("the training options", NOT_GIVEN, text)
    return reader.finish(NAME)


def _resolution(reader: Reader) -> int | None:
    given = reader.take("resolution")
    if given is None:
        return None
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        sides = [int(part) for part in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        reader.fault(f"resolution: expected a side, or width and height such as 512,512, got {given!r}")
        return None
    side = nearest_resolution(sides)
    if set(sides) != {side}:
        reader.differs("resolution", given, f"{side}: a square of this area; every image keeps its own shape")
    return side


def _data(reader: Reader) -> None:
    fields = reader.fields
    if folder := reader.text("train_data_dir"):
        fields["train_data_dir"] = folder
        reader.differs("train_data_dir", folder, TAKEN_WHOLE)
    prior = reader.number("prior_loss_weight", 1.0)
    if folder := reader.text("reg_data_dir"):
        if prior == 0:
            reader.leave("prior_loss_weight", prior, "no weight, so no regularisation images: reg_data_dir is left out")
        else:
            fields |= {"reg_data_dir": folder, "prior_weight": prior}
            if name := reader.text("reg_class_tokens"):
                fields["class_prompt"] = name
            else:
                text = "images without a caption have class_prompt, not their folder's name: set it"
                reader.differs("reg_data_dir", folder, text)
    fields["repeats"] = reader.whole("dataset_repeats", 1)
    fields["batch_size"] = reader.whole("train_batch_size", 1)
    fields["caption_shuffle"] = reader.yes("shuffle_caption")
    if fields["caption_shuffle"]:
        reader.differs("shuffle_caption", True, SHUFFLED)
    fields["keep_tokens"] = reader.whole("keep_tokens", 0)
    fields["caption_dropout"] = reader.number("caption_dropout_rate", 0.0)
    fields["flip"] = reader.yes("flip_aug")
    if prefix := reader.text("caption_prefix"):
        fields["trigger_word"] = prefix.strip(" ,")
        reader.differs("caption_prefix", prefix, "trigger_word: put in front of those captions that do not hold it")
    if name := reader.text("class_tokens"):
        text = "images without a caption have none: python -m trainer caption --trigger-word ... writes them"
        reader.leave("class_tokens", name, text)
    extension = reader.text("caption_extension") or reader.text("caption_extention") or ".caption"
    if extension not in (".txt", ".caption"):
        reader.leave("caption_extension", extension, "captions are read from .txt, .caption, metadata.csv and .jsonl")
    if (separator := reader.text("caption_separator", ",")) != ",":
        reader.leave("caption_separator", separator, "tags are the parts between commas")
    alpha, masked = reader.yes("alpha_mask"), reader.yes("masked_loss")
    if alpha or masked:
        fields |= {"mask": "alpha" if alpha else "files", "mask_outside": 0.0}
        key = "alpha_mask" if alpha else "masked_loss"
        reader.differs(
            key, True, "each image's loss is the mean over its mask, so a small mask weighs as much as a large one"
        )
    if not reader.yes("enable_bucket", True):
        reader.differs("enable_bucket", False, "images are not cropped to one shape: each is trained in its own")
    if reader.given("bucket_no_upscale") and not reader.yes("bucket_no_upscale"):
        reader.differs("bucket_no_upscale", False, "no image is enlarged: a small one is trained at its own size")


def _length(reader: Reader) -> None:
    fields = reader.fields
    fields["gradient_accumulation_steps"] = reader.whole("gradient_accumulation_steps", 1)
    epochs, given = reader.whole("max_train_epochs", None), reader.given("max_train_steps")
    steps = reader.whole("max_train_steps", 1600)
    if epochs is not None:
        fields["epochs"] = epochs
        if given:
            reader.leave("max_train_steps", steps, "max_train_epochs wins, as there")
        return
    fields |= {"epochs": 100_000, "max_steps": steps}
    text = f"max_steps: {steps} alone ends the run; epochs is set to 100000"
    reader.differs("max_train_steps", steps if given else NOT_GIVEN, text)


def _model(reader: Reader, sdxl: bool) -> None:
    fields = reader.fields
    v_prediction = reader.yes("v_parameterization")
    if v_prediction:
        fields["prediction_type"] = "v_prediction"
    if reader.yes("zero_terminal_snr"):
        if v_prediction:
            fields["zero_terminal_snr"] = True
        else:
            reader.leave("zero_terminal_snr", True, "it makes no sense without v_parameterization")
    skip = reader.whole("clip_skip", None)
    if skip is not None and sdxl:
        reader.leave("clip_skip", skip, "sd-scripts does not use it with SDXL, whose layer is always the second last")
    elif skip:
        fields["clip_skip"] = skip


def _loss(reader: Reader) -> None:
    fields = reader.fields
    fields["noise_offset"] = reader.number("noise_offset", 0.0) or 0.0
    fields["min_snr_gamma"] = reader.number("min_snr_gamma", 0.0) or 0.0
    kind = reader.text("loss_type", "l2")
    delta, schedule = reader.number("huber_c", 0.1), reader.text("huber_schedule", "snr")
    scale = reader.number("huber_scale", 1.0)
    if kind in ("huber", "smooth_l1"):
        fields |= {"loss_type": "huber", "huber_delta": delta * (scale if schedule != "snr" else 1.0)}
        if kind == "smooth_l1":
            reader.differs("loss_type", kind, "huber: the same curve, but for its scale")
        if schedule != "constant":
            reader.differs("huber_schedule", schedule, "huber_delta is the same at every timestep, as with constant")
    elif kind != "l2":
        reader.leave("loss_type", kind, "mse is written; expected l2 or huber")


def _output(reader: Reader) -> None:
    fields = reader.fields
    folder, name = reader.text("output_dir", "output"), reader.text("output_name", "last")
    fields["output_dir"] = (Path(folder) / name).as_posix()
    if reader.given("save_every_n_steps"):
        fields["save_steps"] = reader.whole("save_every_n_steps", None)
    kind = reader.text("save_model_as", "safetensors")
    if kind != "safetensors":
        reader.leave("save_model_as", kind, "files are always safetensors")
    reader.take("use_safetensors")
    seed = reader.whole("seed", None)
    if seed is None:
        reader.differs("seed", NOT_GIVEN, "42 is written; sd-scripts draws another one each time")
    else:
        fields["seed"] = seed
    fields["mixed_precision"] = reader.text("mixed_precision", "no")
    fields["gradient_checkpointing"] = reader.yes("gradient_checkpointing")


def _samples(reader: Reader, path: Path) -> None:
    fields = reader.fields
    every, by_epoch = reader.whole("sample_every_n_steps", 0), reader.given("sample_every_n_epochs")
    named = reader.text("sample_prompts")
    if not every and not by_epoch:
        fields["sample_every"] = 0
    elif every:
        fields["sample_every"] = every
    if not named:
        return
    fields |= {"sample_inference_steps": 30, "sample_guidance": 7.5, "sample_strength": 1.0}
    file = _beside(named, path)
    if file.is_file():
        fields["sample_prompts"] = kohya_data.prompts(file)
    elif file.suffix in (".txt", ".toml", ".json"):
        reader.leave("sample_prompts", named, "there is no such file; set sample_prompts")
    else:
        fields["sample_prompts"] = [kohya_data.line(named)]


def _beside(name: str, path: Path) -> Path:
    """A file that another names: from where we are, as kohya takes it, or beside it."""
    here = Path(name)
    return here if here.exists() or not (path.parent / name).exists() else path.parent / name
