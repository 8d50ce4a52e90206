"""The command ``import``: another trainer's settings as our YAML, with a line for whatever does not carry over."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ConfigError, UserError
from ..setup import template
from . import kohya, onetrainer
from .base import Imported


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="TOML of kohya or lora-scripts, or JSON of OneTrainer")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the YAML file to write; an existing one is never overwritten (default: the same name, .yaml)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the config and tells what did not carry over; returns the exit code.

    Raises:
        UserError: the file cannot be read, or the output exists.
    """
    output = args.output or args.file.with_suffix(".yaml")
    found = read(args.file)
    title = [f"Imported from {args.file.name}, of {found.trainer}.", "What has no counterpart here is left out."]
    template.save_new(output, template.write(found.config, title))
    print(f"{output}: from {args.file.name}, of {found.trainer}")
    for heading, notes in (("no counterpart:", found.left_out), ("means something else here:", found.differing)):
        if notes:
            print(heading)
            for note in notes:
                print(f"  {note}")
    print("look it over (relative paths count from where you start), then train:")
    print(f"  {template.command_for(output)}")
    return 0


def read(path: Path) -> Imported:
    """Reads another trainer's file, of whichever it is.

    Raises:
        ConfigError: it is no file of a trainer that we know, or has faults.
        UserError: it is for something that this version does not train.
    """
    if not path.is_file():
        raise ConfigError(["the file is a folder" if path.is_dir() else "the file does not exist"], str(path))
    if path.suffix.lower() == ".json":
        data = onetrainer.read_json(path)
        if not isinstance(data, dict):
            raise ConfigError([f"expected a JSON object, got {type(data).__name__}"], str(path))
        if "LoRA_type" in data or "pretrained_model_name_or_path" in data:
            raise UserError(
                f"{path} is of the kohya_ss GUI, which is not read",
                'press "Print training command" there, and import the .toml that it writes beside the output',
            )
        if not {"training_method", "model_type", "base_model_name", "lora_rank"} & data.keys():
            raise ConfigError(["holds none of OneTrainer's settings, such as training_method"], str(path))
        return onetrainer.read(data, path)
    if path.suffix.lower() != ".toml":
        raise ConfigError(
            [f"expected .toml (kohya, lora-scripts) or .json (OneTrainer), got {path.suffix!r}"], str(path)
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {error}"], str(path)) from None
    return kohya.read(text, path)
