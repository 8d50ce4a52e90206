"""The command ``export``: the LoRA of a checkpoint, copied out of its run."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import checkpoint, export, validation
from . import job as jobs
from .errors import RunFolderError, UserError
from .languages import peft_folder

LAST, BEST = "last", "best"
_NAMED = 12  # steps that an error lists


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--run", dest="run_folder", type=Path, required=True, metavar="RUN", help="the output_dir of a run"
    )
    parser.add_argument(
        "--step", type=_step, required=True, metavar="N", help="a step that has a checkpoint, or last, or best"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write, or a folder; never over another file (default: into RUN, with the step in its name)",
    )
    parser.add_argument(
        "--merged",
        type=Path,
        metavar="FOLDER",
        help="of a run of texts, in place of the LoRA: the whole language model with it, as a folder of transformers",
    )
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="S", help="of the LoRA in what is merged (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Copies the LoRA out, or merges it, and says where it is; returns the exit code.

    Raises:
        UserError: see ``copy_out``; or ``--merged`` of a run of images.
        ExportError: the checkpoint's LoRA is broken, or what is asked for cannot be written.
    """
    if args.merged is not None:
        found = _chosen(args.run_folder, args.step)
        job = jobs.load(args.run_folder)
        if not job.config.text:
            cure = "ComfyUI's Apply LoRA and Save Checkpoint make a merged checkpoint of it"
            raise UserError(f"--merged: {args.run_folder} is a run of images, expected one of texts", cure)
        tensors, _ = export.read(checkpoint.lora(args.run_folder, found))
        peft_folder.merge(job.base.file, tensors, args.merged, strength=args.strength)
        print(f"{args.merged}: the model with step {found} at strength {args.strength:g}")
        return 0
    path, step = copy_out(args.run_folder, args.step, args.output)
    best = validation.of(args.run_folder) if args.step == BEST else None
    why = f"; the best: {best.reason}" if best is not None else ""
    print(f"{path}: step {step}, {path.stat().st_size / 1e6:.1f} MB{why}")
    return 0


def copy_out(run: Path, step: int | str, target: Path | None = None) -> tuple[Path, int]:
    """Copies the LoRA of a checkpoint, checked and read back.

    Args:
        run: the run folder.
        step: of a complete checkpoint, or ``LAST``, or ``BEST`` by its validations.
        target: the file to write, or a folder; None: into the run folder.

    Returns:
        the file, and its step.

    Raises:
        UserError: the target exists; the folder holds no run, or no checkpoint of that step.
        ExportError: the checkpoint's LoRA is broken, or cannot be written.
    """
    found = _chosen(run, step)
    tensors, header = export.read(checkpoint.lora(run, found))
    export.check(tensors)
    name = f"{header.get('ss_output_name') or run.absolute().name}-{found:06d}.safetensors"
    path = _target(run, target, name)
    if path.exists():
        raise UserError(f"{path} exists already; it is not overwritten", "give another name with -o")
    export.store(path, tensors, header)
    return path, found


def _chosen(run: Path, step: int | str) -> int:
    """The step that is meant."""
    jobs.require(run)
    steps = checkpoint.complete(run)
    if not steps:
        raise RunFolderError(f"{run} has no complete checkpoint yet", "train on: one is written every save_steps")
    best = validation.of(run)
    assert best is not None
    by_name: dict[int | str, int] = {one: one for one in steps}
    found = (by_name | {LAST: steps[-1], BEST: best.step}).get(step)
    if found is None:
        listed = [str(one) for one in steps]
        if len(listed) > _NAMED:
            listed = [*listed[: _NAMED - 2], "...", listed[-1]]
        raise UserError(f"--step {step}: {run} has no checkpoint of that step", f"give {', '.join(listed)}, or last")
    return found


def _target(run: Path, given: Path | None, name: str) -> Path:
    if given is None:
        return run / name
    if given.is_dir():
        return given / name
    return given if given.suffix == ".safetensors" else given.with_name(f"{given.name}.safetensors")


def _step(text: str) -> int | str:
    if text in (LAST, BEST):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of steps, last or best, got {text!r}")
    return int(text)
