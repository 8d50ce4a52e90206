"""What has happened in a run, for the page: its journal, condensed, without the paths of this machine.

Lines of the journal are passed on as they are, but for what only this machine can use; so ``darkroom.run``, which sends
them as they come (``live``), and ``GET /runs/{run}/story``, which tells what came before, say the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..trainer import events, runstate
from . import where as wheres

Line = dict[str, Any]
MOST_POINTS = 1500
MOST_WARNINGS = 50
PICTURES = ("{stem}-vae.webp", "{stem}.webp", "{stem}.png")
"""A sample's picture in its folder: by the wired VAE, as it was shown while it trained, by the trainer's own VAE."""
_INSIDE = ("v", "run", "details", "latents", "image", "path")  # of no use to a page
_TEXTS = ("message", "cure", "reason", "stopped", "how", "why", "name")


def read(path: Path, offset: int = 0) -> tuple[list[Line], int]:
    """Lines of a journal from byte ``offset`` on, and the offset after the last whole one; see ``events.read``."""
    lines, offset = events.read_lines(path, offset)
    return list(_parsed(lines)), offset


def for_the_page(folder: Path) -> Callable[[Line], Line]:
    """A function that gives a line of a run's journal as a page may see it."""
    hide = runstate.without_paths(folder)

    def plain(line: Line) -> Line:
        told = {name: value for name, value in line.items() if name not in _INSIDE}
        told |= {name: hide(told[name]) for name in _TEXTS if isinstance(told.get(name), str)}
        if line["type"] == "Sample":
            told["picture"] = _picture(folder, line)
        return told

    return plain


def of(folder: Path, after: int | None = None) -> dict[str, Any]:
    """What has happened in a run.

    Args:
        folder: the run's.
        after: the number of a line; figures, samples and texts that were told up to it are left out, unless the run has
            gone back since: then, as the answer's ``after`` says, everything is told.

    Returns:
        ``where`` the page shows it, ``seq`` of the last line, ``now`` and ``started`` in seconds since 1970, ``phase``
        {name, done, total, t}, ``plan``, ``losses`` [[step, loss, lr, seconds, memory]], ``validations``, ``samples``,
        ``checkpoints``, ``warnings``, ``chosen``, ``advice``, and its ``end``.
    """
    lines, seq, began = _history(folder / "events.jsonl")
    if after is not None and (began > after or after > seq):
        after = None
    plain = for_the_page(folder)
    told = [plain(line) for line in lines]
    new = [line for line in told if after is None or line["seq"] > after]
    starts = [place for place, line in enumerate(told) if line["type"] == "RunStarted"]
    run = told[starts[-1] :] if starts else told  # what the last process told, once it had begun
    last = told[-1] if told else None
    place = wheres.read(folder)
    return {
        "where": place and place._asdict(),
        "seq": seq,
        "after": after,
        "now": time.time(),
        "started": told[0]["t"] if told else 0.0,
        "begun": next((line for line in reversed(told) if line["type"] == "RunStarted"), None),
        "phase": _phase(told),
        "plan": next((line for line in reversed(told) if line["type"] == "MemoryPlan"), None),
        "losses": _condensed(_of(new, "Step")),
        "validations": _of(new, "Validation"),
        "samples": _newest(_of(new, "Sample")),
        "checkpoints": [line["step"] for line in _of(new, "Checkpoint")],
        "warnings": list(dict.fromkeys(line["message"] for line in _of(new, "Warned")))[-MOST_WARNINGS:],
        "chosen": list({line["field"]: line for line in _of(told, "Chosen")}.values()),
        "advice": [*_given(told, "note", "warning"), *_given(run, "diagnosis")],
        "end": last if last and last["type"] in ("RunFinished", "RunStopped", "RunFailed") else None,
    }


def _history(path: Path) -> tuple[list[Line], int, int]:
    """All lines as if the run had never been interrupted (``events.history``), the last one's number, and the number of
    the line with which it last began or went on: what was lost lies before it.
    """

    def begun(line: Line) -> int | None:
        return line.get("step") or 0 if line["type"] == "RunStarted" else None

    lines = read(path)[0]
    starts = [line["seq"] for line in lines if begun(line) is not None]
    last = lines[-1]["seq"] if lines else -1
    return events.unbroken(lines, begun, lambda line: line.get("step", -1)), last, max(starts, default=-1)


def _parsed(lines: Sequence[str]) -> Iterator[Line]:
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:  # half a line, of a process that was killed
            continue
        if isinstance(line, dict) and isinstance(line.get("type"), str) and isinstance(line.get("seq"), int):
            yield line


def _of(lines: Sequence[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["type"] == kind]


def _given(lines: Sequence[Line], *kinds: str) -> list[Line]:
    """Advice of these kinds; what was said at every start, once."""
    said = [line for line in _of(lines, "Advised") if line["kind"] in kinds]
    return list({line["message"]: line for line in said}.values())


def _newest(samples: Sequence[Line]) -> list[Line]:
    """Samples by step and place; of those that were drawn twice the newest."""
    return [one for _, one in sorted({(line["step"], line["index"]): line for line in samples}.items())]


def _phase(lines: Sequence[Line]) -> Line | None:
    """What is being done, by the last line that says so."""
    for line in reversed(lines):
        if line["type"] == "Phase":
            return {"name": line["name"], "done": line["done"], "total": line["total"], "t": line["t"]}
        if line["type"] == "Step":
            return {"name": "training", "done": line["step"], "total": line["total"], "t": line["t"]}
        if line["type"] == "RunStarted":
            return {"name": "training", "done": line["step"], "total": line["total_steps"], "t": line["t"]}
    return None


def _condensed(steps: Sequence[Line]) -> list[list[float | None]]:
    """``[step, loss, lr, seconds, memory]``, means of as many steps as leave ``MOST_POINTS``."""
    each = -(-len(steps) // MOST_POINTS)
    groups = [steps[at : at + each] for at in range(0, len(steps), each)] if each > 1 else [[one] for one in steps]
    return [
        [
            group[-1]["step"],
            _mean([one["loss"] for one in group]),
            group[-1]["lr"],
            _mean([one["seconds"] for one in group]),
            max(one["memory"] for one in group),
        ]
        for group in groups
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _picture(folder: Path, line: Line) -> str:
    """The name of a sample's picture; empty while there is none."""
    stem = Path(line.get("latents") or line.get("image") or "").stem
    names = (name.format(stem=stem) for name in PICTURES) if stem else ()
    return next((name for name in names if (folder / "samples" / name).is_file()), "")
