"""Which folder a run lies in: found again by its identity, for every length that it once finished with.

``runs/<id>`` is a run's folder. A run that is extended keeps what it had finished with in ``finished/<steps>``, so
that lowering epochs again returns it; a shorter length that never finished is trained in ``runs/<id>-<steps>``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..trainer import checkpoint, runfolder
from ..trainer.files import write_bytes


@dataclass(frozen=True)
class Found:
    """Args: folder: the run's. result: where its LoRA of the wanted length lies; None if it is yet to be trained."""

    folder: Path
    result: Path | None

    @property
    def steps(self) -> int:
        """Optimizer steps of the result."""
        assert self.result is not None
        return int(runfolder.read_result(self.result.parent)["step"])


def find(root: Path, run_id: str, total: int) -> Found:
    """The folder of a run with a total length in steps, and its LoRA if it has finished with that length."""
    own, shorter = root / run_id, root / f"{run_id}-{total}"
    for folder in (own, own / "finished" / str(total), shorter):
        result = runfolder.finished(folder, total)
        if result is not None:
            return Found(shorter if folder == shorter else own, result)
    beyond = (checkpoint.latest(own) or 0) > total
    return Found(shorter if beyond else own, None)


def keep_finished(folder: Path) -> None:
    """Before a run is extended: keep what it finished with, under its length."""
    result = runfolder.read_result(folder)
    if not result:
        return
    kept = folder / "finished" / str(result["total"])
    if kept.exists():
        return
    kept.mkdir(parents=True)
    shutil.copy2(folder / str(result["path"]), kept / str(result["path"]))
    write_bytes(kept / "result.json", (folder / "result.json").read_bytes())
