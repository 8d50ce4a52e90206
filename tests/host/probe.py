"""A custom node for tests only: looks at what is wired to it from inside the server, and writes down what it saw.

Copied into the test server's custom_nodes. Its output goes into a safetensors file that the test names.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from typing import Any

import torch
from safetensors.torch import save_file


class AnyType(str):
    """Equal to every type name, so that anything can be wired."""

    __slots__ = ()

    def __ne__(self, other: object) -> bool:
        return False


ANY = AnyType("*")


class DarkroomProbe:
    """Runs one of the `look_*` functions below on its inputs."""

    RETURN_TYPES = ()
    FUNCTION = "look"
    OUTPUT_NODE = True
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """`task` names the function, `path` the file, `arguments` are JSON."""
        text = ("STRING", {"default": ""})
        wired = dict.fromkeys(("model", "clip", "vae", "anything"), (ANY,))
        return {"required": {"task": text, "path": text}, "optional": {"arguments": text, **wired}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never cached."""
        return float("nan")

    def look(self, task: str, path: str, arguments: str = "", **wired: Any) -> dict[str, Any]:
        """Run the task; tensors into the file, plain values into the node's ui."""
        tensors, plain = TASKS[task](**wired, **json.loads(arguments or "{}"))
        if path:
            save_file({k: v.detach().clone().float().contiguous() for k, v in tensors.items()}, path)
        return {"ui": {"seen": [plain]}}


class DarkroomForeign:
    """A MODEL as a loader of another pack makes it: ComfyUI does not know its file."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "forget"
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A MODEL of a loader of core's."""
        return {"required": {"model": ("MODEL",)}}

    def forget(self, model: Any) -> tuple[Any]:
        """The same without its origin."""
        foreign = model.clone()
        foreign.cached_patcher_init = (lambda path: None, ("/models/foreign.gguf",))
        return (foreign,)


class DarkroomTwice:
    """A list of the same thing twice."""

    RETURN_TYPES = (ANY,)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "twice"
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Anything."""
        return {"required": {"anything": (ANY,)}}

    def twice(self, anything: Any) -> tuple[Any]:
        """As a list."""
        return ([anything, anything],)


class DarkroomMeddler:
    """A VAE during whose first encoding somebody works on the data set."""

    RETURN_TYPES = ("VAE",)
    FUNCTION = "meddle"
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """`moves` is JSON: pairs of a file that replaces another, and that other; "" deletes it."""
        return {"required": {"vae": ("VAE",), "moves": ("STRING", {"default": "[]"})}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never cached."""
        return float("nan")

    def meddle(self, vae: Any, moves: str) -> tuple[Any]:
        """The same VAE, but for that."""
        left = json.loads(moves)
        meddling = copy.copy(vae)

        def encode(pixels: Any) -> Any:
            while left:
                new, old = left.pop()
                os.replace(new, old) if new else os.remove(old)
            return vae.encode(pixels)

        meddling.encode = encode
        return (meddling,)


class DarkroomListProbe:
    """What lists of latents and conditioning hold."""

    RETURN_TYPES = ()
    FUNCTION = "look"
    OUTPUT_NODE = True
    INPUT_IS_LIST = True
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """`path` names the file."""
        return {"required": {"path": ("STRING", {"default": ""}), "latents": (ANY,), "conditioning": (ANY,)}}

    def look(self, path: list[str], latents: list[Any], conditioning: list[Any]) -> dict[str, Any]:
        """Write them down."""
        found = {f"latents {n}": one["samples"] for n, one in enumerate(latents)}
        found |= {f"conditioning {n}": one[0][0] for n, one in enumerate(conditioning)}
        save_file({name: tensor.detach().clone().float().contiguous() for name, tensor in found.items()}, path[0])
        return {"ui": {"seen": [sorted(found)]}}


class DarkroomPlain:
    """A LORA_MODEL as another pack makes it: a plain dict."""

    RETURN_TYPES = ("LORA_MODEL",)
    FUNCTION = "plain"
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A LORA_MODEL."""
        return {"required": {"anything": ("LORA_MODEL",)}}

    def plain(self, anything: Any) -> tuple[Any]:
        """The same without what it says of itself."""
        return (dict(anything),)


class DarkroomShared:
    """What the MODELs of a list have in memory: how many base models, and tensors of patches."""

    RETURN_TYPES = ()
    FUNCTION = "look"
    OUTPUT_NODE = True
    INPUT_IS_LIST = True
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """A list of MODELs."""
        return {"required": {"model": ("MODEL",)}}

    def look(self, model: list[Any]) -> dict[str, Any]:
        """Count."""
        patches = [patch[1] for one in model for found in one.patches.values() for patch in found]
        tensors = {w.data_ptr() for patch in patches for w in patch.weights if isinstance(w, torch.Tensor)}
        bases = {id(one.model) for one in model}
        return {"ui": {"seen": [{"models": len(model), "bases": len(bases), "tensors": len(tensors)}]}}


class DarkroomVision:
    """A vision-language model of core's own classes at toy size, with drawn weights, as a CLIP."""

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "draw"
    CATEGORY = "LoRA Darkroom tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """`looks`: else its tokenizer is of a model that takes no pictures."""
        return {"required": {"looks": ("BOOLEAN", {"default": True})}}

    def draw(self, looks: bool) -> tuple[Any]:
        """Qwen3-VL, but small."""
        import comfy.sd
        import comfy.supported_models_base
        from comfy.text_encoders import llama, qwen3vl

        name = "qwen3vl_toy"
        config = dataclasses.replace(
            llama.Qwen3VL_4BConfig(), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1,
        )  # fmt: skip
        qwen3vl.QWEN3VL_CONFIGS[name] = lambda **_: config
        qwen3vl.QWEN3VL_VISION[name] = {
            "hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 2, "deepstack_visual_indexes": [0, 1],
        }  # fmt: skip
        target = comfy.supported_models_base.ClipTarget(
            qwen3vl.tokenizer(name) if looks else BlindTokenizer, qwen3vl.te(model_type=name)
        )
        clip = comfy.sd.CLIP(target, embedding_directory=[])
        generator = torch.Generator().manual_seed(7)
        for weight in clip.cond_stage_model.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.data = drawn * 0.3 if weight.ndim > 1 else 1 + drawn * 0.1
        return (clip,)


class BlindTokenizer:
    """Takes what Generate Text gives it, and leaves the picture out."""

    def __init__(self, **_: Any) -> None:
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> Any:
        """One token."""
        return {"qwen3vl_toy": [[(1, 1.0)]]}


def look_modules() -> Any:
    """Which modules are imported."""
    return {}, sorted(name for name in sys.modules if "." not in name)


def look_unet(model: Any, seed: int, size: int, context: int, tokens: int = 77) -> Any:
    """The denoiser's own output (epsilon) for drawn inputs."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], force_full_load=True)
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(2, 4, size, size, generator=generator)
    hidden = torch.randn(2, tokens, context, generator=generator)
    timestep = torch.tensor([7.0, 801.0])
    unet = model.model.diffusion_model
    dtype = unet.dtype
    out = unet(noisy.to(dtype), timestep, context=hidden.to(dtype), transformer_options={})
    return {"noisy": noisy, "hidden": hidden, "timestep": timestep, "out": out}, str(dtype)


def look_text(clip: Any, captions: list[str], weights: bool = False) -> Any:
    """Conditioning of captions, and their tokens."""
    tensors, tokens = {}, []
    for index, caption in enumerate(captions):
        chunks = clip.tokenize(caption, disable_weights=not weights)
        tokens.append({name: [[token for token, _ in chunk] for chunk in value] for name, value in chunks.items()})
        tensors[str(index)] = clip.encode_from_tokens(chunks)
    return tensors, tokens


def look_vae(vae: Any, seed: int, width: int, height: int) -> Any:
    """Latents of a drawn picture, and the picture of those latents."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(1, height, width, 3, generator=generator)
    latents = vae.encode(pixels)
    return {"pixels": pixels, "latents": latents, "decoded": vae.decode(latents)}, str(vae.vae_dtype)


def look_weights(model: Any, keys: list[str], clip: Any = None) -> Any:
    """The weights that a MODEL (and CLIP) will compute with, patches included; no keys: all that are patched."""
    tensors = {}
    for patcher in (model, clip.patcher if clip is not None else None):
        if patcher is None:
            continue
        for key in [k for k in keys if k in patcher.model.state_dict()] or patcher.patches:
            weight = patcher.patch_weight_to_device(key, return_weight=True)
            tensors[key] = weight
    return tensors, sorted(model.patches)


def look_written(clip: Any, prompt: str, most: int) -> Any:
    """The tokens that core's Generate Text would decode, greedy, and those of its question."""
    tokens = clip.tokenize(prompt, min_length=1)
    asked = [int(pair[0]) for pair in next(iter(tokens.values()))[0]]
    return {}, {"asked": asked, "new": [int(t) for t in clip.generate(tokens, do_sample=False, max_length=most)]}


def look_held(clip: Any) -> Any:
    """What the pack sees of a CLIP that holds a language model; the message where it refuses it."""
    import importlib

    pack = next(
        name.removesuffix(".nodes.host.language") for name in sys.modules if name.endswith(".nodes.host.language")
    )
    module = importlib.import_module(f"{pack}.nodes.host.clip_language")
    try:
        held = module.held(clip)
    except sys.modules[f"{pack}.trainer.errors"].UserError as error:
        return {}, str(error)
    found = {"path": str(held.path), "tokenizer": str(held.tokenizer or "")}
    return {}, found | {"writes": held.writes, "template": held.template}


def look_plain(anything: Any) -> Any:
    """What is wired, as it is."""
    return {}, anything


def look_texts(anything: Any) -> Any:
    """Where the samples of a DARKROOM_DATASET of text come from."""
    return {}, [sample.source for sample in anything.texts().samples] if anything.text else None


TASKS = {
    "plain": look_plain,
    "texts": look_texts,
    "written": look_written,
    "held": look_held,
    "modules": look_modules,
    "unet": look_unet,
    "text": look_text,
    "vae": look_vae,
    "weights": look_weights,
}
NODE_CLASS_MAPPINGS = {
    "DarkroomProbe": DarkroomProbe,
    "DarkroomForeign": DarkroomForeign,
    "DarkroomTwice": DarkroomTwice,
    "DarkroomMeddler": DarkroomMeddler,
    "DarkroomListProbe": DarkroomListProbe,
    "DarkroomPlain": DarkroomPlain,
    "DarkroomShared": DarkroomShared,
    "DarkroomVision": DarkroomVision,
}
