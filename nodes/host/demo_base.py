"""The embedded base model as ComfyUI knows a model: a class of its own in ``comfy.supported_models``.

The file says in its safetensors header (key ``darkroom.sd15``) what its shapes cannot: the number of heads, and the
vocabulary of its tokenizer. ComfyUI's own loader asks neither, so a subclass of SD15 answers for this one file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.latent_formats
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from safetensors import safe_open

from ...trainer.errors import BaseModelError

FILE = Path(__file__).resolve().parents[2] / "trainer" / "demo" / "base.safetensors"
HEADER_KEY = "darkroom.sd15"
START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_DEFAULTS = {  # CLIPTextConfig's own, which a header need not repeat
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip


def read_header(file: Path) -> dict[str, Any]:
    """What a self-describing checkpoint says of itself: ``unet``, ``text_encoder``, ``vae``, ``tokenizer``.

    Raises:
        BaseModelError: it says nothing.
    """
    with safe_open(str(file), framework="pt") as opened:
        described = (opened.metadata() or {}).get(HEADER_KEY)
    if described is None:
        raise BaseModelError(f"{file} does not describe itself (no {HEADER_KEY} in its header)")
    return json.loads(described)


def register(file: Path = FILE) -> bool:
    """Tell ComfyUI how to load the file; does so once. False where the file is missing."""
    if not file.is_file():
        return False
    known = comfy.supported_models.models
    if not any(getattr(model, "darkroom_file", None) == file for model in known):
        known.append(_model_class(file, read_header(file)))
    return True


def load() -> tuple[Any, Any, Any]:
    """The base as (MODEL, CLIP, VAE).

    Raises:
        BaseModelError: its file is missing.
    """
    if not register():
        raise BaseModelError(f"the demo base {FILE} is missing", "install LoRA Darkroom anew, with all its files")
    # The text encoder in fp32: it is tiny, and fp16 costs precision for nothing.
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        str(FILE), output_vae=True, output_clip=True, te_model_options={"dtype": torch.float32}
    )
    return model, clip, vae


def _model_class(file: Path, header: dict[str, Any]) -> type[comfy.supported_models.SD15]:
    """A subclass of SD15 with the sizes, the text encoder and the tokenizer that the header tells."""
    unet = header["unet"]
    heads = unet.get("num_attention_heads") or unet["attention_head_dim"]  # diffusers' old name for the same
    preview = header["vae"].get("latent_rgb")

    class LatentFormat(comfy.latent_formats.SD15):
        def __init__(self) -> None:
            super().__init__()
            if preview:  # SD1.5's own colours would show these latents wrongly
                self.latent_rgb_factors = preview["factors"]
                self.latent_rgb_factors_bias = preview["bias"]
            self.taesd_decoder_name = None

    class DarkroomDemoBase(comfy.supported_models.SD15):
        darkroom_file = file
        unet_config = {  # noqa: RUF012 (ComfyUI's own way to write it)
            **comfy.supported_models.SD15.unet_config,
            "context_dim": unet["cross_attention_dim"],
            "model_channels": unet["block_out_channels"][0],
            "use_linear_in_transformer": bool(unet.get("use_linear_projection", False)),
        }
        unet_extra_config = {"num_heads": heads, "num_head_channels": -1}  # noqa: RUF012
        latent_format = LatentFormat

        def clip_target(self, state_dict: Any = None) -> comfy.supported_models_base.ClipTarget:
            return _clip_target(header)

    return DarkroomDemoBase


def _clip_target(header: dict[str, Any]) -> comfy.supported_models_base.ClipTarget:
    """Text encoder and tokenizer classes for the header's sizes and vocabulary."""
    sizes, vocabulary = {**TEXT_DEFAULTS, **header["text_encoder"]}, header["tokenizer"]["vocab"]
    special = {"start": vocabulary[START], "end": vocabulary[END], "pad": vocabulary[END]}

    class TextModel(comfy.clip_model.CLIPTextModel):
        # Core's class always makes CLIP's 49,408 rows.
        def __init__(self, config_dict: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
            super().__init__(config_dict, dtype, device, operations)
            rows, width = config_dict["vocab_size"], config_dict["hidden_size"]
            self.set_input_embeddings(operations.Embedding(rows, width, dtype=dtype, device=device))

    class ClipModel(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config={**sizes, "eos_token_id": special["end"]},
                model_class=TextModel,
                special_tokens=special,
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class Sd1ClipModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=ClipModel)

    class Tokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            with tempfile.TemporaryDirectory() as folder:
                write_tokenizer(Path(folder), header["tokenizer"])
                super().__init__(
                    tokenizer_path=folder,
                    embedding_directory=embedding_directory,
                    embedding_size=sizes["hidden_size"],
                    tokenizer_data=tokenizer_data or {},
                )

    class Sd1Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Tokenizer)

    return comfy.supported_models_base.ClipTarget(Sd1Tokenizer, Sd1ClipModel)


def write_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> None:
    """Write a header's tokenizer as the files that every version of transformers reads."""
    (folder / "vocab.json").write_text(json.dumps(tokenizer["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{merge}\n" for merge in tokenizer["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    names = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
