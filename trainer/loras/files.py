"""Reading LoRA files for a command, writing what it made of them, and the law that it holds to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .. import export, lorafile
from ..errors import ExportError, LoraFileError
from ..lorafile import TITLES, FileLayer

LAW = 1e-5
# What other programs wrote about a file's bytes, which are others now.
_OF_THE_BYTES = ("sshs_", "modelspec.hash_", "modelspec.thumbnail")

Layers = dict[str, FileLayer]


def read(path: Path) -> tuple[Layers, dict[str, str]]:
    """The layers and the header of a LoRA file.

    Raises:
        LoraFileError: the file is missing, broken, or no LoRA.
    """
    if not path.is_file():
        raise LoraFileError(f"there is no file {path}", "give the path of a LoRA, a .safetensors file")
    try:
        tensors, header = export.read(path)
    except ExportError as error:
        raise LoraFileError(error.message, error.cure) from None
    return lorafile.parse(tensors, str(path)), header


def only_lora(layers: Layers, path: Path | str, command: str) -> None:
    """Makes sure that a file (or what ``path`` calls it) is one of plain LoRA layers.

    Raises:
        LoraFileError: it is not.
    """
    other = sorted({TITLES[layer.method] for layer in layers.values()} - {"LoRA"})
    if other:
        raise LoraFileError(
            f"{path} holds {' and '.join(other)} layers; {command} takes files of LoRA alone",
            "apply the file as it is: ComfyUI takes several LoRAs, of whatever kind, one after the other",
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of a command that writes a LoRA file."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="even if there is such a file")


def check_free(path: Path, overwrite: bool) -> None:
    """Makes sure that nothing is written over.

    Raises:
        LoraFileError: the file is there, or its folder is not.
    """
    if path.exists() and not overwrite:
        raise LoraFileError(f"{path} exists", "give another name, or --overwrite")
    if not path.parent.is_dir():
        raise LoraFileError(f"there is no folder {path.parent}", "make it first, or give another name")


def write(path: Path, layers: Layers, header: Mapping[str, str]) -> None:
    """Writes a LoRA file of such layers; its name, rank and alpha go into the header.

    Raises:
        ExportError: it changes nothing, is not finite, or cannot be written.
    """
    export.write(
        path, tensors(layers), {**told(layers, header), "ss_output_name": path.stem, "modelspec.title": path.stem}
    )


def tensors(layers: Layers) -> dict[str, torch.Tensor]:
    """The tensors of layers, by kohya's names."""
    return {name: t.contiguous() for layer in layers.values() for name, t in layer.written().items()}


def told(layers: Layers, header: Mapping[str, str]) -> dict[str, str]:
    """A header for changed layers: what it says of the bytes goes, rank and alpha of plain LoRAs are theirs."""
    kept = {name: value for name, value in header.items() if not name.startswith(_OF_THE_BYTES)}
    if any(layer.method != "lora" for layer in layers.values()):
        return kept
    ranks = {layer.rank or 0 for layer in layers.values()}
    alphas = {layer.scale * (layer.rank or 0) for layer in layers.values()}
    return kept | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": f"{ranks.pop():g}" if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
    }


def total(layers: Sequence[tuple[float, FileLayer]]) -> FileLayer:
    """The sum of changes of one weight, each at a strength, as one LoRA: its rank is the sum of their ranks. fp64."""
    downs = [layer.plain_down().double() for _, layer in layers]
    # A 1x1 convolution and a linear layer of the same weight may meet: the shape of the first counts.
    down = torch.cat([d.reshape(d.shape[0], *downs[0].shape[1:]) for d in downs])
    ups = [strength * layer.scale * layer.parts["up"].double() for strength, layer in layers]
    up = torch.cat([u.reshape(u.shape[0], -1, *ups[0].shape[2:]) for u in ups], dim=1)
    return FileLayer(layers[0][1].key, {"down": down, "up": up}, float(down.shape[0]))


def truncated(layer: FileLayer, rank: int | None, energy: float = 1.0) -> tuple[FileLayer, float]:
    """The LoRA of a lower rank that is nearest (Eckart and Young), and the norm of what is lost.

    By the SVD of the change, which takes r x r matrices alone.

    Args:
        layer: a plain LoRA.
        rank: the highest; None for no limit.
        energy: the share of the squared norm that is enough: the rank is the lowest that keeps it.
    """
    down = layer.plain_down().double()
    q_up, r_up = torch.linalg.qr(layer.parts["up"].double().flatten(1))
    q_down, r_down = torch.linalg.qr(down.flatten(1).T)
    u, s, v = torch.linalg.svd(r_up @ r_down.T)
    rank = len(s) if rank is None else min(rank, len(s))
    if energy < 1.0:
        kept = s.square().cumsum(0)
        rank = min(rank, int((kept < energy * kept[-1]).sum()) + 1)
    root = s[:rank].sqrt()
    new_up, new_down = q_up @ u[:, :rank] * root, root[:, None] * (v[:rank] @ q_down.T)
    parts = {
        "down": new_down.reshape(rank, *down.shape[1:]).float(),
        "up": new_up.reshape(-1, rank, *[1] * (down.ndim - 2)).float(),
    }
    return FileLayer(layer.key, parts, layer.scale * rank), abs(layer.scale) * float(s[rank:].norm())


def distance(layer: FileLayer, other: FileLayer) -> float:
    """The norm of the difference of two changes of one weight; exact to about 1e-8 of the greater."""
    return total([(1.0, layer), (-1.0, other)]).norm()


def root_sum(values: Sequence[float]) -> float:
    """The norm of a whole from those of its parts."""
    return sum(value * value for value in values) ** 0.5


def check_law(found: float, expected: float, scale: float, key: str) -> None:
    """Makes sure that a written layer is as far from what it was made of as it must be.

    Raises:
        ExportError: it is not, by more than 1e-5 of ``scale``.
    """
    if not abs(found - expected) <= LAW * scale:
        raise ExportError(f"{key} would be {found:.3g} from what it was made of, instead of {expected:.3g}")


def megabytes(path: Path) -> str:
    """The size of a file, for people."""
    return f"{path.stat().st_size / 1e6:.1f} MB"


def percent(share: float) -> str:
    """A share, for people."""
    return f"{100 * share:.1f} %"
