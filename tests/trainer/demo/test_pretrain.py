"""The pre-training at its smallest: what it computes, and that it saves and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.demo import latents, vae
from trainer.demo.denoiser import Pretraining
from trainer.demo.muon import Muon


@pytest.fixture
def linear() -> latents.LinearLatents:
    torch.manual_seed(1)
    module = latents.LinearLatents()
    module.conv.weight.mul_(0.3)
    return module


def test_the_written_encoder_is_the_linear_map(linear: latents.LinearLatents):
    encoder: torch.nn.Module = vae.tiny_autoencoder().encoder  # type: ignore[assignment]
    encoder.load_state_dict(vae.encoder_weights(linear, encoder))
    pixels = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        # diffusers' encoder takes pictures in -1..1.
        given = encoder(pixels * 2 - 1)
    assert given.shape == (2, 4, 8, 6)
    assert torch.allclose(given, linear(pixels), atol=1e-5)


def test_muon_moves_along_an_orthogonal_matrix():
    weight = torch.nn.Parameter(torch.zeros(8, 16))
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(8, 16, generator=generator)
    weight.grad = gradient
    Muon([weight], lr=0.1).step()
    values = torch.linalg.svdvals(weight.detach()) / 0.1
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert float((weight.detach() * gradient).sum()) < 0


def test_the_denoiser_saves_and_goes_on(tmp_path: Path, linear: latents.LinearLatents):
    folder = tmp_path / "pre tr\u00e4ining \u6f2b"
    first = Pretraining(folder, linear, channels=[32, 32, 32])
    first.run(1e-9, batch=2, drawn=8)  # one step
    again = Pretraining(folder, linear, channels=[32, 32, 32])
    assert again.state == first.state
    assert again.state["step"] == 1
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
        assert torch.equal(first.ema[name], again.ema[name]), name
    for mine, theirs in ((first.muon, again.muon), (first.adamw, again.adamw)):
        saved, loaded = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert saved.keys() == loaded.keys()
        for number, entries in saved.items():
            for field, value in entries.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(loaded[number][field])), (number, field)
    # The rates fall to nothing at the end of the time given, so give it twice as much.
    again.run(2 * again.state["seconds"], batch=2, drawn=8)
    assert again.state["step"] >= 2
    before, after = first.model.state_dict(), again.model.state_dict()
    assert not torch.equal(before["unet.conv_in.weight"], after["unet.conv_in.weight"])


def test_the_decoder_saves_and_goes_on(tmp_path: Path, linear: latents.LinearLatents):
    first = vae.DecoderTraining(tmp_path, linear)
    first.run(1e-9, drawn=10)
    again = vae.DecoderTraining(tmp_path, linear)
    assert again.state == first.state
    assert again.state["step"] == 1
    assert all(torch.equal(t, again.ema[n]) for n, t in first.ema.items())


def test_preview_factors_give_the_small_picture():
    means = latents.LinearLatents()
    means.conv.weight.zero_()
    means.conv.bias.zero_()  # type: ignore[union-attr]
    for channel in range(3):
        means.conv.weight[channel, channel, 4:12, 4:12] = 1 / 64
    # The fourth latent says which half is lighter: nothing about the mean.
    means.conv.weight[3, :, 4:12, 4:8], means.conv.weight[3, :, 4:12, 8:12] = 1 / 96, -1 / 96
    factors, bias = latents.preview_factors(means)
    # Means in 0..1 to a picture in -1..1: twice, less one.
    expected = torch.cat([2 * torch.eye(3), torch.zeros(1, 3)])
    assert torch.allclose(torch.tensor(factors), expected, atol=1e-3)
    assert torch.allclose(torch.tensor(bias), -torch.ones(3), atol=1e-3)
