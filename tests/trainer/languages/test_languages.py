"""Language models of every known kind at toy size: what they are, what they say, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import languages
from trainer.errors import BaseModelError
from trainer.files import ContentHashes
from trainer.languages import toys

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", params=[(kind, single) for kind in toys.KINDS for single in (False, True)], ids=str)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    kind, single = request.param
    name = f"{kind}.safetensors" if single else kind
    return toys.write_tiny(tmp_path_factory.mktemp("toy") / name, kind, seed=3), kind


def own_tokenizer(path: Path):
    return languages.tokenizer(path, None if path.is_dir() else toys.tokenizer_folder(path))


def question(tokenizer) -> list[int]:
    return tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)


def test_what_it_is_is_what_is_loaded(toy: tuple[Path, str]):
    path, kind = toy
    found = languages.detect(path)
    model = languages.load(path, torch.float32)
    # Without Mistral's vocabulary its shapes are Llama's.
    assert found.name == ("llama" if kind == "mistral" and not path.is_dir() else kind)
    assert (found.folder, found.layers, found.hidden, found.vocabulary) == (path.is_dir(), 2, 64, 384)
    assert found.numbers == languages.size(path) == sum(p.numel() for p in model.parameters())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in languages.load(path, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_every_weight_is_the_files(toy: tuple[Path, str]):
    path, _ = toy
    state = languages.load(path, torch.float32).state_dict()
    stored = load_file(path / "model.safetensors" if path.is_dir() else path)
    assert stored
    for name, tensor in stored.items():
        assert torch.equal(state[name], tensor), name


def test_it_writes_what_transformers_has_it_write(toy: tuple[Path, str]):
    path, _ = toy
    model, tokenizer = languages.load(path, torch.float32), own_tokenizer(path)
    ids, stop = question(tokenizer), languages.ends(model, tokenizer)
    said: list[int] = []
    mine = languages.generate(model, tokenizer, ids, max_new_tokens=24, say=said.append)
    causal: Any = model
    theirs = causal.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False, use_cache=True, eos_token_id=list(stop)
    )
    assert list(mine) == said == theirs[0, len(ids) :].tolist()
    assert all(token not in stop for token in mine[:-1])


def test_what_is_drawn_follows_from_the_seed(tmp_path: Path):
    path = toys.write_tiny(tmp_path / "llama")
    model, tokenizer = languages.load(path, torch.float32), languages.tokenizer(path)
    model.train()

    def drawn(seed: int, temperature: float = 1.0) -> tuple[int, ...]:
        torch.manual_seed(seed * 7)
        return languages.generate(
            model, tokenizer, question(tokenizer), max_new_tokens=16, temperature=temperature, seed=seed
        )

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, 1e-4) == languages.generate(model, tokenizer, question(tokenizer), max_new_tokens=16)
    assert model.training


def test_targets_are_the_linear_layers_of_the_blocks(toy: tuple[Path, str]):
    path, _ = toy
    model = languages.load(path, torch.float32)
    found = {
        which: {n for n, m in model.named_modules() if languages.is_target(n, m, which)} for which in languages.TARGETS
    }
    attention = {f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qkvo"}
    assert found["attention"] == attention
    assert found["linear"] == attention | {
        f"model.layers.{i}.mlp.{n}_proj" for i in (0, 1) for n in ("gate", "up", "down")
    }
    for name in found["linear"]:
        assert languages.module_name(languages.export_key(name)) == name


def test_content_is_of_config_and_weights_alone(tmp_path: Path):
    hashes = ContentHashes(tmp_path / "hashes.json")
    path = toys.write_tiny(tmp_path / "one", seed=1)
    same = toys.write_tiny(tmp_path / "two", seed=1)
    (same / "README.md").write_text("notes")
    other = toys.write_tiny(tmp_path / "three", seed=2)
    assert languages.content(path, hashes) == languages.content(same, hashes) != languages.content(other, hashes)
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert languages.content(path, hashes) != languages.content(same, hashes)


def test_shards_are_one_model(tmp_path: Path):
    path = toys.write_tiny(tmp_path / "whole")
    whole = languages.load(path, torch.float32).state_dict()
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, path / file)
    (path / "model.safetensors").unlink()
    weight_map = {name: file for file, inside in parts.items() for name in inside}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert all(torch.equal(whole[n], t) for n, t in languages.load(path, torch.float32).state_dict().items())
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BaseModelError, match="lacks 1 of its 2 files: model-00002-of-00002"):
        languages.detect(path)


def test_scaled_fp8_is_what_it_stands_for(tmp_path: Path):
    path = toys.write_tiny(tmp_path / "qwen3.safetensors", "qwen3")
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj"
    stored = (tensors[f"{name}.weight"] / 2).to(torch.float8_e4m3fn)
    tensors |= {f"{name}.weight": stored, f"{name}.scale_weight": torch.tensor(2.0)}
    save_file({**tensors, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    model = languages.load(tmp_path / "fp8.safetensors", torch.float32)
    assert torch.equal(model.get_parameter(f"{name}.weight"), stored.float() * 2)
    assert languages.size(tmp_path / "fp8.safetensors") == languages.size(path)


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_of_a_model_that_sees_pictures_the_language_model_is_taken(tmp_path: Path, prefix: str):
    path = toys.write_tiny(tmp_path / "gemma", "gemma3_text")
    alone = languages.load(path, torch.float32).state_dict()
    tensors = load_file(path / "model.safetensors")
    outer = {prefix + (n if prefix == "language_model." else n.removeprefix("model.")): t for n, t in tensors.items()}
    save_file({**outer, "vision_tower.x.weight": torch.zeros(3)}, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    whole = {"model_type": "gemma3", "text_config": config, "architectures": ["Gemma3ForConditionalGeneration"]}
    (path / "config.json").write_text(json.dumps(whole))
    assert languages.detect(path).name == "gemma3_text"
    assert languages.size(path) == sum(t.numel() for t in tensors.values())
    found = languages.load(path, torch.float32).state_dict()
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in alone.items())


def changed(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def no_config(path: Path) -> None:
    (path / "config.json").unlink()


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def lacking(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path / "model.safetensors")


def adapter(path: Path) -> None:
    no_config(path)
    (path / "adapter_config.json").write_text("{}")


def gptq(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    save_file({**tensors, "model.layers.0.mlp.up_proj.qweight": torch.zeros(2)}, path / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_config, "has no config.json"),
        (adapter, "is a LoRA"),
        (pickled, r"only as a pickle \(pytorch_model.bin\)"),
        (lambda p: (p / "model.safetensors").unlink(), "holds no weights"),
        (lambda p: (p / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda p: changed(p, model_type=None), "says no model_type"),
        (lambda p: changed(p, model_type="t5", is_encoder_decoder=True), "is an encoder-decoder"),
        (lambda p: changed(p, model_type="bert", architectures=["BertForMaskedLM"]), "does not write text"),
        (lambda p: changed(p, architectures=["LlamaForSequenceClassification"]), "does not write text"),
        (lambda p: changed(p, model_type="clip"), "no causal language model"),
        (lambda p: changed(p, model_type="mine", auto_map={"AutoModel": "m.M"}), "brings code of its own"),
        (lambda p: changed(p, quantization_config={"quant_method": "awq"}), r"quantised weights \(awq\)"),
        (lambda p: changed(p, quantization_config={"quant_method": "gptq"}), r"quantised weights \(gptq\)"),
        (gptq, "quantised weights: .*GPTQ or AWQ"),
        (lacking, "lacks 1 weights, such as model.layers.1.mlp.up_proj.weight"),
        (lambda p: changed(p, intermediate_size=95), "shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused_with_a_reason(tmp_path: Path, harm, message: str):
    path = toys.write_tiny(tmp_path / "llama")
    harm(path)
    with pytest.raises(BaseModelError, match=message) as caught:
        languages.load(path, torch.float32)
    assert caught.value.cure


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["encoder.block.0.layer.0.SelfAttention.k.weight", "shared.weight"], "an encoder"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "of CLIP"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a model of images"),
        (["lora_unet_x.lora_down.weight"], "is a LoRA"),
        (["model.layers.0.linear_attn.A_log"], "Qwen3.5"),
        (["something.weight"], "no language model known here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_something_else_is_named(tmp_path: Path, keys: list[str], message: str):
    path = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    with pytest.raises(BaseModelError, match=message):
        languages.detect(path)


def test_a_model_without_its_end_cannot_write(tmp_path: Path):
    path = toys.write_tiny(tmp_path / "qwen3.safetensors", "qwen3")
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path)
    with pytest.raises(BaseModelError, match="without its last layers"):
        languages.detect(path)


def test_a_single_file_without_tokenizer_says_where_one_is(tmp_path: Path):
    path = toys.write_tiny(tmp_path / "qwen3.safetensors", "qwen3")
    with pytest.raises(BaseModelError, match="no tokenizer in it") as caught:
        languages.tokenizer(path)
    assert "qwen25_tokenizer" in caught.value.cure
    with pytest.raises(BaseModelError, match="is no folder"):
        languages.tokenizer(path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseModelError, match="has no tokenizer"):
        languages.tokenizer(path, tmp_path / "empty")
