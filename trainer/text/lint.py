"""What a text data set is, and what might be better about it. Nothing that it finds keeps one from being trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dataset.findings import Finding, counted, of_problems
from ..errors import DatasetError
from .chat import Chat, Encoded
from .items import KINDS, Sample, TextDataset

#: What is found beside the problems of the scan (``items.KINDS``).
FINDINGS = {
    "few-samples": "so few samples that they are soon known by heart",
    "lines-and-talks": "plain lines among conversations",
    "joined": "questions and answers that are joined without anything between",
    "last-answer": "conversations of which the chat template lets only the last answer be trained",
    "long": "samples that are longer than max_length",
    "refused": "conversations that the chat template refuses",
    "same-answer": "one answer to many questions",
    "same-question": "one question with different answers",
}
#: Fewer are learnt by heart before anything is learnt from them; the guide speaks of 50.
FEW = 50
#: An answer that is given to so large a part of all questions is learnt before anything else.
MUCH = 0.3


@dataclass(frozen=True)
class Report:
    """A text data set as it will be trained.

    Attributes:
        root: its folder.
        samples: how many are trained.
        talks: those of them that are conversations; the others are plain lines.
        answers: what the assistant says in them, in all.
        showings: presentations in an epoch.
        files: of which they come, and how many of each.
        tokens: how many each has, in ascending order; empty where no tokenizer was given.
        trained: how many of these the loss is on, in all.
        first: some samples, as people read them.
        findings: what might be better.
    """

    root: Path
    samples: int
    talks: int
    answers: int
    showings: int
    files: tuple[tuple[str, int], ...]
    tokens: tuple[int, ...]
    trained: int
    first: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """How much there is, in a line."""
        parts = []
        if self.talks:
            parts.append(f"{counted(self.talks, 'conversation')} with {counted(self.answers, 'answer')}")
        if lines := self.samples - self.talks:
            parts.append(counted(lines, "plain line"))
        return f"{counted(self.samples, 'sample')}: {', '.join(parts)}"

    def __str__(self) -> str:
        lines = [self.root.as_posix(), f"{self.summary}; {counted(self.showings, 'showing')} an epoch"]
        if self.tokens:
            middle = self.tokens[len(self.tokens) // 2]
            total = sum(self.tokens)
            lines.append(f"tokens: {self.tokens[0]} to {self.tokens[-1]} a sample, half have up to {middle}")
            lines.append(f"loss: on {self.trained:,} of {total:,} tokens ({self.trained / total:.0%})")
        lines.append("files:")
        lines += [f"    {name}  {counted(samples, 'sample')}" for name, samples in self.files]
        lines.append("the first:")
        lines += [f"    {line}" for text in self.first for line in text.splitlines()]
        return "\n".join([*lines, *map(str, self.findings)] if self.findings else [*lines, "nothing to complain of"])


def lint(
    dataset: TextDataset, chat: Chat | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> Report:
    """Looks at a scanned text data set.

    Args:
        dataset: as ``scan`` gave it.
        chat: with it lengths are told, and what the chat template makes of each sample.
        on_progress: called with (samples done, samples in all), while tokens are made.
    """
    samples = dataset.samples
    encoded, refused = _encoded(samples, chat, on_progress)
    files = Counter(sample.source.rpartition(":")[0] for sample in samples)
    return Report(
        root=dataset.root,
        samples=len(samples),
        talks=sum(bool(sample.messages) for sample in samples),
        answers=sum(_answers(sample) for sample in samples),
        showings=sum(sample.repeats for sample in samples),
        files=tuple(files.items()),
        tokens=tuple(sorted(len(one.ids) + one.cut for _, one in encoded)),
        trained=sum(one.trained for _, one in encoded),
        first=tuple(shown(sample) for sample in samples[:3]),
        findings=(
            *of_problems(dataset.problems, KINDS),
            *_amount(samples),
            *_kinds(samples),
            *_same_question(samples),
            *_same_answer(samples),
            *_refused(refused),
            *(_lengths(encoded, chat) if chat is not None else ()),
            *_last_answers(encoded),
            *(_joined(samples) if chat is not None and chat.raw else ()),
        ),
    )


def shown(sample: Sample, most: int = 100) -> str:
    """A sample as people read it: a line a turn, each cut to so many characters."""

    def cut(text: str) -> str:
        text = " ".join(text.split())
        return text if len(text) <= most else f"{text[: most - 3]}..."

    if not sample.messages:
        return f"- {cut(sample.text)}"
    turns = [f"{message.role}: {cut(message.content)}" for message in sample.messages]
    return "\n  ".join([f"- {turns[0]}", *turns[1:]])


def _answers(sample: Sample) -> int:
    return sum(message.role == "assistant" for message in sample.messages)


_Encodings = list[tuple[Sample, Encoded]]


def _encoded(
    samples: Sequence[Sample], chat: Chat | None, on_progress: Callable[[int, int], None] | None
) -> tuple[_Encodings, list[DatasetError]]:
    """The tokens of every sample, and the errors of those that have none."""
    found: _Encodings = []
    errors: list[DatasetError] = []
    for done, sample in enumerate(samples if chat is not None else (), start=1):
        assert chat is not None
        try:
            found.append((sample, chat.encode(sample)))
        except DatasetError as error:
            errors.append(error)
        if on_progress is not None:
            on_progress(done, len(samples))
    return found, errors


def _amount(samples: Sequence[Sample]) -> Iterator[Finding]:
    different = len({sample.content for sample in samples})
    if different < FEW:
        told = counted(different, "different sample")
        advice = f"{FEW} to 200 good ones of one kind are advised; the fewer, the sooner they are known by heart"
        yield Finding("few-samples", f"{told}: {advice}")


def _kinds(samples: Sequence[Sample]) -> Iterator[Finding]:
    lines = [sample for sample in samples if not sample.messages]
    if lines and len(lines) < len(samples):
        message = f"{counted(len(lines), 'plain line')} among conversations: of these the loss is on all, questions too"
        yield Finding("lines-and-talks", message, tuple(sample.source for sample in lines))


def _same_question(samples: Sequence[Sample]) -> Iterator[Finding]:
    asked: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.messages:
            asked.setdefault(sample.question.strip().casefold(), []).append(sample)
    torn = [those for those in asked.values() if len({sample.answer.strip() for sample in those}) > 1]
    if torn:
        lines = tuple(f"{', '.join(one.source for one in those[:5])}: {_last(those[0])}" for those in torn)
        message = f"{counted(len(torn), 'question')} with different answers: the model learns to mix them"
        yield Finding("same-question", message, lines)


def _same_answer(samples: Sequence[Sample]) -> Iterator[Finding]:
    talks = [sample for sample in samples if sample.messages]
    if len({sample.content for sample in talks}) < 3:
        return
    (answer, times), *_ = Counter(sample.answer.strip() for sample in talks).most_common(1)
    if times > 1 and times > MUCH * len(talks):
        what = "all questions have" if times == len(talks) else f"{times} of {len(talks)} questions have"
        yield Finding("same-answer", f"{what} the same answer: it is all that will be learnt", (_short(answer),))


def _refused(errors: Sequence[DatasetError]) -> Iterator[Finding]:
    if errors:
        message = f"{counted(len(errors), 'conversation')} that the chat template cannot write. {errors[0].cure}"
        yield Finding("refused", message, tuple(error.message for error in errors))


def _lengths(encoded: _Encodings, chat: Chat) -> Iterator[Finding]:
    long = [(sample, one) for sample, one in encoded if one.cut]
    if long:
        long.sort(key=lambda pair: -pair[1].cut)
        lines = tuple(f"{sample.source}: {len(one.ids) + one.cut} tokens" for sample, one in long)
        message = f"{len(long)} longer than max_length, {chat.max_length} tokens: the front is cut away, answers stay"
        yield Finding("long", message, lines)


def _last_answers(encoded: _Encodings) -> Iterator[Finding]:
    only = [sample for sample, one in encoded if not one.cut and len(one.answers) < min(2, _answers(sample))]
    if only:
        message = f"{counted(len(only), 'conversation')} of which only the last answer is trained: the chat template "
        message += "writes an answer otherwise once it is history"
        yield Finding("last-answer", message, tuple(sample.source for sample in only))


def _joined(samples: Sequence[Sample]) -> Iterator[Finding]:
    touching = [
        sample
        for sample in samples
        for before, after in zip(sample.messages[:-1], sample.messages[1:], strict=True)
        if after.role == "assistant" and before.content[-1:].strip() and after.content[:1].strip()
    ]
    if touching:
        message = (
            f"{counted(len(touching), 'answer')} joined to the question without a blank, as there is no chat template"
        )
        yield Finding("joined", message, tuple(dict.fromkeys(sample.source for sample in touching)))


def _last(sample: Sample) -> str:
    return _short(sample.messages[-2].content if len(sample.messages) > 1 else "")


def _short(text: str) -> str:
    return repr(text[:60] + ("..." if len(text) > 60 else ""))
