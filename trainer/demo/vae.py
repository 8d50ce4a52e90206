"""The embedded base's autoencoder, TAESD's architecture with latents that are a known linear map of the picture.

`latents.LinearLatents` defines the latents. The TAESD encoder is not trained at all: `encoder_weights` writes a linear
map into its weights, exactly. Only the decoder learns, on crops and then on whole pictures, a third of them in styles
that the denoiser never sees.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from .latents import LinearLatents, pictures
from .muon import Muon

WIDTH = 64
"""Channels of every layer of TAESD."""


def tiny_autoencoder() -> nn.Module:
    """diffusers' AutoencoderTiny with TAESD's own sizes, untrained."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


def encoder_weights(linear: LinearLatents, encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Weights with which a TAESD encoder computes `linear` exactly (pictures in 0..1, any size in multiples of 8).

    Its residual blocks pass on what is not negative, so: two strided convolutions gather the 4 x 4 pixels of a block
    into 48 of the 64 channels; the third sums, for each latent and both signs, over the 3 x 3 blocks that it sees, the
    column right of it and the row below it apart (the window is 4 x 4 blocks); the last adds the parts up.
    """
    weights = {name: torch.zeros_like(tensor) for name, tensor in encoder.state_dict().items()}
    strided = [f"layers.{n}.weight" for n in (2, 6, 10)]
    last = "layers.14"
    for channel in range(3):
        weights["layers.0.weight"][channel, channel, 1, 1] = 1.0
    for name, channels in zip(strided[:2], (3, 12), strict=True):
        for row, column in np.ndindex(2, 2):
            for channel in range(channels):
                # The strided kernel at output i is centred on input 2i, so its taps 1 and 2 are the block's two.
                weights[name][(row * 2 + column) * channels + channel, channel, row + 1, column + 1] = 1.0
    window = linear.conv.weight.detach()
    # Parts of the 4 x 4 blocks of the window, as (rows, columns) of the kernel that sees them: the four blocks of a
    # row are -1, 0, 1 of this cell and, as its centre, the next cell's 0.
    parts = [((0, 1, 2), (0, 1, 2), 0, 0), ((0, 1, 2), (1,), 0, 1), ((1,), (0, 1, 2), 1, 0), ((1,), (1,), 1, 1)]
    for latent in range(4):
        for number, (rows, columns, down, right) in enumerate(parts):
            plus, minus = 8 * latent + 2 * number, 8 * latent + 2 * number + 1
            for row in rows:
                for column in columns:
                    top, left = 4 * (3 if down else row), 4 * (3 if right else column)
                    for y, x in np.ndindex(4, 4):
                        # Channel order of the two gatherings: the later (coarser) offset is the slower index.
                        first = ((y // 2) * 2 + x // 2) * 12 + ((y % 2) * 2 + x % 2) * 3
                        taps = window[latent, :, top + y, left + x]
                        weights[strided[2]][plus, first : first + 3, row, column] = taps
                        weights[strided[2]][minus, first : first + 3, row, column] = -taps
            weights[f"{last}.weight"][latent, plus, 1 + down, 1 + right] = 1.0
            weights[f"{last}.weight"][latent, minus, 1 + down, 1 + right] = -1.0
    weights[f"{last}.bias"].copy_(linear.state_dict()["conv.bias"])
    return weights


class DecoderTraining:
    """TAESD's decoder under training on linear latents, in a folder that it can go on from."""

    def __init__(self, folder: Path, linear: LinearLatents) -> None:
        torch.manual_seed(0)
        self.folder, self.linear = folder, linear
        self.decoder: nn.Module = tiny_autoencoder().decoder  # type: ignore[assignment]
        for name, weight in self.decoder.named_parameters():
            if weight.ndim == 4:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
                if name.endswith("conv.4.weight"):
                    weight.data.mul_(0.2)
            else:
                nn.init.zeros_(weight)
        self.decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        edge = ("layers.0.", "layers.18.")
        named = list(self.decoder.named_parameters())
        self.muon = Muon([w for n, w in named if w.ndim == 4 and not n.startswith(edge)], lr=0.01)
        self.adamw = torch.optim.AdamW(
            [w for n, w in named if w.ndim != 4 or n.startswith(edge)], lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.ema = {k: v.detach().clone() for k, v in self.decoder.state_dict().items()}
        self.state: dict[str, Any] = {"step": 0, "seconds": 0.0, "psnr": []}
        if (folder / "decoder.json").exists():
            self._load()

    def run(self, seconds: float, *, drawn: int = 4_000, save_every: float = 120.0) -> None:
        """Train until `seconds` in all are spent: three quarters on crops of 64 pixels, the rest on whole pictures.

        Args:
            seconds: Of training, on the clock.
            drawn: Pictures to train on.
            save_every: Seconds between two saves.
        """
        first = 2_000_000 + self.state["step"]
        pool = pictures(range(first, first + drawn))
        held_out = pictures(range(600_000, 600_064))
        rates = {id(o): [g["lr"] for g in o.param_groups] for o in (self.muon, self.adamw)}
        saved = time.monotonic()
        while self.state["seconds"] < seconds:
            began, done = time.monotonic(), self.state["seconds"] / seconds
            factor = min(1.0, (self.state["step"] + 1) / 50) * max(0.0, 1 - done)
            for optimizer in (self.muon, self.adamw):
                for group, rate in zip(optimizer.param_groups, rates[id(optimizer)], strict=True):
                    group["lr"] = rate * factor
            whole = done > 0.75
            pixels = pool[torch.randint(0, len(pool), (3 if whole else 10,))].float() / 255
            latents = self.linear(pixels)
            if not whole:
                top, left = (int(n) for n in torch.randint(0, 9, (2,)))
                latents = latents[:, :, top : top + 8, left : left + 8]
                pixels = pixels[:, :, top * 8 : top * 8 + 64, left * 8 : left * 8 + 64]
            # What a denoiser hands over is never quite a picture's latents.
            decoded = self.decode(self.decoder, latents + 0.04 * torch.randn_like(latents))
            loss = F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
            loss.backward()
            for optimizer in (self.muon, self.adamw):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.state["step"] += 1
            decay = min(0.99, (1 + self.state["step"]) / (10 + self.state["step"]))
            with torch.no_grad():
                live = self.decoder.state_dict()
                torch._foreach_lerp_([self.ema[k] for k in live], list(live.values()), 1 - decay)
            self.state["seconds"] += time.monotonic() - began
            if self.state["step"] % 100 == 0:
                self.state["psnr"].append([self.state["step"], self.psnr(held_out)])
                print(
                    f"{self.state['step']:6d} steps {self.state['seconds']:6.0f} s, loss {loss.item():.4f}, "
                    f"held out {self.state['psnr'][-1][1]:.2f} dB",
                    flush=True,
                )
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    @staticmethod
    def decode(decoder: nn.Module, latents: torch.Tensor) -> torch.Tensor:
        """Latents to pictures in 0..1, not clipped."""
        with torch.autocast("cpu", torch.bfloat16):
            return (decoder(latents.contiguous(memory_format=torch.channels_last)).float() + 1) / 2

    def averaged(self) -> nn.Module:
        """A decoder with the averaged weights."""
        decoder: nn.Module = tiny_autoencoder().decoder  # type: ignore[assignment]
        decoder.load_state_dict(self.ema)
        return decoder.eval().requires_grad_(False)

    @torch.no_grad()
    def psnr(self, pixels: torch.Tensor) -> float:
        """Mean peak signal-to-noise ratio in dB of the averaged decoder over uint8 pictures."""
        decoder = self.averaged().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        values = []
        for part in pixels.split(8):
            target = part.float() / 255
            error = (self.decode(decoder, self.linear(target)).clamp(0, 1) - target).pow(2).mean((1, 2, 3))
            values.append(-10 * error.clamp_min(1e-8).log10())
        return float(torch.cat(values).mean())

    def save(self) -> None:
        """Write everything needed to go on; the JSON last, each file moved into place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v for k, v in self.decoder.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            for number, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{number}.{k}": torch.as_tensor(v) for k, v in entries.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, self.folder / "decoder.tmp")
        (self.folder / "decoder.json.tmp").write_text(json.dumps(self.state), encoding="utf-8")
        os.replace(self.folder / "decoder.tmp", self.folder / "decoder.safetensors")
        os.replace(self.folder / "decoder.json.tmp", self.folder / "decoder.json")

    def _load(self) -> None:
        tensors = load_file(self.folder / "decoder.safetensors")
        self.decoder.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.ema = {k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            entries: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}."):
                    _, number, field = key.split(".", 2)
                    entries.setdefault(int(number), {})[field] = value
            optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        self.state = json.loads((self.folder / "decoder.json").read_text(encoding="utf-8"))
