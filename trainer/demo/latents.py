"""The embedded base's latents: a linear map of the picture, learned together with a small decoder, then whitened.

Four numbers for 8 x 8 x 3 are few. A map that a decoder has a say in keeps thin lines that the same number of principal
components loses; being linear, it is learned in minutes, and the denoiser can train on it before any VAE exists.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from . import world

DETAIL_SCALE = 0.6
"""Of the last channel: heavy-tailed detail, which TAESD's clamp of 3 tanh(x / 3) would flatten at unit variance."""


class LinearLatents(nn.Module):
    """Pictures [N, 3, H, W] in 0..1 to latents [N, 4, H/8, W/8] of about unit variance: one strided convolution.

    The window is 16 pixels wide, the stride 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 16, stride=8, padding=4)
        self.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Project; beyond the border the picture counts as black, as TAESD's zero padding has it."""
        return self.conv(pixels)

    @classmethod
    def load(cls, path: Path) -> LinearLatents:
        """Read what `save` wrote."""
        module = cls()
        module.conv.load_state_dict(load_file(path))
        return module

    def save(self, path: Path) -> None:
        """Write weight and bias."""
        save_file({name: tensor.contiguous() for name, tensor in self.conv.state_dict().items()}, path)


def draw_for_decoder(seed: int) -> np.ndarray:
    """A picture for the autoencoder: 70 % of the known world, else neon, scribble, inverted or mosaic."""
    at = np.random.default_rng([seed, 1]).random()
    for style, until in (("neon", 0.13), ("scribble", 0.20), ("inverted", 0.27), ("mosaic", 0.30)):
        if at < until:
            return world.draw(seed, style=style).pixels
    return world.draw(seed).pixels


def pictures(seeds: range) -> torch.Tensor:
    """`draw_for_decoder` of every seed, [N, 3, 128, 128] uint8."""
    return torch.from_numpy(np.stack([draw_for_decoder(seed) for seed in seeds])).permute(0, 3, 1, 2).contiguous()


def learn(seconds: float) -> LinearLatents:
    """Learn the map for `seconds` beside a decoder of the latents' own size, starting from PCA; then whiten it."""
    torch.manual_seed(0)
    pool = pictures(range(3_000_000, 3_004_000))
    linear = LinearLatents().requires_grad_(True)
    _principal_components(linear, pool[:1500])
    normalise = nn.BatchNorm2d(4, affine=False, momentum=0.02)
    decoder = _PatchDecoder()
    optimizer = torch.optim.AdamW(
        [{"params": decoder.parameters(), "lr": 1.5e-3}, {"params": linear.parameters(), "lr": 1e-3}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    began, step = time.monotonic(), 0
    while (done := (time.monotonic() - began) / seconds) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 30) * (1 - done)
        pixels = pool[torch.randint(0, len(pool), (8,))].float() / 255
        latents = normalise(linear(pixels))
        with torch.autocast("cpu", torch.bfloat16):
            decoded = decoder(latents + 0.04 * torch.randn_like(latents))
        loss = F.l1_loss(decoded.float(), pixels) + 2 * F.mse_loss(decoded.float(), pixels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"latents: {step} steps, loss {loss.item():.4f}", flush=True)
    return _whitened(linear.requires_grad_(False))


class _PatchDecoder(nn.Module):
    """Latents to pictures by convolutions at the latents' own size: cheap, and good enough to teach the map."""

    def __init__(self, width: int = 128, blocks: int = 3) -> None:
        super().__init__()

        def conv(before: int, after: int) -> nn.Conv2d:
            return nn.Conv2d(before, after, 3, padding=1)

        self.first, self.last = conv(4, width), conv(width, 192)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), conv(width, width), nn.ReLU(), conv(width, width)) for _ in range(blocks)
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.first(3 * torch.tanh(latents / 3))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return F.pixel_shuffle(self.last(F.relu(hidden)), 8) + 0.5


@torch.no_grad()
def _principal_components(linear: LinearLatents, pixels: torch.Tensor) -> None:
    """The first four of 8 x 8 patches, scaled to unit variance, in the middle of the window."""
    patches = F.unfold(pixels.float() / 255, 8, stride=8).transpose(1, 2).reshape(-1, 192)
    patches = patches - patches.mean(0)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    linear.conv.weight.zero_()
    linear.conv.bias.zero_()  # type: ignore[union-attr]
    linear.conv.weight[:, :, 4:12, 4:12] = (vectors[:, -4:] / values[-4:].sqrt()).flip(1).T.reshape(4, 3, 8, 8)


@torch.no_grad()
def _whitened(linear: LinearLatents) -> LinearLatents:
    """Mean 0 and covariance 1 on the known world (by the rotation nearest to none), the detail channel scaled."""
    known = np.stack([world.draw(4_000_000 + n).pixels for n in range(1500)])
    latents = linear(torch.from_numpy(known).permute(0, 3, 1, 2).float() / 255)
    flat = latents.transpose(0, 1).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    whiten = (vectors @ torch.diag(values**-0.5) @ vectors.T).float()
    tails = ((whiten.double() @ (flat - flat.mean(1, keepdim=True))) ** 4).mean(1)
    whiten[int(tails.argmax())] *= DETAIL_SCALE
    result = LinearLatents()
    result.conv.weight.copy_(torch.einsum("oc,cikl->oikl", whiten, linear.conv.weight))
    result.conv.bias.copy_(whiten @ (linear.conv.bias - flat.mean(1).float()))  # type: ignore[union-attr]
    return result


@torch.no_grad()
def preview_factors(linear: LinearLatents) -> tuple[list[list[float]], list[float]]:
    """Least-squares factors [4][3] and bias [3] from latents to a small picture in -1..1, for fast previews."""
    pixels = torch.from_numpy(np.stack([world.draw(4_100_000 + n).pixels for n in range(300)]))
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    flat = linear(pixels).transpose(0, 1).flatten(1).T
    small = (F.avg_pool2d(pixels, 8) * 2 - 1).transpose(0, 1).flatten(1).T
    solution = torch.linalg.lstsq(torch.cat([flat, torch.ones(len(flat), 1)], 1), small).solution
    return solution[:4].tolist(), solution[4].tolist()
