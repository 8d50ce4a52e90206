"""The captioners that are models of transformers, at toy size and offline, with their real classes."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import REPO, find_comfy
from tests.host.server import comfy_python
from tests.trainer.captioning import toys
from trainer.captioning import all_captioners, get
from trainer.captioning.base import Place, Tagging, Wish
from trainer.captioning.chat import chat
from trainer.captioning.florence import TASKS
from trainer.captioning.prompts import TOKENS
from trainer.captioning.vision import Vision
from trainer.dataset.captions import tidy
from trainer.dataset.pixels import within
from trainer.errors import CaptionError

KINDS = tuple(toys.NAMES)
WANT_TORCHVISION = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, list[str]]]]:
    """The folder of a toy, and what it writes: ``toy(kind)``."""
    base = tmp_path_factory.mktemp("mod\u00e8les \u6a21\u578b")
    made: dict[str, dict[str, list[str]]] = {}

    def get_toy(kind: str) -> tuple[Path, dict[str, list[str]]]:
        if kind not in made and kind in WANT_TORCHVISION and not importlib.util.find_spec("torchvision"):
            made.update(_by_comfy(base))
        elif kind not in made:
            made[kind] = toys.answers(kind, base / kind)
        return base / kind, made[kind]

    return get_toy


def _by_comfy(base: Path) -> dict[str, Any]:
    """What this Python cannot, built by ComfyUI's."""
    comfy = find_comfy()
    if comfy is None:
        pytest.skip("torchvision is not installed, and no ComfyUI is found that has it")
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    command = [comfy_python(comfy), toys.__file__, str(base), *WANT_TORCHVISION]
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def opened(name: str, folder: Path | None) -> Any:
    return get(name).open(toys.WISH, Place(folder))


def refused(name: str, folder: Path | None) -> CaptionError:
    """The error with which a captioner does not open a folder."""
    with pytest.raises(CaptionError) as caught, opened(name, folder):
        pass
    return caught.value


@pytest.fixture
def blip(toy: Any, tmp_path: Path) -> Path:
    """A copy of a toy that may be broken."""
    return Path(shutil.copytree(toy("blip")[0], tmp_path / "blip"))


@pytest.mark.parametrize("kind", KINDS)
def test_its_captions_are_those_of_a_plain_transformers_call(toy: Any, kind: str) -> None:
    found = toy(kind)[1]
    assert len(set(found["plain"])) == len(found["plain"]) == 3  # it does look at the pictures
    assert found["single"] == found["plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_three_says_what_each_says_alone(toy: Any, kind: str) -> None:
    found = toy(kind)[1]
    assert found["batch"] == found["single"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_known_by_one_captioner(toy: Any, kind: str) -> None:
    folder = toy(kind)[0]
    assert [name for name, one in all_captioners().items() if one.knows(folder)] == [toys.NAMES[kind]]


def test_what_is_no_models_folder_is_known_by_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]", encoding="utf-8")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": ["blip"]}', encoding="utf-8")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "list", tmp_path / "odd"):
        assert not any(get(name).knows(folder) for name in set(toys.NAMES.values()))


@pytest.mark.parametrize("kind", ["blip", "florence2"])
def test_what_a_captioner_does_not_take_changes_nothing(toy: Any, kind: str) -> None:
    folder, found = toy(kind)
    captioner = get(toys.NAMES[kind])
    other = {"prompt": "What?", "length": "long", "tagging": Tagging(0.1, rating=True), "trigger_word": "sks"}
    asked = {name: value for name, value in other.items() if name not in captioner.takes}
    assert "prompt" in asked
    with captioner.open(replace(toys.WISH, **asked), Place(folder)) as session:
        assert session.caption([folder] * 3, toys.pictures()) == found["plain"]


def test_florences_task_follows_the_length(toy: Any) -> None:
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    folder, found = toy("florence2")
    model: Any = Florence2ForConditionalGeneration.from_pretrained(folder)
    processor = Florence2Processor.from_pretrained(folder)
    image = toys.pictures()[0]
    said = {"short": found["plain"][0]}
    for length in ("medium", "long"):
        with get("florence").open(Wish(length=length), Place(folder)) as session:
            (said[length],) = session.caption([folder], [image])
        inputs = processor(images=image, text=TASKS[length], return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS[length])
        assert tidy(processor.decode(tokens[0], skip_special_tokens=True)).startswith(said[length])
    assert len(set(said.values())) == 3


def test_pictures_of_more_than_a_captioners_pixels_are_made_smaller(toy: Any) -> None:
    captioner, folder = get("blip"), toy("blip")[0]
    assert isinstance(captioner, Vision)
    large = [picture.resize((300, 200), Image.Resampling.NEAREST) for picture in toys.pictures()]
    small = [within(picture, 64) for picture in large]
    with captioner.open(toys.WISH, Place(folder)) as session:
        assert session.batch == 1  # a CPU wins nothing by more
        full, expected = session.caption([folder] * 3, large), session.caption([folder] * 3, small)
    with replace(captioner, pixels=64).open(toys.WISH, Place(folder)) as session:
        assert session.caption([folder] * 3, large) == expected != full


def test_all_memory_is_given_back_at_the_end(toy: Any) -> None:
    from transformers import BlipForConditionalGeneration

    def models() -> list[Any]:
        return [one for one in gc.get_objects() if type(one) is BlipForConditionalGeneration]

    folder = toy("blip")[0]
    gc.collect()
    before = len(models())
    with opened("blip", folder) as session:
        session.caption([folder], toys.pictures()[:1])
        assert len(models()) == before + 1
    assert len(models()) == before
    with pytest.raises(ZeroDivisionError), opened("blip", folder):
        raise ZeroDivisionError
    assert len(models()) == before


def test_out_of_memory_reaches_whoever_makes_the_batches(toy: Any) -> None:
    def full(module: Any, args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def broken(module: Any, args: Any) -> None:
        raise ValueError("shapes do not fit")

    folder, found = toy("blip")
    with opened("blip", folder) as session:
        hook = session._model.vision_model.register_forward_pre_hook(full)
        with pytest.raises(torch.OutOfMemoryError):
            session.caption([folder] * 3, toys.pictures())
        hook.remove()
        hook = session._model.vision_model.register_forward_pre_hook(broken)
        with pytest.raises(CaptionError, match=r"blip: no caption for a\.png: ValueError: shapes do not fit"):
            session.caption([folder / "a.png"], toys.pictures()[:1])
        hook.remove()
        assert session.caption([folder] * 3, toys.pictures()) == found["plain"]
        assert session.caption([], []) == []


def test_without_torchvision_qwen_names_it(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy("qwen2_5_vl")[0]
    monkeypatch.setitem(sys.modules, "torchvision", None)  # Python's own way to say: not installed
    error = refused("qwen", folder)
    assert error.message.startswith("qwen: the processor needs torchvision, which cannot be imported: ")
    assert error.cure.startswith(f"Install the torchvision that belongs to torch {torch.__version__}")


def test_a_torchvision_that_does_not_fit_to_torch_is_named(toy: Any, tmp_path: Path) -> None:
    package, facts = tmp_path / "torchvision", tmp_path / "torchvision-0.1.0.dist-info"
    for folder in (package, facts):
        folder.mkdir()
    says = "operator torchvision::nms does not exist"  # what a real one says then
    (package / "__init__.py").write_text(f"raise RuntimeError({says!r})\n", encoding="utf-8")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n", encoding="utf-8")
    folder = tmp_path / "pictures"
    folder.mkdir()
    toys.pictures()[0].save(folder / "a.png")
    command = [sys.executable, "-m", "trainer", "caption", "--input", str(folder), "--method", "blip"]
    done = subprocess.run(
        [*command, "--model", str(toy("blip")[0])],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 2
    assert f"the processor needs torchvision, which cannot be imported: {says}" in done.stderr


@pytest.mark.parametrize(("name", "kind"), [("florence", "blip"), ("blip", "florence2"), ("qwen", "llava")])
def test_a_model_of_another_kind_names_the_captioner_that_can(toy: Any, name: str, kind: str) -> None:
    error = refused(name, toy(kind)[0])
    assert error.message.startswith(f"{name}: {toy(kind)[0]} is of another kind: its config.json says model_type")
    assert error.cure == f"The captioner {toys.NAMES[kind]!r} can use it."


def test_no_model_and_what_is_none(tmp_path: Path) -> None:
    assert refused("blip", None).message == "blip: needs a model"
    assert "has no config.json" in refused("blip", tmp_path).message
    assert "has no config.json" in refused("blip", tmp_path / "missing").message
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert refused("blip", tmp_path).message == f"blip: {tmp_path / 'config.json'} cannot be read"


def test_a_transformers_that_is_too_old_is_named_with_the_version_that_is_needed(toy: Any) -> None:
    captioner = get("blip")
    assert isinstance(captioner, Vision)
    newer = replace(captioner, kinds={"blip": "99.1"})
    with pytest.raises(CaptionError) as caught, newer.open(Wish(), Place(toy("blip")[0])):
        pass
    assert "cannot load blip; 99.1 or newer is needed" in caught.value.message
    assert '"transformers>=99.1"' in caught.value.cure


def test_code_of_a_folder_is_not_run(blip: Path) -> None:
    config = json.loads((blip / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (blip / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ran = blip / "ran"
    (blip / "modeling.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Model: pass\n", encoding="utf-8")
    error = refused("blip", blip)
    assert error.message.endswith("brings code of its own, which is not run")
    assert not ran.exists()


@pytest.mark.parametrize("harm", ["cut", "gone", "pickled", "processor"])
def test_a_broken_model_is_named(blip: Path, harm: str) -> None:
    weights = blip / "model.safetensors"
    if harm == "cut":
        os.truncate(weights, weights.stat().st_size // 2)
    elif harm == "pickled":
        torch.save(load_file(weights), blip / "pytorch_model.bin")
        weights.unlink()
    elif harm == "gone":
        weights.unlink()
    else:
        for name in ("processor_config.json", "preprocessor_config.json", "tokenizer.json"):
            (blip / name).unlink(missing_ok=True)
    assert refused("blip", blip).message.startswith(f"blip: {blip} cannot be loaded: ")


def test_weights_that_are_missing_are_not_made_up(blip: Path) -> None:
    weights = load_file(blip / "model.safetensors")
    half = {name: weights[name] for name in sorted(weights)[: len(weights) // 2]}
    save_file(half, blip / "model.safetensors", metadata={"format": "pt"})
    assert f"{blip} lacks " in refused("blip", blip).message


def test_a_chat_whose_template_cannot_be_used(toy: Any) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(toy("llava")[0])
    assert chat(processor, "what is it").count(toys.IMAGE) == 1
    processor.chat_template = toys.IMAGE + "{{ messages[-1]['content'] }}"
    assert chat(processor, "what is it") == f"{toys.IMAGE}what is it"
    processor.chat_template = "{{ messages[-1]['role'] }}"
    with pytest.raises(CaptionError, match="puts <image> 0 times into the text"):
        chat(processor, "what is it")
    processor.chat_template = "{{ raise_exception('no pictures') }}"
    with pytest.raises(CaptionError, match="no pictures"):
        chat(processor, "what is it")
    processor.chat_template = toys.TEXT_TEMPLATE + "<think>\n"
    with pytest.raises(CaptionError, match="thinks before it answers"):
        chat(processor, "what is it")


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**6))
def test_a_large_picture_becomes_as_small_as_is_let_and_keeps_its_shape(width: int, height: int, pixels: int) -> None:
    picture = within(Image.new("1", (width, height)), pixels)
    small = picture.size
    if width * height <= pixels:
        assert small == (width, height)
    else:
        assert small[0] * small[1] <= max(pixels, *small)
        scale = (pixels / (width * height)) ** 0.5
        assert abs(small[0] - width * scale) <= 1
        assert abs(small[1] - height * scale) <= 1


def test_nothing_heavy_is_imported_for_the_list_of_captioners() -> None:
    code = (
        "import sys, trainer.captioning as c; c.names();"
        "print({'transformers', 'torchvision', 'accelerate', 'diffusers', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
