"""Which folder a run lies in: found again by its identity, for every length that it once finished with.

``runs/<id>`` is a run's folder. A run that is extended keeps what it had finished with in ``finished/<steps>``, so
that lowering epochs again returns it; a shorter length that never finished is trained in ``runs/<id>-<steps>``.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..trainer import checkpoint, runfolder, runstate, validation
from ..trainer.errors import HostError, RunFolderError
from ..trainer.files import write_bytes
from ..trainer.runstate import RunState
from . import owners

LATEST, LAST, BEST, ALL = "latest", "last", "best", "all"
MOST_NAMED = 5


@dataclass(frozen=True)
class Found:
    """A run.

    Args:
        folder: the run's.
        result: where its LoRA of the wanted length lies; None if it is yet to be trained.
        so_far: in place of ``result.json``, of a run that has not finished.
    """

    folder: Path
    result: Path | None
    so_far: dict[str, Any] | None = None

    @property
    def outcome(self) -> dict[str, Any]:
        """The ``result.json`` of the result."""
        assert self.result is not None
        return self.so_far if self.so_far is not None else runfolder.read_result(self.result.parent)

    @property
    def steps(self) -> int:
        """Optimizer steps of the result."""
        return int(self.outcome["step"])

    @property
    def best(self) -> tuple[int, Path, str]:
        """The LoRA to hand on: its step, its file, and why it is another one than the result (empty: it is that)."""
        assert self.result is not None
        told = self.outcome.get("best", {})
        step = int(told.get("step", self.steps))
        file = checkpoint.lora(self.folder, step)
        if step >= self.steps or not file.is_file():
            return self.steps, self.result, ""
        return step, file, str(told["reason"])


def find(root: Path, run_id: str, total: int, patience: int = 0) -> Found:
    """The folder of a run with a total length in steps, and its LoRA if it has finished with that length.

    Args:
        root: the folder of all runs.
        run_id: which one.
        total: the length.
        patience: ``early_stopping_patience``.
    """
    own, shorter = root / run_id, root / f"{run_id}-{total}"
    for folder in (own, own / "finished" / str(total), shorter):
        result = runfolder.finished(folder, total, patience)
        if result is not None:
            return Found(shorter if folder == shorter else own, result)
    beyond = (checkpoint.latest(own) or 0) > total
    return Found(shorter if beyond else own, None)


def as_it_is(folder: Path, total: int) -> Found:
    """A run that was stopped, with what is saved of it as its result; without one where nothing is.

    Args:
        folder: the run's.
        total: the length that it was to have.
    """
    step = checkpoint.latest(folder)
    if step is None:
        return Found(folder, None)
    file, best = checkpoint.lora(folder, step), validation.of(folder)
    told = {"total": total, "step": step, "path": file.relative_to(folder).as_posix()}
    return Found(folder, file, told | ({"best": asdict(best)} if best is not None else {}))


def keep_finished(folder: Path) -> None:
    """Before a run is extended: keep what it finished with, under its length.

    Raises:
        RunFolderError: the disk does not take it.
    """
    result = runfolder.read_result(folder)
    if not result:
        return
    kept = folder / "finished" / str(result["total"])
    # The result is written last: without one it is half kept. One that was stopped early makes room for another.
    if (there := runfolder.read_result(kept)) and not there.get("stopped"):
        return
    try:
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / str(result["path"]), kept / str(result["path"]))
        write_bytes(kept / "result.json", (folder / "result.json").read_bytes())
    except OSError as error:
        why = f"the LoRA of {result['total']} steps cannot be kept in {kept}: {error.strerror or error}"
        raise RunFolderError(why, "free some space, then queue again: nothing is lost") from None


def every(root: Path, user: str = "") -> list[RunState]:
    """The runs that a profile sees, the one that something happened to last first; all where there are no profiles."""
    return [run for run in runstate.every(root) if owners.sees(root / run.id, user)]


def choose(root: Path, text: str, user: str = "") -> RunState:
    """The run that a user named: ``latest``, an id or its beginning, the data set's name, or name and id.

    ``latest`` and a name mean the newest run that there is a LoRA of, of those that the profile ``user`` sees.

    Raises:
        HostError: there is none, several begin so, or nothing of it is saved yet.
    """
    wanted, here = text.strip(), every(root, user)
    with_lora = [run for run in here if run.loadable]
    if not with_lora:
        raise HostError("there is no trained run yet", "train one with Train LoRA: its checkpoints can be loaded here")
    if wanted.lower() in ("", LATEST):
        return with_lora[0]
    exact = [run for run in here if run.id == wanted.split()[-1]]
    named = [run for run in with_lora if run.name.casefold() == wanted.casefold()]
    begun = [run for run in here if run.id.startswith(wanted.lower())]
    if not (found := exact or named[:1] or begun):
        names = {label(run): run for run in here} | {run.id: run for run in here} | {run.name: run for run in here}
        near = difflib.get_close_matches(wanted, names, MOST_NAMED, 0.4) or names
        shown = dict.fromkeys(label(names[name]) for name in near)
        raise HostError(f"run: there is no run {wanted}", f"choose one, such as {_some(shown)}, or type {LATEST}")
    if len(found) > 1:
        raise HostError(f"run: {len(found)} runs begin with {wanted}", f"type more of one: {_some(map(label, found))}")
    if not found[0].loadable:
        raise HostError(
            f"run: nothing of {label(found[0])} is saved yet (it is at step {found[0].step})",
            f"wait for its first checkpoint, or type {LATEST}",
        )
    return found[0]


def label(run: RunState) -> str:
    """What a run is called: its data set's name, and its id."""
    return f"{run.name} {run.id}"


def saved(folder: Path) -> dict[int, Path]:
    """The LoRA files of a run by their steps, in order: its checkpoints, and what it finished with."""
    steps = {step: checkpoint.lora(folder, step) for step in checkpoint.complete(folder)}
    return dict(sorted({**steps, **runstate.lengths(folder)}.items()))


def choose_steps(there: dict[int, Path], text: str, best: int | None = None) -> list[int]:
    """The steps that a user named, in that order: ``last, step 200, best``, or ``all`` from the first to the last.

    Args:
        there: ``saved`` of the run; not empty.
        text: separated by commas or lines; empty is ``last``.
        best: what ``best`` means; None: it is the last.

    Raises:
        HostError: one is not there, or is none.
    """
    wanted = [word.strip().lower() for word in re.split(r"[,;\n]", text) if word.strip()] or [LAST]
    if ALL in wanted:
        return list(there)
    return list(dict.fromkeys(_one_step(there, word, best) for word in wanted))


def _one_step(there: dict[int, Path], word: str, best: int | None) -> int:
    if word == LAST or (word == BEST and best not in there):
        return max(there)
    if word == BEST and best is not None:
        return best
    match = re.fullmatch(r"(?:steps?)?[\s-]*(\d+)", word)
    if match is None or int(match[1]) not in there:
        what = f"there is no step {match[1]} in this run" if match else f"{word} is no step"
        raise HostError(f"checkpoint: {what}", f"there are {', '.join(map(str, there))}, {LAST} and {BEST}")
    return int(match[1])


def folder_of(root: Path, file: Path | None, run: str) -> Path | None:
    """The folder of the run that a LoRA file is of; None if it is of none that is here."""
    if file is not None and file.is_relative_to(root):
        return root / file.relative_to(root).parts[0]
    return root / run if re.fullmatch(r"[0-9a-f]{12}(-\d+)?", run) and (root / run).is_dir() else None


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:MOST_NAMED]) + (f" and {len(shown) - MOST_NAMED} more" * (len(shown) > MOST_NAMED))
