"""Every HTTP route of the pack, below ``/darkroom``."""

from __future__ import annotations

from .host.web import Route

ROUTES: tuple[Route, ...] = ()
