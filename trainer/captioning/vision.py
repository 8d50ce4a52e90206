"""What captioners that are models of transformers have in common: loading, batches, and giving the memory back.

No code of a model's folder is run and no pickle is read. Models do not draw: they write what is likeliest (by beams
where their folder says so), so that a picture's caption depends on the picture and the question alone, not on chance
nor on what else is in the batch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import dependencies
from ..dataset.pixels import within
from ..errors import CaptionError, in_a_line
from ..files import read_json
from ..gauge import card, release
from ..memory import ran_out
from .base import Place, Session, Wish
from .prompts import TOKENS, cleaned

if TYPE_CHECKING:
    from PIL.Image import Image

_GB = 1e9
_MOST = 16  # pictures at a time: with more nothing is won, and more is lost where it is stopped
_SHARE = 0.8  # of the free memory that batches may take
_STRAY = 0.1  # of the weights may be missing: buffers that files of older versions do not have
# Without the others transformers warns that what a model's folder says of drawing is not used.
_LIKELIEST = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class Vision:
    """A captioner that is a model of transformers.

    Args:
        name: of the captioner.
        description: one line for the user.
        models: names on the hub.
        kinds: the ``model_type`` of each config.json that it knows, and the first version of transformers that has it.
        ask: the processor, and what is asked -> the text that goes with each picture; ``""`` for none.
        takes: fields of ``Wish`` that make a difference.
        picture_gb: what a picture of a batch takes of the card's memory, in GB.
        pixels: pictures with more are made smaller; 0: the processor does that.
        needs: packages beside requirements.txt.
    """

    name: str
    description: str
    models: tuple[str, ...]
    kinds: Mapping[str, str]
    ask: Callable[[Any, Wish], str]
    takes: tuple[str, ...]
    picture_gb: float
    pixels: int = 0
    needs: tuple[str, ...] = ()
    looks: bool = True

    @contextmanager
    def open(self, wish: Wish, place: Place) -> Iterator[Session]:
        """See ``Captioner``."""
        session = self._opened(wish, place)
        try:
            yield session
        finally:
            session.close()

    def knows(self, folder: Path) -> bool:
        """See ``Captioner``."""
        return _kind(folder) in self.kinds

    def _opened(self, wish: Wish, place: Place) -> _Session:
        folder = self._checked(place.model)
        device = torch.device(place.device)
        try:
            model, processor = _loaded(self.name, folder, device)
            return _Session(self, wish, place, model, processor, self.ask(processor, wish))
        except CaptionError:
            release(device)
            raise
        except Exception as error:
            explained = _explained(error, f"{self.name}: {folder} cannot be loaded")
        # Here the error is gone, and with it the frames that held the model.
        release(device)
        raise explained

    def _checked(self, model: Path | None) -> Path:
        """The model's folder, when it and all packages are such that it can be loaded.

        Raises:
            CaptionError: else.
        """
        known = " or ".join(self.kinds)
        if model is None:
            raise CaptionError(f"{self.name}: needs a model", f"Name the folder of one, such as {self.models[0]}.")
        if not (model / "config.json").is_file():
            raise CaptionError(
                f"{self.name}: {model} is no folder of a model: it has no config.json",
                f"Name the folder of a model such as {self.models[0]}.",
            )
        kind = _kind(model)
        if not kind:
            raise CaptionError(
                f"{self.name}: {model / 'config.json'} cannot be read", "Download the model again, whole."
            )
        if kind not in self.kinds:
            raise CaptionError(
                f"{self.name}: {model} is of another kind: its config.json says model_type {kind!r}, expected {known}",
                _other(model) or f"Name the folder of a model such as {self.models[0]}.",
            )
        if "auto_map" in read_json(model / "config.json"):
            raise CaptionError(
                f"{self.name}: {model} brings code of its own, which is not run",
                f"Take one that transformers can load by itself, such as {self.models[0]}.",
            )
        _check_transformers(self.name, kind, self.kinds[kind])
        for package in self.needs:
            try:
                importlib.import_module(package)
            except Exception as error:  # one that does not fit to torch fails in many ways
                raise _missing(self.name, package, error) from None
        return model


class _Session:
    def __init__(self, captioner: Vision, wish: Wish, place: Place, model: Any, processor: Any, text: str) -> None:
        self.batch = place.batch or _suitable(model.device, captioner.picture_gb)
        self._captioner = captioner
        self._wish = wish
        self._model: Any = model
        self._processor: Any = processor
        self._text = text
        self._most = TOKENS[wish.length if "length" in captioner.takes else "short"]

    def caption(self, paths: Sequence[Path], pictures: Sequence[Image]) -> list[str]:
        if not pictures:
            return []
        try:
            return self._answers(pictures)
        except Exception as error:
            if ran_out(error):
                raise  # whoever makes the batches makes them smaller
            raise _explained(error, f"{self._captioner.name}: no caption for {paths[0].name}") from error

    def close(self) -> None:
        """Gives the memory back."""
        device = self._model.device
        self._model = self._processor = None
        release(device)

    def _answers(self, pictures: Sequence[Image]) -> list[str]:
        images = [within(picture, self._captioner.pixels) for picture in pictures]
        texts = {"text": [self._text] * len(images), "padding": True} if self._text else {}
        if self._text and self._text.startswith(self._processor.tokenizer.bos_token or "\0"):
            texts["add_special_tokens"] = False  # the text of a chat has them
        inputs = self._processor(images=images, return_tensors="pt", **texts)
        inputs = inputs.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, **_LIKELIEST, max_new_tokens=self._most)
        if _continues(self._model):
            tokens = tokens[:, inputs["input_ids"].shape[1] :] if self._text else tokens
        answers = self._processor.batch_decode(tokens, skip_special_tokens=True)
        ends = set(self._processor.tokenizer.all_special_ids)
        cuts = (len(row) >= self._most and int(row[-1]) not in ends for row in tokens)
        return [cleaned(text, self._wish.purpose, cut=cut) for text, cut in zip(answers, cuts, strict=True)]


def _kind(folder: Path) -> str:
    """The ``model_type`` of a folder's config.json; empty where there is none."""
    found = read_json(folder / "config.json").get("model_type", "")
    return found if isinstance(found, str) else ""


def _other(folder: Path) -> str:
    """Which captioner knows a folder, as a cure; empty where none does."""
    from .registry import all_captioners

    name = next((name for name, captioner in all_captioners().items() if captioner.knows(folder)), "")
    return f"The captioner {name!r} can use it." if name else ""


def _version() -> Any:
    from importlib.metadata import version

    from packaging.version import Version

    return Version(version("transformers"))


def _check_transformers(name: str, kind: str, least: str) -> None:
    from packaging.version import Version

    if _version() < Version(least):
        raise CaptionError(
            f"{name}: transformers {_version()} cannot load {kind}; {least} or newer is needed",
            dependencies.cure([f"transformers>={least}"]),
        )


def _missing(what: str, package: str, error: BaseException) -> CaptionError:
    cure = dependencies.cure([package])
    if package == "torchvision":
        # By its name alone pip would put another build of torch beside it, without CUDA on Windows.
        cure = f"Install the torchvision that belongs to torch {torch.__version__}, from where torch came."
    return CaptionError(f"{what}: the processor needs {package}, which cannot be imported: {in_a_line(error)}", cure)


def _loaded(name: str, folder: Path, device: Any) -> tuple[Any, Any]:
    """The model on its device, and its processor."""
    from packaging.version import Version
    from transformers import AutoModelForImageTextToText, AutoProcessor

    here = {"local_files_only": True, "trust_remote_code": False}
    processor = AutoProcessor.from_pretrained(folder, **here)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        folder,
        use_safetensors=True,
        device_map={"": device},
        output_loading_info=True,
        **here,
        **{"dtype" if _version() >= Version("4.56") else "torch_dtype": _dtype(device)},
    )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if len(missing) > _STRAY * len(model.state_dict()):
        raise CaptionError(
            f"{name}: {folder} lacks {len(missing)} of {len(model.state_dict())} weights, such as {missing[0]}",
            "Download it again, whole.",
        )
    if _continues(model):
        # What is written goes on at the end of the question, so the question has to end where the padding does not.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return model.eval(), processor


def _continues(model: Any) -> bool:
    """Whether a model writes on behind the question, and answers with both."""
    return not model.config.is_encoder_decoder


def _dtype(device: Any) -> Any:
    """fp32 on a CPU, else bf16, or fp16 where the card has no bf16."""
    if device.type == "cpu":
        return torch.float32
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)):
        return torch.float16
    return torch.bfloat16


def _suitable(device: Any, picture_gb: float) -> int:
    """As many pictures at a time as fit beside the model; one where a batch wins nothing, or the free is not known."""
    own = card(device)
    if own is None:
        return 1
    free = own.mem_get_info(device)[0] * _SHARE / _GB
    return max(1, min(_MOST, int(free / picture_gb)))


def _explained(error: BaseException, what: str) -> CaptionError:
    """An error of transformers in our words."""
    said = in_a_line(error)
    if ran_out(error):
        return CaptionError(f"{what}: out of memory", "Close whatever else uses the device, or take a smaller model.")
    for cause in _causes(error):  # transformers says of what failed only that it did
        if "torchvision" in str(cause):
            return _missing(what, "torchvision", cause)
    if isinstance(error, ImportError):
        return CaptionError(f"{what}: a package is missing: {said}", "Install it, or take another model.")
    return CaptionError(f"{what}: {type(error).__name__}: {said}", "If a file is broken, download the model again.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
