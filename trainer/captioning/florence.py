"""Florence-2 (Xiao et al. 2023, https://arxiv.org/abs/2311.06242): sentences in three lengths, small and exact.

The usual choice where a card has little memory, and good on a CPU too: base has 0.23 billion weights (0.5 GB), large
0.77 (1.6 GB). It knows tasks, not questions: the length chooses one of its three, the purpose changes nothing but the
words for the medium in front, which captions for a style do without.

Microsoft's own folders bring code that would have to be run, and name their weights otherwise; those of
florence-community are the same models for transformers' own class.
"""

from __future__ import annotations

from .base import Length
from .vision import Vision

TASKS: dict[Length, str] = {
    "short": "<CAPTION>",
    "medium": "<DETAILED_CAPTION>",
    "long": "<MORE_DETAILED_CAPTION>",
}

CAPTIONER = Vision(
    name="florence",
    description="One to several sentences by Florence-2: small (1.5 or 3 GB) and exact, cannot be asked.",
    models=(
        "florence-community/Florence-2-base",
        "florence-community/Florence-2-large",
        "florence-community/Florence-2-base-ft",
        "florence-community/Florence-2-large-ft",
    ),
    kinds={"florence2": "4.56"},
    ask=lambda processor, wish: TASKS[wish.length],
    takes=("purpose", "length"),
    picture_gb=0.6,
)
