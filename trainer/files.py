"""Files that are whole or absent: written under a temporary name, then moved into place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from .errors import CacheError

_TRIES = 20 if os.name == "nt" else 1
_PAUSE = 0.05
_TEMPORARY, _HOUR = re.compile(r"\.[0-9a-f]{12}\.tmp"), 3600.0


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file atomically, part after part; an existing one is replaced, never changed in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """``os.replace``, tried for a second on Windows, where a reader or a virus scanner may have a file open."""
    for _ in range(_TRIES - 1):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(_PAUSE)
    os.replace(source, target)


def clear(folder: Path) -> None:
    """Removes what ``write_bytes`` left in a folder where its process was killed: temporary files, an hour old."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and path.stat().st_mtime < time.time() - _HOUR:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` for text, as UTF-8 with the line ends as given.

    A file's name that is no UTF-8 (Linux) is written as an escape, which JSON and YAML read back.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, data: Any) -> None:
    """``write_bytes`` for plain data, as readable JSON."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote of a dict; empty where there is none, or where it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file atomically. Tensors may lie anywhere; they are made contiguous on the CPU."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    write_bytes(path, *_ordered(save(plain, metadata=dict(metadata) if metadata else None)))


def trim(root: Path, most: int, in_use: float) -> None:
    """Removes what was used longest ago from a folder, until the rest fits; what cannot be removed stays.

    Args:
        root: its entries are files, or folders of files; an entry's modification time says when it was last used.
        most: bytes.
        in_use: seconds for which what was used stays, whatever its size.
    """
    known = []
    for entry in root.iterdir():
        with suppress(OSError):  # another process removed it
            size = sum(file.stat().st_size for file in (entry.iterdir() if entry.is_dir() else [entry]))
            known.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in known)
    for used, size, entry in sorted(known):
        if total <= most or used > time.time() - in_use:
            break
        with suppress(OSError):  # Windows: another process has it open
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            total -= size


def _ordered(data: bytes) -> tuple[bytes, memoryview]:
    """The same safetensors file with its metadata sorted: the library writes them in an order drawn anew each time.

    Its head and its tensors, which are not copied: a base model's are gigabytes.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    if metadata := header.pop("__metadata__", None):
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text, memoryview(data)[start:]


def digest(*parts: object) -> str:
    """A short stable name of some plain values: 32 hex digits of SHA-256 over their JSON."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; a megabyte at a time.

    Raises:
        OSError: the file cannot be read.
    """
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


class ContentHashes:
    """SHA-256 of files, remembered by (path, size, mtime), so that a base of gigabytes is read once.

    Args:
        path: the JSON file that remembers; made when missing, started anew when broken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def __call__(self, file: Path) -> str:
        """64 hex digits; of a folder: of its files' relative names and contents.

        Raises:
            CacheError: what was hashed cannot be remembered.
        """
        if file.is_dir():
            inside = sorted(p for p in file.rglob("*") if p.is_file())
            return hashlib.sha256(
                "\n".join(f"{p.relative_to(file).as_posix()} {self(p)}" for p in inside).encode()
            ).hexdigest()
        stat = file.stat()
        key = f"{file.absolute().as_posix()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._known:
            self._known[key] = sha256(file)
            try:
                write_json(self._path, self._known)
            except OSError as error:
                raise CacheError(
                    f"cannot write the cache in {self._path.parent}: {error.strerror or error}",
                    "free some space, or give another cache_dir",
                ) from None
        return self._known[key]


def _temporary(path: Path) -> Path:
    # Short and ASCII whatever the target is called: a long name plus a suffix could be too long.
    return path.with_name(f".{secrets.token_hex(6)}.tmp")
