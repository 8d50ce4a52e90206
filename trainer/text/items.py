"""What a scanned text data set is made of. Plain, frozen values; no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..dataset.items import Problem

ROLES = ("system", "user", "assistant")
#: Every kind of problem, and what becomes of the file or the line that has it.
KINDS = {
    "bad-row": "a line or a row that cannot be read; it is passed over",
    "caption": "a caption file or a table of captions of the images beside it; it is passed over",
    "duplicate": "the same text as an earlier sample; both are trained",
    "empty": "a file without text; it is passed over",
    "images": "images in a folder of text; they are passed over",
    "link-loop": "a link to a folder that is read already; it is passed over",
    "no-answer": "a conversation without an answer to learn from; it is passed over",
    "not-data": "a file that tells about the data, such as README.md; it is passed over",
    "other-encoding": "a file that is not UTF-8; it is read as what it seems to be",
    "roles": "a conversation whose roles do not take turns; it is trained as it is, where the chat template takes it",
    "run-folder": "the folder of a training run inside the data set; it is passed over",
    "unreadable": "a file or folder that cannot be read; it is passed over",
    "unsupported": "a kind of file that cannot be read in this version; it is passed over",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. ``role`` is one of ``ROLES``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One text as it will be trained: a plain line, or a conversation.

    Attributes:
        id: 32 hex digits, of its content. The second sample with the same content has ``-2`` after it, the third
            ``-3``.
        source: file and line (``answers.jsonl:17``), for messages to people; in a list of JSON the number of the item.
        text: a plain line; ``""`` for a conversation. The loss is on all of it.
        messages: the conversation; ``()`` for a plain line. The loss is on what the assistant says.
        repeats: how often it is seen in an epoch.
    """

    id: str
    source: str
    text: str = ""
    messages: tuple[Message, ...] = ()
    repeats: int = 1

    @property
    def content(self) -> str:
        """The id without the mark of a duplicate."""
        return self.id.partition("-")[0]

    @property
    def question(self) -> str:
        """What comes before the last answer, for comparisons; ``""`` for a plain line."""
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages[:-1])

    @property
    def answer(self) -> str:
        """The last answer; of a plain line, the line."""
        return self.messages[-1].content if self.messages else self.text


@dataclass(frozen=True)
class TextDataset:
    """A folder of text, scanned. ``samples`` and ``problems`` have a deterministic order."""

    root: Path
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
