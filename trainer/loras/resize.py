"""The command ``resize``: a LoRA file at a lower rank."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoraFileError
from .files import (
    Layers,
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


def cut(layers: Layers, source: Path | str, *, rank: int | None = None, energy: float = 1.0) -> tuple[Layers, Resized]:
    """A LoRA at a lower rank: of each layer the nearest there is, by SVD. Layers below the rank stay as they are.

    Args:
        layers: of plain LoRAs.
        source: what errors call it.
        rank: the highest that a layer may have; None for no limit.
        energy: in (0, 1]; each layer gets the lowest rank that keeps this share of its squared norm.

    Raises:
        LoraFileError: it is of another method, or rank or energy make no sense.
        ExportError: the result is not what it must be.
    """
    if rank is not None and rank < 1:
        raise LoraFileError(f"rank: {rank}; a rank is 1 or more")
    if not 0 < energy <= 1:
        raise LoraFileError(f"energy: {energy:g}; expected more than 0 and at most 1")
    only_lora(layers, source, "resize")
    smaller = dict(layers)
    norms = {key: layer.norm() for key, layer in layers.items()}
    errors = dict.fromkeys(layers, 0.0)
    for key, layer in layers.items():
        if energy == 1 and (rank is None or (layer.rank or 0) <= rank):
            continue
        one, lost = truncated(layer, rank, energy)
        if (one.rank or 0) < (layer.rank or 0):
            check_law(distance(layer, one), lost, norms[key], key)
            smaller[key], errors[key] = one, lost
    shares = {key: errors[key] / norms[key] for key in layers if norms[key]}
    worst = max(shares, key=shares.__getitem__, default=next(iter(layers)))
    return smaller, Resized(
        root_sum(list(norms.values())),
        root_sum([layer.norm() for layer in smaller.values()]),
        root_sum(list(errors.values())),
        worst,
        shares.get(worst, 0.0),
        len(layers),
        sum(smaller[key] is not layers[key] for key in layers),
    )


def note(source: str, layers: Layers, smaller: Layers) -> dict[str, str]:
    """What the header of a resized LoRA tells of it."""
    before, after = (max(layer.rank or 0 for layer in one.values()) for one in (layers, smaller))
    return {"darkroom.resized": f"{source} from rank {before} to {after}"}


def resize(path: Path, rank: int | None, output: Path, *, energy: float = 1.0, overwrite: bool = False) -> Resized:
    """Writes a LoRA at a lower rank: see ``cut``.

    Raises:
        LoraFileError: the file is no LoRA, or of no higher rank, or the output exists.
        ExportError: the result cannot be written, or is not what it must be.
    """
    check_free(output, overwrite)
    layers, header = read(path)
    smaller, done = cut(layers, path, rank=rank, energy=energy)
    if not done.smaller:
        raise LoraFileError(
            f"{path} is of rank {max(layer.rank or 0 for layer in layers.values())} already", "give a lower rank"
        )
    write(output, smaller, {**header, **note(path.name, layers, smaller)})
    return done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a LoRA file")
    parser.add_argument("--rank", type=int, metavar="N", help="the rank that no layer shall exceed")
    parser.add_argument(
        "--energy", type=float, default=1.0, metavar="SHARE", help="what each layer keeps of its squared norm: 0.95"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Resizes a file and says what was lost; returns the exit code.

    Raises:
        DarkroomError: see ``resize``.
    """
    done = resize(args.file, args.rank, args.output, energy=args.energy, overwrite=args.overwrite)
    print(f"{args.output}: {done.smaller} of {done.layers} layers at a lower rank")
    print(f"  size   {megabytes(args.file)} -> {megabytes(args.output)}")
    print(report(done))
    return 0


def report(done: Resized) -> str:
    """How near a resized LoRA is, for people."""
    whole = done.norm or 1.0
    return (
        f"  norm   {done.norm:.4g} -> {done.kept:.4g} ({percent(done.kept / whole)} kept)\n"
        f"  error  {done.error:.3g} ({percent(done.error / whole)} of the norm)\n"
        f"  most   {percent(done.worst_error)} of {done.worst}"
    )
