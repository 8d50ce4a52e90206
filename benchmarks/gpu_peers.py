"""Steps of what users would pick instead, for ``gpu.py``: the same adapter in fp32, on a frozen base in bf16.

Each makes its models with random weights and returns its step, which is given a shape in eighths of a side.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from frozen_cuda import TARGETS

RANK, RATE = 8, 2e-4
ASSETS = Path(__file__).resolve().parents[1] / "trainer/families/assets"
Step = Callable[[tuple[int, int]], None]


def diffusers(case: Any) -> Step:
    """As diffusers' ``examples/text_to_image/train_text_to_image_lora.py`` (and its SDXL form) steps with
    ``--mixed_precision bf16``: pictures and captions are encoded in every step, and every loss is waited for."""
    from accelerate import Accelerator
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import cast_training_params
    from peers import schedule
    from peft import LoraConfig
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def described(part: str) -> dict[str, Any]:
        return json.loads((ASSETS / case.family / part / "config.json").read_text(encoding="utf-8"))

    accelerator = Accelerator(mixed_precision="bf16", cpu=case.device.type == "cpu")
    device, half = case.device, torch.bfloat16
    with torch.device("meta" if not case.toy else device):
        unet: Any = UNet2DConditionModel.from_config(case.config)
    if not case.toy:
        unet = unet.to_empty(device=device)
        for parameter in unet.parameters():
            torch.nn.init.normal_(parameter, std=0.01)
    with device:
        vae: Any = AutoencoderKL.from_config(described("vae"))
        texts: list[Any] = [CLIPTextModel(CLIPTextConfig(**described("text_encoder")))]
        if case.family == "sdxl":
            texts.append(CLIPTextModelWithProjection(CLIPTextConfig(**described("text_encoder_2"))))
    texts = [text.to(half).requires_grad_(False) for text in texts]
    vae = vae.requires_grad_(False).to(
        torch.float32 if case.family == "sdxl" else half
    )  # its SDXL form has the VAE in fp32
    unet = unet.to(half).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    cast_training_params(unet, dtype=torch.float32)
    if case.checkpointing:
        unet.enable_gradient_checkpointing()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-2)
    rates = get_scheduler("constant", optimizer=optimizer)
    unet, optimizer, rates = accelerator.prepare(unet.train(), optimizer, rates)
    noises = schedule()

    def step(shape: tuple[int, int]) -> None:
        height, width = (case.side * part for part in shape)
        pixels, ids = torch.rand(case.batch, 3, height, width).to(device), torch.ones(case.batch, 77, dtype=torch.long)
        with accelerator.accumulate(unet):
            with torch.no_grad():
                latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
                said = [text(ids.to(device), output_hidden_states=True) for text in texts]
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noises.config.num_train_timesteps, (case.batch,), device=device).long()
            noisy = noises.add_noise(latents, noise, timesteps).to(half)
            more: dict[str, Any] = {"encoder_hidden_states": said[0][0][..., : case.width]}
            if case.family == "sdxl":
                hidden = torch.cat([one.hidden_states[-2] for one in said], -1)[..., : case.width]
                sizes = torch.full((case.batch, 6), 1024, device=device)
                more = {"encoder_hidden_states": hidden}
                more["added_cond_kwargs"] = {"text_embeds": said[1].text_embeds, "time_ids": sizes}
            predicted = unet(noisy, timesteps, return_dict=False, **more)[0]
            loss = torch.nn.functional.mse_loss(predicted.float(), noise.float(), reduction="mean")
            accelerator.gather(loss.repeat(case.batch)).mean().item()  # type: ignore[union-attr]
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()

    return step


def sd_scripts(case: Any) -> Step:
    """As kohya's ``train_network.py`` and ``sdxl_train_network.py`` step with ``--sdpa --cache_latents
    --cache_text_encoder_outputs --mixed_precision bf16``: its own UNet and its own LoRA (which adapts ``proj_in`` and
    ``proj_out`` too, as it always does)."""
    sys.path.insert(0, str(case.sd_scripts))
    from library.original_unet import UNet2DConditionModel  # pyright: ignore[reportMissingImports]
    from library.sdxl_original_unet import SdxlUNet2DConditionModel  # pyright: ignore[reportMissingImports]
    from networks import lora  # pyright: ignore[reportMissingImports]
    from peers import schedule

    sdxl = case.family == "sdxl"
    described = {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768, "use_linear_projection": False}
    described["upcast_attention"] = False
    with case.device:
        torch.set_default_dtype(torch.bfloat16)
        try:
            unet: Any = SdxlUNet2DConditionModel() if sdxl else UNet2DConditionModel(**described)
        finally:
            torch.set_default_dtype(torch.float32)
    unet.requires_grad_(False)
    (unet.set_use_sdpa if hasattr(unet, "set_use_sdpa") else unet.set_use_memory_efficient_attention)(True)
    network = lora.create_network(1.0, RANK, RANK, None, [], unet)
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    network.to(case.device)
    if case.checkpointing:
        unet.enable_gradient_checkpointing()
        network.enable_gradient_checkpointing()
    network.prepare_grad_etc(None, unet)
    parameters, _ = network.prepare_optimizer_params(RATE, RATE, RATE)
    optimizer = torch.optim.AdamW(parameters)
    noises = schedule()
    unet.train()

    def step(shape: tuple[int, int]) -> None:
        latents, _, more = case.inputs(shape)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (case.batch,), device=case.device)
        noisy = noises.add_noise(latents, noise, timesteps).requires_grad_(case.checkpointing)
        hidden = more["encoder_hidden_states"]
        with torch.autocast(case.device.type, torch.bfloat16):
            if sdxl:
                sizes = torch.zeros(case.batch, 1536, device=case.device)
                told = torch.cat([more["added_cond_kwargs"]["text_embeds"], sizes], 1)
                predicted = unet(noisy, timesteps, hidden, told)
            else:
                predicted = unet(noisy, timesteps, hidden).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float(), reduction="none").mean([1, 2, 3]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.get_trainable_params(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.detach().item()

    return step
