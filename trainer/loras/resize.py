"""The command ``resize``: a LoRA file at a lower rank."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoraFileError
from .files import (
    add_output,
    check_free,
    check_law,
    distance,
    megabytes,
    only_lora,
    percent,
    read,
    root_sum,
    truncated,
    write,
)


@dataclass(frozen=True)
class Resized:
    """What became of a LoRA.

    Args:
        norm: of its change of the weights, before.
        kept: after.
        error: of the difference.
        worst: the key of the layer that lost the greatest share.
        worst_error: its loss, as a share of its norm.
        layers: how many there are.
        smaller: how many of them got a lower rank.
    """

    norm: float
    kept: float
    error: float
    worst: str
    worst_error: float
    layers: int
    smaller: int


def resize(path: Path, rank: int, output: Path, *, overwrite: bool = False) -> Resized:
    """Writes a LoRA at a lower rank: of each layer the nearest there is, by SVD. Layers below the rank stay.

    Raises:
        LoraFileError: the file is no LoRA, or of no higher rank, or the output exists.
        ExportError: the result cannot be written, or is not what it must be.
    """
    if rank < 1:
        raise LoraFileError(f"--rank {rank}: a rank is 1 or more")
    check_free(output, overwrite)
    layers, header = read(path)
    only_lora(layers, path, "resize")
    ranks = {key: layer.rank or 0 for key, layer in layers.items()}
    if max(ranks.values()) <= rank:
        raise LoraFileError(f"{path} is of rank {max(ranks.values())} already", "give a lower --rank")
    smaller = dict(layers)
    norms = {key: layer.norm() for key, layer in layers.items()}
    errors = dict.fromkeys(layers, 0.0)
    for key, layer in layers.items():
        if ranks[key] > rank:
            smaller[key], errors[key] = truncated(layer, rank)
            check_law(distance(layer, smaller[key]), errors[key], norms[key], key)
    write(output, smaller, {**header, "darkroom.resized": f"{path.name} from rank {max(ranks.values())} to {rank}"})
    shares = {key: errors[key] / norms[key] for key in layers if norms[key]}
    worst = max(shares, key=shares.__getitem__)
    return Resized(
        root_sum(list(norms.values())),
        root_sum([layer.norm() for layer in smaller.values()]),
        root_sum(list(errors.values())),
        worst,
        shares[worst],
        len(layers),
        sum(r > rank for r in ranks.values()),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a LoRA file")
    parser.add_argument("--rank", type=int, required=True, metavar="N", help="the rank that no layer shall exceed")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Resizes a file and says what was lost; returns the exit code.

    Raises:
        DarkroomError: see ``resize``.
    """
    done = resize(args.file, args.rank, args.output, overwrite=args.overwrite)
    print(f"{args.output}: {done.smaller} of {done.layers} layers at rank {args.rank}")
    print(f"  size   {megabytes(args.file)} -> {megabytes(args.output)}")
    print(f"  norm   {done.norm:.4g} -> {done.kept:.4g} ({percent(done.kept / done.norm)} kept)")
    print(f"  error  {done.error:.3g} ({percent(done.error / done.norm)} of the norm)")
    print(f"  most   {percent(done.worst_error)} of {done.worst}")
    return 0
