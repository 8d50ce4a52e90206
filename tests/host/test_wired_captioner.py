"""A vision-language model that is wired as CLIP captions what ComfyUI's own Generate Text says of each picture."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.host.graphs import CLIP, Graph, demo_loader, node
from tests.host.server import ComfyServer, PromptFailed
from tests.host.test_dataset import two
from trainer.captioning.base import Wish
from trainer.captioning.prompts import TOKENS, cleaned, question
from trainer.dataset.captions import tidy, with_trigger

pytestmark = pytest.mark.host
NAME = "wired \u6f2b"
VISION = {"vision": node("DarkroomVision", looks=True)}


@pytest.fixture
def data(comfy: ComfyServer) -> Path:
    return two(comfy.base / "input" / NAME, seed=30)


def captioning(clip: list[Any], **more: Any) -> Graph:
    """Load Dataset and Auto Caption with a CLIP, as `data` and `captioned`."""
    chosen = {"method": "filename", "mode": "all", "format": "csv", "trigger_word": "sks", "length": "short", **more}
    return {
        "data": node("Darkroom_LoadDataset", folder=NAME),
        "captioned": node("Darkroom_AutoCaption", dataset=["data", 0], clip=clip, **chosen),
        "pictures": node("Darkroom_DatasetImages", dataset=["captioned", 0]),
        "shown": node("PreviewImage", images=["pictures", 0]),
    }


def generated(comfy: ComfyServer, data: Path, prompt: str, most: int) -> list[str]:
    """What core's Generate Text says of each picture."""
    said = []
    for file in sorted(data.glob("*.png")):
        graph = {
            **VISION,
            "picture": node("LoadImage", image=f"{NAME}/{file.name}"),
            "text": node(
                "TextGenerate", clip=["vision", 0], image=["picture", 0], prompt=prompt, max_length=most,
                sampling_mode="off", thinking=False, use_default_template=True,
            ),
            "seen": node("DarkroomProbe", task="plain", path="", anything=["text", 0]),
        }  # fmt: skip
        (text,) = comfy.run(graph)["seen"]["seen"]
        said.append(text)
    return said


@pytest.mark.parametrize("asked", [{}, {"prompt": "Which colours {are} there?"}, {"purpose": "style"}])
def test_captions_are_what_generate_text_says(comfy: ComfyServer, data: Path, asked: dict[str, str]):
    comfy.run({**VISION, **captioning(["vision", 0], **asked)})
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as file:
        captions = [row["prompt"] for row in csv.DictReader(file)]
    wish = Wish("sks", length="short", **asked)  # pyright: ignore[reportArgumentType]
    said = generated(comfy, data, question(wish), TOKENS["short"])
    assert len(set(said)) == 2
    assert captions == [with_trigger(tidy(cleaned(text, wish.purpose, cut=True)), "sks") for text in said]


@pytest.mark.parametrize(
    ("graph", "clip", "why"),
    [
        (demo_loader(), CLIP, "cannot write text"),
        ({"blind": node("DarkroomVision", looks=False)}, ["blind", 0], "does not look at pictures"),
    ],
)
def test_a_clip_that_cannot_write_about_pictures_is_an_error_with_the_cure(
    comfy: ComfyServer, data: Path, graph: Graph, clip: list[Any], why: str
):
    before = sorted(data.iterdir())
    with pytest.raises(PromptFailed) as caught:
        comfy.run({**graph, **captioning(clip)})
    message = caught.value.details["exception_message"]
    assert message.startswith("CLIP: what is wired (")
    assert why in message
    assert "Wire a vision-language model, such as Qwen3-VL or Gemma 3 by Load CLIP" in message
    assert sorted(data.iterdir()) == before
