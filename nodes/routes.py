"""Every HTTP route of the pack, below ``/darkroom``."""

from __future__ import annotations

from . import estimates, trained
from .host.web import Route

ROUTES: tuple[Route, ...] = (
    Route("GET", "/presets", estimates.presets),
    Route("POST", "/estimate", estimates.answer),
    Route("GET", "/runs", trained.every_run),
    Route("GET", "/runs/{run}", trained.one_run),
)
