"""A run, fully resolved: what the worker reads and all that it needs to know.

``job.yaml`` holds the config, the base and the identity; ``dataset.jsonl`` a line an image. The command line and the
host both make a job with ``prepare.py`` and hand the folder to ``run.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from . import config as config_module
from . import yaml_text
from .cache import Kind
from .config import TrainConfig
from .errors import ConfigError, RunFolderError
from .files import digest, write_text

VERSION = 3
REGULARISATION = "reg-"  # before the id: the same picture may be on both sides


@dataclass(frozen=True)
class Base:
    """The base model.

    Args:
        file: a safetensors checkpoint or a diffusers folder, absolute.
        family: name of its family, such as sd15.
        content: hash of the file's content.
        prediction: what the model predicts, ``epsilon`` or ``v_prediction``.
        zero_terminal_snr: whether its last timestep is pure noise.
    """

    file: Path
    family: str
    content: str
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False


@dataclass(frozen=True)
class Item:
    """An image as it is trained.

    Args:
        id: content id; every draw for this image is keyed by it.
        path: where it came from, for messages.
        captions: the caption variants.
        size: (width, height) in pixels of the picture, before it was brought to its bucket.
        bucket: (width, height) in pixels.
        repeats: presentations an epoch.
        latents: key in the cache.
        conditioning: keys in the cache, one a caption.
        flipped: key of the mirrored picture's latents; empty if it is never mirrored.
        weight: of its loss; other than 1 for regularisation images.
        held_out: validated on, never trained on.
        mask: content id of the mask that lies beside the latents; empty if there is none.
    """

    id: str
    path: str
    captions: tuple[str, ...]
    size: tuple[int, int]
    bucket: tuple[int, int]
    repeats: int
    latents: str
    conditioning: tuple[str, ...]
    flipped: str = ""
    weight: float = 1.0
    held_out: bool = False
    mask: str = ""

    @property
    def regular(self) -> bool:
        """Whether it is a regularisation image."""
        return self.id.startswith(REGULARISATION)

    @property
    def cost(self) -> int:
        """What its activations grow with: pixels."""
        return self.bucket[0] * self.bucket[1]


@dataclass(frozen=True)
class TextItem:
    """A text as it is trained.

    Args:
        id: content id; every draw for this text is keyed by it.
        path: where it came from, for messages: ``answers.jsonl:17``.
        tokens: ids of the vocabulary.
        answers: half-open ranges of these that the loss is on.
        repeats: presentations an epoch.
        held_out: validated on, never trained on.
    """

    id: str
    path: str
    tokens: tuple[int, ...]
    answers: tuple[tuple[int, int], ...]
    repeats: int = 1
    held_out: bool = False

    bucket: ClassVar[tuple[int, int]] = (1, 1)  # texts of any length share a window
    regular: ClassVar[bool] = False

    @property
    def cost(self) -> int:
        """What its activations grow with: tokens."""
        return len(self.tokens)

    @property
    def counted(self) -> tuple[int, ...]:
        """Positions of the tokens that the loss is on; before the first token there is nothing to tell it from."""
        return tuple(place for start, end in self.answers for place in range(max(start, 1), end))


@dataclass(frozen=True)
class Prompt:
    """A prompt of the samples, and the keys of its conditioning; what is None is as the config says for all.

    Of a language model it is a question, and ``tokens`` are its ids up to where the answer begins.
    """

    text: str
    conditioning: str = ""
    negative: str = ""
    negative_conditioning: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None
    width: int | None = None
    height: int | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassPrompt:
    """What an image shows, without the trigger word: there the LoRA should change little.

    Args:
        image: id of an item that is trained on; empty for a text.
        text: the prompt, or a text that has nothing to do with the data set.
        conditioning: its key.
        tokens: of a text.
    """

    image: str
    text: str
    conditioning: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Job:
    """Everything a run needs.

    Args:
        config: the settings.
        base: the base model.
        items: the images; none where a language model is trained.
        prompts: of the samples.
        empty: key of the empty caption.
        cache_dir: where latents and conditioning lie.
        origin: ``command line`` or ``host``.
        class_prompt: key of the class prompt; empty without prior preservation.
        init: hash of the LoRA file that training starts from; empty if it starts from nothing.
        vae: fingerprint of what encoded the pictures.
        text_encoder: fingerprint of what encoded the captions, with its settings; of a language model: of what turned
            texts into tokens.
        class_prompts: what drift is measured on; none without validation.
        choices: what was ``auto``, as (field, value, why). It is the config that counts.
        texts: of a language model.
        devices: how many of its machine's the host wishes for it.
    """

    config: TrainConfig
    base: Base
    items: tuple[Item, ...]
    prompts: tuple[Prompt, ...]
    empty: str
    cache_dir: Path
    origin: str = "command line"
    class_prompt: str = ""
    init: str = ""
    vae: str = ""
    text_encoder: str = ""
    class_prompts: tuple[ClassPrompt, ...] = ()
    choices: tuple[tuple[str, str, str], ...] = ()
    texts: tuple[TextItem, ...] = ()
    devices: int = 1

    @property
    def name(self) -> str:
        """Name of the LoRA."""
        return self.config.name

    @property
    def train_items(self) -> tuple[Any, ...]:
        """The images, or texts, that are trained on."""
        return tuple(item for item in self.samples if not item.held_out)

    @property
    def samples(self) -> tuple[Any, ...]:
        """The images, or texts, with those that are held out."""
        return self.items or self.texts

    def identity(self) -> dict[str, Any]:
        """What shapes the trajectory, part by part. Two jobs with equal identities are the same run.

        Of an image counts what it is, not what it is called or which comes first; of its latents and conditioning what
        they are made from.
        """
        if self.config.text:
            return self._identity_of_texts()
        own = [item for item in self.train_items if not item.regular]
        return {
            "base": self.base.content,
            "family": self.base.family,
            "prediction": self.base.prediction + (", zero terminal SNR" if self.base.zero_terminal_snr else ""),
            "init": self.init,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "dataset": _digest(own),
            "masks": digest(sorted((item.id, item.mask) for item in own if item.mask)),
            "regularisation": _digest(item for item in self.train_items if item.regular),
            "held_out": digest(sorted((item.id, item.mask, item.captions) for item in self.items if item.held_out)),
            "config": self.config.identity(self.base.prediction),
        }

    def _identity_of_texts(self) -> dict[str, Any]:
        def tokens(held_out: bool) -> str:
            own = (item for item in self.texts if item.held_out == held_out)
            return digest(sorted((item.id, item.tokens, item.answers, item.repeats) for item in own))

        return {
            "base": self.base.content,
            "family": self.base.family,
            "init": self.init,
            "texts": tokens(False),
            "held_out": tokens(True),
            "config": self.config.identity(),
        }

    @property
    def run_id(self) -> str:
        """Twelve hex digits that name this identity."""
        return digest(self.identity())[:12]

    def cache_entries(self) -> Iterator[tuple[Kind, str]]:
        """Every entry of the cache that the run reads. Text encoders that are trained encode anew at every step."""
        for item in self.items:
            yield "latents", item.latents
            if item.flipped:
                yield "latents", item.flipped
        if not self.config.train_text_encoder:
            for key in self.captions():
                yield "conditioning", key

    def captions(self) -> dict[str, str]:
        """Every caption and prompt, by the key of its conditioning; none where a language model is trained."""
        if self.config.text:
            return {}
        found = {self.empty: ""}
        if self.class_prompt:
            found[self.class_prompt] = self.config.class_prompt
        found |= {one.conditioning: one.text for one in self.class_prompts}
        for prompt in self.prompts:
            found[prompt.conditioning] = prompt.text
            found[prompt.negative_conditioning] = prompt.negative
        for item in self.items:
            found |= dict(zip(item.conditioning, item.captions, strict=True))
        return found

    def save(self, folder: Path) -> None:
        """Writes ``job.yaml`` and ``dataset.jsonl`` into the run folder, the job last."""
        lines = [json.dumps(asdict(item), ensure_ascii=False) for item in self.samples]
        write_text(folder / "dataset.jsonl", "".join(f"{line}\n" for line in lines))
        data = {
            "version": VERSION,
            "run": self.run_id,
            "origin": self.origin,
            "base": {**asdict(self.base), "file": self.base.file.as_posix()},
            "cache_dir": self.cache_dir.as_posix(),
            "empty": self.empty,
            "class_prompt": self.class_prompt,
            "init": self.init,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "class_prompts": [asdict(one) for one in self.class_prompts],
            "choices": [list(choice) for choice in self.choices],
            "devices": self.devices,
            "identity": self.identity(),
            "config": self.config.to_plain(),
        }
        write_text(folder / "job.yaml", yaml_text.dumps(data))


def exists(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "job.yaml").is_file()


def require(folder: Path) -> None:
    """Makes sure that a folder holds a run.

    Raises:
        RunFolderError: it holds none.
    """
    if not exists(folder):
        raise RunFolderError(f"{folder} holds no run (there is no job.yaml in it)", "name the output_dir of a run")


def load(folder: Path) -> Job:
    """Reads a run folder.

    Raises:
        RunFolderError: it holds no run, or one that this version cannot read.
    """
    require(folder)
    try:
        data = yaml_text.loads((folder / "job.yaml").read_text(encoding="utf-8"))
        version = data["version"]
        if version != VERSION:
            raise RunFolderError(
                f"{folder / 'job.yaml'} is of format {version}, expected {VERSION}",
                "train into another output_dir, or use the version of the program that wrote it",
            )
        lines = (folder / "dataset.jsonl").read_text(encoding="utf-8").split("\n")
        samples = [json.loads(line) for line in lines if line]
        settings = config_module.parse(data["config"], source=str(folder / "job.yaml"))
        return Job(
            config=settings,
            base=Base(**{**data["base"], "file": Path(data["base"]["file"])}),
            items=tuple(map(_item, () if settings.text else samples)),
            texts=tuple(map(_text, samples if settings.text else ())),
            prompts=tuple(Prompt(**{**one, "tokens": tuple(one["tokens"])}) for one in data["prompts"]),
            empty=data["empty"],
            cache_dir=Path(data["cache_dir"]),
            origin=data["origin"],
            class_prompt=data["class_prompt"],
            init=data["init"],
            vae=data["vae"],
            text_encoder=data["text_encoder"],
            class_prompts=tuple(
                ClassPrompt(**{**one, "tokens": tuple(one["tokens"])}) for one in data["class_prompts"]
            ),
            choices=tuple(tuple(choice) for choice in data.get("choices", ())),
            devices=data.get("devices", 1),
        )
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        said = "; ".join(error.problems) if isinstance(error, ConfigError) else repr(error)
        raise RunFolderError(
            f"{folder} holds a run whose job.yaml or dataset.jsonl cannot be read: {said:.300}",
            "train into another output_dir",
        ) from None


def differences(old: Job, new: Job) -> list[str]:
    """What differs between two identities, in words, a line a field."""
    before, after = old.identity(), new.identity()
    if before.keys() != after.keys():
        return [f"task_type: {old.config.task_type!r} there, {new.config.task_type!r} now"]
    lines = []
    for part in before:
        if before[part] == after[part]:
            continue
        if part == "config":
            # A field that is on one side only follows from another one, which is told.
            for field, value in after[part].items():
                if field in before[part] and before[part][field] != value:
                    lines.append(f"{field}: {before[part][field]!r} there, {value!r} now")
        else:
            lines.append(PARTS.get(part, part))
    return lines


PARTS = {
    "base": "base_model: another file, or other content",
    "family": "base_model: another model family",
    "prediction": "base_model: another prediction type, or noise schedule",
    "init": "init_lora: another file, or other content",
    "dataset": "train_data_dir: other images or captions",
    "texts": "train_data_dir: other texts; or tokenizer, chat_template, max_length: other tokens",
    "masks": "train_data_dir: other masks",
    "regularisation": "reg_data_dir: other images or captions",
    "vae": "the VAE: it encodes other latents",
    "text_encoder": "the text encoder: it gives other conditioning",
    "held_out": "what is held out for validation",
}


def _digest(items: Iterable[Item]) -> str:
    """Of what shapes the trajectory in images; an item's weight, mirroring and keys follow from the rest."""
    return digest(sorted((i.id, i.captions, i.size, i.bucket, i.repeats) for i in items))


def _text(data: dict[str, Any]) -> TextItem:
    spans = tuple((start, end) for start, end in data["answers"])
    return TextItem(**{**data, "tokens": tuple(data["tokens"]), "answers": spans})


def _item(data: dict[str, Any]) -> Item:
    return Item(
        **{
            **data,
            "captions": tuple(data["captions"]),
            "size": tuple(data["size"]),
            "bucket": tuple(data["bucket"]),
            "conditioning": tuple(data["conditioning"]),
        }
    )
