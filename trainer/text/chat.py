"""What a language model sees of a sample: its tokens, and on which of them the loss is.

A plain line is its tokens and the end of the sequence, with loss on all. Of a conversation the loss is on what the
assistant says, the end of its turn included: the model learns to answer, and to stop, not to ask. Where a chat template
marks its answers (``{% generation %}``), those marks count. Where it does not, an answer is what is added to the
rendering of everything before it, *if* that is how the template works, which is looked at for every answer of every
sample. Qwen3's, for one, drops the thinking from all but the last: then that one is trained on alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BaseModelError, ConfigError, DatasetError, in_a_line
from ..files import digest
from .items import Message, Sample

RAW = "none"
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Templates that write today's date write this one: the same data are the same tokens on every day. It is what Llama
# 3.2's template says by itself.
_TODAY, _NOW = date(2024, 7, 26), re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_CURE = "Give a chat_template with {% generation %} marks around the answers, or chat_template: none."


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as tokens.

    Attributes:
        ids: at most ``max_length`` of them.
        answers: half-open ranges of ``ids`` that the loss is on, in order; at least one, none empty.
        cut: tokens that were cut away.
    """

    ids: tuple[int, ...]
    answers: tuple[tuple[int, int], ...]
    cut: int = 0

    @property
    def trained(self) -> int:
        """How many tokens the loss is on."""
        return sum(end - start for start, end in self.answers)


class Chat:
    """Makes samples tokens, as one tokenizer and one chat template have it.

    Args:
        tokenizer: of transformers.
        template: ``""`` the tokenizer's own (without one: raw text); ``none`` raw text, question and answer joined as
            they are; else a template in Jinja, or the path of a file with one.
        max_length: the most tokens of a sample.

    Raises:
        ConfigError: the template cannot be read, or does not write what is said.
        BaseModelError: the tokenizer has no end of a sequence.
    """

    def __init__(self, tokenizer: Any, template: str = "", max_length: int = 1024) -> None:
        self.tokenizer = tokenizer
        self.template = _NOW.sub(lambda call: repr(_TODAY.strftime(call[2])), _template(tokenizer, template))
        self.max_length = max_length
        if tokenizer.eos_token_id is None:
            raise BaseModelError(
                "the tokenizer has no token for the end of a text (eos_token)", "Name one in tokenizer_config.json."
            )
        self._eos = int(tokenizer.eos_token_id)
        # What the tokenizer puts in front of any text: the BOS of LLaMA, Mistral and Gemma.
        bare, dressed = self._bare("a"), [int(token) for token in tokenizer("a")["input_ids"]]
        front = len(dressed) - len(bare)
        self._front: tuple[int, ...] = (
            tuple(dressed[: dressed.index(bare[0])]) if bare and front > 0 and bare[0] in dressed else ()
        )

        # Templates of models that also see may want a content in parts.
        self._in_parts = False
        if not self.raw and not self._writes_what_is_said():
            self._in_parts = True
            if not self._writes_what_is_said():
                raise ConfigError(["chat_template: leaves out what the messages say; give another one, or none"])

    @property
    def raw(self) -> bool:
        """Whether there is no template."""
        return not self.template

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits of everything that ``encode`` depends on beside the sample."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            content: Any = sorted(self.tokenizer.get_vocab().items())
        else:
            content = json.loads(backend.to_str())
            for passing in ("truncation", "padding"):  # of the last call
                content.pop(passing, None)
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return digest(content, special, self.template, self.max_length)

    def encode(self, sample: Sample) -> Encoded:
        """The tokens of a sample.

        What is longer than ``max_length`` loses its front: the end of an answer stays, as long as the last answer by
        itself is not longer.

        Raises:
            DatasetError: the template refuses the sample, or does not tell which tokens are the answer's.
        """
        if not sample.messages:
            ids = [*self._front, *self._bare(sample.text), self._eos]
            return self._cut(sample, ids, [(0, len(ids))])
        if self.raw:
            return self._cut(sample, *self._raw(sample.messages))
        if _MARKS.search(self.template):
            ids, answers = self._marked(sample)
        else:
            ids, answers = self._by_prefixes(sample)
        if not any(end > start for start, end in answers):
            raise DatasetError(f"{sample.source}: the chat template leaves no token of an answer to train on", _CURE)
        return self._cut(sample, ids, answers)

    def question(self, asked: str | Sequence[Message]) -> tuple[int, ...]:
        """The tokens that an answer is generated after: a question, or a conversation that ends with one.

        Raises:
            DatasetError: the template refuses it.
        """
        messages = [Message("user", asked)] if isinstance(asked, str) else list(asked)
        if self.raw:
            ids, ranges = self._raw([*messages, Message("assistant", "")])
            return tuple(ids[: ranges[-1][0]])
        try:
            return tuple(self._ids(self._rendered(messages, answer=True)))
        except _Refused as refusal:
            raise DatasetError(f"the chat template refuses the question: {refusal}") from None

    def _bare(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _begun(self, ids: list[int]) -> tuple[list[int], int]:
        """Tokens that begin as the tokenizer begins a text, exactly once; and how many were put in front."""
        if not self._front or tuple(ids[: len(self._front)]) == self._front:
            return ids, 0
        return [*self._front, *ids], len(self._front)

    def _ids(self, rendered: str) -> list[int]:
        return self._begun(self._bare(rendered))[0]

    def _rendered(self, messages: Sequence[Message], answer: bool = False) -> str:
        return self._apply(messages, add_generation_prompt=answer, tokenize=False)

    def _writes_what_is_said(self) -> bool:
        """Whether the template writes a question and its answer out; ``True`` too where it refuses both forms."""
        words = "qwq", "ava"
        try:
            text = self._rendered([Message("user", words[0]), Message("assistant", words[1])])
        except _Refused:
            return self._in_parts
        return all(word in text for word in words)

    def _apply(self, messages: Sequence[Message], **how: Any) -> Any:
        plain = [
            {
                "role": message.role,
                "content": [{"type": "text", "text": message.content}] if self._in_parts else message.content,
            }
            for message in messages
        ]
        try:
            return self.tokenizer.apply_chat_template(plain, chat_template=self.template, **how)
        except Exception as error:  # a template may raise whatever it likes
            raise _Refused(in_a_line(error)) from None

    def _raw(self, messages: Sequence[Message]) -> tuple[list[int], list[tuple[int, int]]]:
        """Texts joined as they are, with the end of the sequence after every answer."""
        ids = list(self._front)
        answers: list[tuple[int, int]] = []
        before = ""
        for message in messages:
            if message.role != "assistant":
                before += message.content
                continue
            asked, whole = self._bare(before), self._bare(before + message.content)
            # A token that holds the end of the question and the beginning of the answer is the answer's.
            start = len(ids) + _common(asked, whole)
            ids += [*whole, self._eos]
            answers.append((start, len(ids)))
            before = ""
        return ids, answers

    def _marked(self, sample: Sample) -> tuple[list[int], list[tuple[int, int]]]:
        """By the template's own marks."""
        try:
            found: Mapping[str, Any] = self._apply(
                sample.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
        except _Refused as refusal:
            raise _refused(sample, refusal) from None
        ids, front = self._begun(list(found["input_ids"]))
        mask = [0] * front + list(found["assistant_masks"])
        edges = [i for i in range(len(ids) + 1) if (mask[i] if i < len(ids) else 0) != (mask[i - 1] if i else 0)]
        return ids, list(zip(edges[::2], edges[1::2], strict=True))

    def _by_prefixes(self, sample: Sample) -> tuple[list[int], list[tuple[int, int]]]:
        """By what each answer adds to the rendering of everything before it."""
        messages = sample.messages
        try:
            whole = self._rendered(messages)
        except _Refused as refusal:
            raise _refused(sample, refusal) from None
        ids = self._ids(whole)
        answers: list[tuple[int, int]] = []
        last = max(number for number, message in enumerate(messages) if message.role == "assistant")
        for number in (number for number, message in enumerate(messages) if message.role == "assistant"):
            found = self._added(messages[: number + 1], whole, ids, number == len(messages) - 1)
            if found is not None:
                answers.append(found)
            elif number == last:
                raise DatasetError(
                    f"{sample.source}: the chat template does not tell which tokens are the answer's: with the answer "
                    "it writes the question otherwise than before it",
                    _CURE,
                )
        return ids, answers

    def _added(self, messages: Sequence[Message], whole: str, ids: list[int], last: bool) -> tuple[int, int] | None:
        """The range of the last of ``messages``, if what is before it and what is up to its end both begin the whole.

        That holds for the text. Tokens may differ where an answer begins with a blank or a line break: one that holds
        the end of the question and the beginning of the answer is the answer's.
        """
        try:
            before = self._rendered(messages[:-1], answer=True)
            after = whole if last else self._rendered(messages)
        except _Refused:
            return None
        if not after.startswith(before) or not whole.startswith(after):
            return None
        start = _common(self._ids(before), ids)
        end = len(ids) if last else _common(self._ids(after), ids)
        # Templates end a turn with a line break after its last token: that is the template's, not the answer's.
        stop = end
        while stop > start and not self.tokenizer.decode(ids[stop - 1 : stop]).strip():
            stop -= 1
        return start, stop if stop > start and ids[stop - 1] in self._special else end

    @cached_property
    def _special(self) -> frozenset[int]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(self.tokenizer.all_special_ids) | frozenset(added)

    def _cut(self, sample: Sample, ids: list[int], answers: list[tuple[int, int]]) -> Encoded:
        """At most ``max_length`` tokens."""
        answers = [(start, end) for start, end in answers if end > start]
        most = self.max_length
        if len(ids) <= most:
            return Encoded(tuple(ids), tuple(answers))
        # A beginning that the tokenizer puts before every text stays.
        front = len(self._front) if tuple(ids[: len(self._front)]) == self._front else 0
        room = most - front
        start, end = answers[-1]
        start = max(start, front)
        if end - start <= room:
            first = end - room
        else:
            # The answer alone is too long: its beginning, after as much of the question as half of the room holds.
            first = max(front, start - room // 2)
            end = first + room
        kept = [*ids[:front], *ids[first:end]]
        moved = first - front
        within = [(max(a, first) - moved, min(b, end) - moved) for a, b in answers if b > first and a < end]
        if not sample.messages:
            within = [(0, len(kept))]
        return Encoded(tuple(kept), tuple(within), len(ids) - len(kept))


class _Refused(Exception):
    """What a template said, in a line."""


def _refused(sample: Sample, refusal: _Refused) -> DatasetError:
    return DatasetError(
        f"{sample.source}: the chat template refuses this conversation: {refusal}",
        "Mend it, remove it, or give another chat_template (none: without one).",
    )


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two texts have in common, from their beginning."""
    count = min(len(one), len(other))
    if one[:count] == other[:count]:
        return count
    count = 0
    while one[count] == other[count]:
        count += 1
    return count


def _template(tokenizer: Any, given: str) -> str:
    """The template's text; ``""`` for raw text."""
    if given == RAW:
        return ""
    if not given:
        own = tokenizer.chat_template
        if isinstance(own, Mapping):
            own = own.get("default", "")
        return own or ""
    if "{" in given:
        text, where = given, "chat_template"
    else:
        path = Path(given).expanduser()
        where = f"chat_template: {path}"
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            expected = "expected none, a template in Jinja, or the path of one"
            raise ConfigError([f"{where}: cannot be read ({error.strerror}); {expected}"]) from None
        except UnicodeDecodeError:
            raise ConfigError([f"{where}: is not UTF-8 text"]) from None
        if path.suffix.lower() == ".json":
            text = _of_json(where, text)
    if "{{" not in text and "{%" not in text:
        raise ConfigError([f"{where}: is no template in Jinja: it has neither {{{{ nor {{%"])
    return text


def _of_json(where: str, text: str) -> str:
    """The template of a tokenizer_config.json."""
    try:
        found = json.loads(text)["chat_template"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise ConfigError([f"{where}: has no chat_template"])
    return found
