"""The keys of our LoRA files under A1111's own rule for them, restated: it finds each layer, and the right one.

Its rule (extensions-builtin/Lora/networks.py): a key up to its first dot is rewritten from kohya's form of diffusers'
names to the module's place in the original code, and looked up there. What it does not find it passes over in silence.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import families
from trainer.families import ldm

ASSETS = Path(families.__file__).parent / "assets"
# A1111 takes SDXL's first upsampler for one of a block without attention, as it is in SD1.5.
NOT_FOUND = {"sd15": set(), "sdxl": {"lora_unet_up_blocks_0_upsamplers_0_conv"}}


@cache
def unet(family: str) -> nn.Module:
    """The full UNet, without memory."""
    from diffusers import UNet2DConditionModel

    config = json.loads((ASSETS / family / "unet" / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)  # type: ignore[return-value]


@cache
def original_modules(family: str) -> dict[str, str]:
    """A1111's names of the UNet's modules -> diffusers' names of them."""
    names = [name for name in unet(family).state_dict() if name.endswith(".weight")]
    state = {name: torch.tensor(index) for index, name in enumerate(names)}
    found = {}
    for original, index in ldm.unet_state(state, 2).items():
        # A1111 flattens the names below `sd_model.model`.
        place = original.removeprefix("model.").removesuffix(".weight").replace(".", "_")
        found[place] = names[int(index)].removesuffix(".weight")
    return found


def a1111_unet_name(key: str) -> str:
    """Where A1111 looks for a key of the UNet."""
    rest = key.removeprefix("lora_unet_")
    inside = {"conv1": "in_layers_2", "conv2": "out_layers_3", "norm1": "in_layers_0", "norm2": "out_layers_0"}
    inside |= {"time_emb_proj": "emb_layers_1", "conv_shortcut": "skip_connection"}
    if rest in ("conv_in", "conv_out"):
        return "diffusion_model_" + {"conv_in": "input_blocks_0_0", "conv_out": "out_2"}[rest]
    if found := re.match(r"time_embedding_linear_(\d)$", rest):
        return f"diffusion_model_time_embed_{2 * int(found[1]) - 2}"
    if found := re.match(r"down_blocks_(\d)_downsamplers_0_conv", rest):
        return f"diffusion_model_input_blocks_{3 + 3 * int(found[1])}_0_op"
    if found := re.match(r"up_blocks_(\d)_upsamplers_0_conv", rest):
        return f"diffusion_model_output_blocks_{2 + 3 * int(found[1])}_{2 if int(found[1]) else 1}_conv"
    if found := re.match(r"(down|up|mid)_block(?:s_(\d+))?_(attentions|resnets)_(\d+)_(.+)", rest):
        side, level, kind, index, tail = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
        tail = inside.get(tail, tail) if kind == "resnets" else tail
        attention = int(kind == "attentions")
        if side == "mid":
            return f"diffusion_model_middle_block_{1 if attention else 2 * index}_{tail}"
        block = 3 * level + index + (side == "down")
        return f"diffusion_model_{'input' if side == 'down' else 'output'}_blocks_{block}_{attention}_{tail}"
    return "diffusion_model_" + rest


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("which", ["attention", "linear", "conv"])
def test_every_layer_of_the_full_unet_is_found(family: str, which: str) -> None:
    ours, theirs = families.get(family), original_modules(family)
    targets = [name for name, module in unet(family).named_modules() if ours.is_target(name, module, which)]
    assert len(targets) >= {"sd15": 128, "sdxl": 560}[family]
    missed = set()
    for name in targets:
        key = ours.export_key(name)
        assert "." not in key, "A1111 cuts a key at its first dot"
        place = theirs.get(a1111_unet_name(key))
        if place is None:
            missed.add(key)
        else:
            assert place == name
    assert missed == (NOT_FOUND[family] if which == "conv" else set())


@pytest.mark.parametrize(
    ("family", "part", "folder"),
    [
        ("sd15", "text_encoder", "transformer_text_model_encoder_layers_{}_{}"),
        ("sdxl", "text_encoder", "0_transformer_text_model_encoder_layers_{}_{}"),
        ("sdxl", "text_encoder_2", "1_model_transformer_resblocks_{}_{}"),
    ],
)
def test_every_layer_of_the_text_encoders_is_found(family: str, part: str, folder: str) -> None:
    """OpenCLIP's q, k and v are one layer, of which A1111 takes each in its place."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig.from_pretrained(ASSETS / family / part)
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel)(config)
    ours = families.get(family)
    prefix = {"sd15": "lora_te", "sdxl": "lora_te1" if part == "text_encoder" else "lora_te2"}[family]
    openclip = {"self_attn_out_proj": "attn_out_proj", "mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj"}
    openclip |= {f"self_attn_{x}_proj": f"attn_{x}_proj" for x in "qkv"}
    kinds = openclip if part == "text_encoder_2" else {kind: kind for kind in openclip}
    known = {folder.format(n, kind) for n in range(config.num_hidden_layers) for kind in kinds.values()}
    found = set()
    for name in (name for name, module in model.named_modules() if ours.text_target(name, module)):
        match = re.fullmatch(prefix + r"_text_model_encoder_layers_(\d+)_(.+)", ours.export_key(name, part))
        assert match is not None, name
        found.add(folder.format(match[1], kinds[match[2]]))
    assert found == known
    assert len(found) == 6 * config.num_hidden_layers
