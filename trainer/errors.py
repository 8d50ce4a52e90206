"""Everything that can go wrong, as one tree.

DarkroomError              what happened, and the cure
|-- UserError              the user's mistake: exit code 2, no traceback
|   |-- ConfigError        a config; lists every fault at once
|   |-- DatasetError       a folder of images, its captions
|   |-- CaptionError       writing captions
|   |-- BaseModelError     a base model that is missing, broken or of another kind
|   |-- RunFolderError     a run folder that belongs to another run
|   |-- LoraFileError      a LoRA file that is missing, unknown, or of another model
|   `-- HostError          an input of the graph that cannot be used
`-- RunError               the run failed: exit code 1
    |-- CacheError         the cache of latents and conditioning
    |-- CheckpointError    a checkpoint that cannot be read or written
    |-- ExportError        a LoRA file that would be wrong
    |-- OutOfMemoryError   memory is out, and there is nothing left to give up
    |-- DivergedError      the loss is not finite any more
    `-- WorkerError        the worker process died
"""

from __future__ import annotations

from collections.abc import Sequence


def in_a_line(error: BaseException, most: int = 300) -> str:
    """What an error says, of a library too, in one line of at most so many characters; its type if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class DarkroomError(Exception):
    """Base of all our errors.

    Args:
        message: what happened, naming the thing (field, file, value) and what was expected.
        cure: what the user can do about it, as a sentence; may be empty.
    """

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.cure}" if self.cure else self.message


class UserError(DarkroomError):
    """A mistake that the user can mend; shown without a traceback."""


class ConfigError(UserError):
    """Faults of a config, all of them at once.

    Args:
        problems: one line a fault, each naming its field.
        source: where the config came from, such as a file's name.
    """

    def __init__(self, problems: Sequence[str], source: str = "the config") -> None:
        self.problems = tuple(problems)
        count = "1 fault" if len(self.problems) == 1 else f"{len(self.problems)} faults"
        super().__init__("\n".join([f"{source} has {count}:", *(f"  - {p}" for p in self.problems)]))


class DatasetError(UserError):
    """A dataset that cannot be trained on."""


class CaptionError(UserError):
    """Captions that cannot be written."""


class BaseModelError(UserError):
    """A base model that is missing, broken, or not of a known family."""


class RunFolderError(UserError):
    """A run folder that cannot be used for this run."""


class LoraFileError(UserError):
    """A LoRA file that cannot be used for what was asked."""


class HostError(UserError):
    """An input of the graph that cannot be trained on, or applied."""


class RunError(DarkroomError):
    """The run itself failed."""


class CacheError(RunError):
    """An entry of the cache is missing or broken."""


class CheckpointError(RunError):
    """A checkpoint cannot be written or read."""


class ExportError(RunError):
    """A LoRA file would be wrong: not finite, without effect, or not what was trained."""


class OutOfMemoryError(RunError):
    """Memory is out, and there is nothing left to give up."""


class DivergedError(RunError):
    """The loss is not finite any more."""


class WorkerError(RunError):
    """The worker process ended without saying how."""
