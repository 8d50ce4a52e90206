"""Language models: what a folder of transformers or a single file is, its weights, its tokenizer.

Any causal model that transformers knows can be trained from a folder. Of single files those are known that ComfyUI has
as text encoders; see ``single_files``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError, in_a_line
from ..files import ContentHashes, digest
from . import folders, single_files
from .base import TARGETS, Kind, Source, export_key, files, is_target, module_name, text_name
from .generation import answer, ends, ends_of, generate
from .tokenizers import tokenizer

__all__ = [
    "TARGETS",
    "Kind",
    "answer",
    "content",
    "detect",
    "ends",
    "ends_of",
    "export_key",
    "generate",
    "is_target",
    "load",
    "module_name",
    "size",
    "tokenizer",
]


def detect(path: Path | str) -> Kind:
    """What a language model is, by its config and the headers of its files; no weight is read.

    Raises:
        BaseModelError: it is missing, broken, a pickle, quantised, needs code of its own, or is no language model; the
            message says what it is instead.
    """
    return source_of(Path(path)).kind


def size(path: Path | str) -> int:
    """How many parameters a language model has; see ``detect``."""
    return detect(path).numbers


def content(path: Path | str, hashes: ContentHashes) -> str:
    """A short hash of what a language model is: of its config and its weights, not of its tokenizer or of names.

    Raises:
        BaseModelError: as ``detect``.
        CacheError: what was hashed cannot be remembered.
    """
    source = source_of(Path(path))
    said = source.config if source.kind.folder else {}  # a single file's is made from its shapes
    config = {key: value for key, value in said.items() if not key.startswith(("_", "transformers_"))}
    return digest(config, sorted(hashes(file) for file in files(source.header)))


def load(path: Path | str, dtype: torch.dtype) -> nn.Module:
    """A causal model of transformers, frozen, in eval mode, on the CPU, without a cache of keys and values.

    Args:
        path: a folder or a single file. Of a model that sees pictures only the language model is loaded.
        dtype: of its weights; fp8 is read as what it stands for.

    Raises:
        BaseModelError: as ``detect``; or a weight is missing, or has another shape.
    """
    source = source_of(Path(path))
    model = _assembled(source, dtype)
    model.config.use_cache = False
    return model.requires_grad_(False).eval()


def source_of(path: Path) -> Source:
    """Where a language model is read from; see ``detect``."""
    return folders.read(path) if path.is_dir() else single_files.read(path)


def _assembled(source: Source, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    from ..weights import read_tensors

    path = source.header.path
    cure = "the model is damaged, or a variant that is not supported: get it again, whole"
    plain = {key: value for key, value in source.config.items() if key != "model_type"}
    # Transformers 4 lets other attentions leave out the cap of Gemma 2's scores in silence.
    capped = {"attn_implementation": "eager"} if source.kind.name == "gemma2" else {}
    try:
        config = AutoConfig.for_model(source.kind.name, **plain)
        kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    except Exception as error:
        raise BaseModelError(
            f"{path} is no {source.kind.title} as its config says: {in_a_line(error)}", cure
        ) from error
    state = {text_name(name) or name: tensor for name, tensor in read_tensors(source.header, "", dtype).items()}
    try:
        with quiet():
            model, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=state,
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
                **{dtype_argument(): dtype},
                **capped,
            )
    except (RuntimeError, ValueError) as error:
        raise BaseModelError(f"{path} does not fit to its config: {in_a_line(error)}", cure) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise BaseModelError(f"{path} lacks {len(missing)} weights, such as {missing[0]}", cure)
    if wrong := [entry[0] if isinstance(entry, tuple) else str(entry) for entry in info["mismatched_keys"]]:
        raise BaseModelError(f"{path}: {len(wrong)} weights have another shape than its config says: {wrong[0]}", cure)
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers draws no bars within it: what is loaded is already in memory."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def dtype_argument() -> str:
    """What ``from_pretrained`` calls the number format of the weights, in the transformers that is installed."""
    from importlib.metadata import version

    from packaging.version import Version

    return "dtype" if Version(version("transformers")) >= Version("4.56") else "torch_dtype"
