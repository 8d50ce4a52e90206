"""Captions as a CLIP text encoder sees them in ComfyUI: chunks of 77 tokens, without prompt weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..clip_tokens import ClipTokenizer
from ..weights import empty_weights, fill

_BATCH = 16


class ClipText:
    """One CLIP text encoder as ComfyUI uses it (``comfy.sd1_clip.SDClipModel``).

    Args:
        model: a CLIPTextModel, or a CLIPTextModelWithProjection, which gives ``pooled`` too.
        tokenizer: its own.
        pad: what fills up chunks; None: the end's mark.
        clip_skip: which layer is taken, counted from the end.
        final_norm: the final layer norm is applied to it (SD1.5; SDXL has been trained without).
    """

    def __init__(
        self, model: nn.Module, tokenizer: ClipTokenizer, *, pad: int | None, clip_skip: int, final_norm: bool
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._pad, self._clip_skip, self._final_norm = pad, clip_skip, final_norm

    def tokenize(self, caption: str) -> torch.Tensor:
        """A caption as ids [chunks, 77], int64."""
        return torch.tensor(self.tokenizer.chunks(caption, self._pad), dtype=torch.long)

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Chunks [n, 77] -> hidden states [n, 77, D] and, with a projection, pooled [n, P]; fp32, differentiable.

        There is no attention mask but the causal one. ``pooled`` is of the last layer at the first end, projected.
        """
        model: Any = self.model
        ids = ids.to(next(model.parameters()).device)
        inner = getattr(model, "text_model", model)
        out = inner(input_ids=ids, output_hidden_states=self._clip_skip > 1 or not self._final_norm)
        if out.hidden_states is None:
            hidden = out.last_hidden_state
        else:
            hidden = out.hidden_states[-self._clip_skip]
            hidden = inner.final_layer_norm(hidden) if self._final_norm else hidden
        if not hasattr(model, "text_projection"):
            return hidden.float(), None
        ends = (ids == self.tokenizer.end).int().argmax(dim=1)
        pooled = out.last_hidden_state[torch.arange(len(ids), device=ids.device), ends]
        return hidden.float(), model.text_projection(pooled).float()

    def conditioning(self, captions: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """``hidden`` [1, 77 n, D] and perhaps ``pooled`` [1, P] of each caption, given as ``tokenize`` does.

        The chunks of a caption are encoded apart and joined along the tokens; ``pooled`` is the first one's
        (``comfy.sd1_clip.ClipTokenWeightEncoder``).
        """
        parts = [self.encode(part) for part in torch.cat(list(captions)).split(_BATCH)]
        lengths = [len(caption) for caption in captions]
        # Copies of its own for each: a view would keep all of the batch.
        rows = torch.cat([hidden for hidden, _ in parts]).split(lengths)
        hidden = [row.reshape(1, -1, row.shape[-1]).clone() for row in rows]
        if parts[0][1] is None:
            return [{"hidden": row} for row in hidden]
        pooled = torch.cat([p for _, p in parts if p is not None]).split(lengths)
        return [{"hidden": h, "pooled": p[:1].clone()} for h, p in zip(hidden, pooled, strict=True)]


def build_text_model(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], path: Path, *, projected: bool = False
) -> nn.Module:
    """A transformers CLIPTextModel, frozen.

    Args:
        config: of a CLIPTextConfig.
        state: its weights, with or without the level ``text_model.``, which some files lack and which transformers 5
            dropped.
        path: where they came from, for messages.
        projected: a CLIPTextModelWithProjection instead.

    Raises:
        BaseModelError: the weights do not fit the config.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with empty_weights():
        model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig.from_dict(dict(config)))
    level = "text_model." if hasattr(model, "text_model") else ""
    own = model.state_dict().keys()
    projection = "text_projection.weight"
    renamed = {
        name if projected and name == projection else level + name.removeprefix("text_model."): tensor
        for name, tensor in state.items()
    }
    # Old files carry the positions 0..76 as a tensor, some projections that Stable Diffusion 1 does not use.
    unused = ("position_ids", "logit_scale", "text_projection", projection)
    renamed = {n: t for n, t in renamed.items() if n in own or not n.endswith(unused)}
    return fill(model, renamed, "second text encoder" if projected else "text encoder", path)
