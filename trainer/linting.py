"""The command ``lint``: what a folder of images or of text is, and what might be better about it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from . import languages
from .dataset import MASKS, SOURCES, scan
from .dataset.crops import contact_sheet
from .dataset.frequencies import frequencies
from .dataset.lint import lint
from .errors import DatasetError
from .files import write_bytes
from .text import Chat, looks_like_text
from .text import scan as scan_text
from .text.lint import lint as lint_text

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder with the images, or with the text")
    parser.add_argument(
        "--metadata", type=Path, metavar="FILE", help="a table of captions, or a file of text (default: those in DIR)"
    )
    parser.add_argument("--resolution", type=int, default=512, metavar="N", help="(default %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="(default %(default)s)")
    parser.add_argument("--trigger-word", default="", metavar="WORD", help="put in front of captions that lack it")
    parser.add_argument(
        "--captions", choices=tuple(SOURCES), default="auto", help="where captions come from (default %(default)s)"
    )
    parser.add_argument("--mask", choices=MASKS, default="no", help="where masks come from (default %(default)s)")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="NAME", help="an image to leave out; may be given repeatedly"
    )
    parser.add_argument("--flip", action="store_true", help="the run will flip pictures")
    parser.add_argument("--words", type=int, metavar="N", help="list the N tags and words that most captions have")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw buckets and crops into this PNG file")
    text = parser.add_argument_group("of text")
    text.add_argument(
        "--base",
        type=Path,
        metavar="PATH",
        help="the language model: its tokenizer tells lengths",
    )
    text.add_argument("--tokenizer", type=Path, metavar="DIR", help="a folder with its tokenizer")
    text.add_argument(
        "--chat-template", default="", metavar="TEXT", help="a template in Jinja, a file, or none (default: its own)"
    )
    text.add_argument("--max-length", type=int, default=1024, metavar="N", help="in tokens (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Prints what is found; returns the exit code, 0.

    Raises:
        DatasetError: the folder cannot be trained on, the picture not be written, or an argument is wrong.
        BaseModelError: there is no such tokenizer.
        ConfigError: the chat template cannot be used.
    """
    if args.words is not None and args.words < 1:
        raise DatasetError(f"--words: expected a whole number of at least 1, got {args.words}")
    if looks_like_text(args.folder):
        return _text(args)
    return _images(args)


def _text(args: argparse.Namespace) -> int:
    for option, value in (("--words", args.words), ("--picture", args.picture)):
        if value is not None:
            raise DatasetError(f"{option}: {args.folder} holds text, and this is for images", "Leave it out.")
    dataset = scan_text(args.folder, metadata_path=args.metadata, repeats=args.repeats)
    chat = _chat(args)
    with _Progress("reading") as reading:
        report = lint_text(dataset, chat, on_progress=reading)
    print(report)
    return 0


def _chat(args: argparse.Namespace) -> Chat | None:
    source = args.base or args.tokenizer
    if source is None:
        return None
    if args.max_length < 1:
        raise DatasetError(f"--max-length: expected a whole number of at least 1, got {args.max_length}")
    return Chat(languages.tokenizer(source, args.tokenizer), args.chat_template, args.max_length)


def _images(args: argparse.Namespace) -> int:
    picture = None if args.picture is None else _picture_path(args.picture, args.folder)
    with _Progress("reading") as reading:
        dataset = scan(
            args.folder,
            metadata_path=args.metadata,
            resolution=args.resolution,
            trigger_word=args.trigger_word,
            repeats=args.repeats,
            captions=args.captions,
            mask=args.mask,
            exclude=args.exclude,
            on_progress=reading,
        )
    with _Progress("comparing") as comparing:
        report = lint(dataset, resolution=args.resolution, flip=args.flip, on_progress=comparing)
    print(report)
    if args.words is not None:
        tags, words = (frequencies(dataset.items, kind) for kind in ("tags", "words"))
        print(*(found.table(args.words) for found in (tags, words) if found.counts or found is words), sep="\n")
    if picture is not None:
        data = io.BytesIO()
        contact_sheet(dataset).save(data, "JPEG" if picture.suffix.lower() in (".jpg", ".jpeg") else picture.suffix[1:])
        try:
            write_bytes(picture, data.getvalue())
        except OSError as error:
            raise DatasetError(f"--picture {picture}: cannot be written: {error.strerror or error}") from None
        print(f"buckets and crops: {picture}")
    return 0


def _picture_path(path: Path, folder: Path) -> Path:
    """The absolute path, if a picture may be written there."""
    path = Path(os.path.abspath(path.expanduser()))
    if path.suffix.lower() not in _PICTURES:
        raise DatasetError(f"--picture {path}: expected a name that ends in {', '.join(_PICTURES)}")
    if path.is_relative_to(os.path.abspath(folder.expanduser())):
        raise DatasetError(
            f"--picture {path}: lies in the data set, where it would be trained as an image", "Choose another folder."
        )
    return path


class _Progress:
    """A line on the terminal that counts; silent elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self._shown and (done == total or done % 16 == 0):
            print(f"\r{self._what} {done} of {total}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
