"""A row of data, by the names that data sets give its parts, as a plain text or a conversation.

In this order: ``messages`` or ``conversations`` (OpenAI's and ShareGPT's), a question and its answer (``prompt`` and
``completion``, Alpaca's ``instruction``, ``input`` and ``output``, and the like), ``text``. Further parts are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .items import Message

TALKS = ("messages", "conversations", "conversation", "dialogue")
QUESTIONS = ("prompt", "instruction", "question", "query", "input")
ANSWERS = ("completion", "response", "output", "answer", "target")
TEXTS = ("text", "content")
#: Names by which a table can be told from one of anything else.
NAMES = frozenset({*TALKS, *QUESTIONS, *ANSWERS, *TEXTS})
#: What a row of a table of captions names its image by.
IMAGES = frozenset({"file_name", "filename", "image", "images", "file"})

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
_EXAMPLE = 'expected {"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}'


class Fault(Exception):
    """Why a row cannot be used; the message is one line."""


class NoAnswer(Fault):
    """A conversation without an answer."""


def read(row: Any) -> str | tuple[Message, ...]:
    """A plain text, or the messages of a conversation.

    Raises:
        Fault: it is neither.
    """
    if isinstance(row, str):
        return _text("text", row)
    if not isinstance(row, dict):
        raise Fault(f"{_EXAMPLE}, got {_shown(row)}")
    parts = {str(name).strip().casefold(): value for name, value in row.items() if value is not None}
    if parts.get("tools"):
        raise Fault("uses tools, which are not trained")
    if any(_given(parts.get(name)) for name in ("image", "images")):
        raise Fault("speaks of an image, which is not trained with text")
    for name in TALKS:
        if _given(parts.get(name)):
            return _conversation(name, parts)
    answer = next((name for name in ANSWERS if name in parts), None)
    question = next((name for name in QUESTIONS if _given(parts.get(name))), None)
    if answer is not None and question is not None:
        return _pair(question, answer, parts)
    if any(_given(parts.get(name)) for name in IMAGES):
        raise Fault("names a file: its text is a caption; for images choose task_type: image-generation")
    for name in TEXTS:
        if name in parts:
            return _text(name, parts[name])
    if "chosen" in parts:
        raise Fault("is a pair of a chosen and a rejected answer, which is not trained; name the chosen one answer")
    if answer is not None:
        raise Fault(f"has {answer!r} and no question beside it: expected one of {', '.join(QUESTIONS)}")
    if question is not None:
        raise Fault(f"has {question!r} and no answer beside it: expected one of {', '.join(ANSWERS)}")
    if not parts:
        raise Fault(f"is empty: {_EXAMPLE}")
    raise Fault(f"{_EXAMPLE}, got only {', '.join(map(repr, list(parts)[:5]))}")


def order(messages: tuple[Message, ...]) -> str:
    """What is wrong with the order of a conversation's roles: expected are system (or not), then user and assistant
    by turns. ``""`` where nothing is.
    """
    start = 1 if messages[0].role == "system" else 0
    expected = "user"
    for number, message in enumerate(messages[start:], start=start + 1):
        if message.role != expected:
            return f"message {number} is the {message.role}'s, expected the {expected}'s"
        expected = "assistant" if expected == "user" else "user"
    return "" if expected == "user" else "ends with what the user says, which is not answered"


def _conversation(name: str, parts: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = _system(parts) + _messages(name, parts[name])
    return _answered(messages)


def _pair(question: str, answer: str, parts: Mapping[str, Any]) -> tuple[Message, ...]:
    system = _system(parts)
    asked, said = parts[question], parts[answer]
    # A question and an answer that are messages themselves, as TRL has them.
    if isinstance(asked, list) or isinstance(said, list):
        before = _messages(question, asked) if isinstance(asked, list) else (Message("user", _text(question, asked)),)
        after = _messages(answer, said) if isinstance(said, list) else (Message("assistant", _text(answer, said)),)
        return _answered(system + before + after)
    text = _text(question, asked)
    if question == "instruction" and _given(more := parts.get("input")):
        text = f"{text}\n{_text('input', more)}"
    return _answered((*system, *_history(parts), Message("user", text), Message("assistant", _text(answer, said))))


def _history(parts: Mapping[str, Any]) -> tuple[Message, ...]:
    """Earlier turns, as pairs of a question and its answer."""
    found: list[Message] = []
    for pair in parts.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise Fault(f"history: expected pairs of a question and its answer, got {_shown(pair)}")
        found += [Message("user", _text("history", pair[0])), Message("assistant", _text("history", pair[1]))]
    return tuple(found)


def _system(parts: Mapping[str, Any]) -> tuple[Message, ...]:
    value = next((parts[name] for name in ("system", "system_prompt") if _given(parts.get(name))), None)
    return () if value is None else (Message("system", _text("system", value)),)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):  # in a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Fault(f"{name}: expected a list of messages, got {_shown(value)}") from None
    if not isinstance(value, list):
        raise Fault(f"{name}: expected a list of messages, got {_shown(value)}")
    return tuple(_message(number, entry) for number, entry in enumerate(value, start=1))


def _message(number: int, entry: Any) -> Message:
    what = f"message {number}"
    if not isinstance(entry, dict):
        raise Fault(f'{what}: expected {{"role": ..., "content": ...}}, got {_shown(entry)}')
    given = entry.get("role", entry.get("from"))
    if given is None:
        raise Fault(f"{what}: has no role, expected system, user or assistant")
    role = _ROLES.get(str(given).strip().casefold())
    if role is None:
        raise Fault(f"{what}: the role {str(given)[:40]!r} is not trained, expected system, user or assistant")
    if entry.get("tool_calls") or entry.get("function_call"):
        raise Fault(f"{what}: calls a tool, which is not trained")
    content = entry.get("content", entry.get("value"))
    if content is None:
        raise Fault(f"{what}: has no content")
    if isinstance(content, list):  # parts, as for models that also see
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                kind = part.get("type") if isinstance(part, dict) else part
                raise Fault(f"{what}: holds {_shown(kind)}, expected text alone")
        content = "".join(_text(what, part.get("text")) for part in content)
    return Message(role, _text(what, content))


def _answered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not messages:
        raise Fault("has no messages")
    if not any(message.role == "assistant" and message.content.strip() for message in messages):
        asked = any(message.role == "assistant" for message in messages)
        raise NoAnswer("its answer is empty" if asked else "has no message of the assistant's: nothing to learn from")
    if not messages[-1].content.strip() and messages[-1].role == "assistant":
        raise NoAnswer("its last answer is empty")
    return messages


def _given(value: Any) -> bool:
    return value is not None and value != "" and value != []


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Fault(f"{name}: expected text, got {_shown(value)}")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Fault(f"{name}: holds half a character (an escape \\ud800 to \\udfff)")
    return text


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
