from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.captioning import Report, all_captioners, label
from trainer.dataset import scan
from trainer.dataset.captions import tidy
from trainer.dataset.metadata import read_metadata
from trainer.errors import CaptionError, DatasetError

NAMES = ("red_house-01.png", "IMG_2041.png", "gr\u00fcner becher, \u7eff.png")


def picture(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng((seed, *path.name.encode())).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in a folder with blanks, Chinese and an umlaut in its path."""
    path = tmp_path / "my \u56fe\u7247" / "10_f\u00fcr training"
    path.mkdir(parents=True)
    for name in NAMES:
        picture(path / name)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def trained(folder: Path, metadata_path: Path | None = None) -> dict[str, str]:
    dataset = scan(folder, metadata_path=metadata_path, resolution=64)
    return {item.path.stem: item.captions[0] for item in dataset.items}


def names(captions: Mapping[Path, str]) -> dict[str, str]:
    return {path.name: text for path, text in captions.items()}


def others(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in NAMES)


def test_a_new_table(folder: Path) -> None:
    report = label(folder)
    table = folder / "metadata.csv"
    assert read(table) == (
        "filename,prompt\n"
        '"gr\u00fcner becher, \u7eff.png",gr\u00fcner becher \u7eff\n'
        "red_house-01.png,red house\n"
    )  # fmt: skip
    assert report.output == table
    assert names(report.written) == {NAMES[2]: "gr\u00fcner becher \u7eff", NAMES[0]: "red house"}
    assert report.kept == report.backups == ()
    assert [str(p) for p in report.problems] == ["IMG_2041.png: no caption: the method 'filename' found no words"]
    assert str(report) == (
        f"2 captions written to {table}, 0 left as they were\n"
        "- IMG_2041.png: no caption: the method 'filename' found no words"
    )
    assert others(folder) == ["metadata.csv"]


def test_the_trigger_word_stands_first(folder: Path) -> None:
    label(folder, trigger_word="sks")
    expected = {"IMG_2041": "sks", "red_house-01": "sks, red house", NAMES[2][:-4]: "sks, gr\u00fcner becher \u7eff"}
    assert trained(folder) == expected


def test_new_files_beside_the_images(folder: Path) -> None:
    report = label(folder, format="txt", trigger_word="sks")
    assert others(folder) == ["IMG_2041.txt", f"{NAMES[2][:-4]}.txt", "red_house-01.txt"]
    assert read(folder / "red_house-01.txt") == "sks, red house\n"
    assert report.output == folder
    assert trained(folder)["IMG_2041"] == "sks"


@pytest.mark.parametrize("format", ["csv", "txt"])
def test_a_second_time_nothing_is_written(folder: Path, format: str) -> None:
    label(folder, format=format, trigger_word="sks")
    for path in folder.iterdir():
        os.utime(path, ns=(1, 10**18))
    for mode in ("missing", "all", "append", "prepend"):
        report = label(folder, format=format, trigger_word="sks", mode=mode)
        assert report.written == {}
        assert len(report.kept) == 3
        assert report.backups == ()
    assert {path.stat().st_mtime_ns for path in folder.iterdir()} == {10**18}


HAND_EDITED = (
    "filename,prompt,who\r\n"
    '  "red_house-01.png" ,"my ""own"" words,\r\non two lines",me\r\n'
    "\r\n"
    "gone.png,a file that is gone,me\r\n"
    "red_house-01,a second row,\r\n"
    "broken row\r\n"
    "img_2041.PNG,,me"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_missing_touches_no_row_that_has_a_prompt(folder: Path, encoding: str) -> None:
    # Quotes after a blank at the start of a cell are read as quotes, as spreadsheets do.
    edited = HAND_EDITED.replace('" ,', '",')
    table = write(folder / "metadata.csv", edited, encoding)
    label(folder, trigger_word="sks")
    assert table.read_bytes() == (
        edited.removesuffix("img_2041.PNG,,me")
        + "img_2041.PNG,sks,me\r\n"
        + f'"{NAMES[2]}","sks, gr\u00fcner becher \u7eff",\r\n'
    ).encode(encoding)
    assert others(folder) == ["metadata.csv"]


def test_missing_keeps_captions_of_other_sources(folder: Path) -> None:
    write(folder / "red_house-01.txt", "of a txt file")
    write(folder / "IMG_2041.caption", "of a caption file")
    report = label(folder, trigger_word="sks")
    assert names(report.written) == {NAMES[2]: "sks, gr\u00fcner becher \u7eff"}
    assert [path.name for path in report.kept] == [NAMES[1], NAMES[0]]
    assert read(folder / "red_house-01.txt") == "of a txt file"
    report = label(folder, trigger_word="sks", format="txt")
    assert report.written == {}


def test_all_replaces_and_keeps_the_former_files(folder: Path) -> None:
    table = write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,mine\ngone.png,gone\n")
    before = table.read_bytes()
    report = label(folder, mode="all")
    assert read(table) == (
        "filename,prompt\nred_house-01.png,red house\ngone.png,gone\n"
        f'"{NAMES[2]}",gr\u00fcner becher \u7eff\n'
    )  # fmt: skip
    assert report.backups == (folder / "metadata.csv.bak",)
    assert report.backups[0].read_bytes() == before
    assert "- kept the former file as metadata.csv.bak" in str(report)


def test_an_older_backup_is_not_overwritten(folder: Path) -> None:
    for index, words in enumerate(("first", "second", "third")):
        label(folder, method="trigger", trigger_word=words, mode="all", format="txt")
        assert len(others(folder)) == 3 * (index + 1)
    assert read(folder / "red_house-01.txt") == "third\n"
    assert read(folder / "red_house-01.txt.bak") == "first\n"
    assert read(folder / "red_house-01.txt.bak2") == "second\n"
    # Backups are no captions.
    assert trained(folder)["red_house-01"] == "third"
    assert scan(folder, resolution=64).problems == ()


@pytest.mark.parametrize("format", ["csv", "txt"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("append", "sks, mine, red house"),
        ("prepend", "sks, red house, mine"),
        ("all", "sks, red house"),
        ("missing", "mine"),
    ],
)
def test_modes_with_a_caption_that_is_there(folder: Path, format: str, mode: str, expected: str) -> None:
    if format == "csv":
        write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,mine\n")
    else:
        write(folder / "red_house-01.txt", "mine")
    report = label(folder, format=format, mode=mode, trigger_word="sks")
    assert trained(folder)["red_house-01"] == expected
    assert trained(folder)["IMG_2041"] == "sks"
    assert len(report.backups) == (mode != "missing")
    again = label(folder, format=format, mode=mode, trigger_word="sks")
    assert again.written == {}


def test_append_takes_up_the_caption_of_another_source(folder: Path) -> None:
    write(folder / "red_house-01.txt", "mine")
    label(folder, mode="append")
    assert trained(folder)["red_house-01"] == "mine, red house"
    assert read(folder / "red_house-01.txt") == "mine"


def test_nothing_to_say_leaves_a_former_caption(folder: Path) -> None:
    write(folder / "IMG_2041.txt", "mine")
    for mode in ("all", "append", "prepend"):
        assert folder / "IMG_2041.png" in label(folder, mode=mode, format="txt").kept
    assert read(folder / "IMG_2041.txt") == "mine"


def test_a_caption_file_is_written_where_one_is(folder: Path) -> None:
    write(folder / "red_house-01.caption", "mine")
    label(folder, mode="append", format="txt")
    assert read(folder / "red_house-01.caption") == "mine, red house\n"
    assert read(folder / "red_house-01.caption.bak") == "mine"
    assert not (folder / "red_house-01.txt").exists()


def test_an_unreadable_caption_file_is_replaced_only_by_all(folder: Path) -> None:
    # A caption in Shift JIS: training cannot read it, and it is still somebody's work.
    work = "\u8d64\u3044\u5bb6".encode("shift_jis")
    path = folder / "red_house-01.txt"
    path.write_bytes(work)
    for mode in ("missing", "append", "prepend"):
        for format in ("csv", "txt"):
            report = label(folder, mode=mode, format=format)
            assert folder / "red_house-01.png" in report.kept
            assert "red_house-01.txt: is not UTF-8 text (byte 1); save it as UTF-8" in map(str, report.problems)
    assert path.read_bytes() == work
    (folder / "metadata.csv").unlink()
    label(folder, mode="all", format="txt")
    assert read(path) == "red house\n"
    assert (folder / "red_house-01.txt.bak").read_bytes() == work


def test_an_unreadable_caption_file_beside_a_readable_one(folder: Path) -> None:
    (folder / "red_house-01.txt").write_bytes(b"\xff\xff")
    write(folder / "red_house-01.caption", "mine")
    assert folder / "red_house-01.png" in label(folder, mode="append", format="txt").kept
    assert (folder / "red_house-01.txt").read_bytes() == b"\xff\xff"
    # A table leaves the broken file alone, so it can take up the caption of the other one.
    assert label(folder, mode="append").written[folder / "red_house-01.png"] == "mine, red house"


ALTERNATIVES = "filename,prompt\nred_house-01.png,first\nred_house-01.png,second\n"


def test_all_puts_one_caption_in_the_place_of_alternatives(folder: Path) -> None:
    table = write(folder / "metadata.csv", ALTERNATIVES)
    report = label(folder, mode="all")
    assert read(table) == f'filename,prompt\nred_house-01.png,red house\n"{NAMES[2]}",gr\u00fcner becher \u7eff\n'
    assert trained(folder)["red_house-01"] == "red house"
    assert report.backups[0].read_bytes() == ALTERNATIVES.encode()


@pytest.mark.parametrize("mode", ["append", "prepend", "missing"])
def test_each_alternative_is_added_to(folder: Path, mode: str) -> None:
    table = write(folder / "metadata.csv", ALTERNATIVES)
    label(folder, mode=mode)
    expected = {
        "append": ["first, red house", "second, red house"],
        "prepend": ["red house, first", "red house, second"],
        "missing": ["first", "second"],
    }[mode]
    (item,) = [item for item in scan(folder, resolution=64).items if item.path.name == NAMES[0]]
    assert list(item.captions) == expected
    lines = read(table).splitlines()
    assert len(lines) == 4
    assert label(folder, mode=mode).written == {}


def test_alternatives_of_json_lines_become_rows(folder: Path) -> None:
    write(folder / "metadata.jsonl", '{"file_name": "red_house-01.png", "captions": ["first", "second"]}\n')
    label(folder, mode="append")
    assert read(folder / "metadata.csv").splitlines() == [
        "filename,prompt",
        f'"{NAMES[2]}",gr\u00fcner becher \u7eff',
        'red_house-01.png,"first, red house"',
        'red_house-01.png,"second, red house"',
    ]


def test_a_table_without_a_header(folder: Path) -> None:
    table = write(folder / "metadata.csv", 'red_house-01.png,"mine, by hand"\r\n')
    report = label(folder, trigger_word="sks")
    assert read(table) == (
        f'red_house-01.png,"mine, by hand"\r\n"{NAMES[2]}","sks, gr\u00fcner becher \u7eff"\r\nIMG_2041.png,sks\r\n'
    )
    assert report.backups == ()


def test_a_table_in_another_encoding_becomes_utf8_and_is_kept(folder: Path) -> None:
    before = "filename,prompt\nred_house-01.png,\u7ea2\u8272\u7684\u623f\u5b50\n".encode("gbk")
    (folder / "metadata.csv").write_bytes(before)
    report = label(folder)
    assert "metadata.csv: is not UTF-8; read as GBK: save it as UTF-8" in map(str, report.problems)
    assert read(folder / "metadata.csv").splitlines()[1] == "red_house-01.png,\u7ea2\u8272\u7684\u623f\u5b50"
    assert report.backups[0].read_bytes() == before


def test_nested_folders_share_the_table_of_the_dataset(folder: Path) -> None:
    for subset in ("10_cat", "10_dog"):
        (folder / subset).mkdir()
        picture(folder / subset / "b 1.png")
    report = label(folder, method="folder")
    assert read(folder / "metadata.csv").splitlines()[-2:] == ["10_cat/b 1.png,cat", "10_dog/b 1.png,dog"]
    captions = {f"{i.subset}/{i.path.name}": i.captions for i in scan(folder, resolution=64).items}
    assert captions["10_cat/b 1.png"] == ("cat",)
    assert captions["10_dog/b 1.png"] == ("dog",)
    assert report.problems == ()
    assert label(folder, method="folder").written == {}


def test_txt_files_of_nested_folders_lie_beside_their_images(folder: Path) -> None:
    (folder / "10_cat").mkdir()
    picture(folder / "10_cat" / "b.png")
    label(folder, method="folder", format="txt")
    assert read(folder / "10_cat" / "b.txt") == "cat\n"


def test_a_table_of_a_subfolder_hides_the_one_of_the_dataset(folder: Path) -> None:
    (folder / "cat").mkdir()
    picture(folder / "cat" / "b.png")
    write(folder / "cat" / "metadata.csv", "filename,prompt\nb.png,mine\n")
    report = label(folder, mode="all")
    assert str(report.problems[-1]) == (
        "cat/metadata.csv: wins over the row of 1 image that was written now; rename it to use what was written"
    )


def test_images_of_one_stem_share_a_file(folder: Path) -> None:
    picture(folder / "red_house-01.jpg")
    report = label(folder, format="txt", mode="all")
    assert others(folder) == [f"{NAMES[2][:-4]}.txt", "red_house-01.jpg", "red_house-01.txt"]
    assert report.backups == ()


def test_a_table_that_hides_what_was_written_is_named(folder: Path) -> None:
    write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,mine\n")
    report = label(folder, format="txt", mode="all")
    assert str(report.problems[-1]) == (
        "metadata.csv: wins over the .txt file of 1 image that was written now; rename it to use what was written"
    )
    assert label(folder, format="txt").problems[-1].kind == "no-caption"


def test_a_table_elsewhere(folder: Path, tmp_path: Path) -> None:
    write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,mine\n")
    table = tmp_path / "captions \u8868.CSV"
    report = label(folder, output=table, method="folder")
    assert report.output == table
    assert set(trained(folder, table).values()) == {"f\u00fcr training"}
    assert read(folder / "metadata.csv") == "filename,prompt\nred_house-01.png,mine\n"


@pytest.mark.parametrize("output", [None, "", "metadata.csv"])
def test_ways_to_name_the_table_of_the_folder(folder: Path, output: str | None) -> None:
    report = label(folder, output=None if output is None else folder / output)
    assert report.output == folder / "metadata.csv"
    assert report.output.is_file()


def test_a_table_in_other_case_is_the_folders_table(folder: Path) -> None:
    table = write(folder / "Metadata.csv", "filename,prompt\n")
    assert label(folder).output == table
    assert others(folder) == ["Metadata.csv"]


def test_a_link_stays_a_link(folder: Path, tmp_path: Path) -> None:
    real = write(tmp_path / "real.csv", "filename,prompt\nred_house-01.png,mine\n")
    try:
        (folder / "metadata.csv").symlink_to(real)
    except OSError:
        pytest.skip("links are not allowed here")
    label(folder, mode="append")
    assert (folder / "metadata.csv").is_symlink()
    assert 'red_house-01.png,"mine, red house"\n' in read(real)


def test_a_failed_write_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write(folder / "metadata.csv", "filename,prompt\nred_house-01.png,mine\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CaptionError) as caught:
        label(folder)
    assert caught.value.message == f"{table}: cannot be written: No space left on device"
    assert read(table) == "filename,prompt\nred_house-01.png,mine\n"
    assert others(folder) == ["metadata.csv"]


def test_a_table_that_cannot_be_read_is_not_replaced(folder: Path) -> None:
    broken = b'filename,prompt\na.png,"open\n'
    table = folder / "metadata.csv"
    table.write_bytes(broken)
    for mode in ("missing", "all", "append", "prepend"):
        with pytest.raises(DatasetError) as caught:
            label(folder, mode=mode)
        assert caught.value.message == f"{table}, line 2: a double quote is opened here and never closed"
    assert table.read_bytes() == broken
    assert others(folder) == ["metadata.csv"]


def message_of(folder: Path, **options: object) -> str:
    with pytest.raises(CaptionError) as caught:
        label(folder, **options)  # pyright: ignore[reportArgumentType]
    assert others(folder) == []
    return caught.value.message


def test_wrong_arguments(folder: Path, tmp_path: Path) -> None:
    assert message_of(folder, mode="new") == "mode: expected one of missing, all, append, prepend, got 'new'"
    assert message_of(folder, format="json") == "format: expected one of csv, txt, got 'json'"
    assert message_of(folder, method="eyes") == f"method: expected one of {', '.join(all_captioners())}, got 'eyes'"
    assert message_of(folder, method="trigger") == (
        "trigger_word: is empty, and the method 'trigger' writes nothing else"
    )
    gone, json = tmp_path / "gone", tmp_path / "captions.json"
    assert message_of(folder, output=gone / "a.csv") == f"output: the folder {gone} does not exist"
    assert message_of(folder, output=json) == f"output: expected a .csv file or the folder of the images, got {json}"
    assert message_of(folder, output=folder / "metadata.csv", format="txt") == (
        "output: metadata.csv is a table, but the format is txt"
    )
    assert message_of(folder, output=tmp_path, format="txt") == (
        f"output: .txt files belong beside their images in {folder}, not in {tmp_path}"
    )


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no image in the folder"):
        label(tmp_path)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(tidy)
cells = st.one_of(texts, st.sampled_from(["a", 'say "x"', "a, b", "a; b", '"', "''", "=1+1", "\u7eff"]))


@settings(max_examples=80, deadline=None)
@given(st.lists(cells, min_size=1, max_size=4), cells, st.sampled_from(["append", "prepend", "all"]))
def test_any_caption_comes_back_from_the_table(prompts: list[str], new: str, mode: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(len(prompts)):
            picture(folder / f"{index}.png")
        for index, prompt in enumerate(prompts):
            if prompt:
                write(folder / f"{index}.txt", prompt)
        report: Report = label(folder, method="trigger", trigger_word=new or "sks", mode=mode)
        rows = {path.name: caption for path, caption in report.written.items()}
        if rows:
            table = read_metadata(report.output)
            assert {row.filename: row.prompts[0] for row in table.rows()} == rows
        expected = {path.name: text for path, text in report.written.items()}
        dataset = scan(folder, resolution=64)
        for item in dataset.items:
            kept = prompts[int(item.path.stem)]
            assert item.captions == (expected.get(item.path.name, kept),)
            assert (new or "sks").casefold() in item.captions[0].casefold()


@settings(max_examples=80, deadline=None)
@given(st.lists(cells, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(",;\t"))
def test_any_table_keeps_its_bytes_in_front_of_a_new_row(
    prompts: list[str], newline: str, ends: bool, delimiter: str
) -> None:
    quoted = [prompt.replace('"', '""') for prompt in prompts]
    lines = [f"filename{delimiter}prompt", *(f'{i}.png{delimiter}"{prompt}"' for i, prompt in enumerate(quoted))]
    before = newline.join(lines) + (newline if ends else "")
    if newline not in before:
        newline = "\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture(folder / "new one.png")
        table = write(folder / "metadata.csv", before)
        label(folder)
        assert read(table) == f"{before}{'' if ends else newline}new one.png{delimiter}new one{newline}"


def test_where_nothing_is_missing_no_table_is_made_and_it_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "p\u00fcr \u56fe"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "a.txt").write_text("a house", encoding="utf-8")
    report = label(folder)
    table = folder / "metadata.csv"
    assert not table.exists()
    assert str(report) == f"no caption written, 1 left as they were; {table} was not made"


def test_an_excluded_image_gets_no_caption(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*.png"))
    report = label(folder, method="trigger", trigger_word="sks", exclude=[names[0], "gone.png"])
    assert sorted(image.name for image in report.written) == names[1:]
    assert names[0] in {image.name for image in report.kept}
