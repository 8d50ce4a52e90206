"""Settings of OneTrainer: the JSON of its presets and of "save config".

What the file does not say is as in OneTrainer, not as here: rank 16, alpha 1, rate 3e-6, constant, 100 epochs,
batch 1, fp16, the text encoder trained. Its files hold every setting there is; what stands at OneTrainer's own default
and has no counterpart is not told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError
from .base import NOT_GIVEN, SHUFFLED, Imported, Reader, base_notes, nearest_resolution, prodigy_rate
from .kohya_data import tidy_prompt
from .onetrainer_keys import DEFAULTS, IGNORED, LEFT_OUT, OPTIMIZERS, SCHEDULES, TAKEN

NAME = "OneTrainer"
_MODELS = {"STABLE_DIFFUSION_15": False, "STABLE_DIFFUSION_XL_10_BASE": True}
_FORMATS = {"FLOAT_16": "fp16", "BFLOAT_16": "bf16", "FLOAT_32": "no", "TFLOAT_32": "no"}
_TARGETS = {"full": "conv", "attn-mlp": "linear", "attn-only": "attention"}
_NESTED = ("unet", "text_encoder", "text_encoder_2", "vae", "optimizer")


def read(data: dict[str, Any], path: Path) -> Imported:
    """Reads a JSON config.

    Raises:
        ConfigError: it has faults; all are told at once.
        UserError: it is for something that this version does not train.
    """
    reader = Reader(_flat(data), str(path))
    method, model = reader.text("training_method", "FINE_TUNE"), reader.text("model_type", "STABLE_DIFFUSION_15")
    if method != "LORA":
        raise UserError(f"{path}: training_method {method} is not trained by this version", "expected LORA")
    if model not in _MODELS:
        raise UserError(f"{path}: model_type {model} is not trained by this version", f"expected {', '.join(_MODELS)}")
    _model(reader, _MODELS[model])
    _adapter(reader)
    _rates(reader, _MODELS[model])
    _loss(reader)
    _length(reader)
    _data(reader, path)
    _samples(reader, path)
    reader.leave_rest(LEFT_OUT, (), on=DEFAULTS)
    return reader.finish(NAME)


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """Its settings with the inner ones as ``unet.learning_rate``, without those that say nothing."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in _NESTED and isinstance(value, dict):
            inner = {f"{key}.{name}": one for name, one in value.items()}
            flat |= {name: one for name, one in inner.items() if name in TAKEN or name in LEFT_OUT}
        elif key in _NESTED:  # of the first versions
            flat[f"{key}.{key}"] = value
        elif key not in IGNORED:
            flat[key] = value
    return {key: value for key, value in flat.items() if value not in DEFAULTS.get(key, ())}


def _model(reader: Reader, sdxl: bool) -> None:
    fields = reader.fields
    fields["base_model"] = reader.text("base_model_name", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    base_notes(reader, "base_model_name", fields["base_model"])
    if reader.yes("force_v_prediction"):
        fields["prediction_type"] = "v_prediction"
    elif reader.yes("force_epsilon_prediction"):
        fields["prediction_type"] = "epsilon"
    if reader.yes("rescale_noise_scheduler_to_zero_terminal_snr"):
        if fields.get("prediction_type") == "epsilon":
            reader.leave("rescale_noise_scheduler_to_zero_terminal_snr", True, "it makes no sense with epsilon")
        else:
            fields["zero_terminal_snr"] = True
    skip, second = reader.whole("text_encoder_layer_skip", 0), reader.whole("text_encoder_2_layer_skip", 0)
    if skip:
        fields["clip_skip"] = skip + (2 if sdxl else 1)
    if sdxl and second != skip:
        reader.leave("text_encoder_2_layer_skip", second, "both text encoders have one clip_skip")
    destination = Path(reader.text("output_model_destination", "models/model.safetensors"))
    fields["output_dir"] = (destination.parent / (destination.stem or "lora")).as_posix()
    fields["resolution"] = _resolution(reader)
    kind = reader.text("train_dtype", "FLOAT_16")
    fields["mixed_precision"] = _FORMATS.get(kind, "auto")
    if kind not in _FORMATS:
        reader.leave("train_dtype", kind, "auto is written")
    old = reader.take("gradient_checkpointing", True)
    fields["gradient_checkpointing"] = reader.yes("unet.gradient_checkpointing", old not in (False, "OFF"))


def _resolution(reader: Reader) -> int:
    given = str(reader.take("resolution", "512"))
    first, *others = given.replace(" ", "").split(",")
    try:
        sides = [int(side) for side in first.lower().split("x")]
        side = nearest_resolution(sides)
    except (ValueError, IndexError):
        reader.fault(f"resolution: expected a side such as 512, or 512x768, got {given!r}")
        return 512
    if others or set(sides) != {side}:
        reader.differs("resolution", given, f"{side}: one area for all images; each keeps its own shape")
    return side


def _adapter(reader: Reader) -> None:
    fields = reader.fields
    kind = reader.text("peft_type", "LORA")
    rank, own = reader.whole("lora_rank", 16), reader.whole("lokr_dim", 16)
    dora, lokr_dora = reader.yes("lora_decompose"), reader.yes("lokr_weight_decompose")
    factor = reader.whole("lokr_decompose_factor", -1)
    methods = {"LORA": "dora" if dora else "lora", "LOHA": "loha", "LOKR": "lokr"}
    if kind not in methods:
        reader.leave("peft_type", kind, "an ordinary LoRA is trained instead")
    fields["lora_method"] = methods.get(kind, "lora")
    fields |= {"lora_rank": own if kind == "LOKR" else rank, "lora_alpha": reader.number("lora_alpha", 1.0) or None}
    if kind == "LOKR":
        fields["lokr_factor"] = factor
        if lokr_dora:
            reader.leave("lokr_weight_decompose", True, "lokr is trained without it")
    preset = reader.text("layer_filter_preset", "full")
    fields["lora_targets"] = _TARGETS.get(preset, "linear")
    layers = reader.text("layer_filter")
    if preset not in _TARGETS:
        text = "linear is written; lora_targets and lora_blocks choose layers"
        reader.leave("layer_filter", layers or preset, text)
    if preset == "full":
        reader.differs("layer_filter_preset", "full", "conv: all but conv_in, conv_out and the time embedding")
    fields["lora_dropout"] = reader.number("dropout_probability", 0.0)
    if weights := reader.text("lora_model_name"):
        fields["init_lora"] = weights


def _rates(reader: Reader, sdxl: bool) -> None:
    fields = reader.fields
    if not reader.given("learning_rate"):
        text = "3e-6 is written, as there; it moves hardly anything: 1e-4 to 3e-4 is usual"
        reader.differs("learning_rate", NOT_GIVEN, text)
    common = reader.number("learning_rate", 3e-6)
    fields["learning_rate"] = reader.number("unet.learning_rate", None) or common
    if not reader.yes("unet.train", True):
        reader.leave("unet.train", False, "the UNet is always trained")
    first = reader.yes("text_encoder.train", True)
    second = reader.yes("text_encoder_2.train", True) if sdxl else first
    reader.take("text_encoder_2.train")
    fields["train_text_encoder"] = first or second
    if first != second:
        reader.differs("text_encoder.train", first, "both text encoders are trained, or none: both are")
    rate = reader.number("text_encoder.learning_rate", None)
    until = reader.take("text_encoder.stop_training_after", 30)
    unit = reader.take("text_encoder.stop_training_after_unit", "EPOCH")
    if fields["train_text_encoder"]:
        fields["text_encoder_learning_rate"] = rate or common
        if until and unit != "NEVER":
            text = "the text encoder is trained to the end"
            reader.differs("text_encoder.stop_training_after", f"{until} {unit}", text)
    _optimizer(reader)
    schedule = reader.text("learning_rate_scheduler", "CONSTANT")
    if schedule not in SCHEDULES:
        reader.leave("learning_rate_scheduler", schedule, "cosine is written")
    fields["lr_scheduler"] = SCHEDULES.get(schedule, "cosine")
    cycles = reader.number("learning_rate_cycles", 1.0)
    if fields["lr_scheduler"] == "cosine_with_restarts":
        fields["lr_cycles"] = max(1, round(cycles))
    elif cycles != 1:
        reader.leave("learning_rate_cycles", cycles, f"{fields['lr_scheduler']} has none")
    warmup = reader.number("learning_rate_warmup_steps", 200.0)
    fields["warmup_steps"] = "auto" if 0 < warmup <= 1 else int(warmup)
    if warmup:
        text = "of the run, at most 100 steps: a twentieth" if warmup <= 1 else "but at most a tenth of the run"
        reader.differs("learning_rate_warmup_steps", warmup, f"warmup_steps: {fields['warmup_steps']}, {text}")
    fields["max_grad_norm"] = reader.number("clip_grad_norm", 0.0 if "clip_grad_norm" in reader.values else 1.0)


def _optimizer(reader: Reader) -> None:
    fields = reader.fields
    given = reader.text("optimizer.optimizer", "ADAMW")
    name, decay, text = OPTIMIZERS.get(given, ("adamw", 0.01, ""))
    if given not in OPTIMIZERS:
        reader.leave("optimizer.optimizer", given, "adamw is written; check learning_rate")
        if fields["learning_rate"] > 1e-2:
            fields["learning_rate"] = 1e-4
    elif text:
        reader.differs("optimizer.optimizer", given, f"{name}: {text}")
    fields |= {"optimizer": name, "weight_decay": reader.number("optimizer.weight_decay", decay)}
    of_prodigy = {
        "use_bias_correction": reader.yes("optimizer.use_bias_correction"),
        "safeguard_warmup": reader.yes("optimizer.safeguard_warmup"),
        "d_coef": reader.number("optimizer.d_coef", 1.0),
    }
    if name != "prodigy":
        return
    fields["optimizer_args"] = of_prodigy
    prodigy_rate(reader)


def _loss(reader: Reader) -> None:
    fields = reader.fields
    weighting, gamma = reader.text("loss_weight_fn", "CONSTANT"), reader.number("loss_weight_strength", 5.0)
    fields["min_snr_gamma"] = gamma if weighting == "MIN_SNR_GAMMA" else 0.0
    if weighting not in ("CONSTANT", "MIN_SNR_GAMMA"):
        reader.leave("loss_weight_fn", weighting, "left out; min_snr_gamma is the nearest")
    squared, huber = reader.number("mse_strength", 1.0), reader.number("huber_strength", 0.0)
    delta = reader.number("huber_delta", 1.0)
    if huber:
        fields |= {"loss_type": "huber", "huber_delta": delta}
        text = "loss_type: huber alone" if squared else "loss_type: huber; a smooth one, of twice the height"
        reader.differs("huber_strength", huber, text)
    elif squared != 1:
        reader.leave("mse_strength", squared, "mse is written, at 1")
    fields["noise_offset"] = reader.number("offset_noise_weight", 0.0)
    outside = reader.number("unmasked_weight", 0.1)
    if reader.yes("masked_training"):
        fields |= {"mask": "files", "mask_outside": outside}


def _length(reader: Reader) -> None:
    fields = reader.fields
    fields["epochs"] = reader.whole("epochs", 100)
    fields["batch_size"] = reader.whole("batch_size", 1)
    fields["gradient_accumulation_steps"] = reader.whole("gradient_accumulation_steps", 1)
    decay = reader.number("ema_decay", 0.999)
    if reader.text("ema", "OFF") != "OFF":
        fields["ema_decay"] = decay
        reader.differs("ema", reader.values["ema"], f"ema_decay: {decay}, at every step and on the card")
    for theirs, ours in (("save_every", "save_steps"), ("sample_after", "sample_every")):
        if not reader.given(theirs):
            continue
        count, unit = reader.whole(theirs, 0), reader.text(f"{theirs}_unit", "MINUTE")
        if unit == "STEP" and count:
            fields[ours] = count
        elif unit != "NEVER" and (count, unit) != (10, "MINUTE"):  # OneTrainer's own default
            reader.leave(theirs, f"{count} {unit}", f"set {ours}, in optimizer steps")


def _data(reader: Reader, path: Path) -> None:
    fields = reader.fields
    fields["caption_dropout"] = reader.number("text_encoder.dropout_probability", 0.0)
    concepts = _listed(reader, "concepts", "concept_file_name", path)
    chosen = [one for one in concepts if one.get("enabled", True) and one.get("type", "STANDARD") == "STANDARD"]
    for one in concepts:
        if one.get("enabled", True) and one.get("type", "STANDARD") != "STANDARD":
            text = "left out; validation_images holds images out, prior_preservation needs none"
            reader.leave("concepts type", one.get("type"), text)
    for one in chosen[1:]:
        text = "a run has one folder: put both below one, as 10_name for 10 repeats"
        reader.leave("concepts path", one.get("path", ""), text)
    if not chosen:
        return
    concept = chosen[0]
    image, text = concept.get("image") or {}, concept.get("text") or {}
    if concept.get("path"):
        fields["train_data_dir"] = str(concept["path"])
    if not concept.get("include_subdirectories", False):
        reader.differs("concepts include_subdirectories", False, "folders below it are taken, too")
    text_file = "a .txt is one caption, with all its lines; alternatives are rows of a metadata.csv"
    if text.get("prompt_source", "sample") == "sample":
        reader.differs("concepts prompt_source", "sample", text_file)
    repeats = float(concept.get("balancing", concept.get("repeats", 1.0)) or 1.0)
    if concept.get("balancing_strategy", "REPEATS") == "REPEATS" and repeats >= 1:
        fields["repeats"] = round(repeats)
    if repeats != fields.get("repeats", 1):
        reader.leave("concepts balancing", repeats, f"repeats: {fields.get('repeats', 1)} is written, a whole number")
    fields["flip"] = bool(image.get("enable_random_flip", False))
    fields["caption_shuffle"] = bool(text.get("enable_tag_shuffling", False))
    if fields["caption_shuffle"]:
        reader.differs("concepts enable_tag_shuffling", True, SHUFFLED)
    fields["keep_tokens"] = int(text.get("keep_tags_count", 1)) if fields["caption_shuffle"] else 0
    for name, value in image.items():
        if name.startswith("enable_") and value is True and name != "enable_random_flip":
            reader.leave(
                f"concepts image.{name}", value, "left out; images are cropped in the middle, and kept as they are"
            )
    source = text.get("prompt_source", "sample")
    if source != "sample":
        reader.leave(
            "concepts text.prompt_source", source, "python -m trainer caption writes captions beside the images"
        )
    if text.get("tag_dropout_enable"):
        reader.leave("concepts text.tag_dropout_enable", True, "left out; caption_dropout drops whole captions")


def _samples(reader: Reader, path: Path) -> None:
    prompts = []
    for one in _listed(reader, "samples", "sample_definition_file_name", path):
        if one.get("enabled", True) and one.get("prompt"):
            seed = None if one.get("random_seed") else one.get("seed")
            names = {"seed": seed, "sample_steps": one.get("diffusion_steps"), "scale": one.get("cfg_scale")}
            prompts.append(tidy_prompt({**one, **names}))
    if prompts:
        reader.fields |= {"sample_prompts": prompts, "sample_strength": 1.0}


def _listed(reader: Reader, key: str, file_key: str, path: Path) -> list[dict[str, Any]]:
    """A list that stands in the file, or in one that it names."""
    found, name = reader.take(key), reader.text(file_key)
    if found is None and name:
        # As OneTrainer takes it (from its own folder), beside the config, and above its folder of configs.
        places = (Path(name), path.parent / name, path.parent / Path(name).name, path.parent.parent / name)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            fields = "train_data_dir" if key == "concepts" else "sample_prompts"
            reader.leave(file_key, name, f"there is no such file; set {fields}")
            return []
        found = read_json(file)
    if not isinstance(found or [], list) or not all(isinstance(one, dict) for one in found or []):
        reader.fault(f"{key}: expected a list, got {type(found).__name__}")
        return []
    return found or []


def read_json(path: Path) -> Any:
    """The data of a JSON file.

    Raises:
        ConfigError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError([f"not JSON: {error.msg} (line {error.lineno})"], str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], str(path)) from None
