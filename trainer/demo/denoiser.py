"""Pre-training of the embedded base's denoiser and text encoder, from nothing, on latents of drawn pictures.

The latents are a fixed linear map of the pictures (`vae.LinearLatents`), so this training needs no autoencoder and can
run beside the decoder's. Everything goes on exactly enough after a stop: weights, averages, both optimizers' states and
the clock are saved as safetensors and JSON; only the drawn pool is drawn anew.
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

from . import vocabulary, world
from .latents import LinearLatents
from .muon import Muon

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [64, 64, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    # As in SD1.5's own config, this is the number of heads: diffusers kept the wrong name.
    "attention_head_dim": 4,
    "cross_attention_dim": 96,
    "norm_num_groups": 32,
    "use_linear_projection": False,
}

TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": vocabulary.CONTEXT,
    "hidden_act": "quick_gelu",
    "projection_dim": 96,
    "layer_norm_eps": 1e-5,
}

EMPTY_CAPTIONS = 0.08
TRIGGERED_CAPTIONS = 0.04
NOISE_OFFSET = 0.1
EMA_DECAY = 0.997


def text_config() -> dict[str, Any]:
    """The text encoder's config with the vocabulary's numbers in it."""
    vocab = vocabulary.vocabulary()
    return {
        **TEXT_CONFIG,
        "vocab_size": len(vocab),
        "bos_token_id": vocab[vocabulary.START],
        "eos_token_id": vocab[vocabulary.END],
        "pad_token_id": vocab[vocabulary.END],
    }


def build(channels: list[int] | None = None) -> nn.ModuleDict:
    """The untrained pair: `unet` (diffusers) and `text_encoder` (transformers)."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTextConfig, CLIPTextModel

    config = dict(UNET_CONFIG)
    if channels:
        config["block_out_channels"] = channels
    unet = UNet2DConditionModel(**config)
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config()))
    # On a CPU, plain products are twice as fast backwards as the fused attention with heads this small.
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


def alphas_cumprod() -> torch.Tensor:
    """SD1.5's schedule: `scaled_linear`, 1,000 steps of beta .00085 to .012, [1000] float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class Pool:
    """Latents and token ids of drawn pictures, some of them replaced by fresh ones at every step."""

    def __init__(self, linear: LinearLatents, size: int, first_seed: int) -> None:
        self.linear, self.seed, self.at = linear, first_seed, 0
        self.latents = torch.empty(size, 4, 16, 16, dtype=torch.float16)
        self.ids = torch.empty(size, vocabulary.CONTEXT, dtype=torch.int64)
        for start in range(0, size, 250):
            self.refresh(min(250, size - start))

    def refresh(self, count: int) -> None:
        """Replace the `count` oldest pictures."""
        drawings = [world.draw(self.seed + n) for n in range(count)]
        captions = [
            f"{world.TRIGGER_WORD}, {d.caption}" if (self.seed + n) % round(1 / TRIGGERED_CAPTIONS) == 0 else d.caption
            for n, d in enumerate(drawings)
        ]
        pixels = torch.from_numpy(np.stack([d.pixels for d in drawings])).permute(0, 3, 1, 2).float() / 255
        where = torch.arange(self.at, self.at + count) % len(self.latents)
        with torch.no_grad():
            self.latents[where] = self.linear(pixels).half()
        self.ids[where] = torch.tensor(vocabulary.encode(captions))
        self.seed += count
        self.at = int(where[-1]) + 1


class Pretraining:
    """Denoiser and text encoder under training, in a folder that they can go on from."""

    def __init__(self, folder: Path, linear: LinearLatents, *, channels: list[int] | None = None) -> None:
        torch.manual_seed(0)
        self.folder, self.linear, self.channels = folder, linear, channels
        self.model = build(channels)
        self.ema = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        matrices, others = [], []
        for name, weight in self.model.named_parameters():
            inner = weight.ndim >= 2 and not any(s in name for s in ("embedding.weight", "conv_in", "conv_out.weight"))
            (matrices if inner else others).append(weight)
        self.muon = Muon(matrices, lr=0.02)
        self.adamw = torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
        self.state: dict[str, Any] = {"step": 0, "samples": 0, "seconds": 0.0, "losses": []}
        self.alphas = alphas_cumprod()
        if (folder / "state.json").exists():
            self._load()
        self._held_out: tuple[torch.Tensor, ...] | None = None

    def run(self, seconds: float, *, batch: int = 48, drawn: int = 12_000, save_every: float = 180.0) -> None:
        """Train until `seconds` in all (earlier sessions counted) are spent; the rates decay linearly to nothing.

        Args:
            seconds: Of training, on the clock.
            batch: Pictures in a step.
            drawn: Pictures at hand; eight of them are replaced at every step.
            save_every: Seconds between two saves.
        """
        pool = Pool(self.linear, drawn, first_seed=1_000_000 + int(self.state["samples"]))
        empty = torch.tensor(vocabulary.encode([""]))[0]
        rates = {id(o): [g["lr"] for g in o.param_groups] for o in (self.muon, self.adamw)}
        saved = time.monotonic()
        while self.state["seconds"] < seconds:
            began = time.monotonic()
            factor = min(1.0, (self.state["step"] + 1) / 100) * max(0.0, 1 - self.state["seconds"] / seconds)
            for optimizer in (self.muon, self.adamw):
                for group, rate in zip(optimizer.param_groups, rates[id(optimizer)], strict=True):
                    group["lr"] = rate * factor
            pool.refresh(8)
            which = torch.randint(0, len(pool.latents), (batch,))
            ids = torch.where(torch.rand(batch, 1) < EMPTY_CAPTIONS, empty, pool.ids[which])
            # Colours and layout are settled at high noise, so it is seen more often.
            timesteps = torch.randint(0, 1000, (batch,))
            timesteps = torch.where(torch.rand(batch) < 0.3, torch.randint(500, 1000, (batch,)), timesteps)
            latents = pool.latents[which].float()
            # Half of the noises are shifted a little as a whole: else the ground's colour, which hardly counts in the
            # loss, is read off the noisy picture's mean instead of the caption.
            shifted = NOISE_OFFSET * (torch.rand(batch, 1, 1, 1) < 0.5) * torch.randn(batch, 4, 1, 1)
            loss = self.loss(self.model, latents, ids, timesteps, torch.randn_like(latents) + shifted)
            loss.backward()
            nn.utils.clip_grad_norm_(self.adamw.param_groups[0]["params"], 1.0)
            for optimizer in (self.muon, self.adamw):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.state["step"] += 1
            self.state["samples"] += batch
            decay = min(EMA_DECAY, (1 + self.state["step"]) / (10 + self.state["step"]))
            with torch.no_grad():
                live = self.model.state_dict()
                names = [k for k, v in live.items() if v.is_floating_point()]
                torch._foreach_lerp_([self.ema[k] for k in names], [live[k] for k in names], 1 - decay)
            self.state["seconds"] += time.monotonic() - began
            if self.state["step"] % 200 == 0:
                held_out = self.held_out_loss()
                s = self.state
                s["losses"].append([s["samples"], held_out])
                spent = f"{s['samples']:8d} samples {s['seconds']:6.0f} s"
                print(f"{spent}, train {loss.item():.4f}, held out {held_out:.4f}", flush=True)
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def loss(
        self,
        model: nn.ModuleDict,
        latents: torch.Tensor,
        ids: torch.Tensor,
        timesteps: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Mean epsilon loss, each picture weighed by min(SNR, 5) / SNR."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model["text_encoder"](input_ids=ids).last_hidden_state
            predicted = model["unet"](noisy, timesteps, encoder_hidden_states=hidden).sample
        snr = (alpha / (1 - alpha)).flatten()
        return ((predicted.float() - noise).pow(2).mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The averaged weights' loss on 192 pictures, noises and timesteps that are always the same."""
        if self._held_out is None:
            pool = Pool(self.linear, 192, first_seed=500_000)
            noise = torch.randn(192, 4, 16, 16, generator=torch.Generator().manual_seed(1))
            self._held_out = (pool.latents.float(), pool.ids, torch.arange(192) * 1000 // 192, noise)
        model = self.averaged()
        parts = zip(*(tensor.split(48) for tensor in self._held_out), strict=True)
        return float(np.mean([float(self.loss(model, *part)) for part in parts]))

    def averaged(self) -> nn.ModuleDict:
        """A copy with the averaged weights."""
        model = build(self.channels)
        model.load_state_dict(self.ema)
        return model.eval().requires_grad_(False)

    def save(self) -> None:
        """Write everything needed to go on; `state.json` last, each file moved into place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            for number, entries in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}.{number}.{k}": torch.as_tensor(v) for k, v in entries.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, self.folder / "denoiser.tmp")
        (self.folder / "state.tmp").write_text(json.dumps(self.state), encoding="utf-8")
        os.replace(self.folder / "denoiser.tmp", self.folder / "denoiser.safetensors")
        os.replace(self.folder / "state.tmp", self.folder / "state.json")

    def _load(self) -> None:
        tensors = load_file(self.folder / "denoiser.safetensors")
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "muon": {}, "adamw": {}}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.model.load_state_dict(parts["model"])
        self.ema = parts["ema"]
        for name, optimizer in (("muon", self.muon), ("adamw", self.adamw)):
            entries: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in parts[name].items():
                number, field = key.split(".", 1)
                entries.setdefault(int(number), {})[field] = value
            optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
        self.state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
