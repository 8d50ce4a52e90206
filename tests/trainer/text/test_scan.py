from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
