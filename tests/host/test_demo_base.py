"""The embedded base in the real server: the same numbers as diffusers and transformers give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.host.server import ComfyServer

pytestmark = pytest.mark.host
LOADER = {"base": {"class_type": "Darkroom_LoadDemoBase", "inputs": {}}}
MODEL, CLIP, VAE = (["base", slot] for slot in range(3))


def text_to_image(model: Any, clip: Any, vae: Any, *, seed: int = 1, steps: int = 4, size: int = 128) -> dict[str, Any]:
    """The stock text-to-image graph behind a loader."""
    return {
        "yes": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": "a red circle on blue"}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": ""}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": model, "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["empty", 0],
                "seed": seed, "steps": steps, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": vae}},
        "picture": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }  # fmt: skip


def test_draws_a_picture(comfy: ComfyServer):
    outputs = comfy.run({**LOADER, **text_to_image(MODEL, CLIP, VAE)})
    picture = comfy.image(outputs["picture"]["images"][0])
    assert picture.size == (128, 128)
    assert max(high - low for low, high in picture.getextrema()) > 20


def test_probe(comfy: ComfyServer):
    seen = comfy.probe("unet", LOADER, {"model": MODEL}, seed=3, size=16, context=96)
    assert torch.isfinite(seen.tensors["out"]).all(), seen.plain
    print(seen.plain, comfy.probe("text", LOADER, {"clip": CLIP}, captions=["a red (circle)", ""]).plain)
    print(comfy.probe("vae", LOADER, {"vae": VAE}, seed=1, width=96, height=64).plain)
