"""The command ``cache``: what it encodes, and that parts of it come to the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import REPO
from trainer import caching, families
from trainer import config as configs
from trainer.__main__ import DONE, MISTAKE, main
from trainer.cache import Cache
from trainer.config import TrainConfig
from trainer.dataset import load_mask, load_pixels, scan
from trainer.errors import ConfigError, DatasetError, UserError
from trainer.events import Phase
from trainer.own import OwnEncoder
from trainer.prepare import StoppedWhilePreparing


@pytest.fixture
def config(tmp_path: Path, picture_folder: Callable[..., Path]) -> TrainConfig:
    return configs.parse(
        {
            "base_model": families.get("sd15").tiny(tmp_path / "tiny.safetensors", 0).as_posix(),
            "train_data_dir": picture_folder(tmp_path / "data", sizes=[(64, 64)] * 5).as_posix(),
            "output_dir": (tmp_path / "run").as_posix(), "cache_dir": (tmp_path / "cache").as_posix(),
            "resolution": 64, "flip": True, "sample_every": 0, "validation_steps": 0, "device": "cpu",
        }
    )  # fmt: skip


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/??/*.safetensors")}


def never() -> bool:
    return False


def test_the_parts_are_disjoint_and_come_to_the_whole(config: TrainConfig, tmp_path: Path) -> None:
    whole = caching.fill(config, lambda event: None, never)
    assert (whole.pictures, whole.missing) == (10, 0)  # each once more in the mirror
    parts = [config.but(cache_dir=(tmp_path / f"part {one}").as_posix()) for one in range(3)]
    for number, part in enumerate(parts, 1):
        done = caching.fill(part, lambda event: None, never, (number, 3))
        assert done.missing == len(entries(whole.folder)) - len(entries(done.folder)) > 0
    found = [entries(tmp_path / f"part {one}") for one in range(3)]
    assert sum(map(len, found)) == len(set().union(*found))
    assert set().union(*found) == entries(whole.folder)


def test_pictures_are_counted_whatever_is_encoded_at_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnEncoder, "images_at_once", lambda self, pixels: 4)
    monkeypatch.setattr(OwnEncoder, "texts_at_once", 4)
    done = caching.fill(config, lambda event: None, never)
    assert (done.pictures, done.captions) == (10, 6)


def test_a_part_that_is_there_is_not_encoded_again_and_a_stop_keeps_what_is(config: TrainConfig) -> None:
    seen: list[object] = []
    with pytest.raises(StoppedWhilePreparing):
        caching.fill(config, seen.append, lambda: sum(isinstance(e, Phase) and "images" in e.name for e in seen) >= 3)
    kept = caching.fill(config, lambda event: None, never)
    assert (kept.pictures, kept.captions, kept.missing) == (7, 0, 0)
    again = caching.fill(config, lambda event: None, never)
    assert (again.pictures, again.captions, again.missing) == (0, 0, 0)


def test_what_comes_out_is_each_picture_encoded_alone_mirrored_and_masked(config: TrainConfig) -> None:
    """Whatever is decoded beside it, and of the picture and its mirror image at once."""
    folder = config.train_data_dir
    for number, file in enumerate(sorted(folder.glob("*.png"))):
        picture = Image.open(file).convert("RGBA")
        if number % 2:
            picture.putalpha(Image.linear_gradient("L").resize(picture.size).rotate(90))
        picture.save(file)
    config = config.but(mask="alpha")
    planned = caching.planning.images(config, lambda event: None, lambda event: None, never)
    planned.fill(planned.job, lambda event: None)
    encoders = families.get("sd15").load_encoders(config.base_model)
    items = {item.id: item for item in scan(folder, resolution=64, mask="alpha").items}
    cache, masked = Cache(planned.job.cache_dir), 0
    for job_item in planned.job.items:
        item = items[job_item.id]
        for key, flip in ((job_item.latents, False), (job_item.flipped, True)):
            entry = cache.load("latents", key)
            assert torch.equal(entry["latents"], encoders.encode_images(load_pixels(item, flip)[None]))
            mask = load_mask(item, flip)
            assert (mask is None) == ("mask" not in entry)
            if mask is not None:
                small = torch.nn.functional.interpolate(mask[None, None], size=(8, 8), mode="area")
                assert torch.equal(entry["mask"], small)
                masked += 1
    assert masked == 4


def test_a_picture_that_breaks_meanwhile_is_named_and_those_before_it_stay(config: TrainConfig) -> None:
    config = config.but(flip=False)
    planned = caching.planning.images(config, lambda event: None, lambda event: None, never)
    broken = Path(planned.job.items[2].path)
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(DatasetError, match=rf"{broken.name}: could be read when the dataset was scanned"):
        planned.fill(planned.job, lambda event: None)
    cache = Cache(planned.job.cache_dir)
    assert [cache.has("latents", item.latents) for item in planned.job.items] == [True, True, False, False, False]


COUNTED = """
import sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from trainer.__main__ import main
code = main(["cache", "--config", sys.argv[1]])
print(*(f"opened {name}" for name in opened), sep="\\n")
sys.exit(code)
"""


def test_a_second_run_opens_no_picture_and_no_entry_and_no_caption_twice(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    for file in config.train_data_dir.iterdir():
        os.utime(file, (1e9, 1e9))  # a file that changed just now would be looked at again

    def opened() -> list[Path]:
        ran = subprocess.run([sys.executable, "-c", COUNTED, str(path)], cwd=REPO, capture_output=True, text=True)
        assert ran.returncode == DONE, ran.stderr
        names = [line.removeprefix("opened ") for line in ran.stdout.splitlines() if line.startswith("opened ")]
        return [Path(name) for name in names]

    first, second = opened(), opened()
    folder = config.train_data_dir
    assert sum(name.parent == folder and name.suffix == ".png" for name in first) >= 5
    assert [name for name in second if name.parent == folder and name.suffix == ".png"] == []
    captions = [name for name in second if name.parent == folder]
    assert len(captions) == len(set(captions)) == 5
    assert config.cache_dir is not None
    inside = {name.relative_to(config.cache_dir).as_posix() for name in second if config.cache_dir in name.parents}
    assert inside == {"pictures.json", "hashes.json"}


def test_the_command_says_what_is_missing(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert main(["cache", "--config", str(path), "--shard", "1/2"]) == DONE
    assert "entries are still missing" in capsys.readouterr().out
    assert main(["cache", "--config", str(path), "--shard", "2/2"]) == DONE
    assert "it holds all that the run will read" in capsys.readouterr().out
    assert not config.output_dir.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2", ""])
def test_a_part_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="such as 2/4"):
        caching.shard(text)


def test_texts_and_several_processes_are_refused(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="texts are not encoded ahead"):
        caching.fill(config.but(flip=False, task_type="text-generation"), lambda event: None, never)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["cache", "--config", str(tmp_path / "any.yaml")]) == MISTAKE
