"""The command generate: a language model answers, with a LoRA or without."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from .. import adapters, device
from ..errors import LoraFileError
from ..export import read as read_file
from ..text import Chat, Message
from . import export_key, generate, load, peft_folder, smollm, tokenizer

DEMO = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--base",
        required=True,
        metavar="DIR",
        help=f"the language model: a folder of transformers, or a single file; {DEMO}: {smollm.TITLE}",
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question; - reads it from stdin")
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told before it")
    parser.add_argument("--lora", type=Path, metavar="FILE", help="a LoRA file, or PEFT's folder")
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help="of the LoRA (default %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="the longest answer (default %(default)s)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0: always the likeliest token (default)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is drawn (default %(default)s)")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="of a single file that has none in it")
    parser.add_argument(
        "--chat-template", default="", metavar="NAME", help="none, or a file; default: the tokenizer's own"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the answer to stdout as it comes."""
    base = smollm.folder(say=lambda text: print(text, file=sys.stderr)) if args.base == DEMO else Path(args.base)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    own = tokenizer(base, args.tokenizer)
    chat = Chat(own, args.chat_template)
    place = device.named("auto")
    model = load(base, torch.float32 if place.type == "cpu" else torch.bfloat16).to(place)
    if args.lora is not None:
        adapters.from_file(model, read_lora(args.lora), export_key, str(args.lora))
    messages = [Message("system", args.system)] if args.system else []
    ids = chat.question([*messages, Message("user", prompt)])
    with adapters.strength(model, args.strength):
        generate(
            model,
            own,
            ids,
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            seed=args.seed,
            say=Printed(own),
        )
    print(flush=True)
    return 0


def read_lora(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, or of PEFT's folder.

    Raises:
        LoraFileError: there is none.
        ExportError: it cannot be read.
    """
    if path.is_dir():
        return peft_folder.read(path)
    if not path.is_file():
        raise LoraFileError(f"there is no file {path}", "give the path of a LoRA, a .safetensors file")
    return read_file(path)[0]


class Printed:
    """Writes tokens to stdout as text, as soon as they are whole characters.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._written = ""

    def __call__(self, token: int) -> None:
        """One more token."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            return  # the first bytes of a character
        print(text.removeprefix(self._written), end="", flush=True)
        self._written = text
