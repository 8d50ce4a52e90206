"""A folder of images and captions as a dataset: scanned, never changed.

``scan`` finds images, captions, masks, buckets and problems; ``load_pixels`` and ``load_mask`` decode one image;
``fingerprint`` tells whether anything changed; ``lint.lint`` says what might be better. How folders are read is told
in ``files``; where captions come from, and which one wins, in ``captions``; how sizes are chosen in ``buckets``.
"""

from __future__ import annotations

from .captions import SOURCES
from .items import KINDS, Dataset, ImageItem, Problem
from .pixels import load_mask, load_pixels
from .scan import MASKS, fingerprint, scan

__all__ = [
    "KINDS",
    "MASKS",
    "SOURCES",
    "Dataset",
    "ImageItem",
    "Problem",
    "fingerprint",
    "load_mask",
    "load_pixels",
    "scan",
]
