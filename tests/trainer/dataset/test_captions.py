from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import Dataset, fingerprint, scan
from trainer.dataset.captions import Captions, contains_word, tidy, with_trigger
from trainer.dataset.files import Folder, Listing
from trainer.errors import DatasetError

MUG = "ein gr\u00fcner Becher, \u7eff\u8272\u7684\u676f\u5b50"


NO_CAPTION = "no caption: expected a .txt file of its name or a row in metadata.csv"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    # As bytes: line ends must arrive as they are written here, on every system.
    path.write_bytes(text.encode(encoding))
    return path


def captions(dataset: Dataset) -> dict[str, str]:
    return {item.path.name: " | ".join(item.captions) for item in dataset.items}


def said(dataset: Dataset) -> list[tuple[str, str, str]]:
    return [(p.path.name, p.kind, p.message) for p in dataset.problems]


@pytest.fixture
def two(draw: Callable[..., Path], folder: Path) -> Path:
    """A folder with a.png and b.jpg."""
    draw("a.png")
    draw("b.jpg")
    return folder


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".TXT", ".Caption"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_beside_the_image(two: Path, suffix: str, encoding: str) -> None:
    write(two / f"a{suffix}", MUG, encoding)
    write(two / f"b{suffix}", "  two\r\nlines \n", encoding)
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": MUG, "b.jpg": "two lines"}
    assert dataset.problems == ()


def test_a_file_beside_an_image_with_a_name_of_another_composition(draw: Callable[..., Path], folder: Path) -> None:
    # macOS writes u-umlaut as two characters.
    draw("gru\u0308n.png")
    write(folder / "Gr\u00fcn.txt", "green")
    assert list(captions(scan(folder, resolution=64)).values()) == ["green"]


def test_images_that_differ_in_case_keep_their_own_captions(draw: Callable[..., Path], folder: Path) -> None:
    draw("A.png")
    if (folder / "a.png").exists():
        pytest.skip("this file system does not tell A.png from a.png")
    draw("a.png", seed=1)
    write(folder / "a.txt", "small")
    assert captions(scan(folder, resolution=64)) == {"A.png": "", "a.png": "small"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table(two: Path, encoding: str, newline: str) -> None:
    rows = ["filename,prompt", f'a.png,"{MUG}"', "", 'b.jpg,"say ""hello"",', 'twice"']
    write(two / "metadata.csv", newline.join(rows), encoding)
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": MUG, "b.jpg": 'say "hello", twice'}
    assert dataset.problems == ()


@pytest.mark.parametrize(
    "filename",
    [
        "a.png",
        "a",
        "A.PNG",
        "A",
        "./a.png",
        ".\\a.png",
        "f\u00fcr training/a.png",
        "..\\F\u00dcR TRAINING\\a.png",
        " a.png ",
    ],
)
def test_the_ways_to_write_a_filename(draw: Callable[..., Path], folder: Path, filename: str) -> None:
    draw("a.png")
    write(folder / "metadata.csv", f"filename,prompt\n{filename},a house\n")
    dataset = scan(folder, resolution=64)
    assert captions(dataset) == {"a.png": "a house"}
    assert dataset.problems == ()


def test_an_absolute_filename(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png")
    write(folder / "metadata.csv", f"filename,prompt\n{path},a house\n")
    assert captions(scan(folder, resolution=64)) == {"a.png": "a house"}


@pytest.mark.parametrize(
    "table",
    [
        "filename,prompt\na.png,a house\n",
        "FileName , Prompt\na.png,a house\n",
        '"filename","prompt"\n"a.png","a house"\n',
        "file_name,text\na.png,a house\n",
        "prompt,filename\na house,a.png\n",
        "id,filename,prompt,author\n7,a.png,a house,me\n",
        "filename;prompt\na.png;a house\n",
        "filename\tprompt\na.png\ta house\n",
        'filename,prompt\na.png, "a house"\n',
        "filename,prompt,,\na.png,a house,,\n",
        "filename,prompt\na.png,a house,,\n",
    ],
)
def test_tables_as_spreadsheets_and_people_write_them(draw: Callable[..., Path], folder: Path, table: str) -> None:
    draw("a.png")
    write(folder / "metadata.csv", table)
    dataset = scan(folder, resolution=64)
    assert captions(dataset) == {"a.png": "a house"}
    assert dataset.problems == ()


def test_a_table_elsewhere(two: Path, tmp_path: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,of the folder\nb.jpg,of the folder\n")
    named = write(tmp_path / "other \u8868.csv", "filename,prompt\na.png,of the named table\n")
    dataset = scan(two, metadata_path=named, resolution=64)
    assert captions(dataset) == {"a.png": "of the named table", "b.jpg": ""}


def test_a_table_wins_over_txt_and_txt_over_caption(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,of the table\nb.jpg,\n")
    write(two / "a.txt", "of a.txt")
    write(two / "b.txt", "of b.txt")
    write(two / "b.caption", "of b.caption")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "of the table", "b.jpg": "of b.txt"}
    assert said(dataset) == [
        ("a.png", "caption-conflict", "a.txt and metadata.csv differ; metadata.csv is used"),
        ("b.jpg", "caption-conflict", "b.caption and b.txt differ; b.txt is used"),
    ]
    # Named or found, a table means the same.
    assert scan(two, metadata_path=two / "metadata.csv", resolution=64) == dataset


def test_sources_that_agree_are_no_conflict(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na,a house\nb,a tree\n")
    write(two / "a.txt", "a  house\n")
    write(two / "b.caption", "a tree")
    assert scan(two, resolution=64).problems == ()


def test_images_without_a_caption_are_trained_and_named(two: Path) -> None:
    write(two / "b.txt", " \n")
    write(two / "b.caption", "")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "", "b.jpg": ""}
    assert said(dataset) == [
        ("a.png", "no-caption", f"{NO_CAPTION}; trained with the empty caption"),
        ("b.jpg", "no-caption", "no caption: b.txt and b.caption gave none; trained with the empty caption"),
    ]
    dataset = scan(two, resolution=64, trigger_word=" sks  style ")
    assert captions(dataset) == {"a.png": "sks style", "b.jpg": "sks style"}
    assert said(dataset)[0][2].endswith("; trained with the trigger word 'sks style'")
    dataset = scan(two, resolution=64, fallback="a woman")
    assert captions(dataset) == {"a.png": "a woman", "b.jpg": "a woman"}
    assert said(dataset)[0] == ("a.png", "no-caption", f"{NO_CAPTION}; trained with 'a woman'")
    assert captions(scan(two, resolution=64, fallback="a woman", trigger_word="sks"))["a.png"] == "sks, a woman"


BAD_SIDECARS = {
    "Shift JIS": ("\u8d64\u3044\u5bb6\u3068\u5ead".encode("shift_jis"), "is not UTF-8 text (byte 1); save it as UTF-8"),
    "Cyrillic": (
        "\u043a\u0440\u0430\u0441\u043d\u044b\u0439 \u0434\u043e\u043c".encode("cp1251"),
        "is not UTF-8 text (byte 1); save it as UTF-8",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not UTF-8 text (byte 1); save it as UTF-8"),
    "half of UTF-16": (
        b"\xff\xfea\0\0\xd8",
        "begins as UTF-16 text and goes on as something else; save it as UTF-8",
    ),
    "zero bytes": (b"a house\0\0\0", "is not text (it has zero bytes); save it as UTF-8"),
    "huge": (b"a" * ((1 << 20) + 1), "is larger than 1 MiB, which is no caption"),
}


@pytest.mark.parametrize("case", BAD_SIDECARS)
def test_a_caption_file_that_cannot_be_read(two: Path, case: str) -> None:
    data, message = BAD_SIDECARS[case]
    (two / "a.txt").write_bytes(data)
    write(two / "a.caption", "the next source")
    write(two / "b.txt", "fine")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "the next source", "b.jpg": "fine"}
    assert said(dataset) == [("a.txt", "bad-caption", message)]


def test_a_folder_named_like_a_caption_file(two: Path) -> None:
    (two / "a.txt").mkdir()
    assert ("a.txt", "bad-caption", "is not a file (a folder, or a link to nothing)") in said(scan(two, resolution=64))


def test_caption_files_without_an_image_are_named(two: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "a.png.txt"):
        write(two / name, "text")
    assert said(scan(two, resolution=64)) == [
        ("a.png.txt", "orphan-caption", "belongs to no image: no image is named 'a.png'"),
        ("c.txt", "orphan-caption", "belongs to no image: no image is named 'c'"),
    ]


BAD_ROWS = {
    "an unquoted comma": (
        "a.png,a red house, snow",
        "bad-row",
        "line 2: expected 2 columns, got 3: a prompt with a comma in it stands in double quotes",
    ),
    "no prompt": ("a.png", "bad-row", "line 2: expected 2 columns, got 1"),
    "no such image": ("z.png,a house", "unknown-file", "line 2: no image is named 'z.png'"),
    "another suffix": ("a.webp,a house", "unknown-file", "line 2: no image is named 'a.webp'"),
    "another folder": ("elsewhere/a.png,a house", "unknown-file", "line 2: no image is named 'elsewhere/a.png'"),
    "no filename": (",a house", "unknown-file", "line 2: the filename is empty"),
    "only dots": ("..,a house", "unknown-file", "line 2: no image is named '..'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_with_its_line_and_the_rest_is_read(two: Path, case: str) -> None:
    row, kind, message = BAD_ROWS[case]
    write(two / "metadata.csv", f"filename,prompt\n{row}\nb.jpg,fine\n")
    write(two / "a.txt", "of a.txt")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "of a.txt", "b.jpg": "fine"}
    assert said(dataset) == [("metadata.csv", kind, message)]


def test_several_rows_of_an_image_are_alternatives(two: Path) -> None:
    write(two / "metadata.csv", 'filename,prompt\na.png,"one\ntwo"\nb.jpg,fine\nA,again\na.png,one two\na.png,\n')
    write(two / "a.txt", "again")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "one two | again", "b.jpg": "fine"}
    assert said(dataset) == [("metadata.csv", "duplicate-row", "line 6: a.png has a row with this caption already")]
    assert captions(scan(two, resolution=64, trigger_word="one"))["a.png"] == "one two | one, again"


def test_a_txt_file_is_one_caption_whatever_its_lines(two: Path) -> None:
    write(two / "a.txt", "A house on a hill,\nin the evening.\n\nSnow lies on its roof.\n")
    write(two / "b.txt", "a tree")
    assert captions(scan(two, resolution=64))["a.png"] == "A house on a hill, in the evening. Snow lies on its roof."


def test_a_semicolon_in_a_table_with_semicolons(two: Path) -> None:
    write(two / "metadata.csv", "filename;prompt\na.png;red; blue\nb.jpg;red, blue\n")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "", "b.jpg": "red, blue"}
    assert said(dataset)[0][2] == (
        "line 2: expected 2 columns, got 3: a prompt with a semicolon in it stands in double quotes"
    )


BAD_TABLES = {
    "empty": (b"", "{}, line 1: expected the header filename,prompt, the file is empty"),
    "no header": (b"a,a house\n", "{}, line 1: expected the header filename,prompt, got 'a,a house'"),
    "a name alone": (b"a.png\n", "{}, line 1: expected the header filename,prompt, got 'a.png'"),
    "half a header": (
        b"filename,label\na,b\n",
        "{}, line 1: expected the header filename,prompt, got 'filename,label'",
    ),
    "no text": (b"filename,prompt\na.png,\x83\x8f\x9d\x81\n", "{}: is not UTF-8 text (byte 23)"),
    "a quote left open": (
        b'filename,prompt\nb.jpg,fine\na.png,"a house\n',
        "{}, line 3: a double quote is opened here and never closed",
    ),
    "text after a quote": (
        b'filename,prompt\nb.jpg,"a ""fine"" one"\n\na.png,"a "big" house"\n',
        "{}, line 4: text stands after a closing double quote",
    ),
    "a quote over half the file": (
        b'filename,prompt\na.png,"a house\n' + b"b.jpg,a tree\n" * 12_000,
        "{}, line 2: a cell is longer than 131,072 characters: a double quote is not closed",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_cannot_be_read_is_an_error(two: Path, case: str) -> None:
    data, message = BAD_TABLES[case]
    path = two / "metadata.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        scan(two, resolution=64)
    assert caught.value.message == message.format(path)
    assert caught.value.cure


def test_a_named_table_that_is_not_there(two: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(two, metadata_path=two / "gone.csv", resolution=64)
    assert caught.value.message == f"{two / 'gone.csv'}: the metadata file does not exist"
    with pytest.raises(DatasetError) as caught:
        scan(two, metadata_path=two, resolution=64)
    assert caught.value.message == f"{two}: is a folder, expected a CSV file"


def test_the_dataset_s_own_table_may_be_named_without_being_there(two: Path) -> None:
    """The guide's config names it; whose captions all lie beside the images has none."""
    own = two / "metadata.csv"
    assert scan(two, metadata_path=own, resolution=64).items == scan(two, resolution=64).items
    assert fingerprint(two, own) == fingerprint(two)


@pytest.mark.parametrize(
    "table",
    [
        "a.png,a house\n",
        '"a.png","a house"\r\n',
        "a.png;a house\n",
        "A.PNG\ta house\n",
        "a.png,a house,,\n",
        "style/a.png, a house",
    ],
)
def test_a_table_without_a_header(two: Path, table: str) -> None:
    write(two / "metadata.csv", table.replace("style/", f"{two.name}/"), "utf-8-sig")
    write(two / "b.txt", "fine")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "a house", "b.jpg": "fine"}
    assert dataset.problems == ()


def test_lines_of_a_table_without_a_header_are_counted_from_one(two: Path) -> None:
    write(two / "metadata.csv", "a.png,red, blue\nb.jpg,fine\n")
    assert said(scan(two, resolution=64))[0] == (
        "metadata.csv",
        "bad-row",
        "line 1: expected 2 columns, got 3: a prompt with a comma in it stands in double quotes",
    )


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png", "text": "a house"}',
        '{"filename": "A", "prompt": " a\\n house "}',
        '{"FILE": "./a.png", "Caption": "a house", "score": 0.5}',
        '{"image": "a.png", "captions": ["a house"]}',
        '{"path": "a.png", "text": null, "caption": "a house"}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines(two: Path, line: str, encoding: str) -> None:
    write(two / "metadata.jsonl", f'\r\n{line}\r\n{{"file_name": "b.jpg", "text": "{MUG}"}}', encoding)
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "a house", "b.jpg": MUG}
    assert [p.kind for p in dataset.problems] == ["other-encoding"] * (encoding == "utf-16")
    # Named or found, a table means the same.
    assert scan(two, metadata_path=two / "metadata.jsonl", resolution=64) == dataset


def test_alternatives_in_json_lines(two: Path) -> None:
    lines = [
        '{"file_name": "a.png", "captions": ["a house", "a  red house", "a house", ""]}',
        '{"file_name": "a.png", "text": "snow"}',
        '{"file_name": "b.jpg", "captions": []}',
    ]
    write(two / "metadata.jsonl", "\n".join(lines))
    dataset = scan(two, resolution=64, trigger_word="red")
    assert captions(dataset) == {"a.png": "red, a house | a red house | red, snow", "b.jpg": "red"}


BAD_LINES = {
    "no JSON": ("{", "bad-row", "line 1: is not JSON"),
    "very deep": ("[" * 5000, "bad-row", "line 1: is not JSON"),
    "a list": (
        '["a.png"]',
        "bad-row",
        'line 1: expected an object, such as {"file_name": "a.png", "text": "a house"}',
    ),
    "no name": ('{"text": "a house"}', "bad-row", "line 1: expected the name of a file in filename or file_name"),
    "a number": (
        '{"file_name": "a.png", "text": 7}',
        "bad-row",
        "line 1: expected text as caption of 'a.png', got 7",
    ),
    "a number in a list": (
        '{"file_name": "a.png", "captions": ["a", 7]}',
        "bad-row",
        "line 1: expected text as caption of 'a.png', got [\"a\", 7]",
    ),
    "half a character": (
        '{"file_name": "a.png", "text": "a \\ud83d house"}',
        "bad-row",
        "line 1: the caption of 'a.png' holds half a character (an escape \\ud800 to \\udfff)",
    ),
    "a number of 5,000 digits": (f'{{"file_name": "a.png", "n": {"7" * 5000}}}', "bad-row", "line 1: is not JSON"),
    "no such image": ('{"file_name": "z.png"}', "unknown-file", "line 1: no image is named 'z.png'"),
    "an empty name": ('{"file_name": " "}', "unknown-file", "line 1: the filename is empty"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_json_line_is_named_and_the_rest_is_read(two: Path, case: str) -> None:
    line, kind, message = BAD_LINES[case]
    write(two / "metadata.jsonl", f'{line}\n{{"file_name": "b.jpg", "text": "fine"}}\n')
    write(two / "a.txt", "of a.txt")
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "of a.txt", "b.jpg": "fine"}
    assert said(dataset) == [("metadata.jsonl", kind, message)]


def test_csv_wins_over_json_lines(two: Path) -> None:
    write(two / "metadata.csv", "filename,prompt\na.png,of the CSV\n")
    write(two / "metadata.jsonl", '{"file_name": "a.png", "text": "of JSON"}\n{"file_name": "b", "text": "fine"}')
    dataset = scan(two, resolution=64)
    assert captions(dataset) == {"a.png": "of the CSV", "b.jpg": "fine"}
    assert said(dataset) == [
        ("a.png", "caption-conflict", "metadata.jsonl and metadata.csv differ; metadata.csv is used")
    ]
    # Naming one of the folder's tables puts it first, and hides none.
    dataset = scan(two, metadata_path=two / "metadata.jsonl", resolution=64)
    assert captions(dataset) == {"a.png": "of JSON", "b.jpg": "fine"}


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("a house", "sks", "sks, a house"),
        ("a house", "", "a house"),
        ("", "sks", "sks"),
        ("", "", ""),
        ("a SKS house", "sks", "a SKS house"),
        ("sks", "sks", "sks"),
        ("house in sks, snow", "sks", "house in sks, snow"),
        ("sksy house", "sks", "sks, sksy house"),
        ("my_sks", "sks", "sks, my_sks"),
        ("a house in my style", "My  Style", "a house in my style"),
        ("c++ code", "c++", "c++ code"),
        ("\u7ea2\u623f\u5b50", "\u7ea2", "\u7ea2, \u7ea2\u623f\u5b50"),
    ],
)
def test_trigger_word(caption: str, trigger: str, expected: str) -> None:
    assert with_trigger(caption, trigger) == expected


@given(st.text(), st.text())
def test_the_trigger_word_is_there_once(caption: str, trigger: str) -> None:
    caption = tidy(caption)
    once = with_trigger(caption, trigger)
    assert with_trigger(once, trigger) == once
    assert once in (caption, tidy(trigger), f"{tidy(trigger)}, {caption}")
    if tidy(trigger):
        assert contains_word(once, tidy(trigger))


anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
alternatives = st.dictionaries(
    st.sampled_from(["a.png", "b 1.jpg", "cat/a.png", "\u00fc/\u56fe.webp"]), st.lists(anything, max_size=4), min_size=1
)


def resolved(folder: Path, images: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The captions of images that need not be there, from the tables that are."""
    names: dict[str, list[str]] = {}
    for image in images:
        names.setdefault(image.rpartition("/")[0], []).append(image.rpartition("/")[2])
    tables = tuple(name for name in ("metadata.csv", "metadata.jsonl") if (folder / name).exists())
    names.setdefault("", [])
    folders = tuple(Folder(folder / s, s, 1, tuple(n), tables=tables if not s else ()) for s, n in names.items())
    captions = Captions(Listing(folder, folders, ()))
    found = {
        f"{place.subset}/{name}".lstrip("/"): captions.of(place, name) for place in folders for name in place.images
    }
    assert {problem.kind for problem in captions.problems} <= {"duplicate-row"}
    return {name: caption.texts for name, caption in found.items() if caption}


def kept(images: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    tidied = {image: tuple(dict.fromkeys(filter(None, map(tidy, texts)))) for image, texts in images.items()}
    return {image: texts for image, texts in tidied.items() if texts}


@given(alternatives)
def test_any_captions_come_back_from_json_lines(images: dict[str, list[str]]) -> None:
    lines = [json.dumps({"file_name": image, "captions": texts}, ensure_ascii=False) for image, texts in images.items()]
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "metadata.jsonl", "\n".join(lines))
        assert resolved(Path(name), images) == kept(images)


@given(alternatives, st.sampled_from(",;\t"), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_any_captions_come_back_from_a_table(
    images: dict[str, list[str]], delimiter: str, header: bool, encoding: str
) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    if header or not any(images.values()):
        rows.writerow(["filename", "prompt"])
    rows.writerows((image, prompt) for image, prompts in images.items() for prompt in prompts)
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "metadata.csv", text.getvalue(), encoding)
        assert resolved(Path(name), images) == kept(images)


@given(st.lists(anything, min_size=1, max_size=4), anything)
def test_the_trigger_word_is_in_every_alternative(prompts: list[str], trigger: str) -> None:
    for text in {with_trigger(tidy(prompt), trigger) for prompt in prompts}:
        assert not tidy(trigger) or contains_word(text, tidy(trigger))


@pytest.fixture
def everything(draw: Callable[..., Path], folder: Path) -> Path:
    """Three images: one with a row, a .txt and a .caption file, one with a .txt file, one with a name alone."""
    for seed, name in enumerate(("red_house-01.png", "blue \u6f2b\u753b_7.png", "IMG_2041.png")):
        draw(name, seed=seed)
    write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,of the table\n")
    write(folder / "red_house-01.txt", "of the text")
    write(folder / "red_house-01.caption", "of the caption")
    write(folder / "blue \u6f2b\u753b_7.txt", "blue text")
    return folder


@pytest.mark.parametrize(
    ("source", "red", "blue", "kinds"),
    [
        ("auto", "of the table", "blue text", ["caption-conflict", "caption-conflict", "no-caption"]),
        ("table", "of the table", "", ["no-caption", "no-caption"]),
        ("files", "of the text", "blue text", ["caption-conflict", "no-caption"]),
        ("names", "red house", "blue \u6f2b\u753b", ["no-caption"]),
        ("none", "", "", []),
    ],
)
def test_a_source_is_chosen(everything: Path, source: str, red: str, blue: str, kinds: list[str]) -> None:
    dataset = scan(everything, resolution=64, captions=source)
    assert captions(dataset) == {"red_house-01.png": red, "blue \u6f2b\u753b_7.png": blue, "IMG_2041.png": ""}
    assert sorted(kind for _, kind, _ in said(dataset)) == kinds
    assert dataset.captions == source
    with_word = scan(everything, resolution=64, captions=source, trigger_word="sks")
    assert captions(with_word)["red_house-01.png"] == (f"sks, {red}" if red else "sks")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("table", "expected a row in the table"),
        ("files", "expected a .txt file of its name"),
        ("names", "its name has no words"),
    ],
)
def test_what_a_source_lacks_is_named(everything: Path, source: str, why: str) -> None:
    message = f"no caption: {why}; trained with the trigger word 'sks'"
    assert ("IMG_2041.png", "no-caption", message) in said(
        scan(everything, resolution=64, captions=source, trigger_word="sks")
    )


def test_a_table_alone_must_be_there_and_name_images(two: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        scan(two, resolution=64, captions="table")
    assert caught.value.message == f"caption source: it is table, but {two} has no metadata.csv or metadata.jsonl"
    assert caught.value.cure == "Put one there, or choose another source."
    table = write(two / "metadata.jsonl", '{"file_name": "c.png", "text": "a cup"}\n')
    with pytest.raises(DatasetError) as caught:
        scan(two, resolution=64, captions="table")
    assert caught.value.message == f"caption source: it is table, but no row of {table} names an image of {two}"
    named = write(two.parent / "t\u00e4ble.csv", "filename,prompt\na.png,a cup\n")
    assert captions(scan(two, resolution=64, captions="table", metadata_path=named))["a.png"] == "a cup"


@pytest.mark.parametrize("source", ["files", "names", "none"])
def test_a_named_table_that_is_not_to_be_used_is_an_error(two: Path, source: str) -> None:
    table = write(two / "metadata.csv", "filename,prompt\na.png,a cup\n")
    with pytest.raises(DatasetError) as caught:
        scan(two, resolution=64, captions=source, metadata_path=table)
    assert caught.value.message == f"caption source: it is {source}, but a table is named: {table}"


def test_an_unknown_source(two: Path) -> None:
    with pytest.raises(DatasetError, match="expected one of auto, table, files, names, none, got 'txt'"):
        scan(two, resolution=64, captions="txt")
