"""The fields of a run's settings, each with its unit, default and range, and whether it shapes the trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_serializer,
    model_validator,
)

from .. import yaml_text
from . import fitting, identity
from .automatic import AUTO, Auto
from .kinds import FilePath, argument, factor, field, named, warmup, yes_no

TEXT = "text-generation"
TEXT_RATE = 1e-4
"""Of the guide's rates for text, 5e-5 to 1e-4, the one that counts where none is set."""
SECTIONS = ("model_config", "train_config", "data_config")

CaptionSource = Literal["auto", "table", "files", "names", "none"]
Precision = Literal["no", "fp16", "bf16"]
Targets = Literal["attention", "linear", "conv"]
Method = Literal["lora", "rslora", "dora", "lokr", "loha"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "schedulefree"]
Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]

_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class SamplePrompt(BaseModel):
    """A prompt that samples are drawn of. In YAML a text, or a mapping; what is empty is as for all samples."""

    model_config = _STRICT

    prompt: str
    negative: str = ""
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=1, le=50)
    strength: float | None = Field(default=None, ge=0, le=2)
    width: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)
    height: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"prompt": value} if isinstance(value, str) else value

    @model_serializer
    def _as_text(self) -> Any:
        given = {name: value for name, value in self if value != type(self).model_fields[name].default}
        return self.prompt if given.keys() <= {"prompt"} else given


class TrainConfig(BaseModel):
    """One training run. Defaults are the guide's, where it gives one."""

    model_config = _STRICT

    auto: tuple[Auto, ...] = field(
        (),
        "true: what the file does not set of rank, alpha, rate, length, batch, resolution and held-out images is "
        "chosen by the images and the card. The same for one field: lora_rank: auto.",
        identity=False,
    )
    task_type: Literal["image-generation", "text-generation"] = field(
        "image-generation",
        "What is trained: image-generation (Stable Diffusion 1.5, SDXL), or text-generation (a language model).",
    )
    base_model: FilePath = field(
        Path("models/Stable-diffusion/v1-5-pruned.safetensors"),
        "The model to build on: a .safetensors checkpoint, or a folder of diffusers (images) or transformers (text).",
        identity=False,
    )
    tokenizer: FilePath | None = field(
        None,
        "Text: the folder of the tokenizer, for a base model that comes without one. Empty: the base model's own.",
        identity=False,
    )
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = field(
        "auto", "What the base model predicts. auto: as its file says.", identity=False
    )
    zero_terminal_snr: bool | None = field(
        None, "Whether the base model's noise reaches pure noise. Empty: as its file says.", identity=False
    )
    clip_skip: int | None = field(
        None,
        "Which of the text encoder's layers counts, from the end. Empty: the family's (Stable Diffusion 1.5: 1).",
        ge=1,
        le=12,
    )
    train_data_dir: FilePath = field(
        Path("data/style_train"), "The folder with the images and their captions, or with the texts.", identity=False
    )
    metadata_path: FilePath | None = field(
        None,
        "A CSV file `filename,prompt`. Empty: metadata.csv in train_data_dir, where there is one. Text: the one file "
        "that is read (.jsonl, .csv, .txt); empty: all of them in train_data_dir.",
        identity=False,
    )
    output_dir: Annotated[FilePath, AfterValidator(named)] = field(
        Path("output/my_style_lora"), "The folder of this run; its last part names the LoRA.", identity=False
    )
    cache_dir: FilePath | None = field(
        None, "Where latents and conditioning are cached. Empty: the user's cache folder.", identity=False
    )

    caption_source: CaptionSource = field(
        "auto",
        "Where captions come from. auto: the table, then a .txt or .caption file beside the image; table or files: "
        "these alone; names: the words of the file names; none: the trigger word alone.",
        identity=False,
    )
    exclude: tuple[str, ...] = field(
        (),
        "Images that are left as if they were not there: their names, relative to train_data_dir, such as "
        "[blurred.png, cats/05.jpg]. Captions stay where they are.",
        identity=False,  # what is trained are the others, and these are in the run's identity
        strict=False,
    )
    trigger_word: str = field("", "Put in front of every caption that does not hold it already.")
    repeats: int = field(1, "How often each image is seen in an epoch.", ge=1, le=1000)
    caption_dropout: float = field(
        0.05, "Share of presentations with the empty caption, 0 to 1; keeps guidance working.", ge=0, le=1
    )
    caption_shuffle: bool = field(
        False, "Shows the tags of a caption (its parts between commas) in another order each time. For tags only."
    )
    keep_tokens: int = field(0, "How many tags stay in front when shuffled, beside the trigger word.", ge=0, le=100)
    flip: bool = field(False, "Shows every image mirrored half of the time. Not for text, faces, left and right.")
    mask: Annotated[Literal["no", "alpha", "files"], BeforeValidator(yes_no)] = field(
        "no", "Where the loss counts: everywhere; where the image is opaque; where its mask file is white."
    )
    mask_outside: float = field(0.1, "Weight of the loss outside a mask.", ge=0, le=1)
    reg_data_dir: FilePath | None = field(
        None,
        "A folder of regularisation images: ordinary ones of the class, shown as often as the images of "
        "train_data_dir, without the trigger word.",
        identity=False,
    )
    prior_weight: float = field(1.0, "Weight of the loss on a regularisation image.", gt=0, le=10)
    prior_preservation: float = field(
        0.0,
        "Weight of a second loss, without any images: on class_prompt the model shall predict what it did before. "
        "Takes two and a half times as long. 0: none.",
        ge=0,
        le=10,
    )
    class_prompt: str = field("", "What the images show, without the trigger word, such as: a woman.")
    resolution: int = field(
        512,
        "Side of a square training image, in pixels; others get the same area, and none is enlarged. 512 for Stable "
        "Diffusion 1.5, 1024 for SDXL. Lower saves memory and costs quality.",
        ge=64,
        le=4096,
        multiple_of=64,
    )
    validation_images: int = field(
        0,
        "Images held out from training to measure overfitting on; 1 or 2 of few images. 0: validate on a few training "
        "images.",
        ge=0,
        le=1000,
    )

    max_length: int = field(
        1024,
        "Text: tokens of a sample at most; of a longer one the front is cut away, not the answer. Lower saves memory.",
        ge=8,
        le=131_072,
        identity=False,  # what is trained are tokens, and these are in the run's identity
    )
    chat_template: str = field(
        "",
        "Text: how messages become one text. Empty: the tokenizer's own template; none: as they are; else the path of "
        "a Jinja file.",
        identity=False,
    )

    lora_rank: int = field(
        8,
        "Rank of the LoRA. 8 to begin with, 4 to 16 is the range: 16 if the result is flat, 4 or 6 if it is stiff or "
        "memory is short. 32 and more learns a small set by heart.",
        ge=1,
        le=1024,
    )
    lora_alpha: float | None = field(None, "The update is scaled by alpha / rank. Empty: as the rank.", gt=0, le=4096)
    lora_targets: Targets = field(
        "linear",
        "What gets a LoRA: the attention projections; all linear layers of the transformer blocks; "
        "or those and the convolutions.",
    )

    lora_method: Method = field(
        "lora",
        "The kind of adapter: lora; rslora (alpha / sqrt(rank)); dora (direction and magnitude); lokr, loha (other "
        "products, smaller files).",
    )
    lora_blocks: tuple[str, ...] = field(
        (), "Only layers whose name begins with one of these, such as up_blocks.1. Empty: all blocks.", strict=False
    )
    lora_ranks: dict[str, Annotated[int, Field(ge=1, le=1024)]] = field(
        {}, "Another rank for layers in whose name a pattern is found, such as {mid_block: 16}."
    )
    lora_alphas: dict[str, Annotated[float, Field(gt=0, le=4096)]] = field(
        {}, "Another alpha for layers in whose name a pattern is found."
    )
    lora_dropout: float = field(
        0.0, "Share of a LoRA's inputs that is dropped, 0 to 1: a little (0.1) works against overfitting.", ge=0, lt=1
    )
    lokr_factor: Annotated[int, AfterValidator(factor)] = field(
        -1, "Size of LoKr's first factor. -1: as near to a square as can be.", ge=-1, le=1024
    )
    init_lora: FilePath | None = field(
        None, "A LoRA file to start from, of the same method, rank and alpha. Empty: from nothing.", identity=False
    )
    train_text_encoder: bool = field(
        False, "Trains the text encoder too: captions are then encoded anew at every step. Command line only."
    )
    text_encoder_learning_rate: float | None = field(
        None, "Its learning rate. Empty: half of learning_rate.", gt=0, le=10
    )

    batch_size: int = field(
        4,
        "Images in a micro-batch. 2 to 4; memory grows with it. 1 on its own is noisy.",
        ge=1,
        le=1024,
        identity=False,
    )
    gradient_accumulation_steps: int = field(
        1,
        "Micro-batches in an optimizer step: effective batch = batch_size x this. 2 x 2 trains like 4 x 1, in less "
        "memory and more time.",
        ge=1,
        le=1024,
        identity=False,
    )
    optimizer: Optimizer = field(
        "adamw",
        "What turns gradients into steps. adamw8bit, prodigy, lion and schedulefree want a package of their own. "
        "prodigy wants learning_rate 1.0, lion a tenth of the usual one.",
    )
    optimizer_args: dict[str, Annotated[float | int | bool | str | list[float], PlainValidator(argument)]] = field(
        {}, "More settings of the optimizer by its own names, such as {eps: 1e-7, betas: [0.9, 0.99]}."
    )
    learning_rate: float = field(
        2e-4,
        "Step size. 1e-4 to 3e-4 for images: 2e-4 to begin with, 1e-4 for SDXL; 5e-5 to 1e-4 for text (1e-4 where "
        "nothing is set). Too high oscillates, too low moves nothing; a batch twice as large bears 3e-4.",
        gt=0,
        le=10,
    )
    lr_scheduler: Schedule = field("cosine", "How the rate falls after the warm-up.")
    lr_cycles: int = field(1, "Cycles of cosine_with_restarts.", ge=1, le=100)
    lr_power: float = field(1.0, "Power of polynomial; 1 is linear.", gt=0, le=10)
    warmup_steps: Annotated[int | Literal["auto"], PlainValidator(warmup)] = field(
        100, "Optimizer steps over which the rate rises, at most a tenth of the run. auto: a twentieth, at most 100."
    )
    epochs: int = field(
        10,
        "How often the data set is gone through. 15 to 20 for 50 to 100 images, about 10 for 200 to 500, at most 5 for "
        "more, 150 to 200 for ten. Fewer if pictures become stiff or distorted, more if there is hardly any effect.",
        ge=1,
        le=100_000,
        identity=False,
    )
    max_steps: int | None = field(None, "At most so many optimizer steps. Empty: no limit.", ge=1, identity=False)
    weight_decay: float = field(0.01, "Decoupled weight decay of AdamW.", ge=0, le=1)
    max_grad_norm: float = field(1.0, "Gradients are clipped to this norm. 0: not clipped.", ge=0)
    noise_offset: float = field(
        0.0,
        "Adds so much of a constant per channel to the noise: a little (0.1) helps very dark or bright styles.",
        ge=0,
        le=1,
    )
    min_snr_gamma: float | None = field(
        None,
        "Weighs down timesteps with little noise (min-SNR). Empty: 5 for v-prediction, else none. 0: none.",
        ge=0,
        le=100,
    )
    loss_type: Literal["mse", "huber"] = field(
        "mse", "Squared error (mse), or huber, which minds single odd pixels less."
    )
    huber_delta: float = field(0.1, "Where huber turns from square to straight.", gt=0, le=100)
    ema_decay: float = field(
        0.0, "The LoRA is a moving average of what is trained, with this decay (0.99 to 0.9999). 0: none.", ge=0, lt=1
    )
    seed: int = field(42, "Seed of every random draw.", ge=0, le=2**63 - 1)

    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], BeforeValidator(yes_no)] = field(
        "fp16",
        "Number format of the base model and of the activations. auto: the fastest that the device has, by a trial "
        "of a second. On a CPU fp16 becomes fp32.",
    )
    gradient_checkpointing: bool = field(
        True,
        "Half the memory of activations, for a third more time. Leave it on where memory is short.",
        identity=False,
    )
    device: str = field(
        "auto",
        "auto, cpu, cuda, cuda:1, mps.",
        identity=False,
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?|xpu(:\d+)?)$",
    )

    base_weights: Literal["auto", "full", "int8", "fp8", "nf4"] = field(
        "auto",
        "How the base model is held: full; int8 or fp8 (half of its memory; its weights are rounded, in fp8 four times "
        "as far), nf4 (a third, rounded further). auto: full, and less where memory is short.",
    )
    vram_limit: float | None = field(
        None,
        "At most so many GB of the card are taken (without a card: of RAM); what does not fit is given up in order, "
        "and said. Empty: what is free.",
        ge=1,
        le=4096,
        identity=False,
    )

    log_interval: int = field(10, "Optimizer steps between two lines of the log.", ge=1, identity=False)
    save_steps: int = field(
        100,
        "Optimizer steps between two checkpoints. There are at least five, and the last step is always saved.",
        ge=1,
        identity=False,
    )
    validation_steps: int = field(
        100,
        "Optimizer steps between two validations: more if they would take more than a twentieth of the time, and so "
        "that checkpoints are validated. 0: none.",
        ge=0,
        identity=False,
    )
    early_stopping_patience: int = field(
        0,
        "Ends the run after so many validations in a row that were no better than the best before them. 0: never.",
        ge=0,
        le=1000,
        identity=False,
    )
    sample_every: int = field(100, "Optimizer steps between two rounds of samples. 0: none.", ge=0, identity=False)
    sample_prompts: tuple[SamplePrompt, ...] = field(
        (),
        "Prompts of the samples. Empty: three captions, one prompt without the trigger word, and one that is far from "
        "the data set.",
        identity=False,
        strict=False,
    )
    sample_inference_steps: int = field(20, "Denoising steps of a sample.", ge=1, le=1000, identity=False)
    sample_guidance: float = field(7.0, "Classifier-free guidance of a sample.", ge=1, le=50, identity=False)
    sample_strength: float = field(
        0.8, "Strength of the LoRA in a sample. 0.7 to 0.8 is usual.", ge=0, le=2, identity=False
    )

    sample_max_tokens: int = field(96, "Text: tokens of a sample's answer at most.", ge=1, le=8192, identity=False)

    @property
    def text(self) -> bool:
        """Whether a language model is trained."""
        return self.task_type == TEXT

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

    @property
    def schedule(self) -> Schedule:
        """``lr_scheduler``, or ``constant`` where the optimizer averages instead."""
        return "constant" if self.optimizer == "schedulefree" else self.lr_scheduler

    @property
    def text_rate(self) -> float:
        """``text_encoder_learning_rate``, or what counts where it is not given; Prodigy has one rate for all."""
        if self.text_encoder_learning_rate is not None:
            return self.text_encoder_learning_rate
        return identity.EMPTY_MEANS["text_encoder_learning_rate"](self, "")

    def gamma(self, prediction: str) -> float:
        """``min_snr_gamma``, or what counts where it is not given, by what the base model predicts. 0: none."""
        if self.min_snr_gamma is not None:
            return self.min_snr_gamma
        return identity.EMPTY_MEANS["min_snr_gamma"](self, prediction)

    def identity(self, prediction: str = "epsilon") -> dict[str, Any]:
        """What shapes the trajectory, as plain values; part of the run's identity.

        Args:
            prediction: what the base model predicts.
        """
        return identity.of(self, prediction)

    def to_plain(self) -> dict[str, Any]:
        """Every field as a value that YAML and JSON know."""
        plain = self.model_dump(mode="json")
        # pydantic writes Path with the separators of the machine; forward slashes are read everywhere.
        for name, value in self:
            if isinstance(value, Path):
                plain[name] = value.as_posix()
        undecided = plain.pop("auto")
        return {**plain, **dict.fromkeys(undecided, AUTO)}

    def to_yaml(self) -> str:
        """The config with every field, as YAML that loads to an equal config."""
        return yaml_text.dumps(self.to_plain())

    def resolved(self) -> TrainConfig:
        """The same config with absolute paths: a run can be resumed from another working directory."""
        paths = {name: value.absolute() for name, value in self if isinstance(value, Path)}
        return self.model_copy(update=paths)

    @model_validator(mode="after")
    def _fit(self) -> TrainConfig:
        """Fields that do not go together.

        Raises:
            ValueError: with every such fault, a line each.
        """
        if faults := fitting.faults(self):
            raise ValueError("\n".join(faults))
        return self

    def in_processes(self, count: int) -> TrainConfig:
        """A config whose batch is that of each process, as the one that they train together: with more accumulation.

        So the same run goes on in any number of processes. What is auto is what all of them together need.
        """
        if count == 1 or {"batch_size", "gradient_accumulation_steps"} & set(self.auto):
            return self
        return self.but(gradient_accumulation_steps=self.gradient_accumulation_steps * count)

    def but(self, **changes: Any) -> TrainConfig:
        """A validated copy with some fields changed.

        Raises:
            ConfigError: a change is not valid.
        """
        from .read import parse

        return parse({**self.to_plain(), **changes})
