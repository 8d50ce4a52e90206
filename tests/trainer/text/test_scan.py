from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.dataset.items import Problem
from trainer.errors import DatasetError
from trainer.text import Message, Sample, fingerprint, looks_like_text, scan

Put = Callable[[str, str | bytes], Path]
PAIR = '{"prompt": "Hi", "completion": "Hello."}'
SAID = (Message("user", "Hi"), Message("assistant", "Hello."))


def contents(folder: Path, **options: object) -> list[str | tuple[Message, ...]]:
    found = scan(folder, **options)  # pyright: ignore[reportArgumentType]
    assert not found.problems, list(map(str, found.problems))
    return [sample.messages or sample.text for sample in found.samples]


#: Name of a file, its text, and what it says.
FORMATS: dict[str, tuple[str, str, list[str | tuple[Message, ...]]]] = {
    "lines": (
        "a.txt",
        "One.\n\n  Two, after a blank line.  \r\nThree.",
        ["One.", "Two, after a blank line.", "Three."],
    ),
    "lines of Markdown": ("a.md", "# One\n- two", ["# One", "- two"]),
    "line ends of old Macs": ("a.txt", "One.\rTwo.", ["One.", "Two."]),
    "a line with a line separator in it": ("a.txt", "One\u2028still one.\nTwo.", ["One\u2028still one.", "Two."]),
    "prompt and completion": ("a.jsonl", PAIR, [SAID]),
    "a list of JSON": (
        "a.json",
        f"[\n {PAIR},\n {PAIR.replace('Hi', 'Ho')}\n]",
        [SAID, (Message("user", "Ho"), SAID[1])],
    ),
    "one object of JSON": ("a.json", json.dumps(json.loads(PAIR), indent=2), [SAID]),
    "a list in an object": ("a.json", f'{{"version": 1, "data": [{PAIR}]}}', [SAID]),
    "a list under another name": ("a.jsonl", f"[{PAIR}]", [SAID]),
    "lines under another name": (
        "a.json",
        f"{PAIR}\n{PAIR.replace('Hi', 'Ho')}\n",
        [SAID, (Message("user", "Ho"), SAID[1])],
    ),
    "blank lines between": ("a.jsonl", f"\n{PAIR}\r\n\r\n", [SAID]),
    "a byte-order mark": ("a.jsonl", "\ufeff" + PAIR, [SAID]),
    "Alpaca": ("a.json", '[{"instruction": "Hi", "input": "", "output": "Hello."}]', [SAID]),
    "Alpaca with an input": (
        "a.json",
        '[{"instruction": "Say it", "input": "x", "output": "X"}]',
        [(Message("user", "Say it\nx"), Message("assistant", "X"))],
    ),
    "history and system": (
        "a.json",
        '[{"system": "Be kind.", "instruction": "Ho", "output": "Hey.", "history": [["Hi", "Hello."]]}]',
        [(Message("system", "Be kind."), *SAID, Message("user", "Ho"), Message("assistant", "Hey."))],
    ),
    "question and answer": ("a.jsonl", '{"question": "Hi", "answer": "Hello.", "id": 7}', [SAID]),
    "names in other case": ("a.jsonl", '{"Prompt": "Hi", "Response": "Hello."}', [SAID]),
    "messages": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}',
        [SAID],
    ),
    "messages in parts": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "H"},'
        ' {"type": "text", "text": "i"}]}, {"role": "assistant", "content": "Hello."}]}',
        [SAID],
    ),
    "ShareGPT": (
        "a.json",
        '[{"id": "x", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}]',
        [SAID],
    ),
    "ShareGPT with a system": (
        "a.json",
        '[{"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"},'
        ' {"from": "gpt", "value": "Hello."}]}]',
        [(Message("system", "Be kind."), *SAID)],
    ),
    "prompt and completion as messages": (
        "a.jsonl",
        '{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello."}]}',
        [SAID],
    ),
    "text": ("a.jsonl", '{"text": " One. "}', ["One."]),
    "texts without names": ("a.json", '["One.", "Two."]', ["One.", "Two."]),
    "a table": (
        "a.csv",
        'prompt,completion\nHi,Hello.\n"Ho, ho","He said ""Hey"".\nTwice."\n',
        [SAID, (Message("user", "Ho, ho"), Message("assistant", 'He said "Hey".\nTwice.'))],
    ),
    "semicolons and CRLF": ("a.csv", "\ufeffprompt;completion\r\nHi;Hello.\r\n;;\r\n", [SAID]),
    "tabs": ("a.tsv", "question\tanswer\nHi\tHello.\n", [SAID]),
    "one column": ("a.csv", "text\nOne\nTwo\n", ["One", "Two"]),
    "further columns": ("a.csv", "id,completion,prompt,file\n1,Hello.,Hi,x\n", [SAID]),
    "messages in a table": (
        "a.csv",
        'id,messages\n1,"[{""role"": ""user"", ""content"": ""Hi""}, '
        '{""role"": ""assistant"", ""content"": ""Hello.""}]"\n',
        [SAID],
    ),
    "numbers": (
        "a.jsonl",
        '{"prompt": "2 + 2", "completion": 4}',
        [(Message("user", "2 + 2"), Message("assistant", "4"))],
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_what_is_read(case: str, put: Put, folder: Path):
    name, text, expected = FORMATS[case]
    put(name, text)
    assert contents(folder) == expected


def test_samples_are_named_by_their_content_and_know_their_place(put: Put, folder: Path):
    put("b.jsonl", f"{PAIR}\n\n{PAIR}\n")
    put("10_a/a.txt", "One.\n")
    found = scan(folder, repeats=2)
    one, two, three = found.samples
    assert [sample.source for sample in found.samples] == ["b.jsonl:1", "b.jsonl:3", "10_a/a.txt:1"]
    assert (two.id, two.content) == (f"{one.id}-2", one.id)
    assert [len(sample.content) for sample in found.samples] == [32] * 3
    assert [sample.repeats for sample in found.samples] == [2, 2, 20]
    assert [str(problem) for problem in found.problems] == [
        "b.jsonl: line 3: says the same as b.jsonl:1; both are trained"
    ]
    put("b.jsonl", PAIR)
    assert scan(folder).samples[0].id == one.id
    assert three == Sample(three.id, "10_a/a.txt:1", "One.", (), 20)


def test_a_named_file_is_read_alone(put: Put, folder: Path, tmp_path: Path):
    put("a.txt", "One.")
    put("b.txt", "Two.")
    assert contents(folder, metadata_path=folder / "b.txt") == ["Two."]
    assert contents(folder / "a.txt") == ["One."]
    # The template names it, whether it is there or not.
    assert contents(folder, metadata_path=folder / "metadata.csv") == ["One.", "Two."]
    put("metadata.csv", "text\nThree.")
    assert contents(folder, metadata_path=folder / "metadata.csv") == ["Three."]


def test_the_fingerprint_changes_with_what_is_read(put: Put, folder: Path):
    put("a.txt", "One.")
    before = fingerprint(folder)
    put("notes.log", "not read")
    assert fingerprint(folder) == before
    put("b.txt", "Two.")
    assert fingerprint(folder) != before
    assert fingerprint(folder, folder / "a.txt") != fingerprint(folder)


TOLD: dict[str, tuple[dict[str, str | bytes], str]] = {
    "a hidden file": ({".b.txt": "x"}, ""),
    "a hidden folder": ({".git/b.txt": "x", "__MACOSX/b.txt": "x"}, ""),
    "a run inside": ({"run/job.yaml": "x", "run/dataset.jsonl": PAIR}, "run: is the folder of a run"),
    "a README": ({"README.md": "x"}, "README.md: tells about the data, by its name"),
    "a table of a spreadsheet": ({"b.xlsx": b"x"}, "b.xlsx: is not read. Save it as CSV UTF-8."),
    "a parquet file": (
        {"b.parquet": b"x"},
        "b.parquet: is not read. Save it as .jsonl, .json, .csv, .tsv, or lines in .txt or .md.",
    ),
    "an archive": ({"b.zip": b"x"}, "b.zip: is not read. Unpack it."),
    "an image": ({"sub/b.png": b"x"}, "sub: holds 1 image, which are not trained"),
    "a caption of an image": (
        {"sub/b.png": b"x", "sub/b.txt": "a cat"},
        "b.txt: is of the images beside it, not text to train on",
    ),
    "an empty file": ({"b.txt": ""}, "b.txt: is empty"),
    "an empty table": ({"b.csv": "\n"}, "b.csv: is empty"),
    "text of Windows": (
        {"b.txt": "caf\u00e9".encode("cp1252")},
        "b.txt: is not UTF-8; read as Windows-1252: save it as UTF-8",
    ),
    "text in GBK": (
        {"b.txt": "\u7ea2\u8272\u7684\u623f\u5b50".encode("gbk")},
        "b.txt: is not UTF-8; read as GBK: save it as UTF-8",
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_files_that_are_passed_over_or_guessed_are_told(case: str, put: Put, folder: Path):
    files, expected = TOLD[case]
    put("a.txt", "One.")
    for name, content in files.items():
        put(name, content)
    found = scan(folder)
    assert found.samples[0].text == "One."
    told = [str(problem) for problem in found.problems]
    assert (expected in [line.removeprefix("sub/") for line in told]) if expected else not told


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


def test_a_link_back_is_told(put: Put, folder: Path):
    put("a.txt", "One.")
    (folder / "b").symlink_to(folder, target_is_directory=True)
    assert [str(problem) for problem in scan(folder).problems] == ["b: is a link to a folder that is read already"]


LOOKS: dict[str, tuple[list[str], bool]] = {
    "nothing": ([], False),
    "lines": (["a.txt"], True),
    "data below": (["train/a.jsonl"], True),
    "images with captions": (["a.png", "a.txt"], False),
    "an image below text": (["a.jsonl", "b/c.webp"], False),
    "pictures that cannot be read": (["a.heic", "a.txt"], False),
    "a README": (["README.md", "license.txt"], False),
    "a run": (["job.yaml", "dataset.jsonl", "samples/a.png"], False),
    "text and a hidden image": (["a.txt", ".thumbs/a.png", ".a.png"], True),
}


@pytest.mark.parametrize("case", LOOKS)
def test_a_folder_looks_like_text_if_it_holds_text_and_no_images(case: str, put: Put, folder: Path):
    names, expected = LOOKS[case]
    for name in names:
        put(name, "x")
    assert looks_like_text(folder) is expected
    assert looks_like_text(folder / "gone") is False


def test_a_file_looks_like_text_by_its_name(put: Put):
    assert looks_like_text(put("a.jsonl", PAIR))
    assert not looks_like_text(put("a.png", b"x"))
