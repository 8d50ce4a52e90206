from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from trainer.dataset import Dataset, scan
from trainer.dataset import near as near_module
from trainer.dataset.crops import contact_sheet, gallery, lost
from trainer.dataset.findings import FINDINGS, Finding
from trainer.dataset.items import KINDS
from trainer.dataset.lint import Report, lint
from trainer.dataset.near import near_duplicates
from trainer.demo import world
from trainer.errors import DatasetError
from trainer.linting import add_arguments, run


def scene(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture with something in it, unlike all others: a few smooth shades."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def found(folder: Path, kind: str, **options: object) -> Finding | None:
    flip = bool(options.pop("flip", False))
    dataset = scan(folder, resolution=64, **options)  # pyright: ignore[reportArgumentType]
    report = lint(dataset, resolution=64, flip=flip)
    assert {finding.kind for finding in report.findings} <= {*FINDINGS, *KINDS}
    (finding,) = [f for f in report.findings if f.kind == kind] or [None]
    return finding


def command(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture
def nested(folder: Path) -> Path:
    """Four images in two folders, one without caption, one cut by its crop, and a file of 0 bytes."""
    (folder / "10_cat").mkdir()
    scene(1, 256, 256).save(folder / "10_cat" / "a.png")
    scene(2, 300, 100).save(folder / "10_cat" / "b.png")
    scene(3, 70, 70).save(folder / "c.png")
    scene(4, 512, 300).save(folder / "d \u7eff.png")
    (folder / "e.png").write_bytes(b"")
    (folder / "metadata.csv").write_text(
        "filename,prompt\n10_cat/a.png,a cat at the left\n10_cat/a.png,a cat\nc.png,brightly lit\nd \u7eff,a tree\n",
        encoding="utf-8",
    )
    return folder


def test_the_report_is_data(nested: Path) -> None:
    report = lint(scan(nested, resolution=128, repeats=2), resolution=128, flip=True)
    assert isinstance(report, Report)
    assert (report.root, report.resolution) == (nested, 128)
    assert (report.images, report.showings) == (4, 2 + 2 + 20 + 20)
    assert (report.captioned, report.alternatives, report.masked) == (3, 1, 0)
    assert (report.smallest, report.largest) == ((70, 70), (512, 300))
    assert [(s.name, s.images, s.repeats) for s in report.subsets] == [("", 2, 2), ("10_cat", 2, 20)]
    assert report.buckets == (((128, 128), 2), ((64, 64), 1), ((192, 64), 1))
    assert {f.kind: f.lines for f in report.findings} == {
        "no-caption": (
            "10_cat/b.png: no caption: expected a .txt file of its name or a row in metadata.csv; "
            "trained with the empty caption",
        ),
        "empty": ("e.png: is empty (0 bytes)",),
        "few-images": (),
        "small": ("c.png: 70x70, trained at 64x64",),
        "cropped": ("d \u7eff.png: 512x300, 41% of it",),
        "left-right": ("10_cat/a.png: a cat at the left",),
    }


def test_the_report_for_people(nested: Path) -> None:
    lines = str(lint(scan(nested, resolution=128), resolution=128)).splitlines()
    assert lines[:11] == [
        nested.as_posix(),
        "4 images, 22 showings an epoch",
        "captions: 3 of 4, 1 with alternatives",
        "sizes: 70x70 to 512x300 pixels; resolution 128",
        "folders:",
        "    (itself)  2 images",
        "    10_cat    2 images x 10",
        "buckets:",
        "    128x128    2 images",
        "    64x64      1 image",
        "    192x64     1 image",
    ]
    assert (
        "- few-images: 4 images: 50 to 200 good pictures of one theme are advised; the fewer, the sooner it overfits"
        in lines
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (1, "1 image: 50 to 200 good pictures of one theme are advised; the fewer, the sooner it overfits"),
        (49, "49 images: 50 to 200 good pictures of one theme are advised; the fewer, the sooner it overfits"),
        (50, None),
        (200, None),
        (201, "201 images: 50 to 200 good pictures of one theme are advised; with more, about 10 epochs are enough"),
        (501, "501 images: 50 to 200 good pictures of one theme are advised; with more, at most 5 epochs are enough"),
    ],
)
def test_the_number_of_images(draw: Callable[..., Path], folder: Path, images: int, message: str | None) -> None:
    draw("a.png")
    (item,) = scan(folder, resolution=64).items
    report = lint(Dataset(folder, (item,) * images, ()), resolution=64)
    assert [f.message for f in report.findings if f.kind.endswith("-images")] == ([message] if message else [])


def test_a_good_set_has_nothing_to_complain_of(draw: Callable[..., Path], folder: Path) -> None:
    for index in range(50):
        scene(index, 96, 96).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a house, number {index}", encoding="utf-8")
    report = lint(scan(folder, resolution=64), resolution=64, flip=True)
    assert report.findings == ()
    assert str(report).endswith("    64x64      50 images\nnothing to complain of")


def test_long_lists_are_cut_for_people_only(folder: Path) -> None:
    for index in range(8):
        scene(index, 70, 66).save(folder / f"{index}.png")
    finding = found(folder, "no-caption")
    assert finding is not None
    assert finding.lines == tuple(f"{index}.png" for index in range(8))
    assert str(finding).splitlines() == [
        "- no-caption: 8 x no caption: expected a .txt file of its name or a row in metadata.csv; "
        "trained with the empty caption",
        *(f"    {index}.png" for index in range(5)),
        "    and 3 more",
    ]


def test_crops(folder: Path) -> None:
    scene(1, 400, 64).save(folder / "long.png")
    scene(2, 80, 70).save(folder / "short.png")
    finding = found(folder, "cropped")
    assert finding is not None
    assert finding.message == "1 of which the crop takes more than 20% away"
    assert finding.lines == ("long.png: 400x64, 84% of it",)
    items = scan(folder, resolution=64).items
    assert lost(items[0]) == pytest.approx(1 - 64 / 400)
    assert lost(items[1]) == pytest.approx(1 - 64 / 73)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a cat at the left", True),
        ("Left-handed boxer", True),
        ("the rightmost house", True),
        ("facing right", True),
        ("ein Haus links", True),
        ("\u732b\u5728\u5de6\u8fb9", True),
        ("a bright light, copyrighted", False),
        ("at a right angle", False),
        ("right behind the house", False),
        ("leftover food", False),
        ("", False),
    ],
)
def test_left_and_right(draw: Callable[..., Path], folder: Path, caption: str, named: bool) -> None:
    draw("a.png")
    (folder / "a.txt").write_text(caption, encoding="utf-8")
    finding = found(folder, "left-right", flip=True)
    assert (finding is not None) == named
    if finding is not None:
        assert finding.message == "1 caption with left or right, and flips are on"
        assert finding.lines == (f"a.png: {caption}",)
    assert found(folder, "left-right") is None


def test_one_caption_for_all(draw: Callable[..., Path], folder: Path) -> None:
    for index in range(4):
        draw(f"{index}.png", seed=index)
        (folder / f"{index}.txt").write_text("a house" if index < 3 else "a tree", encoding="utf-8")
    finding = found(folder, "same-caption")
    assert finding is not None
    assert finding.message == "3 of 4 captioned images share 'a house': nothing tells them apart"
    (folder / "0.txt").write_text("a mill", encoding="utf-8")
    assert found(folder, "same-caption") is None


ALIKE = {
    "another format": lambda image: image,
    "smaller": lambda image: image.resize((160, 120)),
    "larger": lambda image: image.resize((640, 480)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.06),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.93),
    "a line of text": lambda image: _with_mark(image),
}


def _with_mark(image: Image.Image) -> Image.Image:
    marked = image.copy()
    marked.paste((255, 255, 255), (10, image.height - 14, 60, image.height - 8))
    return marked


@pytest.mark.parametrize("change", ALIKE)
def test_pictures_that_look_alike(folder: Path, change: str) -> None:
    for seed in range(4):
        scene(seed).save(folder / f"{seed}.png")
    ALIKE[change](scene(3)).save(folder / "copy.jpg", quality=70)
    finding = found(folder, "near-duplicate")
    assert finding is not None
    assert finding.message == "1 pair of images that look alike"
    assert finding.lines == ("3.png and copy.jpg",)


def test_each_copy_is_named_once_with_the_first(folder: Path) -> None:
    for seed in range(3):
        scene(seed).save(folder / f"{seed}.png")
    for quality in (50, 70, 90):
        scene(0).save(folder / f"copy {quality}.jpg", quality=quality)
    finding = found(folder, "near-duplicate")
    assert finding is not None
    assert finding.lines == tuple(f"0.png and copy {quality}.jpg" for quality in (50, 70, 90))


def test_the_same_bytes_are_the_scans_to_name(draw: Callable[..., Path], folder: Path) -> None:
    path = draw("a.png")
    (folder / "b.png").write_bytes(path.read_bytes())
    assert found(folder, "near-duplicate") is None
    assert found(folder, "duplicate") is not None


def test_pictures_of_one_style_are_not_alike(tmp_path: Path) -> None:
    world.write_dataset(tmp_path)
    assert near_duplicates(scan(tmp_path, resolution=64).items) == []


def test_plain_pictures_of_other_colours_are_not_alike(folder: Path) -> None:
    for index, color in enumerate(("red", "green", "white", "black")):
        Image.new("RGB", (80, 80), color).save(folder / f"{index}.png")
    assert near_duplicates(scan(folder, resolution=64).items) == []


def test_a_picture_that_broke_meanwhile_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "_known", {})
    for name in ("a.png", "b.png"):
        scene(0).save(folder / name, optimize=name == "a.png")
    dataset = scan(folder, resolution=64)
    (folder / "b.png").write_bytes(b"")
    assert near_duplicates(dataset.items) == []
    assert contact_sheet(dataset).size[0] > 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(0, 7), st.booleans())
def test_every_pair_within_the_distance_is_found(seed: int, count: int, bits: int, plain: bool) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2 if plain else 1 << 16, (count, 8)).astype(np.uint16)
    near = hashes.copy()
    for row in near:
        for bit in rng.choice(128, bits, replace=False):
            row[bit // 16] ^= np.uint16(1 << (bit % 16))
    both = np.concatenate([hashes, near])
    colours = np.zeros((2 * count, 192), np.uint8)
    pairs = set(near_module._pairs(both, colours, np.arange(2 * count)))
    assert {(index, index + count) for index in range(count)} <= pairs
    distance = {(a, b): int(near_module._POPCOUNT[both[a] ^ both[b]].sum()) for a, b in pairs}
    assert max(distance.values()) <= 7


@pytest.mark.parametrize("plain", [False, True])
def test_fifty_thousand_are_compared_in_seconds(plain: bool) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 16, (50_000, 8)).astype(np.uint16)
    if plain:
        hashes[:, :6] = 0
    colours = rng.integers(0, 256, (50_000, 192), dtype=np.uint8)
    hashes[49_999], colours[49_999] = hashes[3], colours[3]
    start = time.process_time()
    assert (3, 49_999) in set(near_module._pairs(hashes, colours, np.arange(50_000)))
    assert time.process_time() - start < 30


def test_the_picture(nested: Path) -> None:
    sheet = contact_sheet(scan(nested, resolution=128))
    # Three buckets, up to two images in each, 176 pixels a cell.
    assert 3 * 176 < sheet.height < 4 * 176
    frame = (np.asarray(sheet) == (208, 72, 20)).all(2)
    assert 4 * 4 * 100 < frame.sum() < 4 * 2 * 700


def test_the_frame_lies_on_the_crop(folder: Path) -> None:
    # Left and right thirds are red and are cropped away; the middle is blue.
    image = Image.new("RGB", (300, 100), "red")
    image.paste((0, 0, 255), (100, 0, 200, 100))
    image.save(folder / "a.png")
    values = np.asarray(contact_sheet(scan(folder, resolution=64))).astype(int)
    blue, red = (values == (0, 0, 255)).all(2), (values == (255, 0, 0)).all(2)
    pale = (values[..., 0] > 250) & (values[..., 1] > 150) & (values[..., 1] < 200)
    assert red.sum() == 0
    assert pale.sum() > 1.6 * blue.sum() > 1000


def test_what_the_mask_leaves_out_is_pale(folder: Path) -> None:
    Image.new("RGB", (100, 100), "blue").save(folder / "a.png")
    mask = np.zeros((100, 100), np.uint8)
    mask[:, :50] = 255
    Image.fromarray(mask).save(folder / "a.mask.png")
    values = np.asarray(contact_sheet(scan(folder, resolution=64, mask="files")))
    blue = (values == (0, 0, 255)).all(2).sum()
    whole = np.asarray(contact_sheet(scan(folder, resolution=64)))
    assert blue == pytest.approx((whole == (0, 0, 255)).all(2).sum() / 2, rel=0.1)


def test_the_command(nested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in nested.rglob("*") if path.is_file()}
    picture = tmp_path / "out \u00fc" / "crops.png"
    arguments = (nested, "--resolution", "128", "--flip", "--repeats", "2", "--picture", picture)
    assert run(command(*arguments, "--trigger-word", "sks")) == 0
    printed, errors = capsys.readouterr()
    assert "4 images, 44 showings an epoch" in printed
    assert "    10_cat/a.png: sks, a cat at the left" in printed
    assert printed.endswith(f"buckets and crops: {picture}\n")
    assert errors == ""
    assert picture.read_bytes()[1:4] == b"PNG"
    assert {path: path.read_bytes() for path in nested.rglob("*") if path.is_file()} == before


def test_the_command_with_masks_and_a_table(draw: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    draw("a.png")
    Image.new("L", (100, 80), 255).save(folder / "a.mask.png")
    table = tmp_path / "t.csv"
    table.write_text("a.png,a house\n", encoding="utf-8")
    picture = tmp_path / "p.jpg"
    assert run(command(folder, "--metadata", table, "--mask", "files", "--picture", picture)) == 0
    assert picture.read_bytes()[6:10] == b"JFIF"


def error_of(*arguments: object) -> str:
    with pytest.raises(DatasetError) as caught:
        run(command(*arguments))
    return caught.value.message


def test_mistakes(draw: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    path = draw("a.png")
    before = path.read_bytes()
    assert error_of(tmp_path / "gone") == f"{tmp_path / 'gone'}: the folder does not exist"
    assert error_of(folder, "--resolution", "500") == "resolution: expected a multiple of 64, at least 64, got 500"
    assert error_of(folder, "--picture", tmp_path / "a.gif") == (
        f"--picture {tmp_path / 'a.gif'}: expected a name that ends in .png, .jpg, .jpeg, .webp"
    )
    assert error_of(folder, "--picture", path) == (
        f"--picture {path}: lies in the data set, where it would be trained as an image"
    )
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert error_of(folder, "--picture", blocked / "a.png").startswith(
        f"--picture {blocked / 'a.png'}: cannot be written: "
    )
    assert path.read_bytes() == before


def test_a_data_set_that_shall_have_no_captions_is_not_told_that_it_has_none(nested: Path) -> None:
    report = lint(scan(nested, resolution=64, captions="none", trigger_word="sks"), resolution=64)
    assert report.captioned == 0
    assert not {"no-caption", "same-caption"} & {finding.kind for finding in report.findings}


def test_a_gallery_shows_captions(nested: Path) -> None:
    told = gallery(scan(nested, resolution=64))
    (nested / "c.txt").unlink(missing_ok=True)
    (nested / "metadata.csv").unlink()
    assert gallery(scan(nested, resolution=64)).tobytes() != told.tobytes()


def test_a_gallery_shows_more_of_a_bucket_where_there_is_room(folder: Path) -> None:
    for seed in range(20):
        scene(seed, 96, 96).save(folder / f"{seed}.png")
    dataset = scan(folder, resolution=64)
    one, two = (gallery(dataset, rows=rows) for rows in (1, 2))
    assert one.width == two.width
    assert two.height - one.height > 150
    assert gallery(dataset, rows=50).height == gallery(dataset, rows=5).height
