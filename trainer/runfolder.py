"""A run folder as a whole: whose it is, whether its run has finished, and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import job as jobs
from .config import TrainConfig
from .dataset.sampler import windows_per_epoch
from .errors import RunFolderError
from .files import read_json
from .job import Job

CHECKPOINTS = 5  # at least, in a run


def check_folder(folder: Path, job: Job) -> None:
    """Whether a run folder is this run's, or free; one whose run has saved nothing yet is free.

    Raises:
        RunFolderError: it is another run's, or has a file that would be overwritten.
    """
    if not jobs.exists(folder):
        final = folder / f"{job.name}.safetensors"
        if final.exists():
            raise RunFolderError(f"{final} exists, but is of no run; it is not overwritten", "give another output_dir")
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"output_dir: {folder} is a file, expected a folder", "give another output_dir")
        return
    old = jobs.load(folder)
    if old.run_id != job.run_id and _holds_work(folder):
        differing = "\n".join(f"  - {line}" for line in jobs.differences(old, job))
        raise RunFolderError(
            f"{folder} holds another run; it differs in\n{differing}",
            f'give another output_dir, or go on with that run as it is: python -m trainer train --resume "{folder}"',
        )


def check_length(folder: Path, done: int, total: int) -> None:
    """Whether a run that has done so many windows can be as long as ``total``.

    Raises:
        RunFolderError: it is longer already.
    """
    if done > total:
        raise RunFolderError(
            f"{folder} has been trained for {done} steps; epochs (or max_steps) now ask for only {total}",
            "raise epochs, or give another output_dir; its earlier checkpoints are usable as they are",
        )


# What may be changed of a run whose captions and samples the host has encoded.
_CHANGEABLE = {
    "epochs", "max_steps", "save_steps", "log_interval", "validation_steps", "early_stopping_patience", "batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "vram_limit", "device", "output_dir",
    "sample_inference_steps", "sample_guidance", "sample_strength",
}  # fmt: skip


def check_changes(folder: Path, old: TrainConfig, new: TrainConfig) -> None:
    """Whether a run of the host may go on with a changed config: only what needs no encoder may differ.

    Raises:
        RunFolderError: something else does.
    """
    before, after = old.resolved().to_plain(), new.resolved().to_plain()
    changed = sorted(name for name in after if before[name] != after[name] and name not in _CHANGEABLE)
    if changed:
        raise RunFolderError(
            f"{folder} is a run of ComfyUI: {', '.join(changed)} cannot be changed on the command line",
            "change it in the graph and queue again; here the length, saving, validation and the batch can be set",
        )


def _holds_work(folder: Path) -> bool:
    """Whether there is something to lose: what failed before its first checkpoint may begin with other settings."""
    return any((folder / "checkpoints").glob("step-*/complete.json")) or bool(read_result(folder))


def total_steps(job: Job) -> int:
    """Optimizer steps of a run, if none is skipped."""
    config = job.config
    total = config.epochs * windows_per_epoch(job.train_items, config.window)
    return min(total, config.max_steps or total)


def save_steps(config: TrainConfig, total: int) -> int:
    """Optimizer steps between two checkpoints of a run of ``total`` steps."""
    return max(1, min(config.save_steps, total // CHECKPOINTS))


def next_checkpoint(config: TrainConfig, step: int, total: int) -> int:
    """The step of the first checkpoint after a step of a run of ``total`` steps."""
    every = save_steps(config, total)
    return min(total, (step // every + 1) * every)


def finished(folder: Path, total: int, patience: int = 0) -> Path | None:
    """The LoRA of a run that has finished with this length; None if it has not.

    One that was stopped early has finished for whoever is as patient, or less.

    Args:
        folder: the run's.
        total: the length, in steps.
        patience: ``early_stopping_patience``; 0: it is never stopped.
    """
    result = read_result(folder)
    stopped = result.get("stopped")
    if result.get("total") != total or (stopped and not 0 < patience <= stopped["patience"]):
        return None
    path = folder / str(result.get("path"))
    return path if path.is_file() else None


def read_result(folder: Path) -> dict[str, Any]:
    """``result.json`` of a run folder; empty where there is none."""
    return read_json(folder / "result.json")
