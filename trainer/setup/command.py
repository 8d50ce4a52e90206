"""The command ``init``: a commented config for a family and a card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config import parse
from ..errors import UserError
from . import presets, template


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("--family", choices=presets.FAMILIES, help="what the base model is (default: as --base is)")
    parser.add_argument(
        "--card",
        type=int,
        choices=presets.CARDS,
        default=8,
        help="memory of the graphics card in GB; a larger one is only faster (default %(default)s)",
    )
    parser.add_argument(
        "--auto", action="store_true", help="let the images and the card decide rank, rate, length, batch and the like"
    )
    parser.add_argument("--base", type=Path, metavar="FILE", help="the base model: a .safetensors file or a folder")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder with the images")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("my_lora_config.yaml"),
        metavar="FILE",
        help="the file to write; an existing one is never overwritten (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the config, and says what comes next; returns the exit code.

    Raises:
        UserError: the file exists, or the base model is missing or of another family.
    """
    family = _family(args.base, args.family)
    given: dict[str, Any] = {}
    if args.base is not None:
        given["base_model"] = str(args.base)
    if args.data is not None:
        given["train_data_dir"] = str(args.data)
        given["output_dir"] = (Path("output") / args.data.absolute().name).as_posix()
    if args.auto:
        fields, title = presets.by_itself(family), [f"{presets.FAMILIES[family]}, by the images and the card."]
        told = "what the images and the card can decide is auto"
    else:
        fields, title = presets.settings(family, args.card), presets.title(family, args.card)
        told = f"a card of {args.card} GB"
    config = parse({**fields, **given}, source="the command line")
    template.save_new(args.output, template.write(config, title, _schema(args.output)))
    print(f"{args.output}: {presets.FAMILIES[family]}, {told}")
    missing = [name for name in ("base_model", "train_data_dir") if name not in given]
    if missing:
        print(f"set {' and '.join(missing)} in it, then train:")
    elif args.data is not None and not args.data.is_dir():
        print(f"put the images into {args.data}, then train:")
    print(f"  {template.command_for(args.output)}")
    return 0


def _family(base: Path | None, said: str | None) -> str:
    if base is None:
        return said or "sd15"
    from .. import families  # torch is loaded only for this

    found = families.detect(base)
    if said not in (None, found.name):
        raise UserError(
            f"--family {said}: {base} is {found.title}", f"leave --family out, or give --family {found.name}"
        )
    return found.name


def _schema(path: Path) -> str:
    """Where the schema lies, seen from the file; empty where the file does not lie in this program's folder."""
    here, root = path.absolute().parent, presets.FOLDER.parent
    if not here.is_relative_to(root):
        return ""
    up = "../" * len(here.relative_to(root).parts)
    return f"{up}configs/{presets.SCHEMA}" if here != presets.FOLDER else presets.SCHEMA
