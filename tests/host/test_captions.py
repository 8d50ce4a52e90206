"""Auto Caption in the real server: a captioner with a model works in the worker, is cancelled, and goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import REPO
from tests.host.browser import close_dialogs, open_page, run_by_click
from tests.host.graphs import Graph, node
from tests.host.server import ComfyServer, PromptFailed
from tests.host.test_dataset import foreign
from tests.host.test_nodes_page import LISTEN
from tests.trainer.captioning import toys
from tests.trainer.captioning.slow import said
from tests.trainer.captioning.test_stops import pictures, rows
from trainer.captioning import label
from trainer.captioning.base import Place, Wish

pytestmark = pytest.mark.host
NAME = "B\u00fccher \u6f2b\u753b"

EYES = """

class Eyes(Slow):
    def caption(self, paths, pictures):
        with open(f"{self.log}.pid", "a") as file:
            file.write(f"{os.getpid()}\\n")
        return super().caption(paths, pictures)


CAPTIONER = Eyes(Path(%r), 0.15, batch=2, models=("darkroom-tests/eyes",), name="eyes")
"""


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server whose pack has one captioner more, `eyes`."""
    server = ComfyServer(tmp_path_factory.mktemp("captions"), start=False)
    source = (REPO / "tests" / "trainer" / "captioning" / "slow.py").read_text("utf-8").partition("\ndef main(")[0]
    text = source + EYES % str(server.base / "said")
    (server.pack / "trainer" / "captioning" / "eyes.py").write_text(text, "utf-8")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def model(comfy: ComfyServer) -> Path:
    """Its model, in ComfyUI's folder for such."""
    folder = comfy.base / "models" / "captioners" / "my eyes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.json").touch()
    return folder


@pytest.fixture
def data(comfy: ComfyServer) -> Path:
    """Twelve pictures without captions."""
    folder = comfy.base / "input" / NAME
    shutil.rmtree(folder, ignore_errors=True)
    (comfy.base / "said").unlink(missing_ok=True)
    pictures(folder, 12)
    return folder


def graph(method: str = "eyes", mode: str = "missing", format: str = "csv", **more: Any) -> Graph:
    """Load Dataset, Auto Caption, and a node that wants what it gives."""
    how = {"method": method, "mode": mode, "format": format, "trigger_word": "", **more}
    return {
        "data": node("Darkroom_LoadDataset", folder=NAME, path="", trigger_word="", repeats=1),
        "caption": node("Darkroom_AutoCaption", dataset=["data", 0], **how),
        "images": node("Darkroom_DatasetImages", dataset=["caption", 0], size="original", resolution=64, limit=0),
        "texts": node("DarkroomProbe", task="plain", path="", anything=["images", 1]),
    }


def why(comfy: ComfyServer, asked: Graph) -> str:
    with pytest.raises(PromptFailed) as caught:
        comfy.run(asked)
    return caught.value.details["exception_message"]


def test_the_model_works_in_a_process_of_its_own(comfy: ComfyServer, data: Path, model: Path):
    asked = graph(trigger_word="sks", prefix="a photo of", replace_words="rgb -> red")
    outputs = comfy.run(asked)
    text = outputs["caption"]["text"][0]
    assert f"12 captions written to {data / 'metadata.csv'}, 0 left as they were" in text
    expected = [f"sks, a photo of red {number} 0 7" for number in range(12)]
    assert [prompt for _, prompt in rows(data / "metadata.csv")] == expected
    assert outputs["texts"]["seen"] == expected
    workers = set(said(comfy.base / "said.pid"))
    assert comfy.process is not None
    assert len(workers) == 1
    assert str(comfy.process.pid) not in workers
    assert not Path(f"/proc/{workers.pop()}").exists()
    assert not list(comfy.base.glob("user/*lora_darkroom/captioning-*"))


def test_where_nothing_is_missing_no_worker_is_started(comfy: ComfyServer, data: Path, model: Path):
    comfy.run(graph())
    shutil.rmtree(model)
    rooms = comfy.log().count("free for the captioning")
    assert "0 captions written" in comfy.run(graph(trigger_word="other"))["caption"]["text"][0]
    assert comfy.log().count("free for the captioning") == rooms


def cancel(comfy: ComfyServer, asked: Graph) -> None:
    """Queue a graph, and press Cancel when three captions have been made."""
    queued = comfy.queue(asked)
    deadline = time.monotonic() + 120
    while len(said(comfy.base / "said")) < 3:
        assert time.monotonic() < deadline, comfy.log()[-3000:]
        time.sleep(0.05)
    comfy.post("/interrupt", {})
    assert comfy.wait(queued)["status"]["status_str"] == "error"


def test_cancel_keeps_what_is_written_and_the_next_run_goes_on(comfy: ComfyServer, data: Path, model: Path):
    cancel(comfy, graph(mode="all"))
    done = said(comfy.base / "said")
    assert 3 <= len(done) < 12
    assert [name for name, _ in rows(data / "metadata.csv")] == done, "what was looked at is written"
    text = comfy.run(graph(mode="all"))["caption"]["text"][0]
    assert f"{12 - len(done)} captions written to" in text
    assert f"{len(done)} left as they were" in text
    assert f"went on with a run that was stopped: {len(done)} were done" in text
    assert sorted(said(comfy.base / "said")) == sorted(path.name for path in data.glob("*.png")), "each once"


def test_wired_pictures_are_gone_on_with_too(comfy: ComfyServer, data: Path, model: Path):
    asked = graph()
    asked["core"] = node("LoadImageTextDataSetFromFolder", folder=NAME)
    asked["data"]["inputs"]["images"] = ["core", 0]
    cancel(comfy, asked)
    seen = comfy.run(asked)["texts"]["seen"]
    assert sorted(seen) == sorted(f"rgb {number} 0 7" for number in range(12))
    assert len(said(comfy.base / "said")) == len(set(said(comfy.base / "said"))) == 12
    assert not (data / "metadata.csv").exists()


def test_a_model_that_is_not_there_is_an_error_with_what_to_put_where(comfy: ComfyServer, data: Path, model: Path):
    shutil.rmtree(model)
    message = why(comfy, graph())
    assert "eyes: the model darkroom-tests/eyes is not on this machine" in message
    assert f"put its folder into {model.parent}" in message
    assert not (data / "metadata.csv").exists()


def test_what_lies_in_the_folder_of_captioners_is_offered(comfy: ComfyServer, data: Path, model: Path):
    inputs = comfy.node_info("Darkroom_AutoCaption")["input"]
    assert "my eyes" in inputs["optional"]["model"][1]["options"]
    assert "eyes" in inputs["required"]["method"][1]["options"]
    assert "captioners" in comfy.get("/models")
    for chosen in ({"model": "my eyes"}, {"model_path": str(model)}, {"model_path": f'"{model}"'}):
        assert "captions written" in comfy.run(graph(mode="all", **chosen))["caption"]["text"][0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../secret", "~/model", "a/../b", ".hidden/x", "C:\\models"])
def test_another_machine_names_no_path_of_a_model(comfy: ComfyServer, data: Path, name: str):
    for what in ("model", "model_path"):
        status, answer = foreign(comfy, "/prompt", {"prompt": graph(**{what: name})})
        assert status == 400
        assert "is a path, and another machine may name none" in str(answer["node_errors"]["caption"])


def test_another_machine_names_a_model_of_the_folder(comfy: ComfyServer, data: Path, model: Path):
    status, answer = foreign(comfy, "/prompt", {"prompt": graph(model="my eyes")})
    assert status == 200
    assert comfy.wait(answer["prompt_id"])["status"]["status_str"] == "success"


def test_a_bad_picture_is_named_on_the_node(comfy: ComfyServer, data: Path, model: Path):
    (data / "0003 \u7eff.png").write_bytes(b"nothing")
    text = comfy.run(graph())["caption"]["text"][0]
    assert "11 captions written" in text
    assert "0003 \u7eff.png: is not a picture that can be read" in text


def test_captioners_without_a_model_need_no_worker(comfy: ComfyServer, data: Path):
    Image.new("RGB", (64, 64), "red").save(data / "red_house.png")
    pids = comfy.base / "said.pid"
    before = said(pids)
    text = comfy.run(graph("filename"))["caption"]["text"][0]
    assert "captions written" in text
    assert said(pids) == before


def test_captions_that_were_deleted_are_written_again(comfy: ComfyServer, data: Path):
    """All is then as before the first time, which ComfyUI's cache remembers."""
    asked = graph("filename", trigger_word="again")
    for _ in range(2):
        comfy.run(asked)
        assert (data / "metadata.csv").exists()
        (data / "metadata.csv").unlink()
    for _ in range(2):  # written; and looked at, because the folder is another one now
        comfy.run(asked)
    assert "caption" not in comfy.executed(comfy.wait(comfy.queue(asked))), "what is as it was comes out of the cache"


def test_a_model_of_transformers_says_the_same_in_the_graph(comfy: ComfyServer, data: Path, tmp_path: Path):
    """The worker of the real ComfyUI, with its own transformers, against a call in this process."""
    toy = toys.build("blip", comfy.base / "models" / "captioners" / "toy blip")
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    label(copy, method="blip", place=Place(toy), wish=Wish(length="short"))
    asked = graph("blip", model="toy blip", length="short", batch=5)
    text = comfy.run(asked)["caption"]["text"][0]
    assert "12 captions written" in text
    assert rows(data / "metadata.csv") == rows(copy / "metadata.csv")
    assert any(prompt for _, prompt in rows(copy / "metadata.csv"))


@pytest.mark.browser
def test_the_page_shows_how_far_it_is_with_pictures(comfy: ComfyServer, data: Path, model: Path):
    with open_page(comfy) as (page, complaints):
        close_dialogs(page)
        page.evaluate("graph => app.loadApiJson(graph, 'captions')", graph(mode="all"))
        page.wait_for_timeout(1500)
        page.evaluate(LISTEN)
        run_by_click(page, comfy)
        heard = page.evaluate("() => window.heard")
        page.get_by_text("12 captions written to").first.wait_for()
        assert not complaints
    told = "\n".join(heard["texts"])
    for text in ("Starting the worker", "Loading the model ", "2 of 12, ", " left: rgb 1 0 7", "12 of 12, 0:00 left"):
        assert text in told
    assert heard["previews"] >= 1
