"""The command ``caption``, which ``tools/auto_label.py`` runs too."""

from __future__ import annotations

import argparse
from pathlib import Path

from .label import FORMATS, MODES, label
from .registry import all_captioners, names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    modes = "; ".join(f"{name}: {what}" for name, what in MODES.items())
    methods = " ".join(f"{name}: {captioner.description}" for name, captioner in all_captioners().items())
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="the folder with the images")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a .csv file (default: metadata.csv in the folder, or with --format txt a .txt file an image)",
    )
    parser.add_argument("--format", choices=FORMATS, default="csv", help="(default %(default)s)")
    parser.add_argument("--method", choices=names(), default="filename", help=f"{methods} (default %(default)s)")
    parser.add_argument("--trigger-word", default="", metavar="WORD", help="stands first in every new caption")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="missing",
        help=f"if an image has a caption: {modes} (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Captions a folder and says what was done; returns the exit code.

    Raises:
        UserError: see ``label``.
    """
    report = label(
        args.input,
        output=args.output,
        method=args.method,
        trigger_word=args.trigger_word,
        mode=args.mode,
        format=args.format,
    )
    print(report)
    return 0
