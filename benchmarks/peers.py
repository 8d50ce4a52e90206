"""What users would pick instead: loops of the same adapter on the same data, as each of them steps.

``Given`` is the same for all: the cached latents and conditioning of a run of ours, in its order. Each way yields once
when it is ready and once after each step; whoever iterates takes the time. All train rank 8 in fp32 with AdamW and
clipping, batch 1, the linear layers of the transformer blocks, but where that is said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

RANK, RATE = 8, 2e-4
Data = list[tuple[torch.Tensor, torch.Tensor, str, Path]]


@dataclass
class Given:
    """What is trained.

    Args:
        base: a checkpoint of SD1.5.
        names: the layers that are adapted, as diffusers names them.
        data: latents [1, 4, h, w] as the UNet sees them, conditioning [1, 77, 768], caption and picture, a step each.
        resolution: in pixels, of square pictures.
        sd_scripts, comfy: checkouts, or None.
    """

    base: Path
    names: list[str]
    data: Data
    resolution: int
    sd_scripts: Path | None = None
    comfy: Path | None = None


def unet_of(base: Path) -> Any:
    """The file's UNet as diffusers has it, in fp32."""
    from trainer import families

    return families.detect(base).load_model(base, torch.float32)


def schedule() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def adapted(model: Any, names: list[str]) -> Any:
    from peft import LoraConfig, inject_adapter_in_model

    return inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), model)


def floor(given: Given) -> Iterator[None]:
    """No adapter at all: the frozen base forward, and backward to its activations. Nothing that trains is quicker."""
    unet = unet_of(given.base).requires_grad_(False).train()
    yield
    for latents, hidden, *_ in given.data:
        noisy = torch.randn_like(latents).requires_grad_()
        unet(noisy, torch.randint(0, 1000, (1,)), hidden).sample.square().mean().backward()
        yield


def peft(given: Given, change: Callable[[Any], object] = lambda unet: None) -> Iterator[None]:
    """The shortest loop that trains it; with one thing changed in the UNet, or in what computes it."""
    unet = adapted(unet_of(given.base), given.names).train()
    change(unet)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, fused=True)
    noises = schedule()
    yield
    for latents, hidden, *_ in given.data:
        noise, timestep = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        prediction = unet(noises.add_noise(latents, noise, timestep), timestep, hidden).sample
        torch.nn.functional.mse_loss(prediction, noise).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def diffusers_example(given: Given) -> Iterator[None]:
    """As diffusers' ``examples/text_to_image/train_text_to_image_lora.py`` steps: pictures and captions are encoded in
    every step, by an accelerate of one process, with the AdamW that it makes."""
    import numpy as np
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from peft import LoraConfig
    from PIL import Image, ImageOps

    from trainer import families

    accelerator = Accelerator(cpu=True)
    encoders: Any = families.detect(given.base).load_encoders(given.base)
    ((name, text),) = encoders.text_models.items()
    vae = encoders.vae
    unet = unet_of(given.base)
    for model in (vae, text, unet):
        model.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=given.names))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-2)
    rates = get_scheduler("constant", optimizer=optimizer)
    unet, optimizer, rates = accelerator.prepare(unet, optimizer, rates)
    noises = schedule()
    unet.train()
    yield
    side = given.resolution
    for _, _, caption, picture in given.data:
        with accelerator.accumulate(unet):
            with Image.open(picture) as opened:
                fitted = ImageOps.fit(opened.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None] / 127.5 - 1.0
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noises.config.num_train_timesteps, (1,)).long()
            noisy = noises.add_noise(latents, noise, timesteps)
            hidden = text(encoders.tokenize(caption)[name], return_dict=False)[0]
            prediction = unet(noisy, timesteps, hidden, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(prediction.float(), noise.float(), reduction="mean")
            accelerator.gather(loss.repeat(1)).mean().item()  # type: ignore[union-attr]
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
        yield


def sd_scripts(given: Given) -> Iterator[None]:
    """As kohya's ``train_network.py`` steps with ``--sdpa --cache_latents --cache_text_encoder_outputs``: its own UNet
    and its own LoRA (which adapts ``proj_in`` and ``proj_out`` too, as it always does)."""
    assert given.sd_scripts
    sys.path.insert(0, str(given.sd_scripts))
    from library.model_util import (  # pyright: ignore[reportMissingImports]
        convert_ldm_unet_checkpoint,
        create_unet_diffusers_config,
    )
    from library.original_unet import UNet2DConditionModel  # pyright: ignore[reportMissingImports]
    from networks import lora  # pyright: ignore[reportMissingImports]
    from safetensors.torch import load_file

    config = create_unet_diffusers_config(False)
    unet = UNet2DConditionModel(**config)
    unet.load_state_dict(convert_ldm_unet_checkpoint(False, load_file(given.base), config))
    unet.to(torch.float32).requires_grad_(False)
    unet.set_use_sdpa(True)
    network = lora.create_network(1.0, RANK, RANK, None, [], unet)
    network.apply_to([], unet, apply_text_encoder=False, apply_unet=True)
    network.prepare_grad_etc(None, unet)
    parameters, _ = network.prepare_optimizer_params(RATE, RATE, RATE)
    optimizer = torch.optim.AdamW(parameters)
    noises = schedule()
    unet.train()
    yield
    for latents, hidden, *_ in given.data:
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        noisy = noises.add_noise(latents, noise, timesteps)
        prediction = unet(noisy.requires_grad_(True), timesteps, hidden).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float(), reduction="none")
        loss.mean(dim=[1, 2, 3]).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.get_trainable_params(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def native_node(given: Given) -> Iterator[None]:
    """ComfyUI's own Train LoRA node (``TrainLoraNode``), without gradient checkpointing. It adapts every weight of the
    UNet, convolutions and norms too, and cannot be told otherwise. Its clock is its progress bar."""
    assert given.comfy
    sys.path.insert(0, str(given.comfy))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options  # pyright: ignore[reportMissingImports]

    comfy.options.enable_args_parsing()
    import comfy.sd  # pyright: ignore[reportMissingImports]
    import comfy_extras.nodes_train as nodes  # pyright: ignore[reportMissingImports]

    model = comfy.sd.load_checkpoint_guess_config(
        str(given.base), output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
    )[0]
    yield from _stepped(nodes, model, given)


def _stepped(nodes: Any, model: Any, given: Given) -> Iterator[None]:
    """The node has one call for all steps: it runs in a thread, and hands over after each of them."""
    import queue
    import threading

    ticks: queue.Queue[BaseException | None] = queue.Queue()
    go = threading.Semaphore(0)

    def tick() -> None:
        ticks.put(None)
        go.acquire()

    plain = nodes.TrainSampler.fwd_bwd

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        tick()
        return plain(self, *arguments, **named)

    nodes.TrainSampler.fwd_bwd = counted
    latents, hidden = given.data[0][:2]
    values = {
        "model": model, "latents": {"samples": latents / 0.18215}, "positive": [[hidden, {}]], "batch_size": 1,
        "steps": len(given.data), "grad_accumulation_steps": 1, "learning_rate": RATE, "rank": RANK,
        "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False, "checkpoint_depth": 1,
        "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip

    def train() -> None:
        try:
            nodes.TrainLoraNode.execute(**{name: [value] for name, value in values.items()})
            ticks.put(None)
        except BaseException as error:
            ticks.put(error)

    threading.Thread(target=train, daemon=True).start()
    for _ in range(len(given.data) + 1):
        if (error := ticks.get()) is not None:
            raise error
        yield
        go.release()


def channels_last(unet: Any) -> None:
    """Weights and pictures with the channels innermost, as oneDNN's convolutions would have them."""
    unet.to(memory_format=torch.channels_last)


def plain_attention(unet: Any) -> None:
    """Attention by two matrix products, in place of torch's fused one."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())


def without_onednn(unet: Any) -> None:
    """torch's own convolutions."""
    torch.backends.mkldnn.set_flags(False)


# The bare loop, with one thing changed.
TRIED = {"channels-last": channels_last, "plain-attention": plain_attention, "no-onednn": without_onednn}
PEERS: dict[str, Callable[[Given], Iterator[None]]] = {
    "floor": floor, "peft": peft, "diffusers": diffusers_example, "sd-scripts": sd_scripts, "node": native_node,
    **{name: partial(peft, change=change) for name, change in TRIED.items()},
}  # fmt: skip
