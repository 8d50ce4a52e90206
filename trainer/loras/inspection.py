"""The command ``inspect``: what is in a LoRA file, and where it acts."""

from __future__ import annotations

import argparse
import math
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
_ORDER = ("te", "te1", "te2", "down", "mid", "up")


def block(key: str) -> str:
    """The part of the model that a layer is in: ``down 0``, ``mid``, ``te1``, ..., or ``other``."""
    if match := re.match(r"lora_(te\d?)_", key):
        return match[1]
    if match := re.match(r"lora_unet_(down|up)_blocks_(\d+)_", key):
        return f"{match[1]} {match[2]}"
    return "mid" if key.startswith("lora_unet_mid_block_") else "other"


def kind(key: str) -> str:
    """What a layer does, such as ``cross-attention``."""
    return next((name for name, pattern in _KINDS.items() if re.search(pattern, key)), "other")


def norms(layers: Layers) -> dict[tuple[str, str], float]:
    """The norm of the change by (block, kind), blocks in the model's order."""
    found: dict[tuple[str, str], list[float]] = {}
    for key, layer in layers.items():
        found.setdefault((block(key), kind(key)), []).append(layer.norm())
    return {place: root_sum(found[place]) for place in sorted(found, key=lambda p: (_place(p[0]), _kind_place(p[1])))}


def _place(name: str) -> tuple[int, str]:
    part = name.partition(" ")[0]
    return (_ORDER.index(part) if part in _ORDER else len(_ORDER)), name


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
        f"  norm          {whole:.4g}{_dora_note(layers)}",
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


def picture(path: Path, layers: Layers) -> None:
    """Draws the norm of the change by block (bars) and by block and kind of layer (a table of shades).

    Args:
        path: a PNG file to write.
        layers: of the file. Its name is not drawn: matplotlib's own font has no Chinese.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    found = norms(layers)
    blocks = list(dict.fromkeys(place for place, _ in found))
    kinds = sorted({name for _, name in found}, key=_kind_place)
    table = [[found.get((place, name)) for place in blocks] for name in kinds]
    top = max(found.values()) or 1.0
    figure = Figure(
        figsize=(max(6.0, 2.2 + 0.75 * len(blocks)), 3.2 + 0.42 * len(kinds)), layout="constrained", dpi=110
    )
    bars, shades = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 0.42 * len(kinds)])
    sums = [root_sum([found.get((place, name), 0.0) for name in kinds]) for place in blocks]
    bars.bar(range(len(blocks)), sums, color="#2b5c9e", width=0.7)
    bars.set(title=_title(layers), ylabel="norm of the change")
    bars.grid(axis="y", alpha=0.25)
    bars.set_axisbelow(True)
    bars.tick_params(axis="x", length=0)
    colours = LinearSegmentedColormap.from_list("norms", ["#eef2f7", "#2b5c9e"]).with_extremes(bad="white")
    values = [[math.nan if value is None else value for value in row] for row in table]
    shades.imshow(values, cmap=colours, vmin=0, vmax=top, aspect="auto")
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            if value is not None:
                ink = "white" if value > 0.55 * top else "#1e1e1e"
                shades.text(x, y, f"{value:.2g}", ha="center", va="center", fontsize=8, color=ink)
    shades.set_xticks(range(len(blocks)), blocks)
    shades.set_yticks(range(len(kinds)), kinds)
    shades.tick_params(length=0)
    for side in ("top", "right"):
        bars.spines[side].set_visible(False)
    for spine in shades.spines.values():
        spine.set_visible(False)
    figure.savefig(path)


def _title(layers: Layers) -> str:
    methods = " and ".join(dict.fromkeys(TITLES[layer.method] for layer in layers.values()))
    ranks = sorted({layer.rank for layer in layers.values() if layer.rank is not None})
    rank = f" of rank {'-'.join(dict.fromkeys(map(str, (ranks[0], ranks[-1]))))}" if ranks else ""
    return f"{methods}{rank}: {len(layers)} layers{_dora_note(layers)}"


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


def _dora_note(layers: Layers) -> str:
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
        picture(args.picture, layers)
        print(f"\nthe norms as a picture: {args.picture}")
    return 0
