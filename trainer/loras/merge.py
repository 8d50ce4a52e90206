"""The command ``merge``: several LoRA files as one, exactly, or at a lower rank."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoraFileError
from ..lorafile import FileLayer, canonical
from .files import (
    Layers,
    add_output,
    check_free,
    check_law,
    distance,
    only_lora,
    percent,
    read,
    root_sum,
    total,
    truncated,
    write,
)


@dataclass(frozen=True)
class Merged:
    """What became of several LoRAs.

    Args:
        layers: of the merged file.
        rank: the greatest of them.
        norm: of the sum of the changes.
        error: of the merged file's change, against it; 0 without a lower rank.
    """

    layers: int
    rank: int
    norm: float
    error: float


def merge(
    sources: Sequence[tuple[Path, float]], output: Path, *, rank: int | None = None, overwrite: bool = False
) -> Merged:
    """Writes one LoRA whose change of every weight is the sum of the others', each at its strength.

    ``s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]``: the ranks add up, and the sum is exact.

    Args:
        sources: files and strengths.
        output: the file to write.
        rank: cut the sum to this rank, by SVD.
        overwrite: even if the output exists.

    Raises:
        LoraFileError: a file is no LoRA, they are of different base models, or the output exists.
        ExportError: the sum changes nothing, cannot be written, or is not what it must be.
    """
    if len(sources) < 2:
        raise LoraFileError("merge takes at least two files", "give them as A.safetensors:0.8 B.safetensors:0.5")
    check_free(output, overwrite)
    read_ones = [(path, *read(path), strength) for path, strength in sources]
    merged, done = add([(path, layers, strength) for path, layers, _, strength in read_ones], rank=rank)
    write(output, merged, note([(path.name, header, strength) for path, _, header, strength in read_ones]))
    return done


def add(parts: Sequence[tuple[Path | str, Layers, float]], *, rank: int | None = None) -> tuple[Layers, Merged]:
    """The LoRA whose change of every weight is the sum of the others', each at its strength.

    Args:
        parts: what errors call a LoRA, its layers, its strength.
        rank: cut the sum to this rank, by SVD.

    Raises:
        LoraFileError: one is of another method, or they are of different base models.
        ExportError: the sum is not what it must be.
    """
    if rank is not None and rank < 1:
        raise LoraFileError(f"rank: {rank}; a rank is 1 or more")
    summands: dict[str, list[tuple[float, FileLayer]]] = {}
    first: dict[str, str] = {}  # what the first file that has a layer calls it
    for source, layers, strength in parts:
        only_lora(layers, source, "merge")
        for name, layer in layers.items():
            key = first.setdefault(canonical(name), name)
            _check_same_base(key, layer, summands.get(key, []), source, parts[0][0])
            summands.setdefault(key, []).append((strength, layer))
    merged: Layers = {}
    norms, errors = [], []
    for key, several in summands.items():
        exact = total(several)
        lost, one = 0.0, FileLayer(key, {name: part.float() for name, part in exact.parts.items()}, exact.alpha)
        if rank is not None and (exact.rank or 0) > rank:
            one, lost = truncated(exact, rank)
        size = root_sum([strength * layer.norm() for strength, layer in several])
        check_law(distance(one, exact), lost, size, key)
        merged[key] = one
        norms.append(exact.norm())
        errors.append(lost)
    greatest = max(layer.rank or 0 for layer in merged.values())
    return merged, Merged(len(merged), greatest, root_sum(norms), root_sum(errors))


def _check_same_base(
    key: str, layer: FileLayer, others: Sequence[tuple[float, FileLayer]], path: Path | str, first: Path | str
) -> None:
    for _, other in others:
        if other.flat_shape() != layer.flat_shape():
            (a, b), (c, d) = other.flat_shape(), layer.flat_shape()
            raise LoraFileError(
                f"{first} and {path} are for different base models: {key} is {a} x {b} in one, {c} x {d} in the other"
            )


def note(parts: Sequence[tuple[str, Mapping[str, str], float]]) -> dict[str, str]:
    """The header of what was merged: what all say alike, their trigger words, and what was merged.

    Args:
        parts: name, header and strength of each.
    """
    first, headers = parts[0][1], [header for _, header, _ in parts]
    result = {name: text for name, text in first.items() if all(other.get(name) == text for other in headers)}
    triggers = dict.fromkeys(filter(None, (header.get("modelspec.trigger_phrase") for header in headers)))
    if triggers:
        result["modelspec.trigger_phrase"] = ", ".join(triggers)
    made_of = [{"file": name, "strength": strength} for name, _, strength in parts]
    return {**result, "darkroom.merged": json.dumps(made_of, ensure_ascii=False)}


def source(text: str) -> tuple[Path, float]:
    """``FILE:STRENGTH``; without a strength, 1. A Windows drive's colon is none.

    Raises:
        ArgumentTypeError: the strength is no number.
    """
    path, colon, strength = text.rpartition(":")
    if Path(text).exists() or not colon or text.lower().endswith(".safetensors"):
        return Path(text), 1.0
    try:
        return Path(path), float(strength)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: the strength {strength!r} is no number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "files", type=source, nargs="+", metavar="FILE:STRENGTH", help="LoRA files, such as style.safetensors:0.8"
    )
    parser.add_argument(
        "--rank", type=int, metavar="N", help="cut the sum to this rank (default: the sum of the ranks)"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Merges files and says what came of it; returns the exit code.

    Raises:
        DarkroomError: see ``merge``.
    """
    done = merge(args.files, args.output, rank=args.rank, overwrite=args.overwrite)
    print(f"{args.output}: {done.layers} layers, rank {done.rank}, norm {done.norm:.4g}")
    for path, strength in args.files:
        print(f"  {strength:g} x {path}")
    print(report(done))
    return 0


def report(done: Merged) -> str:
    """How near a merged LoRA is to the sum, for people."""
    return f"  error  {done.error:.3g} ({percent(done.error / done.norm)} of the norm)" if done.error else "  exact"
