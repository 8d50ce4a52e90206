"""Writes captions for a folder of images. ``label`` does it; each captioner is one file, found by its name."""

from __future__ import annotations

from .base import Captioner
from .label import FORMATS, MODES, Report, label
from .registry import all_captioners, get, names

__all__ = ["FORMATS", "MODES", "Captioner", "Report", "all_captioners", "get", "label", "names"]
