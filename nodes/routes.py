"""Every HTTP route of the pack, below ``/darkroom``."""

from __future__ import annotations

from . import dataset, estimates, folders, trained
from .host.web import Route

ROUTES: tuple[Route, ...] = (
    Route("GET", "/presets", estimates.presets),
    Route("POST", "/estimate", estimates.answer),
    Route("POST", "/dataset", dataset.seen),
    Route("POST", "/dataset/new", folders.new),
    Route("POST", "/dataset/discard", folders.discard),
    Route("POST", "/dataset/open", folders.show, local=True),
    Route("GET", "/runs", trained.every_run),
    Route("GET", "/runs/{run}", trained.one_run),
)
