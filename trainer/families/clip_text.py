"""Captions as a CLIP text encoder sees them in ComfyUI: chunks of 77 tokens, without prompt weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import BaseModelError
from .weights import empty_weights, fill

CHUNK = 77
"""Tokens of one chunk, with the marks of beginning and end."""
SHIPPED = Path(__file__).parent / "assets" / "clip_l_tokenizer"
_BATCH = 16


class ClipTokenizer:
    """Cuts captions into chunks of token ids exactly as ComfyUI does (``comfy.sd1_clip.SDTokenizer``).

    It is transformers' own CLIPTokenizer, which ComfyUI uses too; so the same installed version gives the same ids.
    (Version 4 puts spaces around Chinese characters, version 5 does not.)

    Args:
        folder: holds vocab.json and merges.txt.
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        from transformers import CLIPTokenizer

        missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if missing:
            raise BaseModelError(f"{folder} holds no tokenizer: {' and '.join(missing)} missing", "download it again")
        # Without the two files the library would make up a tokenizer of two tokens, in silence.
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.start, self.end = self._tokenizer("")["input_ids"]

    @classmethod
    def from_tables(cls, vocab: Mapping[str, int], merges: Sequence[str]) -> ClipTokenizer:
        """The tokenizer of a vocabulary and its merges ("a b"), in the order in which they apply."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "vocab.json").write_text(json.dumps(dict(vocab)), encoding="utf-8")
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
            settings = json.loads((SHIPPED / "tokenizer_config.json").read_text(encoding="utf-8"))
            (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
            return cls(folder)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def chunks(self, caption: str) -> list[list[int]]:
        r"""Chunks of 77 ids: begin, up to 75 tokens, end, and ends to fill up. The empty caption is one chunk.

        With prompt weights off ComfyUI takes a caption as one word, and cuts words of 8 tokens or more wherever a
        chunk is full: so every chunk but the last has 75 tokens. Brackets and ``embedding:`` are ordinary text; as in
        ComfyUI ``\(`` and ``\)`` stand for plain brackets.
        """
        text = caption.replace("\\)", ")").replace("\\(", "(")
        # Begin and end are cut off by place: a caption may hold their names.
        ids = self._tokenizer(text)["input_ids"][1:-1] if text else []
        inside = CHUNK - 2
        pieces = [ids[i : i + inside] for i in range(0, len(ids), inside)] or [[]]
        return [[self.start, *piece, *[self.end] * (CHUNK - 1 - len(piece))] for piece in pieces]


def build_text_model(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """A transformers CLIPTextModel, frozen.

    Args:
        config: of a CLIPTextConfig.
        state: its weights, with or without the level ``text_model.``, which some files lack and which transformers 5
            dropped.
        path: where they came from, for messages.

    Raises:
        BaseModelError: the weights do not fit the config.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    with empty_weights():
        model = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
    level = "text_model." if hasattr(model, "text_model") else ""
    own = model.state_dict().keys()
    renamed = {level + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    # Old files carry the positions 0..76 as a tensor, some projections that Stable Diffusion 1 does not use.
    unused = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
    renamed = {n: t for n, t in renamed.items() if n in own or not n.endswith(unused)}
    return fill(model, renamed, "text encoder", path)


def encode(model: nn.Module, tokenizer: ClipTokenizer, captions: Sequence[str]) -> list[torch.Tensor]:
    """The last layer's hidden states after the final norm, [1, 77 n, D] each, on the CPU.

    The chunks of a caption are encoded apart and joined along the tokens, with no attention mask but the causal one
    (``comfy.sd1_clip.ClipTokenWeightEncoder``).
    """
    if not captions:
        return []
    chunks = [tokenizer.chunks(caption) for caption in captions]
    device = next(model.parameters()).device
    ids = torch.tensor([chunk for caption in chunks for chunk in caption], dtype=torch.long).to(device)
    with torch.no_grad():
        hidden = [model(input_ids=part).last_hidden_state.float().cpu() for part in ids.split(_BATCH)]
    rows = torch.cat(hidden).split([len(caption) for caption in chunks])
    return [row.reshape(1, -1, row.shape[-1]).clone() for row in rows]
