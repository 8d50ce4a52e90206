"""The tokenizer that belongs to a language model, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BaseModelError, in_a_line
from ..weights import read_header
from ..weights.header import AGAIN
from .sentencepiece import from_sentencepiece
from .single_files import inside
from .tekken import from_tekken

_COMFY = {
    True: "its own lies in ComfyUI: comfy/text_encoders/qwen25_tokenizer",
    False: "any folder of the same model with tokenizer.json or tokenizer_config.json will do",
}


def tokenizer(path: Path | str, folder: Path | str | None = None) -> Any:
    """The tokenizer of a language model: of a folder its own; of a single file the one inside, or that of a folder.

    Args:
        path: of the model.
        folder: with a tokenizer of transformers; it goes before what the model has.

    Returns:
        a tokenizer of transformers; with a chat template if the folder has one, or the file's kind is known to.

    Raises:
        BaseModelError: there is none, it is broken, or it needs code of its own.
    """
    path = Path(path)
    if folder is not None or path.is_dir():
        return _from_folder(Path(folder) if folder is not None else path)
    header = read_header(path)
    if (model := inside(header, "spiece_model")) is not None:
        return from_sentencepiece(model, str(path))
    if (model := inside(header, "tekken_model")) is not None:
        return from_tekken(model, str(path))
    qwen = any(name.endswith(("self_attn.q_norm.weight", "self_attn.k_proj.bias")) for name in header.tensors)
    raise BaseModelError(
        f"{path} has no tokenizer in it", f"set tokenizer to a folder with the model's tokenizer; {_COMFY[qwen]}"
    )


def _from_folder(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise BaseModelError(f"tokenizer: {folder} is no folder", "name a folder with tokenizer.json, or vocab.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise BaseModelError(
            f"{folder} has no tokenizer: no tokenizer.json, vocab.json or tokenizer.model",
            f"set tokenizer to a folder that has it, or {AGAIN}",
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a tokenizer's files are broken in many ways
        raise BaseModelError(f"the tokenizer in {folder} cannot be loaded: {in_a_line(error)}", AGAIN) from error
