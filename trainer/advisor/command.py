"""The command ``advise``: what was chosen for a run, what to mind about it, and what to change next."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import events
from .. import job as jobs
from ..events import Advised
from ..sinks import describe
from . import before, case, diagnose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the output_dir of a run")


def run(args: argparse.Namespace) -> int:
    """Tells it; returns the exit code, 0.

    Raises:
        RunFolderError: there is no run, or it cannot be read.
    """
    job = jobs.load(args.run_folder)
    told = [describe(event) for event in before(job)]
    found = diagnose(case(job, list(events.history(args.run_folder / "events.jsonl"))))
    if found is not None:
        told.append(describe(Advised("diagnosis", found.field, found.message, found.cure)))
    print("\n".join(told) if told else "nothing to say yet: there is no validation, and no end")
    return 0
