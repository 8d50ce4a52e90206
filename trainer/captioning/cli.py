"""The command ``caption``, which ``tools/auto_label.py`` runs too."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

from ..errors import CaptionError
from ..events import Captioned, Event, Phase
from ..sinks import Bar, describe
from .base import Length, Tagging, Wish
from .label import FORMATS, MODES
from .registry import all_captioners, names
from .rules import ARROW, Rules
from .rules import read as read_rules
from .work import PURPOSES, Job, tags

STOPPED = 130
SECONDS = 10.0  # between lines of progress, where there is no terminal to draw a bar on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "methods:\n" + "\n".join(
        f"  {name:<12} {one.description}" + (f" Usual model: {one.models[0]}" if one.models else "")
        for name, one in all_captioners().items()
    )
    modes = "; ".join(f"{name}: {what}" for name, what in MODES.items())
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="the folder with the images")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a .csv file (default: metadata.csv in the folder, or with --format txt a .txt file an image)",
    )
    parser.add_argument("--format", choices=FORMATS, default="csv", help="(default %(default)s)")
    parser.add_argument("--method", choices=names(), default="filename", help="see below (default %(default)s)")
    parser.add_argument("--trigger-word", default="", metavar="WORD", help="stands first in every new caption")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="missing",
        help=f"if an image has a caption: {modes} (default %(default)s)",
    )
    change = parser.add_argument_group("what is done to every caption")
    change.add_argument("--prefix", default="", metavar="TEXT", help="stands before it, with the comma that you type")
    change.add_argument("--suffix", default="", metavar="TEXT", help="stands behind it")
    change.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar=f'"OLD {ARROW} NEW"',
        help="whole words, in whatever case; without NEW they are taken out (can be given again)",
    )
    model = parser.add_argument_group("methods with a model")
    model.add_argument("--model", default="", metavar="NAME", help="a folder, a name in --models-dir, or on the hub")
    model.add_argument(
        "--models-dir", type=Path, action="append", default=[], metavar="DIR", help="where models lie, a folder each"
    )
    model.add_argument("--download", action="store_true", help="fetch the model if it is not here; its size is said")
    model.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda:0, ... (default %(default)s)")
    model.add_argument(
        "--batch", type=int, default=0, metavar="N", help="images at a time (default: as many as suit the device)"
    )
    ask = parser.add_argument_group("models that write sentences")
    purposes = "; ".join(f"{name}: {what}" for name, what in PURPOSES.items())
    ask.add_argument(
        "--purpose", choices=PURPOSES, default="plain", help=f"what is described. {purposes} (default %(default)s)"
    )
    ask.add_argument("--prompt", default="", metavar="TEXT", help="ask this instead, of a model that can be asked")
    ask.add_argument("--length", choices=get_args(Length), default="medium", help="(default %(default)s)")
    usual, tags = Tagging(), parser.add_argument_group("taggers")
    tags.add_argument(
        "--threshold", type=float, default=usual.general, metavar="P", help="of a tag (default %(default)s)"
    )
    tags.add_argument(
        "--character-threshold",
        type=float,
        default=usual.character,
        metavar="P",
        help="of a character's name (default %(default)s)",
    )
    tags.add_argument("--rating", action="store_true", help="write the rating too")
    tags.add_argument("--underscores", action="store_true", help="long_hair instead of long hair")
    tags.add_argument("--exclude", default="", metavar="TAGS", help="never written, with commas between")
    tags.add_argument("--first", default="", metavar="TAGS", help="stand first, seen or not, with commas between")


def run(args: argparse.Namespace) -> int:
    """Captions a folder and says what was done; returns the exit code.

    Raises:
        UserError: see ``label``.
    """
    tagging = Tagging(
        args.threshold, args.character_threshold, args.rating, args.underscores, tags(args.exclude), tags(args.first)
    )
    job = Job(
        folder=str(args.input),
        output="" if args.output is None else str(args.output),
        method=args.method,
        mode=args.mode,
        format=args.format,
        wish=Wish(args.trigger_word, args.purpose, args.prompt, args.length, tagging),
        rules=Rules(args.prefix, args.suffix, read_rules(args.replace)),
        model=args.model,
        folders=tuple(map(str, args.models_dir)),
        download=args.download,
        device=args.device,
        batch=args.batch,
    )
    _check_taken(job)
    bar = Bar()
    try:
        report = job.run(bar if sys.stderr.isatty() else _Lines())
    except KeyboardInterrupt:
        print("stopped: what is written stays, and the same command goes on from there", file=sys.stderr)
        return STOPPED
    finally:
        bar.close()
    print(report)
    return 0


def _check_taken(job: Job) -> None:
    """Raises where something is asked that the method does not go by, so that it is not waited for in vain."""
    takes = {name: captioner.takes for name, captioner in all_captioners().items()}
    usual = Wish()
    for asked in ("purpose", "prompt", "length", "tagging"):
        if getattr(job.wish, asked) != getattr(usual, asked) and asked not in takes[job.method]:
            what = "what is for taggers" if asked == "tagging" else f"--{asked}"
            others = ", ".join(name for name, taken in takes.items() if asked in taken)
            message = f"{what}: the method {job.method!r} does not go by it"
            raise CaptionError(message, f"Leave it out, or take {others}.")


class _Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Captioned):
            if time.monotonic() - self._last < SECONDS:
                return
            self._last = time.monotonic()
        line = f"{event.name} ..." if isinstance(event, Phase) else describe(event)
        if line:
            print(line, flush=True)
