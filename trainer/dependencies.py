"""What must be installed, as requirements.txt says it: what of it is missing or too old, and the cure.

Only versions are looked up; nothing heavy is imported, so that a host can ask before it starts a worker.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from .errors import UserError

FILE = Path(__file__).resolve().parents[1] / "requirements.txt"
TRAINING = ("torch", "diffusers", "peft", "accelerate", "transformers", "safetensors")


def wanted(file: Path = FILE) -> list[str]:
    """The lines of requirements.txt, without comments."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def faults(only: Iterable[str] = (), file: Path = FILE) -> list[tuple[str, str]]:
    """What is not as it must be: (what is wrong, the line of requirements.txt that mends it).

    Args:
        only: names of packages; empty for all.
        file: the requirements.
    """
    return list(_faults({name.lower() for name in only}, file))


def check(only: Iterable[str] = TRAINING) -> None:
    """Raise if a package is missing or too old.

    Raises:
        UserError: naming each, the version found and the version wanted, and the command that mends it.
    """
    found = faults(only)
    if found:
        raise UserError("; ".join(what for what, _ in found), cure([line for _, line in found]))


def cure(lines: Iterable[str]) -> str:
    """The command that installs these requirements into the Python that runs now."""
    return f"install with: {_quoted(sys.executable)} -m pip install {' '.join(map(_quoted, lines))}"


def explained(error: BaseException) -> str:
    """Why the pack cannot be imported, in one line; empty where no package is to blame."""
    found = faults()
    if found:
        return f"{'; '.join(what for what, _ in found)}; {cure([line for _, line in found])}"
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    for line in wanted():
        name = line.partition(";")[0].strip()
        if package and _module(name) == package:
            return f"{' '.join(str(error).split())}; {cure(['--force-reinstall', name])}"
    return ""


def _module(line: str) -> str:
    """The module of a requirement."""
    name = re.split(r"[<>=!~ ]", line, maxsplit=1)[0].lower()
    return {"pyyaml": "yaml", "pillow": "PIL"}.get(name, name)


def _faults(only: set[str], file: Path) -> Iterator[tuple[str, str]]:
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:  # part of every ComfyUI, by transformers
        yield "packaging is not installed", "packaging"
        return
    for line in wanted(file):
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate()
        if not applies or (only and requirement.name.lower() not in only):
            continue
        plain = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is not installed ({plain} is needed)", plain
            continue
        # Upper bounds are for pip alone: what is newer was not chosen by us, and may well work.
        bounds = SpecifierSet(",".join(str(one) for one in requirement.specifier if not one.operator.startswith("<")))
        if not bounds.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is installed, {plain} is needed", plain


def _quoted(text: str) -> str:
    return f'"{text}"' if any(sign in text for sign in " <>=") else text
