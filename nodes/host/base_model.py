"""Which base: from the wired MODEL to the file that the worker trains on, with nothing of it lost in silence."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.lora
import comfy.model_sampling
import comfy.sd
import comfy.supported_models
import torch
from safetensors import safe_open

from ...trainer.errors import HostError
from ...trainer.files import ContentHashes, digest, trim, write_tensors
from ...trainer.job import Base
from ...trainer.peek import peek
from . import places

USE_BASE_FILE = "choose the checkpoint itself as base_file on Train LoRA; the wired MODEL then only shows previews"
LOADERS = {comfy.sd.load_checkpoint_guess_config: "checkpoint", comfy.sd.load_diffusion_model: "diffusion model"}
PREFIX = "diffusion_model."
MOST_BYTES = 40 * 10**9  # of exported weights
IN_USE = 3 * 86_400.0  # seconds: a training that runs may read its base again
PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def resolve(model: Any, base_file: str, say: Callable[[str], None]) -> Base:
    """The base that a wired MODEL stands for.

    Args:
        model: the MODEL.
        base_file: a checkpoint's name that the user chose instead of the MODEL's own file; may be empty.
        say: takes what the user should know.

    Raises:
        HostError: it cannot be trained on as it is wired; with the cure.
        BaseModelError: ``base_file`` cannot be read, or is of a kind that cannot be trained.
    """
    family = _family(model)
    prediction, terminal = _prediction(model)
    _refuse_or_warn(model, say)
    hashes = ContentHashes(places.cache() / "hashes.json")
    if base_file:
        file = places.checkpoint(base_file)
        if (other := peek(file).family) != family:
            raise HostError(
                f"base_file: {file.name} is of the kind {other}, but the wired MODEL is {family}",
                "choose the checkpoint that the MODEL is of, or wire the MODEL, CLIP and VAE of this one",
            )
        if model.patches:
            say(f"training starts from {file.name} as it is; what is patched onto the wired MODEL is not in it")
        return Base(file.resolve(), family, hashes(file), prediction, terminal)
    file = own_file(model)
    if file is not None and not model.patches:
        if _is_fp8(model):
            say(f"the MODEL computes in fp8; training reads {file.name} as the file holds it")
        return Base(file.resolve(), family, hashes(file), prediction, terminal)
    content = digest(hashes(file) if file is not None else _weights_hash(model), patches_hash(model.patches))
    return Base(_export(model, file, content, say), family, content, prediction, terminal)


def text_width(model: Any) -> int:
    """How wide the text encoder's output is that a MODEL takes."""
    return int(model.model.model_config.unet_config["context_dim"])


def own_file(model: Any) -> Path | None:
    """The safetensors file that core's own loaders read this MODEL from; None if it came another way."""
    origin = getattr(model, "cached_patcher_init", None)
    if not origin or origin[0] not in LOADERS or not origin[1]:
        return None
    file = Path(str(origin[1][0]))
    return file if file.suffix.lower() in (".safetensors", ".sft") and file.is_file() else None


def patches_hash(patches: Mapping[str, Any]) -> str:
    """A hash of weight patches by content: the same LoRA at the same strength is the same hash in every session."""
    hasher = hashlib.sha256()
    for part in _parts(sorted(patches.items())):
        hasher.update(part)
    return hasher.hexdigest()


def _family(model: Any) -> str:
    config = model.model.model_config
    name = type(config).__name__
    if config.unet_config.get("in_channels") not in (4, None):
        raise HostError(
            f"this MODEL is an inpainting or edit model ({config.unet_config['in_channels']} input channels, not 4)",
            "train on the ordinary checkpoint; the LoRA works in its inpainting version too",
        )
    kinds, formats = comfy.supported_models, comfy.latent_formats
    families = {"sd15": (kinds.SD15, formats.SD15), "sdxl": (kinds.SDXL, formats.SDXL)}
    edits = name.endswith("instructpix2pix")
    for family, (kind, latents) in families.items():
        if isinstance(config, kind) and isinstance(config.latent_format, latents) and not edits:
            return family
    raise HostError(
        f"this MODEL is of the kind {name}; this version trains Stable Diffusion 1.5 and SDXL",
        "load a checkpoint of one of them, or the demo base",
    )


def _prediction(model: Any) -> tuple[str, bool]:
    """What the MODEL predicts, and whether with zero terminal SNR; as it samples now, whatever its file says."""
    sampling = model.get_model_object("model_sampling")
    kinds = comfy.model_sampling
    predicts = next((c for c in type(sampling).__mro__ if "calculate_denoised" in vars(c)), None)
    known = {kinds.EPS: "epsilon", kinds.V_PREDICTION: "v_prediction"}
    if predicts not in known or not isinstance(sampling, kinds.ModelSamplingDiscrete):
        name = predicts.__name__ if predicts not in (None, *known) else type(sampling).__name__
        raise HostError(
            f"this MODEL's sampling is of the kind {name}; epsilon and v-prediction with 1000 timesteps can be trained",
            "wire the MODEL before the node that changes its sampling",
        )
    for terminal in (False, True):
        plain = kinds.ModelSamplingDiscrete(model.model.model_config, zsnr=terminal)
        same = sampling.sigmas.shape == plain.sigmas.shape
        if same and torch.allclose(sampling.sigmas.cpu(), plain.sigmas, rtol=1e-4):
            break
    else:
        raise HostError(
            "this MODEL's noise schedule was changed; it cannot be trained on",
            "wire the MODEL before the node that changes its sampling",
        )
    if terminal and predicts is kinds.EPS:
        raise HostError(
            "this MODEL samples epsilon with zero terminal SNR, which no model is trained for",
            "set zsnr to false on ModelSamplingDiscrete, or its sampling to v_prediction",
        )
    return known[predicts], terminal


def _refuse_or_warn(model: Any, say: Callable[[str], None]) -> None:
    """Name everything on a MODEL that is no weight: what changes the denoiser is refused, the rest warned of."""
    options = model.model_options
    transformer = options.get("transformer_options", {})
    wrappers = [name for kind in model.wrappers.values() for name, found in kind.items() if found]
    refused = {
        "LoRAs in bypass mode, or other injections": bool(model.injections),
        "weight hooks": bool(model.hook_patches),
        "weight wrappers": bool(getattr(model, "weight_wrapper_patches", None)),
        "additional models": bool(model.get_additional_models()),
        "a wrapper around the denoiser": "model_function_wrapper" in options,
    }
    for what, there in refused.items():
        if there:
            raise HostError(
                f"the wired MODEL carries {what}, which cannot be trained through",
                "wire the MODEL of the loader into Train LoRA, and put that node behind Apply LoRA",
            )
    ignored = [f"wrapper {name}" for name in wrappers]
    ignored += [f"{kind} patch" for kind in transformer.get("patches", {})]
    ignored += [f"{kind} replacement" for kind in transformer.get("patches_replace", {})]
    ignored += [name for name in options if name.startswith(("sampler_", "disable_cfg1"))]
    ignored += [f"object patch {name}" for name in model.object_patches if name != "model_sampling"]
    if ignored:
        say(f"the wired MODEL also carries {', '.join(ignored)}: the LoRA is trained without that")


def _is_fp8(model: Any) -> bool:
    return any(str(p.dtype).startswith("torch.float8") for p in model.model.diffusion_model.parameters())


def _export(model: Any, file: Path | None, content: str, say: Callable[[str], None]) -> Path:
    """Write the MODEL's patched denoiser, once for each content; returns the file."""
    weights = model.get_key_patches(PREFIX)
    for patched in weights.values():
        _refuse_quantised(patched[0][0])
    target = places.bases() / f"{content}.safetensors"
    if target.is_file():
        os.utime(target)
        return target
    tensors = {}
    for key, ((weight, convert), *patches) in weights.items():
        whole = convert(weight.detach().to("cpu", torch.float32, copy=True), inplace=True)
        if patches:
            whole = comfy.lora.calculate_weight(patches, whole, key)
        tensors[f"model.{key}"] = whole.to(weight.dtype)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    say(f"the MODEL's patched weights are exported once, for the trainer ({size / 2**20:,.0f} MB)")
    # The demo base's own class knows its file, also where a ComfyUI before 0.15.1 does not tell a MODEL's.
    write_tensors(target, tensors, _header(file or getattr(model.model.model_config, "darkroom_file", None)))
    trim(target.parent, MOST_BYTES, IN_USE)
    return target


def _refuse_quantised(weight: Any) -> None:
    if type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.dtype in PLAIN_DTYPES:
        return
    kind = type(weight).__name__ if weight.dtype in PLAIN_DTYPES else str(weight.dtype).removeprefix("torch.")
    raise HostError(
        "the wired MODEL is patched, or of a loader whose file is not known, so its weights must be exported; "
        f"but they are quantised or of a foreign kind ({kind})",
        USE_BASE_FILE,
    )


def _header(file: Path | None) -> dict[str, str] | None:
    """What a self-describing checkpoint says of itself, to be said of its export too."""
    if file is None:
        return None
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata() or {}
    return {key: text for key, text in metadata.items() if key.startswith("darkroom.")} or None


def _weights_hash(model: Any) -> str:
    weights = {key: patched[0][0] for key, patched in model.get_key_patches(PREFIX).items()}
    return patches_hash(weights)


def _parts(value: Any) -> Iterator[bytes]:
    """A value as bytes, through all containers, adapters and tensors; functions by their names."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().to("cpu").contiguous()
        yield f"{plain.dtype}{tuple(plain.shape)}".encode()
        yield plain.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        yield from _parts(sorted(value.items()))
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "weights"):
        yield type(value).__name__.encode()
        yield from _parts(value.weights)
    elif callable(value):
        yield getattr(value, "__qualname__", type(value).__name__).encode()
    else:
        yield repr(value).encode()
