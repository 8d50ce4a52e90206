"""Graphs in API form that the tests queue."""

from __future__ import annotations

from typing import Any

DEMO_DATA, BARE_DATA = "(demo: 12 drawn pictures)", "(demo: 12 pictures without captions)"
SAILOR_DATA, WISHES_DATA = "(demo: 40 answers of a sailor)", "(demo: 36 wishes and their prompts)"
SMOLLM = "(demo: SmolLM2 135M)"
WIRED = "(the wired LoRA)"

Graph = dict[str, dict[str, Any]]
Link = list[Any]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node."""
    return {"class_type": class_type, "inputs": inputs}


def demo_loader() -> Graph:
    """Load Demo Base, as `base`."""
    return {"base": node("Darkroom_LoadDemoBase")}


def checkpoint_loader(name: str) -> Graph:
    """The stock loader, as `base`."""
    return {"base": node("CheckpointLoaderSimple", ckpt_name=name)}


MODEL, CLIP, VAE = ["base", 0], ["base", 1], ["base", 2]

CONFIG = {
    "epochs": 4, "lora_rank": 4, "learning_rate": 1e-3, "batch_size": 4, "resolution": 128, "training_seed": 1,
    "gradient_accumulation_steps": 1, "max_steps": 0, "lora_alpha": 0.0, "lora_targets": "linear",
    "lr_scheduler": "cosine", "warmup_steps": 0, "caption_dropout": 0.05, "noise_offset": 0.0, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "mixed_precision": "no", "gradient_checkpointing": False, "validation_images": 0,
    "validation_steps": 0, "save_steps": 100, "sample_every": 1000, "sample_inference_steps": 2,
    "sample_guidance": 4.0, "sample_strength": 0.8, "log_interval": 1, "sample_prompts": "",
}  # fmt: skip
"""A training of 12 pictures in 12 steps, as short as it can be."""


def training(
    *,
    model: Link = MODEL,
    clip: Link = CLIP,
    vae: Link = VAE,
    folder: str = DEMO_DATA,
    trigger_word: str = "",
    base_file: str | None = None,
    when: str | None = None,
    devices: int | None = None,
    **config: Any,
) -> Graph:
    """Load Dataset, LoRA Train Config and Train LoRA, as `data`, `config` and `train`."""
    given = {"base_file": base_file, "when": when, "devices": devices}
    chosen = {name: value for name, value in given.items() if value is not None}
    wired = {"dataset": ["data", 0], "config": ["config", 0], "model": model, "clip": clip, "vae": vae}
    return {
        "data": node("Darkroom_LoadDataset", folder=folder, path="", trigger_word=trigger_word, repeats=1),
        "config": node("Darkroom_LoRATrainConfig", **{**CONFIG, **config}),
        "train": node("Darkroom_TrainLoRA", **wired, **chosen),
    }


def apply_lora(
    strength: float = 0.8, *, model: Link = MODEL, lora: Link | None = None, name: str = WIRED
) -> dict[str, Any]:
    """Apply LoRA: the one from `train`, another link, or a file's name."""
    wired = {} if name != WIRED else {"lora": lora or ["train", 0]}
    return node(
        "Darkroom_ApplyLoRA", model=model, lora_name=name, strength_model=strength, strength_clip=strength, **wired
    )


def picture(
    prefix: str = "",
    *,
    model: Link = MODEL,
    clip: Link = CLIP,
    vae: Link = VAE,
    prompt: str = "a red circle on a white background",
    seed: int = 1,
    steps: int = 4,
    cfg: float = 4.0,
    size: int = 128,
) -> Graph:
    """The stock text-to-image graph, from the prompts to a PreviewImage named `<prefix>picture`."""
    p = prefix
    return {
        f"{p}yes": node("CLIPTextEncode", clip=clip, text=prompt),
        f"{p}no": node("CLIPTextEncode", clip=clip, text=""),
        f"{p}empty": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        f"{p}sampler": node(
            "KSampler", model=model, positive=[f"{p}yes", 0], negative=[f"{p}no", 0], latent_image=[f"{p}empty", 0],
            seed=seed, steps=steps, cfg=cfg, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        f"{p}decode": node("VAEDecode", samples=[f"{p}sampler", 0], vae=vae),
        f"{p}picture": node("PreviewImage", images=[f"{p}decode", 0]),
    }  # fmt: skip
