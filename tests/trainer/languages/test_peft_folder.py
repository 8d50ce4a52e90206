"""A language model's LoRA in other programs: PEFT's folder, its way back, and merged models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trainer import adapters, languages, lorafile
from trainer.errors import ExportError, LoraFileError
from trainer.languages import peft_folder, toys

# PEFT asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def trained(path: Path, method: str = "lora", **options: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model with an adapter of random values, and the tensors of its file."""
    model = languages.load(path, torch.float32)
    options = {"rank": 4, "alpha": 8.0, "seed": 1, "method": method, **options}
    adapters.inject(model, lambda n, m: languages.is_target(n, m, "linear"), **options)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapters.parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model, adapters.exported(model, languages.export_key)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 80, 17, 300, 42, 9]])).logits


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "rslora"},
        {"ranks": {"mlp": 2}},
        {"ranks": {"mlp": 2}, "alphas": {"q_proj": 3.0, "layers.1": 5.0}},
        {"method": "rslora", "ranks": {"self_attn": 2}},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_peft_gives_the_same_logits(tmp_path: Path, kind: str, options: dict[str, Any]):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = toys.write_tiny(tmp_path / kind, kind)
    model, lora = trained(base, **options)
    before = logits(languages.load(base, torch.float32))
    folder = peft_folder.write(tmp_path / "peft", lora, str(base), layers=2)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    assert same(logits(theirs), logits(model))
    assert not same(before, logits(model))
    # And back: the same change of every weight.
    back = lorafile.parse(peft_folder.read(folder))
    for key, layer in lorafile.parse(lora).items():
        assert same(back[key].change(), layer.change())


def test_one_alpha_over_the_rank_is_every_layers_scale(tmp_path: Path):
    """What llama.cpp's convert_lora_to_gguf.py reads: these names alone, one alpha, and A and B of each layer."""
    _, lora = trained(toys.write_tiny(tmp_path / "llama"), ranks={"mlp": 2}, alphas={"q_proj": 3.0})
    peft_folder.write(tmp_path / "peft", lora, "x")
    alpha = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["lora_alpha"]
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 14
    for key, layer in lorafile.parse(lora).items():
        name = f"base_model.model.{languages.module_name(key)}"
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        assert same(alpha / down.shape[0] * (up @ down), layer.change().float())


def test_every_block_alike_is_said_by_the_kinds_of_layers(tmp_path: Path):
    base = toys.write_tiny(tmp_path / "llama")
    _, lora = trained(base)

    def targets(lora: dict[str, torch.Tensor]) -> list[str]:
        peft_folder.write(tmp_path / "peft", lora, "x", layers=2)
        return json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["target_modules"]

    ends = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert targets(lora) == ends
    half = {name: tensor for name, tensor in lora.items() if ".layers.1." in name}
    assert sorted(name.rpartition(".")[2] for name in targets(half)) == ends
    assert all(name.startswith("model.layers.1.") for name in targets(half))


def test_peft_in_its_own_words_is_read_as_a_file(tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    base = toys.write_tiny(tmp_path / "llama")
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], alpha_pattern={"up_proj": 2})
    theirs = get_peft_model(languages.load(base, torch.float32), config)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2)
    theirs.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    mine = languages.load(base, torch.float32)
    adapters.from_file(mine, peft_folder.read(tmp_path / "peft"), languages.export_key)
    assert same(logits(mine), logits(theirs))


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
@pytest.mark.parametrize("single", [False, True])
def test_merged_is_what_was_trained(tmp_path: Path, method: str, single: bool):
    from transformers import AutoModelForCausalLM

    base = toys.write_tiny(tmp_path / ("base.safetensors" if single else "base"), "qwen3")
    model, lora = trained(base, method)
    target = peft_folder.merge(base, lora, tmp_path / "merged")
    assert same(logits(AutoModelForCausalLM.from_pretrained(target)), logits(model))
    assert languages.detect(target).numbers == languages.detect(base).numbers
    assert (target / "tokenizer.json").is_file() is not single
    assert not list(tmp_path.glob(".*.tmp"))
    with pytest.raises(ExportError, match="exists"):
        peft_folder.merge(base, lora, tmp_path / "merged")


def test_what_peft_or_llama_cpp_cannot_hold_is_refused(tmp_path: Path):
    base = toys.write_tiny(tmp_path / "llama")
    with pytest.raises(ExportError, match="plain LoRA layers alone, and this is DoRA"):
        peft_folder.write(tmp_path / "peft", trained(base, "dora")[1], "x")
    layer = {"lora_unet_a.lora_down.weight": torch.zeros(1, 2), "lora_unet_a.lora_up.weight": torch.zeros(2, 1)}
    with pytest.raises(ExportError, match="no layer of a language model"):
        peft_folder.write(tmp_path / "peft", layer, "x")
    with pytest.raises(LoraFileError, match="match nothing in this base model"):
        peft_folder.merge(base, layer, tmp_path / "merged")
    assert not (tmp_path / "peft").exists()
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "name",
    [
        "text_encoders.transformer.model.layers.0.self_attn.q_proj",
        "text_encoders.qwen3_06b.transformer.model.layers.0.self_attn.q_proj",
        "base_model.model.model.layers.0.self_attn.q_proj",
    ],
)
def test_all_names_of_a_language_models_layer_are_one(name: str):
    assert lorafile.kohya_key(name) == languages.export_key("model.layers.0.self_attn.q_proj")
