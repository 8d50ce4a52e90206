"""Text that cannot be trained on, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.dataset.items import Problem
from trainer.errors import DatasetError
from trainer.text import scan

Put = Callable[[str, str | bytes], Path]
PAIR = '{"prompt": "Hi", "completion": "Hello."}'


def talk(*turns: tuple[str, object]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


EXPECTED = 'expected {"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ...}'
QUESTIONS, ANSWERS = "prompt, instruction, question, query, input", "completion, response, output, answer, target"
#: A line beside one that can be used, its kind, and what is said of it. The second line of the file.
LINES: dict[str, tuple[str, str, str]] = {
    "not JSON": ('{"prompt": "Hi"', "bad-row", "is not JSON: Expecting ',' delimiter (column 16)"),
    "single quotes": (
        "{'prompt': 'Hi'}",
        "bad-row",
        "is not JSON: Expecting property name enclosed in double quotes (column 2)",
    ),
    "a plain line among JSON": ("Hi there", "bad-row", "is not JSON: Expecting value (column 1)"),
    "deep nesting": ("[" * 100_000, "bad-row", "is not JSON that can be read"),
    "a number": ("7", "bad-row", f"{EXPECTED}, got 7"),
    "a list": ('["a"]', "bad-row", f'{EXPECTED}, got ["a"]'),
    "an empty object": ("{}", "bad-row", f"is empty: {EXPECTED}"),
    "other names": ('{"title": "a", "body": "b"}', "bad-row", f"{EXPECTED}, got only 'title', 'body'"),
    "no answer": (
        '{"prompt": "Hi"}',
        "bad-row",
        "has 'prompt' and no answer beside it: expected one of completion, response, output, answer, target",
    ),
    "an answer that is null": (
        '{"prompt": "Hi", "completion": null}',
        "bad-row",
        "has 'prompt' and no answer beside it: expected one of completion, response, output, answer, target",
    ),
    "no question": (
        '{"completion": "Hello."}',
        "bad-row",
        f"has 'completion' and no question beside it: expected one of {QUESTIONS}",
    ),
    "an empty question": (
        '{"prompt": "", "completion": "Hello."}',
        "bad-row",
        f"has 'completion' and no question beside it: expected one of {QUESTIONS}",
    ),
    "an empty answer": ('{"prompt": "Hi", "completion": " "}', "no-answer", "its answer is empty"),
    "an answer that is a list": (
        '{"prompt": "Hi", "completion": ["a"]}',
        "bad-row",
        'message 1: expected {"role": ..., "content": ...}, got "a"',
    ),
    "an answer that is an object": (
        '{"prompt": "Hi", "completion": {"a": 1}}',
        "bad-row",
        'completion: expected text, got {"a": 1}',
    ),
    "an answer that is true": (
        '{"prompt": "Hi", "completion": true}',
        "bad-row",
        "completion: expected text, got true",
    ),
    "an empty text": ('{"text": "  "}', "bad-row", "its text is empty"),
    "a text that is a list": ('{"text": ["a"]}', "bad-row", 'text: expected text, got ["a"]'),
    "half a character": (
        '{"text": "a \\ud83d b"}',
        "bad-row",
        "text: holds half a character (an escape \\ud800 to \\udfff)",
    ),
    "a caption": (
        '{"file_name": "a.png", "text": "a cat"}',
        "bad-row",
        "names a file: its text is a caption; for images choose task_type: image-generation",
    ),
    "a question about an image": (
        '{"image": "a.png", "conversations": [{"from": "human", "value": "<image> Hi"}]}',
        "bad-row",
        "speaks of an image, which is not trained with text",
    ),
    "preferences": (
        '{"chosen": "a", "rejected": "b"}',
        "bad-row",
        "is a pair of a chosen and a rejected answer, which is not trained; name the chosen one answer",
    ),
    "tools": (
        '{"tools": [{"name": "x"}], "prompt": "a", "completion": "b"}',
        "bad-row",
        "uses tools, which are not trained",
    ),
    "messages that are text": ('{"messages": "Hi"}', "bad-row", 'messages: expected a list of messages, got "Hi"'),
    "messages that are an object": (
        '{"messages": {"role": "user"}}',
        "bad-row",
        'messages: expected a list of messages, got {"role": "user"}',
    ),
    "no messages": ('{"messages": []}', "bad-row", f"{EXPECTED}, got only 'messages'"),
    "messages without roles": (
        '{"messages": ["Hi", "Hello."]}',
        "bad-row",
        'message 1: expected {"role": ..., "content": ...}, got "Hi"',
    ),
    "a message without its role": (
        '{"messages": [{"content": "Hi"}]}',
        "bad-row",
        "message 1: has no role, expected system, user or assistant",
    ),
    "an unknown role": (
        talk(("user", "Hi"), ("tool", "x")),
        "bad-row",
        "message 2: the role 'tool' is not trained, expected system, user or assistant",
    ),
    "a message without content": ('{"messages": [{"role": "user"}]}', "bad-row", "message 1: has no content"),
    "a call of a tool": (
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "tool_calls": [{}]}]}',
        "bad-row",
        "message 2: calls a tool, which is not trained",
    ),
    "a picture in a message": (
        talk(("user", [{"type": "image_url"}]), ("assistant", "a")),
        "bad-row",
        'message 1: holds "image_url", expected text alone',
    ),
    "a message that is a number list": (
        talk(("user", [1]), ("assistant", "a")),
        "bad-row",
        "message 1: holds 1, expected text alone",
    ),
    "nobody answers": (talk(("user", "Hi")), "no-answer", "has no message of the assistant's: nothing to learn from"),
    "an empty last answer": (
        talk(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "")),
        "no-answer",
        "its last answer is empty",
    ),
    "history that is text": (
        '{"instruction": "a", "output": "b", "history": ["x"]}',
        "bad-row",
        'history: expected pairs of a question and its answer, got "x"',
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_that_cannot_be_used_is_passed_over_and_told_with_its_number(case: str, put: Put, folder: Path):
    line, kind, message = LINES[case]
    path = put("a.jsonl", f"{PAIR}\n{line}\n{PAIR.replace('Hi', 'Ho')}")
    found = scan(folder)
    assert [sample.source for sample in found.samples] == ["a.jsonl:1", "a.jsonl:3"]
    assert found.problems == (Problem(path, kind, f"line 2: {message}"),)


ORDERS = {
    "two of the user": (
        (("user", "a"), ("user", "b"), ("assistant", "c")),
        "message 2 is the user's, expected the assistant's",
    ),
    "two answers": (
        (("user", "a"), ("assistant", "b"), ("assistant", "c")),
        "message 3 is the assistant's, expected the user's",
    ),
    "an answer first": (
        (("assistant", "a"), ("user", "b"), ("assistant", "c")),
        "message 1 is the assistant's, expected the user's",
    ),
    "a late system": (
        (("user", "a"), ("system", "b"), ("assistant", "c")),
        "message 2 is the system's, expected the assistant's",
    ),
    "a question last": (
        (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")),
        "ends with what the user says, which is not answered",
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_roles_that_do_not_take_turns_are_told_and_kept(case: str, put: Put, folder: Path):
    turns, message = ORDERS[case]
    path = put("a.jsonl", talk(*turns))
    found = scan(folder)
    assert [(turn.role, turn.content) for turn in found.samples[0].messages] == list(turns)
    assert found.problems == (Problem(path, "roles", f"line 1: {message}"),)


def test_items_of_a_list_are_told_by_their_number(put: Put, folder: Path):
    put("a.json", f'[{PAIR}, {{"prompt": "x"}}]')
    assert [str(problem) for problem in scan(folder).problems] == [
        "a.json: item 2: has 'prompt' and no answer beside it: expected one of completion, response, output, answer, "
        "target"
    ]


def test_a_row_of_a_table_is_told_by_the_line_it_begins_in(put: Put, folder: Path):
    put("a.csv", 'prompt,completion\n"two\nlines",b\nonly one\na,b,c\nd,\ne,f\n')
    found = scan(folder)
    assert [sample.source for sample in found.samples] == ["a.csv:2", "a.csv:7"]
    assert [str(problem) for problem in found.problems] == [
        "a.csv: line 4: expected 2 columns, got 1: a text with separators in it stands in double quotes",
        "a.csv: line 5: expected 2 columns, got 3: a text with separators in it stands in double quotes",
        "a.csv: line 6: its answer is empty",
    ]


FORMATS_READ = ".jsonl, .json, .csv, .tsv, or lines in .txt or .md"
PUT = f"Put text ({FORMATS_READ}) into it."
ELSE = f"For images choose task_type: image-generation; else put text ({FORMATS_READ}) into it."
DOUBLE = 'A double quote inside of a quoted text is written twice: "a ""big"" house".'
#: Files, and the error: {} is the folder.
ERRORS: dict[str, tuple[dict[str, str | bytes], str]] = {
    "nothing": ({}, f"{{}}: no text in the folder\n  -> {PUT}"),
    "images": (
        {"a.png": b"x", "a.txt": "a cat", "b/c.jpg": b"x"},
        f"{{}}: holds 2 images and no text, and task_type is text-generation\n  -> {ELSE}",
    ),
    "images with a table": (
        {"a.png": b"x", "metadata.csv": "filename,prompt\na.png,a cat\n"},
        f"{{}}: holds 1 image and no text, and task_type is text-generation\n  -> {ELSE}",
    ),
    "a table of captions alone": (
        {"metadata.csv": "filename,prompt\na.png,a cat\n"},
        "{}/metadata.csv, line 1: is a table of captions of images (column filename)\n"
        "  -> For images choose task_type: image-generation; for text name the columns "
        "prompt,completion.",
    ),
    "files of other kinds": (
        {"a.parquet": b"x"},
        "{}: no text that can be used; passed over:\n"
        f"  - a.parquet: is not read. Save it as {FORMATS_READ}.\n  -> {PUT}",
    ),
    "a run": (
        {"job.yaml": "", "dataset.jsonl": PAIR},
        "{}: is the folder of a run, not of data\n  -> Check train_data_dir.",
    ),
    "no line that can be used": (
        {"a.jsonl": "x\n\n{}"},
        "{}: no text that can be trained on:\n"
        "  - a.jsonl: line 1: is not JSON: Expecting value (column 1)\n"
        '  - a.jsonl: line 3: is empty: expected {{"prompt": ..., "completion": ...}}, '
        '{{"messages": [...]}} or {{"text": ...}}\n'
        f"  -> {PUT}",
    ),
    "an empty file": ({"a.txt": "\n \n"}, f"{{}}: no text that can be trained on:\n  - a.txt: is empty\n  -> {PUT}"),
    "a broken list": (
        {"a.json": '[\n{"text": "a"},\n{"text": }\n]'},
        "{}/a.json, line 3: is not JSON: Expecting value\n  -> Mend it there, or write an object a line (.jsonl).",
    ),
    "zero bytes": ({"a.txt": b"a\0b"}, "{}/a.txt: is not text (it has zero bytes)\n  -> Save it as UTF-8."),
    "a binary file": (
        {"a.jsonl": bytes(range(128, 256)) * 4},
        "{}/a.jsonl: is not UTF-8 text (byte 1)\n  -> Save it as UTF-8.",
    ),
    "a table without names": (
        {"a.csv": "Hi,Hello.\nHo,Hey.\n"},
        "{}/a.csv, line 1: expected a header such as prompt,completion or text, got 'Hi,Hello.'\n"
        "  -> Put the names of the columns into the first line.",
    ),
    "an open quote": (
        {"a.csv": 'prompt,completion\na,b\nc,"d\ne,f\n'},
        "{}/a.csv, line 3: a double quote is opened here and never closed\n  -> " + DOUBLE,
    ),
    "text behind a quote": (
        {"a.csv": 'prompt,completion\na,"b" c\n'},
        "{}/a.csv, line 2: text stands after a closing double quote\n  -> " + DOUBLE,
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_trained_on(case: str, put: Put, folder: Path):
    files, expected = ERRORS[case]
    for name, content in files.items():
        put(name, content)
    with pytest.raises(DatasetError) as caught:
        scan(folder)
    assert str(caught.value) == expected.format(folder)


def test_arguments_that_cannot_be_used(put: Put, folder: Path):
    put("a.txt", "One.")
    put("a.png", b"x")
    put("a.doc", b"x")
    cases: dict[str, tuple[Path, dict[str, object]]] = {
        f"{folder / 'gone'}: the folder does not exist\n  -> Check train_data_dir.": (folder / "gone", {}),
        f"{folder / 'gone.txt'}: the file does not exist\n  -> Check metadata_path, or leave it empty.": (
            folder,
            {"metadata_path": folder / "gone.txt"},
        ),
        f"{folder}: is a folder, expected a file\n  -> Name a file that ends in {FORMATS_READ}.": (
            folder,
            {"metadata_path": folder},
        ),
        f"{folder / 'a.png'}: is an image, expected text\n  -> For images choose task_type: image-generation.": (
            folder / "a.png",
            {},
        ),
        f"{folder / 'a.doc'}: this kind of file is not read, expected {FORMATS_READ}\n"
        f"  -> Save it as {FORMATS_READ}.": (folder, {"metadata_path": folder / "a.doc"}),
        "repeats: expected a whole number of at least 1, got 0": (folder, {"repeats": 0}),
    }
    for expected, (where, options) in cases.items():
        with pytest.raises(DatasetError) as caught:
            scan(where, **options)  # pyright: ignore[reportArgumentType]
        assert str(caught.value) == expected
