"""What a user decides about a run: ``TrainConfig``, with the names and the YAML of the guide.

A config is strict and frozen: unknown keys are refused with a did-you-mean, and all faults are told at once.
Fields may stand at the top of the file or in sections (``model_config:``, ``train_config:``, ``data_config:``).
A missing key means the guide's value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from . import yaml_text
from .errors import ConfigError

SECTIONS = ("model_config", "train_config", "data_config")

Precision = Literal["no", "fp16", "bf16"]
Targets = Literal["attention", "linear", "conv"]

# White space, and the quotes that Windows' "Copy as path" puts around.
_AROUND_A_PATH = re.compile(r'^[\s"]+|[\s"]+$')


def _as_path(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = _AROUND_A_PATH.sub("", value)
    if not text:
        raise ValueError("expected a path, got an empty text")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path, got {value!r}, and there is no such user") from None


def _named(path: Path) -> Path:
    # The last part is the LoRA's name: `/` and `..` have none.
    if path.absolute().name in ("", ".."):
        raise ValueError(f"expected a folder whose last part can name the LoRA, got {str(path)!r}")
    return path


def _yes_no(value: Any) -> Any:
    # YAML 1.1 reads a bare `no` as False; the user meant the word.
    return "no" if value is False else value


FilePath = Annotated[Path, BeforeValidator(_as_path)]


def _field(default: Any, description: str, *, identity: bool = True, **bounds: Any) -> Any:
    """A documented field. ``identity=False``: it does not shape the trajectory, so it is not in the run's identity."""
    return Field(default, description=description, json_schema_extra={"identity": identity}, **bounds)


class TrainConfig(BaseModel):
    """One training run. Defaults are the guide's, where it gives one."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    task_type: Literal["image-generation"] = _field(
        "image-generation", "What is trained. This version trains images; text-generation is to come."
    )
    base_model: FilePath = _field(
        Path("models/Stable-diffusion/v1-5-pruned.safetensors"),
        "The model to build on: a .safetensors checkpoint, or a diffusers folder.",
        identity=False,
    )
    train_data_dir: FilePath = _field(
        Path("data/style_train"), "The folder with the images and their captions.", identity=False
    )
    metadata_path: FilePath | None = _field(
        None,
        "A CSV file `filename,prompt`. Empty: metadata.csv in train_data_dir, where there is one.",
        identity=False,
    )
    output_dir: Annotated[FilePath, AfterValidator(_named)] = _field(
        Path("output/my_style_lora"), "The folder of this run; its last part names the LoRA.", identity=False
    )
    cache_dir: FilePath | None = _field(
        None, "Where latents and conditioning are cached. Empty: the user's cache folder.", identity=False
    )

    trigger_word: str = _field("", "Put in front of every caption that does not hold it already.")
    repeats: int = _field(1, "How often each image is seen in an epoch.", ge=1, le=1000)
    caption_dropout: float = _field(
        0.05, "Share of presentations with the empty caption, 0 to 1; keeps guidance working.", ge=0, le=1
    )
    resolution: int = _field(
        512,
        "Side of a square training image, in pixels; others get the same area.",
        ge=64,
        le=4096,
        multiple_of=64,
    )
    validation_images: int = _field(
        0,
        "Images held out from training to validate on. 0: validate on a few training images.",
        ge=0,
        le=1000,
    )

    lora_rank: int = _field(8, "Rank of the LoRA. 4 to 16 is the range; 8 to begin with.", ge=1, le=1024)
    lora_alpha: float | None = _field(None, "The update is scaled by alpha / rank. Empty: as the rank.", gt=0, le=4096)
    lora_targets: Targets = _field(
        "linear",
        "What gets a LoRA: the attention projections; all linear layers of the transformer blocks; "
        "or those and the convolutions.",
    )

    batch_size: int = _field(4, "Images in a micro-batch. 2 to 4; memory grows with it.", ge=1, le=1024)
    gradient_accumulation_steps: int = _field(
        1, "Micro-batches in an optimizer step: effective batch = batch_size x this.", ge=1, le=1024
    )
    learning_rate: float = _field(2e-4, "Step size. 1e-4 to 3e-4 for images.", gt=0, le=10)
    lr_scheduler: Literal["constant", "linear", "cosine"] = _field("cosine", "How the rate falls after the warm-up.")
    warmup_steps: int = _field(
        100,
        "Optimizer steps over which the rate rises; at most a tenth of the run is used.",
        ge=0,
        le=1_000_000,
    )
    epochs: int = _field(10, "How often the data set is gone through.", ge=1, le=100_000, identity=False)
    max_steps: int | None = _field(
        None, "End after so many optimizer steps, whatever the epochs say.", ge=1, identity=False
    )
    weight_decay: float = _field(0.01, "Decoupled weight decay of AdamW.", ge=0, le=1)
    max_grad_norm: float = _field(1.0, "Gradients are clipped to this norm. 0: not clipped.", ge=0)
    noise_offset: float = _field(
        0.0,
        "Adds so much of a constant per channel to the noise: helps very dark or bright styles.",
        ge=0,
        le=1,
    )
    seed: int = _field(42, "Seed of every random draw.", ge=0, le=2**63 - 1)

    mixed_precision: Annotated[Precision, BeforeValidator(_yes_no)] = _field(
        "fp16", "Number format of the base model and of the activations. On a CPU fp16 becomes fp32."
    )
    gradient_checkpointing: bool = _field(True, "Half the memory of activations, for a third more time.")
    device: str = _field(
        "auto",
        "auto, cpu, cuda, cuda:1, mps.",
        identity=False,
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?|xpu(:\d+)?)$",
    )

    log_interval: int = _field(10, "Optimizer steps between two lines of the log.", ge=1, identity=False)
    save_steps: int = _field(
        100, "Optimizer steps between two checkpoints; the last one is always saved.", ge=1, identity=False
    )
    validation_steps: int = _field(100, "Optimizer steps between two validations. 0: none.", ge=0, identity=False)
    sample_every: int = _field(100, "Optimizer steps between two rounds of samples. 0: none.", ge=0, identity=False)
    sample_prompts: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Prompts of the samples. Empty: the first two captions.",
        json_schema_extra={"identity": False},
    )
    sample_inference_steps: int = _field(20, "Denoising steps of a sample.", ge=1, le=1000, identity=False)
    sample_guidance: float = _field(7.0, "Classifier-free guidance of a sample.", ge=1, le=50, identity=False)
    sample_strength: float = _field(0.8, "Strength of the LoRA in a sample.", ge=0, le=2, identity=False)

    @property
    def name(self) -> str:
        """Name of the LoRA: the last part of ``output_dir``."""
        return self.output_dir.name

    @property
    def alpha(self) -> float:
        """``lora_alpha``, or the rank where it is not given."""
        return float(self.lora_rank if self.lora_alpha is None else self.lora_alpha)

    @property
    def window(self) -> int:
        """Samples in one optimizer step (the effective batch)."""
        return self.batch_size * self.gradient_accumulation_steps

    def identity(self) -> dict[str, Any]:
        """The fields that shape the trajectory, as plain values; part of the run's identity."""
        plain = self.to_plain()
        return {
            name: plain[name]
            for name, info in type(self).model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra["identity"]
        }

    def to_plain(self) -> dict[str, Any]:
        """Every field as a value that YAML and JSON know."""
        plain = self.model_dump(mode="json")
        # pydantic writes Path with the separators of the machine; forward slashes are read everywhere.
        for name, value in self:
            if isinstance(value, Path):
                plain[name] = value.as_posix()
        return plain

    def to_yaml(self) -> str:
        """The config with every field, as YAML that loads to an equal config."""
        return yaml_text.dumps(self.to_plain())

    def resolved(self) -> TrainConfig:
        """The same config with absolute paths: a run can be resumed from another working directory."""
        paths = {name: value.absolute() for name, value in self if isinstance(value, Path)}
        return self.model_copy(update=paths)

    def but(self, **changes: Any) -> TrainConfig:
        """A validated copy with some fields changed.

        Raises:
            ConfigError: a change is not valid.
        """
        return parse({**self.to_plain(), **changes})


def parse_value(text: str) -> Any:
    """One value written as in YAML, such as the ``16`` of ``--set lora_rank=16``.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return yaml_text.loads(text)
    except ConfigError as error:
        raise ConfigError([f"cannot read the value {text!r}: {problem}" for problem in error.problems]) from None


def loads(text: str, *, overrides: Mapping[str, Any] | None = None, source: str = "the config") -> TrainConfig:
    """Reads a config from YAML.

    Args:
        text: YAML, flat or in sections.
        overrides: fields that win over the text.
        source: named in errors.

    Raises:
        ConfigError: with every fault.
    """
    try:
        data = yaml_text.loads(text)
    except ConfigError as error:
        raise ConfigError(error.problems, source) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError([f"expected lines like `lora_rank: 8`, got {type(data).__name__} {data!r:.60}"], source)
    return parse(data, overrides=overrides, source=source)


def load(path: Path, *, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Reads a config file (UTF-8, with or without a byte-order mark).

    Raises:
        ConfigError: the file is missing, unreadable, or has faults.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError([f"the file {what}; copy configs/lora_default.yaml and edit the copy"], str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"], str(path)
        ) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], str(path)) from None
    return loads(text, overrides=overrides, source=str(path))


def parse(
    data: Mapping[Any, Any], *, overrides: Mapping[str, Any] | None = None, source: str = "the config"
) -> TrainConfig:
    """Validates plain data, flat or in sections.

    Raises:
        ConfigError: with every fault.
    """
    flat, problems = _flatten(data)
    # The two names of one setting: an override of either wins over both.
    wins = set(overrides or ())
    if wins & _PRECISION:
        flat = {name: value for name, value in flat.items() if name not in _PRECISION}
    flat.update(overrides or {})
    problems += _use_fp16(flat)
    try:
        config = TrainConfig.model_validate(flat)
    except ValidationError as error:
        raise ConfigError([*problems, *map(_explain, error.errors())], source) from None
    if problems:
        raise ConfigError(problems, source)
    return config


_PRECISION = {"use_fp16", "mixed_precision"}


def _flatten(data: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    flat: dict[str, Any] = {}
    problems: list[str] = []
    where: dict[str, str] = {}

    def take(items: Iterable[tuple[Any, Any]], place: str) -> None:
        for key, value in items:
            name = str(key)
            if value is None:  # an empty value (`metadata_path:`) is as if the line were not there
                continue
            if name in flat and flat[name] != value:
                problems.append(f"{name}: {flat[name]!r} {where[name]}, but {value!r} {place}; keep one")
                continue
            flat[name], where[name] = value, place

    take(((k, v) for k, v in data.items() if k not in SECTIONS), "at the top")
    for section in SECTIONS:
        content = data.get(section)
        if content is None:
            continue
        if not isinstance(content, Mapping):
            problems.append(f"{section}: expected fields below it, got {content!r:.60}")
            continue
        take(content.items(), f"in {section}")
    return flat, problems


def _use_fp16(flat: dict[str, Any]) -> list[str]:
    """Turns ``use_fp16``, another name of ``mixed_precision: fp16``, into it; returns the faults."""
    if "use_fp16" not in flat:
        return []
    use_fp16 = flat.pop("use_fp16")
    if not isinstance(use_fp16, bool):
        return [f"use_fp16: expected true or false, got {use_fp16!r}"]
    given = _yes_no(flat.setdefault("mixed_precision", "fp16" if use_fp16 else "no"))
    if use_fp16 != (given == "fp16"):
        return [f"use_fp16: {str(use_fp16).lower()} contradicts mixed_precision: {given}; give one of them"]
    return []


def _explain(error: Any) -> str:
    """One line for one pydantic error."""
    name = ".".join(str(part) for part in error["loc"])
    value, kind, context = error["input"], error["type"], error.get("ctx", {})
    field = TrainConfig.model_fields.get(name.split(".")[0])
    if kind == "extra_forbidden":
        known = [*TrainConfig.model_fields, "use_fp16", *SECTIONS]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else "see configs/lora_default.yaml for the known ones"
        return f"{name}: unknown field; {hint}"
    if kind == "value_error":
        text = str(context.get("error", error["msg"]))
        return f"{name}: {text}" if name else text
    if name == "task_type" and value == "text-generation":
        return "task_type: text-generation is not in this version yet; expected image-generation"
    expected = {
        "greater_than_equal": "at least {ge}",
        "greater_than": "more than {gt}",
        "less_than_equal": "at most {le}",
        "less_than": "less than {lt}",
        "multiple_of": "a multiple of {multiple_of}",
        "literal_error": "{expected}",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "a text",
        "string_pattern_mismatch": "auto, cpu, mps, cuda or cuda:N",
        "tuple_type": "a list of texts",
        "is_instance_of": "a path",
        "path_type": "a path",
    }.get(kind)
    said = f"expected {expected.format(**context)}" if expected else error["msg"]
    default = "" if field is None or field.default in (None, "", ()) else f" (default {field.default!s})"
    return f"{name}: {said}, got {value!r}{default}"
