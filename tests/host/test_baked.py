"""A text encoder that ComfyUI has drawn with, a LoRA baked into it, is the same one to a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.host.checkpoints import SD15, add_random_sd15
from tests.host.graphs import checkpoint_loader, node, picture, training
from tests.host.measure import runs
from tests.host.server import ComfyServer

pytestmark = [pytest.mark.host, pytest.mark.long]
SMALL: dict[str, Any] = {"size": 64, "steps": 1}


def test_a_finished_run_is_found_after_a_drawing_with_a_lora(start_comfy: Callable[..., ComfyServer]):
    comfy = start_comfy()
    add_random_sd15(comfy.base)
    asked = {**checkpoint_loader(SD15), **training(epochs=1, resolution=64, sample_inference_steps=1)}
    comfy.run(asked)
    before = set(runs(comfy).iterdir())
    comfy.stop()
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    lora = {f"{key}.lora_down.weight": torch.ones(1, 768), f"{key}.lora_up.weight": torch.ones(3072, 1)}
    save_file(lora, comfy.base / "models" / "loras" / "text.safetensors")
    comfy = start_comfy()
    loader = node("LoraLoader", model=["base", 0], clip=["base", 1], lora_name="text.safetensors",
                  strength_model=1.0, strength_clip=1.0)  # fmt: skip
    drawn = {**checkpoint_loader(SD15), "load": loader, **picture(model=["load", 0], clip=["load", 1], **SMALL)}
    comfy.run(drawn)
    comfy.run(asked)
    assert set(runs(comfy).iterdir()) == before, "nothing is trained anew"
