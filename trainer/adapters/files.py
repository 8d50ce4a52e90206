"""Adapters to the tensors of a LoRA file, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .. import lorafile
from ..errors import ConfigError, LoraFileError
from ..lorafile import FileLayer
from .inject import add
from .layers import ADAPTER, Adapted, layers, rows, weight_norm

# ComfyUI adds this to a row's norm before it divides a DoRA's scale by it.
EPS = torch.finfo(torch.float32).eps
_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")
Models = nn.Module | Mapping[str, nn.Module]
ExportKey = Callable[..., str]


def exported(model: nn.Module, export_key: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, fp32 on the CPU; copies.

    Args:
        model: with adapters.
        export_key: a module's name -> its key in the file.
    """
    result: dict[str, torch.Tensor] = {}
    for layer in layers(model):
        result |= _file_layer(layer, export_key(layer.name)).written()
    return result


def _file_layer(layer: Adapted, key: str) -> FileLayer:
    parts = {name: part.detach().to("cpu", torch.float32, copy=True) for name, part in layer.parts.items()}
    alpha, rank = layer.alpha, layer.rank
    if layer.method == "rslora":
        alpha *= rank**0.5  # readers divide by the rank
    elif layer.method == "dora":
        parts["dora_scale"] = _dora_scale(layer, parts.pop("magnitude"))
    elif layer.method == "lokr":
        if parts.keys() == {"w1", "w2"}:
            # Of two full matrices no reader knows a rank, so none scales: the scale goes into one of them.
            parts["w1"] *= alpha / rank
            alpha = float(rank)
        parts = {f"lokr_{name}": part for name, part in parts.items()}
    elif layer.method == "loha":
        parts = {f"hada_{name}": part for name, part in parts.items()}
    return FileLayer(key, parts, alpha)


def _norms(layer: Adapted) -> tuple[torch.Tensor, torch.Tensor]:
    """The norms of the rows of a DoRA layer's weight, as ComfyUI has them, and with its LoRA added: [out] each."""
    weight = layer.weight.float()
    product = layer.layer.get_delta_weight(ADAPTER)
    return weight_norm(weight, product, 0.0).flatten() + EPS, weight_norm(weight, product).flatten()


def _dora_scale(layer: Adapted, magnitude: torch.Tensor) -> torch.Tensor:
    """[out, 1(, 1, 1)]. PEFT multiplies with m / |W + BA|, a reader with dora_scale / |W|."""
    with torch.no_grad():
        before, after = (norm.cpu() for norm in _norms(layer))
    return rows(magnitude.flatten() * before / after, layer.weight)


def from_file(models: Models, tensors: Mapping[str, torch.Tensor], export_key: ExportKey, source: str = "it") -> None:
    """Puts onto a frozen model exactly what a LoRA file holds, with its values; ranks and methods may differ by layer.

    Args:
        models: the denoiser; or by part: ``unet``, ``text_encoder``, ``text_encoder_2``.
        tensors: of the file, in any naming that ``lorafile.parse`` reads.
        export_key: a module's name (and, but for the denoiser, its part) -> its key in a file.
        source: what errors call the file.

    Raises:
        LoraFileError: a layer of the file is not in the model, has another shape, or is of an unknown kind.
    """
    parts = _parts(models)
    for part, found in _matched(parts, lorafile.parse(tensors, source), export_key, source).items():
        by_method: dict[str, dict[str, FileLayer]] = {}
        for name, layer in found.items():
            by_method.setdefault(layer.method, {})[name] = layer
        for method, group in by_method.items():
            sizes: dict[str, tuple[int, float]] = {}
            for name, layer in group.items():
                rank = layer.rank or 1
                sizes[name] = rank, layer.scale * rank
            add(parts[part], sizes, method)
        for adapted in layers(parts[part]):
            if adapted.name in found:
                _fill(adapted, found[adapted.name], source)


def start_from(models: Models, tensors: Mapping[str, torch.Tensor], export_key: ExportKey, source: str = "it") -> None:
    """Gives the adapters of a model, as ``inject`` made them, the values of a LoRA file: training goes on from there.

    Args:
        models: with adapters, as for ``from_file``.
        tensors: of the file.
        export_key: as for ``from_file``.
        source: what errors call the file.

    Raises:
        LoraFileError: as ``from_file``.
        ConfigError: layers, method, rank or alpha are not those of the adapters; says what to set.
    """
    parts = _parts(models)
    matched = _matched(parts, lorafile.parse(tensors, source), export_key, source)
    pairs: list[tuple[Adapted, FileLayer]] = []
    missing, extra = [], []
    for part, model in parts.items():
        mine = {layer.name: layer for layer in layers(model)}
        found = matched.get(part, {})
        missing += [name for name in mine if name not in found]
        extra += [name for name in found if name not in mine]
        pairs += [(mine[name], layer) for name, layer in found.items() if name in mine]
    problems = _differences(pairs, source)
    if missing or extra:
        which = [f"{len(missing)} of this run's layers are not in it ({lorafile.named(missing)})"] if missing else []
        which += [f"{len(extra)} of its layers are not trained ({lorafile.named(extra)})"] if extra else []
        problems.append(
            f"lora_targets, lora_blocks: {source} holds other layers than this run trains: {'; '.join(which)}"
        )
    if problems:
        raise ConfigError(problems, "init_lora")
    for adapted, layer in pairs:
        _fill(adapted, layer, source)


def _differences(pairs: list[tuple[Adapted, FileLayer]], source: str) -> list[str]:
    """What of the config keeps the adapters from having a file's values, a line each."""
    methods = {layer.method for adapted, layer in pairs if layer.method != adapted.method.replace("rslora", "lora")}
    if methods:
        return [f"lora_method: {source} holds {_all(methods)}: set lora_method: {_all(methods)}"]
    ranks, alphas, shapes = set(), set(), []
    for adapted, layer in pairs:
        root = adapted.rank**0.5 if adapted.method == "rslora" else 1.0
        if layer.rank is None:  # the scale is in the values
            rank, alpha = adapted.rank, adapted.alpha
        else:
            rank, alpha = layer.rank, layer.scale * layer.rank / root
        if rank != adapted.rank:
            ranks.add(rank)
        elif abs(alpha - adapted.alpha) > 1e-5 * max(abs(alpha), abs(adapted.alpha)):
            alphas.add(alpha)
        if layer.method in ("loha", "lokr") and rank == adapted.rank:
            own = {f"{_prefix(layer)}{name}": part.shape for name, part in adapted.parts.items()}
            if own != {name: part.shape for name, part in layer.parts.items()}:
                shapes.append(adapted.name)
    problems = [
        f"{field}: {source} has {name} {_all(values)} in layers where this run has another: set {field}: {_all(values)}"
        if len(values) == 1
        else f"{field}s: {source} has {name}s that differ by layer ({_all(values)}): name the layers in {field}s"
        for field, name, values in (("lora_rank", "rank", ranks), ("lora_alpha", "alpha", alphas))
        if values
    ]
    if shapes:
        problems.append(f"lokr_factor: {source} splits {len(shapes)} layers otherwise ({lorafile.named(shapes)})")
    return problems


def _all(values: Iterable[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, (int, float)) else value for value in sorted(values))


def _prefix(layer: FileLayer) -> str:
    return {"loha": "hada_", "lokr": "lokr_"}.get(layer.method, "")


def _parts(models: Models) -> Mapping[str, nn.Module]:
    return {"unet": models} if isinstance(models, nn.Module) else models


def _matched(
    parts: Mapping[str, nn.Module], found: Mapping[str, FileLayer], export_key: ExportKey, source: str
) -> dict[str, dict[str, FileLayer]]:
    """The layers of a file by part and module name."""
    places: dict[str, tuple[str, str]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for part, model in parts.items():
        for name, module in model.named_modules():
            weight = getattr(getattr(module, "base_layer", module), "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim >= 2 and not name.endswith(".base_layer"):
                key = lorafile.canonical(export_key(name) if part == "unet" else export_key(name, part))
                places[key], shapes[key] = (part, name), (weight.shape[0], weight[0].numel())
    unknown = [key for key in found if lorafile.canonical(key) not in places]
    if unknown:
        only_text = all(key.startswith(_ENCODERS) for key in unknown) and "text_encoder" not in parts
        raise LoraFileError(
            f"{len(unknown)} of the {len(found)} layers of {source} match nothing in this base model: "
            f"{lorafile.named(unknown)}",
            "it also changes the text encoder, which is not loaded here; for training, set train_text_encoder: true"
            if only_text
            else "choose a LoRA that was trained for a base model of this family",
        )
    result: dict[str, dict[str, FileLayer]] = {}
    for key, layer in found.items():
        (part, name), wanted = places[lorafile.canonical(key)], shapes[lorafile.canonical(key)]
        if layer.flat_shape() != wanted:
            raise LoraFileError(
                f"{source}: {key} changes a weight of {_times(layer.flat_shape())}, but the base model's has "
                f"{_times(wanted)}",
                "choose a LoRA that was trained for a base model of this family",
            )
        if name in result.setdefault(part, {}):
            raise LoraFileError(f"{source}: {key} is in it twice, by two names", "merge its sources again")
        result[part][name] = layer
    return result


def _times(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _fill(adapted: Adapted, layer: FileLayer, source: str) -> None:
    """Copies a file's values into an adapted layer of the same method and, but for LoHa and LoKr, the same rank."""
    with torch.no_grad():
        if layer.method in ("loha", "lokr"):
            _fill_factors(adapted, layer)
            return
        for name, tensor in (("down", layer.plain_down()), ("up", layer.parts["up"])):
            adapted.parts[name].copy_(tensor.reshape(adapted.parts[name].shape))
        if layer.method != "dora":
            return
        out = adapted.weight.shape[0]
        given = layer.parts.get("magnitude", layer.parts.get("dora_scale"))
        if given is None or given.numel() != out or ("dora_scale" in layer.parts and given.shape[0] != out):
            raise LoraFileError(
                f"{source}: the DoRA of {layer.key} scales a weight's inputs, not its {out} outputs",
                "such a file can only be used in ComfyUI as it is",
            )
        magnitude = given.float().flatten().to(adapted.weight.device)
        if "dora_scale" in layer.parts:
            before, after = _norms(adapted)
            magnitude = magnitude * after / before
        adapted.parts["magnitude"].copy_(magnitude.reshape(adapted.parts["magnitude"].shape))


def _fill_factors(adapted: Adapted, layer: FileLayer) -> None:
    """A LoHa's or LoKr's parts: a file may split a weight otherwise than PEFT would."""
    wanted = {name: tensor.float() for name, tensor in layer.parts.items()}
    if layer.rank is None:
        wanted["lokr_w1"] = wanted["lokr_w1"] / (adapted.alpha / adapted.rank)
    for name in adapted.layer.adapter_layer_names:
        held = getattr(adapted.layer, name)
        if ADAPTER in held and name in wanted and held[ADAPTER].shape == wanted[name].shape:
            held[ADAPTER].copy_(wanted[name])
        else:
            if ADAPTER in held:
                held.pop(ADAPTER)
            if name in wanted:
                held[ADAPTER] = nn.Parameter(wanted[name].clone().to(adapted.weight.device))
