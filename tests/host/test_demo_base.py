"""The embedded base in the real server: the same numbers as diffusers and transformers give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.host.graphs import CLIP, MODEL, VAE, checkpoint_loader, demo_loader, picture
from tests.host.measure import relative_error
from tests.host.server import ComfyServer
from trainer import families

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def base_file(comfy: ComfyServer) -> Path:
    return comfy.pack / "trainer" / "demo" / "base.safetensors"


def test_draws_a_picture(comfy: ComfyServer):
    outputs = comfy.run({**demo_loader(), **picture()})
    drawn = comfy.image(outputs["picture"]["images"][0])
    assert drawn.size == (128, 128)
    pixels = comfy.pixels(outputs["picture"]["images"][0])
    assert float(pixels.max() - pixels.min()) > 0.1


def test_unet_is_diffusers(comfy: ComfyServer, base_file: Path):
    seen = comfy.probe("unet", demo_loader(), {"model": MODEL}, seed=3, size=16, context=96)
    assert seen.plain == "torch.float32"
    family = families.detect(base_file)
    model = family.load_model(base_file, torch.float32)
    tensors = seen.tensors
    with torch.no_grad():
        ours = family.predict(model, tensors["noisy"], tensors["timestep"].long(), {"hidden": tensors["hidden"]})
    assert relative_error(ours, tensors["out"]) < 1e-4


def test_text_encoder_is_transformers(comfy: ComfyServer, base_file: Path):
    captions = ["a big red circle on a white background", "", "a (red) heart, " * 40, "\u6f2b\u753b embedding:heart"]
    seen = comfy.probe("text", demo_loader(), {"clip": CLIP}, captions=captions)
    ours = families.detect(base_file).load_encoders(base_file).encode_text(captions)
    for index, conditioning in enumerate(ours):
        assert relative_error(conditioning["hidden"], seen.tensors[str(index)]) < 1e-5


def test_vae_is_diffusers(comfy: ComfyServer, base_file: Path):
    tensors = comfy.probe("vae", demo_loader(), {"vae": VAE}, seed=1, width=192, height=128).tensors
    encoders = families.detect(base_file).load_encoders(base_file)
    pixels = tensors["pixels"].movedim(-1, 1)
    assert relative_error(encoders.encode_images(pixels), tensors["latents"]) < 1e-5
    decoded = encoders.decode_latents(tensors["latents"]).movedim(1, -1)
    assert relative_error(decoded, tensors["decoded"]) < 1e-5


def test_the_trainers_own_sampler_draws_the_servers_picture(comfy: ComfyServer, base_file: Path):
    family = families.detect(base_file)
    encoders = family.load_encoders(base_file)
    prompt = "a small blue star on a black background"
    yes, no = encoders.encode_text([prompt, ""])
    model = family.load_model(base_file, torch.float32)
    latents = family.sample(model, yes, no, width=128, height=128, steps=6, guidance=4.0, seed=5)
    ours = encoders.decode_latents(latents)[0].movedim(0, -1)
    outputs = comfy.run({**demo_loader(), **picture(prompt=prompt, steps=6, cfg=4.0, seed=5)})
    theirs = comfy.pixels(outputs["picture"]["images"][0])
    assert float((ours - theirs).abs().max()) <= 2 / 255


def test_the_stock_loader_takes_the_file_once_it_lies_among_the_checkpoints(comfy: ComfyServer, base_file: Path):
    def listed() -> list[str]:
        return comfy.node_info("CheckpointLoaderSimple")["input"]["required"]["ckpt_name"][0]

    assert "darkroom base.safetensors" not in listed()
    shutil.copy(base_file, comfy.base / "models" / "checkpoints" / "darkroom base.safetensors")
    assert "darkroom base.safetensors" in listed()
    by_stock = comfy.run({**checkpoint_loader("darkroom base.safetensors"), **picture()})
    by_us = comfy.run({**demo_loader(), **picture()})
    ours, theirs = (comfy.pixels(outputs["picture"]["images"][0]) for outputs in (by_us, by_stock))
    assert float((ours - theirs).abs().max()) <= 2 / 255  # the stock loader keeps the text encoder in fp16
