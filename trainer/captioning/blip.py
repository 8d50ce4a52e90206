"""BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086): a short sentence, fast on anything.

For a first pass over many photographs, and for machines without a card: base has 0.25 billion weights (1 GB; 0.5 GB on
a card), large 0.47 (1.9 GB; 0.9 GB). It says what is there and little more, and it cannot be asked: purpose and length
change nothing but the words for the medium in front, which captions for a style do without.
"""

from __future__ import annotations

from .vision import Vision

CAPTIONER = Vision(
    name="blip",
    description="A short sentence by BLIP: fast, small (1 GB), cannot be asked.",
    models=("Salesforce/blip-image-captioning-base", "Salesforce/blip-image-captioning-large"),
    kinds={"blip": "4.50.3"},
    ask=lambda processor, wish: "",
    takes=("purpose",),
    picture_gb=0.2,
)
