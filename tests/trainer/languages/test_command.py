"""The command generate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainer.languages.test_peft_folder import trained
from trainer import adapters, export, languages
from trainer.__main__ import main
from trainer.languages import peft_folder, toys
from trainer.text import Chat, Message


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return toys.write_tiny(tmp_path / "base")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["generate", "--prompt", "Who?", "--max-new-tokens", "24", *map(str, arguments)]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def expected(base: Path, strength: float | None = None, system: str = "") -> str:
    model = trained(base)[0] if strength is not None else languages.load(base, torch.float32)
    tokenizer = languages.tokenizer(base)
    ids = Chat(tokenizer).question([*([Message("system", system)] if system else []), Message("user", "Who?")])
    with adapters.strength(model, strength or 0):
        new = languages.generate(model, tokenizer, ids, max_new_tokens=24)
    return tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd")


def test_it_answers_with_a_lora_and_without(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, lora = trained(base)
    export.write(tmp_path / "lora.safetensors", lora, {})
    peft_folder.write(tmp_path / "peft", lora, "x", layers=2)
    plain, changed = said(capsys, "--base", base), said(capsys, "--base", base, "--lora", tmp_path / "lora.safetensors")
    assert plain == expected(base) != changed
    assert changed == expected(base, 1.0) == said(capsys, "--base", base, "--lora", tmp_path / "peft")
    assert said(capsys, "--base", base, "--lora", tmp_path / "peft", "--strength", 0.5) == expected(base, 0.5)
    assert said(capsys, "--base", base, "--lora", tmp_path / "peft", "--strength", 0) == plain
    assert said(capsys, "--base", base, "--system", "Be brief.") == expected(base, system="Be brief.") != plain


def test_what_is_drawn_follows_from_the_seed(base: Path, capsys: pytest.CaptureFixture[str]):
    drawn = [said(capsys, "--base", base, "--temperature", 1, "--seed", seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_file_that_is_missing_is_the_users_mistake(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["generate", "--base", str(base), "--prompt", "x", "--lora", str(tmp_path / "no.safetensors")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["generate", "--base", str(tmp_path / "no"), "--prompt", "x"]) == 2
    assert "does not exist" in capsys.readouterr().err
