"""Text as a data set: scanned, never changed; and what of it the model sees.

``scan`` reads plain lines and conversations from files; ``Chat`` makes them tokens, and says on which the loss is;
``lint.lint`` says what might be better. How files are read is told in ``rows``, how their parts may be called in
``messages``.
"""

from __future__ import annotations

from .chat import Chat, Encoded
from .files import looks_like_text
from .items import KINDS, ROLES, Message, Sample, TextDataset
from .scan import fingerprint, scan

__all__ = [
    "KINDS",
    "ROLES",
    "Chat",
    "Encoded",
    "Message",
    "Sample",
    "TextDataset",
    "fingerprint",
    "looks_like_text",
    "scan",
]
