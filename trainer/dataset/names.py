"""Which images a row of a table names.

A filename may be written without suffix (then it means every image of that name), in other case, with ``/`` or
``\\``, and with the folders above it: below the table's folder or the dataset's, absolute, or as they were called
elsewhere (``style_train/10_cat/a.png``). Without a folder it means the table's own one, and if no image there is
called so, the one folder below that has such an image.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from .files import Folder, Listing, fold, stem

Found = tuple[Folder, str]


class AmbiguousName(Exception):
    """Several folders have an image of this name; the message says so."""


class Names:
    """Finds images of a listing by what a table calls them."""

    def __init__(self, listing: Listing) -> None:
        self._root = listing.root
        self._folders = {folder.subset: folder for folder in listing.folders}
        self._folded: dict[str, Folder] = {}
        self._real: dict[str, Folder] = {}
        for folder in listing.folders:
            self._folded.setdefault(fold(folder.subset), folder)
            self._real.setdefault(os.path.realpath(folder.path), folder)
        # The names of a folder by their folded stems, made when it is first looked at.
        self._stems: dict[str, dict[str, list[str]]] = {}
        # Rows that name a folder name few folders, many times.
        self._named: dict[tuple[Path, PurePosixPath], Folder | None] = {}

    def find(self, filename: str, base: Path) -> list[Found]:
        """The images that ``filename`` means in a table of the folder ``base``; none, where it names no image.

        Raises:
            AmbiguousName: it names no folder, and several below have such an image.
        """
        path = PurePosixPath(filename.replace("\\", "/"))
        if not path.name:
            return []
        if path.parent != PurePosixPath("."):
            key = base, path.parent
            if key not in self._named:
                self._named[key] = self._folder(*key)
            folder = self._named[key]
            return self._in(folder, path.name) if folder else []
        # A table that lies elsewhere speaks of the dataset's own folder.
        home = self._real.get(os.path.realpath(base)) or self._folders.get("")
        if home is not None and (found := self._in(home, path.name)):
            return found
        inside = f"{home.subset}/" if home is not None and home.subset else ""
        below = [folder for folder in self._folders.values() if folder.subset.startswith(inside)]
        groups = [found for folder in below if folder is not home and (found := self._in(folder, path.name))]
        if len(groups) > 1:
            shown = ", ".join(f"{folder.subset}/{name}" for (folder, name), *_ in groups[:3])
            more = ", ..." if len(groups) > 3 else ""
            raise AmbiguousName(f"{filename!r} is in several folders ({shown}{more}); write the folder before it")
        return groups[0] if groups else []

    def _folder(self, base: Path, parent: PurePosixPath) -> Folder | None:
        """The folder that ``parent`` means in a table of ``base``."""
        for start in (base, self._root):
            if folder := self._real.get(os.path.realpath(start / parent)):
                return folder
        parts = [part for part in parent.parts if part != "."]
        names = [fold(part) for part in parts]
        # Behind the name of the dataset's folder, wherever that was; else the longest end that is a folder here.
        if fold(self._root.name) in names:
            below = len(names) - names[::-1].index(fold(self._root.name))
            if folder := self._subset(parts[below:]):
                return folder
        ends = (self._subset(parts[start:]) for start in range(len(parts)))
        return next((folder for folder in ends if folder), None)

    def _subset(self, parts: list[str]) -> Folder | None:
        subset = "/".join(parts)
        return self._folders.get(subset) or self._folded.get(fold(subset))

    def _in(self, folder: Folder, name: str) -> list[Found]:
        """The images of a folder that are called ``name``, with or without suffix: exactly, else in other case."""
        stems = self._stems.get(folder.subset)
        if stems is None:
            stems = self._stems[folder.subset] = {}
            for image in folder.images:
                stems.setdefault(fold(stem(image)), []).append(image)
        wanted = fold(name)
        candidates = [*stems.get(wanted, ()), *stems.get(fold(stem(name)), ())]
        exact = [image for image in candidates if name in (image, stem(image))]
        found = exact or [image for image in candidates if wanted in (fold(image), fold(stem(image)))]
        return [(folder, image) for image in dict.fromkeys(found)]
