"""The command ``inspect``: what is in a LoRA file, and where it acts."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..lorafile import TITLES, FileLayer
from .files import Layers, check_free, megabytes, read, root_sum

# Shown first, by these names; ``darkroom.config`` and its like follow.
_TOLD = {
    "modelspec.trigger_phrase": "trigger word",
    "ss_base_model_version": "base version",
    "ss_sd_model_name": "base model",
    "modelspec.prediction_type": "prediction",
    "ss_steps": "steps",
    "ss_num_train_images": "images",
    "ss_learning_rate": "learning rate",
}
LONGEST = 100
_KINDS = {
    "self-attention": r"attn1|self_attn",
    "cross-attention": r"attn2",
    "feed-forward": r"_ff_|mlp",
    "in and out": r"proj_in|proj_out",
    "convolutions": r"conv|sampler",
    "time": r"time_emb",
}
_ORDER = ("te", "te1", "te2", "down", "input", "mid", "up", "output")


def block(key: str) -> str:
    """The part of the model that a layer is in: ``down 0``, ``mid``, ``te1``, ..., or ``other``.

    Layers that a file names as the original code does, and core's own trainer so, are in ``input 4`` and the like.
    """
    if match := re.match(r"lora_(te\d?)_", key):
        return match[1]
    if match := re.match(r"(?:lora_unet_|diffusion_model\.)(input|output)_blocks[._](\d+)", key):
        return f"{match[1]} {match[2]}"
    if re.match(r"(?:lora_unet_|diffusion_model\.)middle_block", key):
        return "mid"
    if match := re.match(r"lora_unet_(down|up)_blocks_(\d+)_", key):
        return f"{match[1]} {match[2]}"
    return "mid" if key.startswith("lora_unet_mid_block_") else "other"


def kind(key: str) -> str:
    """What a layer does, such as ``cross-attention``."""
    return next((name for name, pattern in _KINDS.items() if re.search(pattern, key)), "other")


def blocks_of(layers: Layers) -> dict[str, list[str]]:
    """The keys of the layers by block, blocks in the model's order."""
    found: dict[str, list[str]] = {}
    for key in layers:
        found.setdefault(block(key), []).append(key)
    return {name: found[name] for name in sorted(found, key=_place)}


def norms(layers: Layers) -> dict[tuple[str, str], float]:
    """The norm of the change by (block, kind), blocks in the model's order."""
    found: dict[tuple[str, str], list[float]] = {}
    for key, layer in layers.items():
        found.setdefault((block(key), kind(key)), []).append(layer.norm())
    return {place: root_sum(found[place]) for place in sorted(found, key=lambda p: (_place(p[0]), _kind_place(p[1])))}


def _place(name: str) -> tuple[int, int, str]:
    part, _, number = name.partition(" ")
    return (_ORDER.index(part) if part in _ORDER else len(_ORDER)), int(number or 0), name


def kinds_of(found: Mapping[tuple[str, str], float]) -> list[str]:
    """The kinds of layers among norms, in their order."""
    return sorted({name for _, name in found}, key=_kind_place)


def _kind_place(name: str) -> int:
    return [*_KINDS, "other"].index(name)


def report(path: Path, layers: Layers, header: Mapping[str, str]) -> str:
    """What a person wants to know of a LoRA file, as text."""
    methods = Counter(TITLES[layer.method] for layer in layers.values())
    found = norms(layers)
    whole = root_sum(list(found.values()))
    lines = [
        f"{path} ({megabytes(path)})",
        f"  method        {', '.join(f'{name} ({count} layers)' for name, count in methods.items())}",
        f"  rank          {_counted({key: layer.rank for key, layer in layers.items()})}",
        f"  alpha         {_counted({key: _alpha(layer) for key, layer in layers.items()})}",
        f"  norm          {whole:.4g}{dora_note(layers)}",
    ]
    lines += [f"  {title:<13} {header[name]}" for name, title in _TOLD.items() if header.get(name)]
    lines += ["", "norm of the change by block"]
    for name in dict.fromkeys(place for place, _ in found):
        size = root_sum([norm for (place, _), norm in found.items() if place == name])
        share = size / whole if whole else 0.0
        lines.append(f"  {name:<8} {size:>10.4g}  {'#' * round(40 * share)}")
    rest = {name: text for name, text in sorted(header.items()) if name not in _TOLD}
    if rest:
        lines += ["", "metadata", *(f"  {name}: {_short(text)}" for name, text in rest.items())]
    return "\n".join(lines)


def _alpha(layer: FileLayer) -> float | None:
    return None if layer.rank is None else layer.scale * layer.rank


def _counted(values: Mapping[str, float | None]) -> str:
    """``8``, or ``4 (16 layers), 8 (176 layers)``."""
    counts = Counter(values.values())
    shown = {value: "in the values" if value is None else f"{value:g}" for value in counts}
    if len(counts) == 1:
        return next(iter(shown.values()))
    order = sorted(counts, key=lambda value: (value is None, value or 0))
    return ", ".join(f"{shown[value]} ({counts[value]} layers)" for value in order)


def dora_note(layers: Layers) -> str:
    """What a norm is of where it is not the whole change's."""
    return " (DoRA: of its low-rank part)" if any(layer.method == "dora" for layer in layers.values()) else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}... ({len(line)} characters)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a LoRA file, of any of the usual namings")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the norms by block into this file")
    parser.add_argument("--overwrite", action="store_true", help="even if there is such a picture")


def run(args: argparse.Namespace) -> int:
    """Tells what is in a file; returns the exit code.

    Raises:
        LoraFileError: the file is no LoRA, or the picture exists.
    """
    layers, header = read(args.file)
    if args.picture is not None:
        check_free(args.picture, args.overwrite)
    print(report(args.file, layers, header))
    if args.picture is not None:
        from .drawing import picture  # it draws what is told here

        picture(layers).save(args.picture)
        print(f"\nthe norms as a picture: {args.picture}")
    return 0
