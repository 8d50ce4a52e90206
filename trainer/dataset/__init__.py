"""A folder of images and captions as a dataset: scanned, never changed.

``scan`` finds images, captions, buckets and problems; ``load_pixels`` decodes one image; ``fingerprint``
tells whether anything changed. Where captions come from, and which one wins, is told in ``captions``; how
sizes are chosen in ``buckets``.
"""

from __future__ import annotations

from .items import KINDS, Dataset, ImageItem, Problem
from .pixels import load_pixels
from .scan import fingerprint, scan

__all__ = ["KINDS", "Dataset", "ImageItem", "Problem", "fingerprint", "load_pixels", "scan"]
