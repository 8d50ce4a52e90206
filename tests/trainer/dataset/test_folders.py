from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dataset import Dataset, fingerprint, scan
from trainer.dataset.files import Folder, Listing
from trainer.dataset.names import AmbiguousName, Names

from .conftest import noise

KOHYA = ("10_cat", "20_sks \u98ce\u683c", "1_d\u00fcne")


def picture(folder: Path, name: str, seed: int = 0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(80, 70, seed).save(path)
    return path


def trained(dataset: Dataset) -> dict[str, str]:
    return {item.path.relative_to(dataset.root).as_posix(): " | ".join(item.captions) for item in dataset.items}


def said(dataset: Dataset) -> list[str]:
    return [f"{problem.kind}: {problem}" for problem in dataset.problems if problem.kind != "no-caption"]


def test_folders_with_repeats(folder: Path) -> None:
    for seed, name in enumerate(KOHYA):
        picture(folder / name, "a 1.png", seed)
        (folder / name / "a 1.txt").write_text(name, encoding="utf-8")
    dataset = scan(folder, resolution=64, repeats=3)
    assert dataset.problems == ()
    found = {item.subset: (item.repeats, item.captions) for item in dataset.items}
    assert found == {name: (3 * repeats, (name,)) for name, repeats in zip(KOHYA, (10, 20, 1), strict=True)}


@pytest.mark.parametrize(
    ("path", "repeats"),
    [
        ("10_cat/2_sleeping/a.png", 20),
        ("cats/3_black/a.png", 3),
        ("10 cats/a.png", 1),
        ("10-cats/a.png", 1),
        ("2024_summer/a.png", 1),
        ("001_scene/a.png", 1),
        ("0_cat/a.png", 1),
        ("999_cat/a.png", 999),
        ("cat_10/a.png", 1),
        ("10_/a.png", 10),
    ],
)
def test_what_counts_as_repeats(folder: Path, path: str, repeats: int) -> None:
    picture(folder, path)
    assert scan(folder, resolution=64).items[0].repeats == repeats


def test_the_name_of_the_dataset_itself_asks_for_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "10_cat", "a.png")
    assert scan(tmp_path / "10_cat", resolution=64).items[0].repeats == 1


def test_the_order_is_by_folder_and_name(folder: Path) -> None:
    names = ["b.png", "c/z.png", "c/sub/a.png", "B2/a.png", "\u00fc/a.png", "a 1/a.png", "a/a.png"]
    for seed, name in enumerate(reversed(names)):
        picture(folder, name, seed)
    expected = ["b.png", "a/a.png", "a 1/a.png", "B2/a.png", "c/z.png", "c/sub/a.png", "\u00fc/a.png"]
    dataset = scan(folder, resolution=64)
    assert list(trained(dataset)) == expected
    assert scan(folder, resolution=64) == dataset


def test_captions_of_nested_folders(folder: Path) -> None:
    for seed, name in enumerate(("a.png", "cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png", "dog/sub/d.png")):
        picture(folder, name, seed)
    (folder / "metadata.csv").write_text(
        "filename,prompt\na.png,of the root\ncat/a.png,a cat\nCAT\\b,another cat\nc.png,only here\n", encoding="utf-8"
    )
    (folder / "dog" / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "text": "a dog"}\n{"file_name": "sub/d.png", "text": "deep"}\n', encoding="utf-8"
    )
    (folder / "cat" / "b.txt").write_text("another cat", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    assert trained(dataset) == {
        "a.png": "of the root",
        "cat/a.png": "a cat",
        "cat/b.png": "another cat",
        "dog/a.png": "a dog",
        "dog/c.png": "only here",
        "dog/sub/d.png": "deep",
    }
    assert dataset.problems == ()


def test_the_nearest_table_wins(folder: Path) -> None:
    picture(folder, "cat/a.png")
    (folder / "metadata.csv").write_text("filename,prompt\ncat/a.png,far\n", encoding="utf-8")
    (folder / "cat" / "metadata.csv").write_text("a.png,near\n", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    assert trained(dataset) == {"cat/a.png": "near"}
    where = folder.name
    assert said(dataset) == [
        f"caption-conflict: cat/a.png: {where}/metadata.csv and metadata.csv differ; metadata.csv is used"
    ]


def test_a_name_that_is_in_several_folders(folder: Path) -> None:
    for seed, name in enumerate(("cat", "dog", "fox", "hen")):
        picture(folder / name, "1.png", seed)
    (folder / "metadata.csv").write_text("filename,prompt\n1.png,whose\ndog/1.png,a dog\n", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    assert trained(dataset)["dog/1.png"] == "a dog"
    assert trained(dataset)["cat/1.png"] == ""
    assert said(dataset) == [
        "unknown-file: metadata.csv: line 2: '1.png' is in several folders (cat/1.png, dog/1.png, fox/1.png, ...); "
        "write the folder before it"
    ]


@pytest.mark.parametrize(
    "name", ["cat/a.png", "./cat/a", "old place/cat/a.png", "D:\\x\\F\u00dcR TRAINING\\Cat\\A.PNG"]
)
def test_the_ways_to_write_a_filename_in_a_folder(folder: Path, tmp_path: Path, name: str) -> None:
    picture(folder, "cat/a.png")
    table = tmp_path / "table \u8868.csv"
    for path in (folder / "metadata.csv", table):
        path.write_text(f"filename,prompt\n{name},a cat\n", encoding="utf-8")
    assert trained(scan(folder, resolution=64)) == {"cat/a.png": "a cat"}
    assert trained(scan(folder, metadata_path=table, resolution=64)) == {"cat/a.png": "a cat"}


def test_a_named_table_stands_for_all(folder: Path, tmp_path: Path) -> None:
    picture(folder, "cat/a.png")
    (folder / "cat" / "metadata.csv").write_text("a.png,found\n", encoding="utf-8")
    table = tmp_path / "other.csv"
    table.write_text("filename,prompt\n", encoding="utf-8")
    assert trained(scan(folder, metadata_path=table, resolution=64)) == {"cat/a.png": ""}


@pytest.mark.parametrize("name", [".hidden", ".thumbnails", "__MACOSX", "@eaDir", "$RECYCLE.BIN"])
def test_folders_that_programs_hide(folder: Path, name: str) -> None:
    picture(folder, "a.png")
    picture(folder / name, "b.png", 1)
    picture(folder / "cat" / name / "deep", "c.png", 2)
    dataset = scan(folder, resolution=64)
    assert list(trained(dataset)) == ["a.png"]
    what = "is a hidden folder (its name begins with a dot)" if name[0] == "." else (
        "is a folder of the system's, not of pictures"
    )  # fmt: skip
    assert said(dataset) == [f"hidden: {name}: {what}", f"hidden: cat/{name}: {what}"]


def test_a_hidden_folder_without_pictures_is_no_problem(folder: Path) -> None:
    picture(folder, "a.png")
    for name in (".git", "__MACOSX", ".empty"):
        (folder / name).mkdir()
    (folder / ".git" / "config").write_text("x", encoding="utf-8")
    (folder / "__MACOSX" / "._a.png").write_bytes(b"x")
    assert said(scan(folder, resolution=64)) == []


def test_samples_of_a_run_are_not_trained(folder: Path) -> None:
    picture(folder, "a.png")
    picture(folder, "out/samples/step-000100.png", 1)
    (folder / "out" / "job.yaml").write_text("version: 1\n", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    assert list(trained(dataset)) == ["a.png"]
    assert said(dataset) == ["run-folder: out: is the folder of a run: its pictures are samples"]
    # Named by itself, a folder is read whatever lies above it.
    assert len(scan(folder / "out" / "samples", resolution=64).items) == 1


def test_a_run_into_the_dataset_s_own_folder_does_not_train_its_samples(folder: Path) -> None:
    picture(folder, "a.png")
    picture(folder, "more/samples/b.png", 1)
    picture(folder, "samples/step-000100.png", 2)
    (folder / "checkpoints").mkdir()
    assert list(trained(scan(folder, resolution=64))) == ["a.png", "more/samples/b.png", "samples/step-000100.png"]
    (folder / "job.yaml").write_text("version: 2\n", encoding="utf-8")
    dataset = scan(folder, resolution=64)
    assert list(trained(dataset)) == ["a.png", "more/samples/b.png"]
    assert said(dataset) == ["run-folder: samples: is of a run: its pictures are samples"]


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")


def test_links_to_folders(folder: Path, tmp_path: Path) -> None:
    picture(folder, "cat/a.png")
    picture(tmp_path / "elsewhere", "b.png", 1)
    link(folder / "10_far", tmp_path / "elsewhere")
    link(folder / "cat" / "up", folder)
    link(folder / "cat" / "here", folder / "cat")
    link(folder / "a cat", folder / "cat")
    link(folder / "nothing", folder / "gone")
    dataset = scan(folder, resolution=64)
    assert {(i.subset, i.path.name, i.repeats) for i in dataset.items} == {("cat", "a.png", 1), ("10_far", "b.png", 10)}
    loop = "is a link to a folder that is read already"
    assert said(dataset) == [f"link-loop: {name}: {loop}" for name in ("a cat", "cat/here", "cat/up")]


def test_a_folder_that_the_system_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder, "a.png")
    picture(folder, "cat/b.png", 1)
    listed = os.listdir

    def refuse(path: Path) -> list[str]:
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    dataset = scan(folder, resolution=64)
    assert list(trained(dataset)) == ["a.png"]
    assert said(dataset) == ["unreadable: cat: the folder cannot be read: Permission denied"]


def test_problems_name_the_folder(folder: Path) -> None:
    first = picture(folder, "cat/a.png")
    (folder / "dog").mkdir()
    (folder / "dog" / "b.png").write_bytes(first.read_bytes())
    (folder / "dog" / "c.png").write_bytes(b"")
    (folder / "dog" / "d.txt").write_text("x", encoding="utf-8")
    (folder / "dog" / "metadata.csv").write_text("z.png,x\n", encoding="utf-8")
    assert said(scan(folder, resolution=64)) == [
        "orphan-caption: dog/d.txt: belongs to no image: no image is named 'd'",
        "unknown-file: dog/metadata.csv: line 1: no image is named 'z.png'",
        "duplicate: dog/b.png: has the same bytes as cat/a.png; both are trained",
        "empty: dog/c.png: is empty (0 bytes)",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "cat").rename(f / "10_cat"),
        lambda f: (f / "cat" / "a.txt").write_text("new", encoding="utf-8"),
        lambda f: (f / "cat" / "metadata.jsonl").write_text("{}", encoding="utf-8"),
        lambda f: (f / "cat" / "a.png").rename(f / "a.png"),
        lambda f: picture(f, "dog/deep/a.png"),
    ],
)
def test_the_fingerprint_sees_folders(folder: Path, change: Callable[[Path], object]) -> None:
    picture(folder, "cat/a.png")
    picture(folder, "cat/b.png", 1)
    (folder / "cat" / "a.txt").write_text("old", encoding="utf-8")
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


parts = st.sampled_from(["cat", "Cat", "c\u00e4t", "10_dog", "a b"])
images = st.sampled_from(["a.png", "A.png", "b.jpg", "a.b.png", "\u7eff.webp"])
places = st.dictionaries(
    st.lists(parts, max_size=3).map("/".join), st.lists(images, min_size=1, max_size=4, unique=True), min_size=1
)


@given(places, st.booleans())
def test_every_image_is_found_by_its_own_path(places: dict[str, list[str]], from_root: bool) -> None:
    root = Path("/d\u00e4ta/my set")
    folders = tuple(Folder(root / subset, subset, 1, tuple(names)) for subset, names in places.items())
    names = Names(Listing(root, folders, ()))
    for folder in folders:
        for image in folder.images:
            base = root if from_root else folder.path
            written = (folder.path / image).relative_to(base).as_posix()
            assert names.find(written, base) == [(folder, image)]
            assert names.find(str(folder.path / image), Path("/elsewhere")) == [(folder, image)]


@given(places, images)
def test_a_bare_name_means_one_folder_or_is_refused(places: dict[str, list[str]], wanted: str) -> None:
    root = Path("/d\u00e4ta/my set")
    listing = Listing(root, tuple(Folder(root / s, s, 1, tuple(n)) for s, n in places.items()), ())
    try:
        found = Names(listing).find(wanted, root)
    except AmbiguousName as error:
        assert "several folders" in str(error)  # noqa: PT017
        return
    assert len({folder.subset for folder, _ in found}) <= 1
    assert found or wanted not in {name for names in places.values() for name in names}
