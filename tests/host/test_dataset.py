"""Load Dataset, Dataset Images and Auto Caption in the real server: what they take and show, who may read what."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.host.graphs import DEMO_DATA, SAILOR_DATA, WISHES_DATA, Graph, node
from tests.host.server import ComfyServer, PromptFailed

pytestmark = pytest.mark.host
NAME = "B\u00fccher \u6f2b\u753b \U0001f408"
ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}  # what a proxy adds: the client is on another machine


def draw(file: Path, width: int = 96, height: int = 64, seed: int = 0) -> Path:
    """A picture of its own, in a folder that is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def two(folder: Path, seed: int = 0) -> Path:
    """Two pictures of different sizes with captions."""
    for number, (width, height) in enumerate(((96, 64), (64, 128))):
        draw(folder / f"red_house \u00fc{number}.png", width, height, seed + number)
        (folder / f"red_house \u00fc{number}.txt").write_text(f"caption \u6f2b{number}", "utf-8")
    return folder


@pytest.fixture
def data(comfy: ComfyServer) -> Path:
    """Such a folder below the server's input."""
    return two(comfy.base / "input" / NAME)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Such a folder elsewhere on the disk."""
    return two(tmp_path / "elsewhere \u00fc \u6f2b", seed=10)


def load(folder: str = DEMO_DATA, path: str = "", **more: Any) -> Graph:
    """Load Dataset with its pictures, as `data`, `images` and `shown`."""
    return {
        "data": node("Darkroom_LoadDataset", folder=folder, path=path, trigger_word="", repeats=1, **more),
        "images": node("Darkroom_DatasetImages", dataset=["data", 0], size="original", resolution=64, limit=0),
        "shown": node("PreviewImage", images=["images", 0]),
    }


def foreign(comfy: ComfyServer, path: str, data: dict[str, Any], more: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of a POST that comes from another machine; with other headers, of whoever sends these."""
    headers = {"Content-Type": "application/json", **(ELSEWHERE if more is None else more)}
    headers = {"Origin": f"http://{headers.get('Host', comfy.url.partition('//')[2])}", **headers}
    request = urllib.request.Request(comfy.url + path, json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def refused(comfy: ComfyServer, graph: Graph) -> str:
    """The message with which a node fails."""
    with pytest.raises(PromptFailed) as caught:
        comfy.run(graph)
    return caught.value.details["exception_message"]


def sizes(comfy: ComfyServer, outputs: dict[str, Any]) -> list[tuple[int, int]]:
    return [comfy.image(one).size for one in outputs["shown"]["images"]]


def test_a_folder_is_loaded_and_shown(comfy: ComfyServer, data: Path):
    options = comfy.node_info("Darkroom_LoadDataset")["input"]["optional"]["folder"][1]["options"]
    assert NAME in options
    outputs = comfy.run(load(NAME))
    first, root, *rest = outputs["data"]["text"][0].splitlines()
    assert first == "2 images (1 at 64x64, 1 at 64x128), 2 with captions"
    assert root == f"input/{data.name}"
    assert any(line.startswith("- few-images: 2 images: 50 to 200") for line in rest)
    (sheet,) = outputs["data"]["sheet"]
    assert comfy.image(sheet).size[0] > 300
    assert sizes(comfy, outputs) == [(96, 64), (64, 128)]
    picture = comfy.pixels(outputs["shown"]["images"][0])
    kept = torch.from_numpy(np.array(Image.open(data / "red_house \u00fc0.png"))) / 255
    assert torch.equal(picture, kept)


def test_the_sheet_is_not_drawn_again(comfy: ComfyServer, data: Path):
    (sheet,) = comfy.run(load(NAME))["data"]["sheet"]
    file = comfy.base / "temp" / sheet["filename"]
    before = file.stat().st_mtime_ns
    asked = {"folder": NAME, "path": "", "trigger_word": "", "repeats": 1, "captions": "auto"}
    assert comfy.post("/darkroom/dataset", asked)["sheet"] == [sheet]
    comfy.run({**load(NAME), "other": node("PreviewImage", images=["images", 0])})
    assert file.stat().st_mtime_ns == before
    (data / "red_house \u00fc0.txt").write_text("another caption", "utf-8")
    (other,) = comfy.post("/darkroom/dataset", asked)["sheet"]
    assert other != sheet
    file.unlink()
    (data / "red_house \u00fc0.txt").write_text("caption \u6f2b0", "utf-8")
    assert comfy.post("/darkroom/dataset", asked)["sheet"] == [sheet]
    assert file.is_file(), "what ComfyUI has cleaned away is drawn again"


def test_where_captions_come_from(comfy: ComfyServer, data: Path):
    graph = {**load(NAME), "texts": node("DarkroomProbe", task="plain", path="", anything=["images", 1])}
    for source, expected in {
        "auto": ["caption \u6f2b0", "caption \u6f2b1"],
        "names": ["red house \u00fc0", "red house \u00fc1"],
        "none": ["", ""],
    }.items():
        graph["data"]["inputs"]["captions"] = source
        assert [comfy.run(graph)["texts"]["seen"]] == [expected], source
    graph["data"]["inputs"]["captions"] = "table"
    assert f"it is table, but {data} has no metadata.csv or metadata.jsonl" in refused(comfy, graph)


def test_a_local_client_reads_what_it_likes(comfy: ComfyServer, outside: Path):
    for typed in (str(outside), f'"{outside}"', f" {outside}/ "):
        outputs = comfy.run(load(path=typed))
        assert outputs["data"]["text"][0].splitlines()[1] == outside.as_posix()
    assert "path: " + str(outside / "gone") + " does not exist" in refused(comfy, load(path=str(outside / "gone")))
    file = outside / "red_house \u00fc0.png"
    assert f"path: {file} is a file, expected a folder" in refused(comfy, load(path=str(file)))


@pytest.fixture
def ways_out(comfy: ComfyServer, outside: Path, data: Path) -> list[dict[str, str]]:
    """Inputs that lead to a folder outside of ComfyUI's own."""
    link = comfy.base / "input" / "a link"
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    up = "../" * 12 + str(outside).lstrip("/")
    return [
        {"folder": DEMO_DATA, "path": str(outside)},
        {"folder": DEMO_DATA, "path": f'"{outside}"'},
        {"folder": DEMO_DATA, "path": up},
        {"folder": DEMO_DATA, "path": "a link"},
        {"folder": DEMO_DATA, "path": "~"},
        {"folder": str(outside), "path": ""},
        {"folder": up, "path": ""},
        {"folder": "a link", "path": ""},
        {"folder": f"[datasets] {up}", "path": ""},
    ]


def test_another_machine_reads_only_what_is_meant_for_it(comfy: ComfyServer, ways_out: list[dict[str, str]]):
    for asked in ways_out:
        status, answer = foreign(comfy, "/darkroom/dataset", asked)
        assert status == 400, asked
        assert "lies outside of the folders that another machine may use" in answer["error"]
        status, answer = foreign(comfy, "/prompt", {"prompt": load(**asked)})
        assert status == 400, asked
        assert "lies outside of the folders" in json.dumps(answer["node_errors"]["data"])
    for folder in (DEMO_DATA, NAME):
        assert foreign(comfy, "/darkroom/dataset", {"folder": folder})[0] == 200
        status, answer = foreign(comfy, "/prompt", {"prompt": load(folder)})
        assert status == 200
        assert comfy.wait(answer["prompt_id"])["status"]["status_str"] == "success"
    assert foreign(comfy, "/darkroom/dataset/open", {"folder": NAME})[0] == 403


def test_a_wired_path_is_refused_when_it_is_known(comfy: ComfyServer, outside: Path):
    graph = load(path="")
    graph["text"] = node("PrimitiveString", value=str(outside))
    graph["data"]["inputs"]["path"] = ["text", 0]
    assert comfy.run(graph)["data"]["text"][0].splitlines()[1] == outside.as_posix()
    graph["data"]["inputs"]["repeats"] = 2  # so that it does not come out of the cache
    for extra in ({}, {"darkroom_local": True}, []):  # what a client says of itself does not count
        status, answer = foreign(comfy, "/prompt", {"prompt": graph, "extra_data": extra})
        assert status == 200
        entry = comfy.wait(answer["prompt_id"])
        assert entry["status"]["status_str"] == "error"
        assert "lies outside of the folders" in str(entry["status"]["messages"])


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("localhost:8188", 200), ("[::1]", 200), ("rebound.example:8188", 400)]
)
def test_a_name_that_leads_here_from_the_internet_is_not_this_machine(
    comfy: ComfyServer, outside: Path, host: str, status: int
):
    """DNS rebinding: the browser of this machine asks, for a page of another site."""
    assert foreign(comfy, "/darkroom/dataset", {"path": str(outside)}, {"Host": host})[0] == status


def test_datasets_and_added_folders_are_offered_to_everybody(tmp_path: Path, outside: Path):
    added = tmp_path / "paths.yaml"
    added.write_text(f"mine:\n  base_path: {tmp_path}\n  lora_darkroom_datasets: {outside.parent}\n", "utf-8")
    comfy = ComfyServer(tmp_path / "server", ("--extra-model-paths-config", str(added)))
    try:
        two(comfy.base / "datasets" / NAME, seed=30)
        options = comfy.node_info("Darkroom_LoadDataset")["input"]["optional"]["folder"][1]["options"]
        for name in (NAME, outside.name):
            assert f"[datasets] {name}" in options
            status, answer = foreign(comfy, "/darkroom/dataset", {"folder": f"[datasets] {name}"})
            assert status == 200, answer
        assert foreign(comfy, "/darkroom/dataset", {"path": str(outside)})[0] == 200
        assert foreign(comfy, "/darkroom/dataset", {"path": str(Path.home())})[0] == 400
        assert "2 images" in comfy.run(load(f"[datasets] {NAME}"))["data"]["text"][0]
    finally:
        comfy.stop()


def stored(comfy: ComfyServer) -> list[Path]:
    """The folders of wired pictures."""
    return [folder for folder in comfy.base.glob("user/*lora_darkroom/datasets/*") if not folder.name.startswith(".")]


def test_pictures_that_the_graph_makes_are_a_data_set(comfy: ComfyServer, data: Path):
    graph = {
        **load(),
        "core": node("LoadImageTextDataSetFromFolder", folder=NAME),
        "texts": node("DarkroomProbe", task="plain", path="", anything=["images", 1]),
    }
    graph["data"]["inputs"] |= {"images": ["core", 0], "texts": ["core", 1]}
    others = set(stored(comfy))
    outputs = comfy.run(graph)
    assert sorted(sizes(comfy, outputs)) == [(64, 128), (96, 64)]
    assert sorted(outputs["texts"]["seen"]) == ["caption \u6f2b0", "caption \u6f2b1"]
    assert "2 with captions" in outputs["data"]["text"][0]
    kept = {p.tobytes() for p in (np.asarray(Image.open(file)) for file in data.glob("*.png"))}
    back = {comfy.pixels(one).mul(255).round().byte().numpy().tobytes() for one in outputs["shown"]["images"]}
    assert back == kept, "what is trained must be what was wired, to the bit"

    (folder,) = set(stored(comfy)) - others
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    graph["data"]["inputs"]["repeats"] = 2
    comfy.run(graph)
    assert set(stored(comfy)) - others == {folder}, "the same pictures are the same data set"
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before

    captioned = node(
        "Darkroom_AutoCaption", dataset=["data", 0], method="trigger", mode="all", format="csv", trigger_word="sks"
    )
    graph["caption"] = captioned
    graph["images"]["inputs"]["dataset"] = ["caption", 0]
    assert set(comfy.run(graph)["texts"]["seen"]) == {"sks"}
    assert len(set(stored(comfy)) - others) == 2, "captions make another data set of wired pictures"
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    for own in set(stored(comfy)) - others:
        shutil.rmtree(own)


def test_a_batch_with_one_text(comfy: ComfyServer):
    graph = load()
    graph["batch"] = node("EmptyImage", width=64, height=96, batch_size=3, color=255)
    graph["text"] = node("PrimitiveString", value="a blue \u6f2b")
    graph["data"]["inputs"] |= {"images": ["batch", 0], "texts": ["text", 0], "trigger_word": "sks"}
    graph["texts"] = node("DarkroomProbe", task="plain", path="", anything=["images", 1])
    outputs = comfy.run(graph)
    assert sizes(comfy, outputs) == [(64, 96)] * 3
    assert outputs["texts"]["seen"] == ["sks, a blue \u6f2b"] * 3


def test_counts_that_do_not_fit(comfy: ComfyServer, data: Path):
    graph = {**load(), "core": node("LoadImageTextDataSetFromFolder", folder=NAME)}
    graph["batch"] = node("EmptyImage", width=64, height=96, batch_size=3, color=255)
    graph["data"]["inputs"] |= {"images": ["batch", 0], "texts": ["core", 1]}
    assert "texts: 2 texts and 3 pictures are wired; expected one text for each picture, or one for all" in refused(
        comfy, graph
    )
    del graph["data"]["inputs"]["images"]
    assert "texts: they are wired, but no images are" in refused(comfy, graph)


def test_pictures_as_they_are_trained(comfy: ComfyServer, data: Path):
    graph = load(NAME)
    graph["images"]["inputs"] |= {"size": "as trained", "resolution": 64, "limit": 1}
    assert sizes(comfy, comfy.run(graph)) == [(64, 64)]


def test_captions_that_would_not_be_used_are_not_written(comfy: ComfyServer, data: Path):
    graph = {
        **load(NAME, captions="files"),
        "caption": node(
            "Darkroom_AutoCaption", dataset=["data", 0], method="filename", mode="all", format="csv", trigger_word=""
        ),
    }
    graph["images"]["inputs"]["dataset"] = ["caption", 0]
    message = "Load Dataset: captions is files, so that what is written as csv would not be used"
    assert message in refused(comfy, graph)
    assert not (data / "metadata.csv").exists()


def test_a_new_folder_is_nobodys(comfy: ComfyServer, data: Path):
    assert comfy.post("/darkroom/dataset/new", {"name": NAME}) == {"folder": f"{NAME}-2"}
    made = comfy.base / "input" / f"{NAME}-2"
    assert made.is_dir()
    assert comfy.post("/darkroom/dataset/discard", {"folder": NAME}) == {"folder": NAME}
    assert len(list(data.iterdir())) == 4
    assert comfy.post("/darkroom/dataset/discard", {"folder": made.name}) == {"folder": ""}
    assert not made.exists()
    for name, expected in {"../../up": "up", 'a/b:c"': "a b c", "CON": "CON dataset", "_x. ": "x"}.items():
        assert comfy.post("/darkroom/dataset/new", {"name": name}) == {"folder": expected}
        comfy.post("/darkroom/dataset/discard", {"folder": expected})
    days = [comfy.post("/darkroom/dataset/new", {})["folder"] for _ in range(2)]
    assert days[0].startswith("dataset-20")
    numbers = [int(day.rpartition("-")[2]) for day in days]
    assert numbers[1] == numbers[0] + 1
    with pytest.raises(PromptFailed, match="is no name of a new folder"):
        comfy.post("/darkroom/dataset/discard", {"folder": "../models"})


def test_a_folder_cannot_be_opened_without_a_desktop(comfy: ComfyServer, data: Path):
    with pytest.raises(PromptFailed, match="it cannot be opened: "):
        comfy.post("/darkroom/dataset/open", {"folder": NAME, "path": ""})


def test_words_of_captions_are_counted_and_drawn(comfy: ComfyServer, data: Path):
    for number, caption in enumerate(("\u957f\u53d1, hat, rain, sun", "hat, rain, mill")):
        (data / f"red_house \u00fc{number}.txt").write_text(caption, "utf-8")
    graph = {
        **load(NAME),
        "words": node("Darkroom_CaptionWords", dataset=["data", 0], count="auto", limit=3),
        "text": node("DarkroomProbe", task="plain", path="", anything=["words", 1]),
        "kept": node("PreviewImage", images=["words", 0]),
    }
    outputs = comfy.run(graph)
    (text,) = outputs["text"]["seen"]
    assert text.splitlines() == [
        "tags, in how many of 2 captions:",
        "         2  100%  hat",
        "         2  100%  rain",
        "         1   50%  mill",
        "    and 2 more",
    ]
    (shown,), (kept,) = outputs["words"]["images"], outputs["kept"]["images"]
    assert torch.equal(comfy.pixels(shown), comfy.pixels(kept))
    assert comfy.image(shown).width == 768


def test_what_may_be_better_about_captions_is_said_on_the_node(comfy: ComfyServer, data: Path):
    (data / "red_house \u00fc0.txt").write_text("a (red:1.3) house " * 30, "utf-8")
    lines = comfy.run(load(NAME))["data"]["text"][0].splitlines()
    for said in (
        "- weights: 1 caption with the weights of a prompt",
        "- long-caption: 1 caption is longer than CLIP's",
    ):
        assert any(line.startswith(said) for line in lines), lines


PAIR = '{"prompt": "Wer bist du?", "completion": "Ich, \u6f2b."}'


def test_text_is_loaded_and_shown(comfy: ComfyServer, tmp_path: Path):
    folder = comfy.base / "input" / "answers \u6f2b"
    folder.mkdir()
    file = folder / "answers.jsonl"
    file.write_text(f"{PAIR}\nbroken\n", "utf-8")
    options = comfy.node_info("Darkroom_LoadDataset")["input"]["optional"]["folder"][1]["options"]
    assert folder.name in options
    graph = {
        "data": node("Darkroom_LoadDataset", folder=folder.name, trigger_word="x"),
        "texts": node("DarkroomProbe", task="texts", path="", anything=["data", 0]),
    }
    outputs = comfy.run(graph)
    assert outputs["texts"]["seen"] == [["answers.jsonl:1"]]
    assert outputs["data"]["sheet"] == []
    lines = outputs["data"]["text"][0].splitlines()
    assert lines[:5] == [
        "1 sample: 1 conversation with 1 answer",
        f"input/{folder.name}",
        "- user: Wer bist du?",
        "  assistant: Ich, \u6f2b.",
        "- not used: trigger_word, which are for images",
    ]
    assert "    answers.jsonl: line 2: is not JSON: Expecting value (column 1)" in lines
    # The page before Run, and a file by its path.
    asked = {"folder": folder.name, "trigger_word": "x", "repeats": 1, "captions": "auto"}
    assert comfy.post("/darkroom/dataset", asked) == {"text": outputs["data"]["text"], "sheet": []}
    assert "1 sample:" in comfy.post("/darkroom/dataset", {**asked, "path": str(file)})["text"][0]
    # Another line is another data set, as the graph sees it.
    file.write_text(f"{PAIR}\n{PAIR}\n", "utf-8")
    assert "2 samples" in comfy.run(graph)["data"]["text"][0]
    file.write_text("broken\n", "utf-8")
    assert "line 1: is not JSON" in refused(comfy, graph)


@pytest.mark.parametrize(("folder", "count", "place"), [(SAILOR_DATA, 40, "answers"), (WISHES_DATA, 36, "wishes")])
def test_the_demos_texts_are_data_sets(comfy: ComfyServer, folder: str, count: int, place: str):
    told = comfy.post("/darkroom/dataset", {"folder": folder})["text"][0]
    what = f"{count} samples: {count} conversations with {count} answers"
    assert told.startswith(f"{what}\ninput/darkroom_demo_{place}\n- user: ")
    assert "few-samples" not in told


def test_text_is_no_data_set_for_nodes_of_images(comfy: ComfyServer, tmp_path: Path):
    file = tmp_path / "lines.txt"
    file.write_text("One.\nTwo.\n", "utf-8")
    assert "lines.txt holds text, expected images" in refused(comfy, load(path=str(file)))


def test_another_machine_reads_text_only_where_it_may(comfy: ComfyServer, tmp_path: Path):
    file = tmp_path / "secret.txt"
    file.write_text("a secret", "utf-8")
    (comfy.base / "input" / "lines \u6f2b.txt").write_text("One.", "utf-8")
    status, answer = foreign(comfy, "/darkroom/dataset", {"path": str(file)})
    assert (status, "secret\n" in str(answer)) == (400, False)
    assert "lies outside of the folders that another machine may use" in str(answer)
    assert foreign(comfy, "/darkroom/dataset", {"path": "lines \u6f2b.txt"})[0] == 200
