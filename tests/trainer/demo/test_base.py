"""The file of the embedded base: its size, its header, its names, and that its pictures obey their captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from trainer import demo
from trainer.demo import latents, probe, vocabulary, world
from trainer.families import detect
from trainer.families.base import Encoders

PROMPTS = 12


@pytest.fixture(scope="module")
def header() -> Iterator[dict[str, object]]:
    with safe_open(str(demo.BASE), framework="pt") as opened:
        yield {"description": json.loads(opened.metadata()["darkroom.sd15"]), "names": list(opened.keys())}


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return detect(demo.BASE).load_encoders(demo.BASE)


def test_it_fits_into_the_repository_and_says_what_it_is(header: dict):
    assert demo.BASE.stat().st_size <= 12_000_000
    described = header["description"]
    assert described["tokenizer"] == vocabulary.tokenizer_json()
    assert described["vae"]["type"] == "taesd"
    assert described["vae"]["vae_scale"] == pytest.approx(0.18215)
    assert torch.tensor(described["vae"]["latent_rgb"]["factors"]).shape == (4, 3)
    assert {name.split(".")[0] for name in header["names"]} == {
        "model",
        "cond_stage_model",
        "first_stage_model",
    }


def test_the_weights_are_fp16_and_finite():
    with safe_open(str(demo.BASE), framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            tensor = opened.get_tensor(name)
            expected = torch.float32 if name.endswith(("vae_scale", "vae_shift")) else torch.float16
            assert tensor.dtype == expected or not tensor.is_floating_point(), name
            assert torch.isfinite(tensor.float()).all(), name


def test_a_picture_survives_the_autoencoder(encoders: Encoders):
    drawn = torch.cat([latents.pictures(range(650_000, 650_006)), _neon(4)]).float() / 255
    given = encoders.encode_images(drawn)
    assert given.shape == (10, 4, 16, 16)
    # As Stable Diffusion's convention has it: times 0.18215 about unit variance.
    assert 0.5 < float((given[:6] * 0.18215).std()) < 1.6
    again = encoders.decode_latents(given)
    decibels = -10 * (again.clamp(0, 1) - drawn).pow(2).mean((1, 2, 3)).log10()
    assert float(decibels.mean()) > 24
    assert float(decibels.min()) > 17


def test_the_base_obeys_its_captions(encoders: Encoders):
    family = detect(demo.BASE)
    model = family.load_model(demo.BASE, torch.float32)
    facts = [replace(f, style=list(world.STYLES)[n % 4]) for n, (_, f) in enumerate(world.held_out_prompts(PROMPTS))]
    conditions = encoders.encode_text([world.caption_of(f) for f in facts])
    negative = encoders.encode_text([""])[0]
    pictures = []
    for number, condition in enumerate(conditions):
        sampled = family.sample(
            model, condition, negative, width=128, height=128, steps=16, guidance=4.0, seed=100 + number
        )
        pictures.append(encoders.decode_latents(sampled))
    judged = probe.judge(torch.cat(pictures))
    for name in ("shape", "color", "background", "style"):
        right = sum(answer == getattr(f, name) for answer, f in zip(judged[name], facts, strict=True))
        assert right >= 0.75 * PROMPTS, (name, judged[name])
    assert world.UNKNOWN_STYLE not in judged["style"]


def _neon(count: int) -> torch.Tensor:
    drawings = world.neon_drawings()[:count]
    return torch.stack([torch.from_numpy(d.pixels).permute(2, 0, 1) for d in drawings])
