"""A language model and its LoRA write in the server, token for token, what transformers and PEFT write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import find_comfy
from tests.host.graphs import SMOLLM, Graph, demo_loader, node
from tests.host.server import ComfyServer, PromptFailed
from tests.trainer.languages.test_smollm import real
from trainer import adapters, export, languages
from trainer.languages import peft_folder, smollm, toys
from trainer.text import Chat

pytestmark = [
    pytest.mark.host,
    # PEFT asks transformers by an old name.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
PROMPT = "What is the capital of France?"
MOST = 24


def drawn_lora(path: Path, size: float) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA for a language model, at random: its change of a weight is so much of the weight."""
    model = languages.load(path, torch.float32)
    adapters.inject(model, lambda n, m: languages.is_target(n, m, "linear"), rank=4, alpha=4.0, seed=2)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for layer in adapters.layers(model):
            layer.up.copy_(torch.randn(layer.up.shape, generator=generator))
            layer.up.mul_(size * layer.weight.norm() / layer.change().norm())
    return adapters.exported(model, languages.export_key)


def by_peft(
    path: Path, asked: list[int], lora: dict[str, torch.Tensor] | None, stop: frozenset[int], folder: Path
) -> Any:
    """What transformers, and PEFT, write behind some tokens, greedy; no code of ours but for the file."""
    model: Any = languages.load(path, torch.float32)
    if lora is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(peft_folder.write(folder / "peft", lora, "base")))
    with torch.no_grad():
        ids = model.generate(
            input_ids=torch.tensor([asked]), attention_mask=torch.ones(1, len(asked)), max_new_tokens=MOST,
            do_sample=False, use_cache=True, eos_token_id=sorted(stop), pad_token_id=min(stop),
        )  # fmt: skip
    return ids[0, len(asked) :].tolist()


def loader(**inputs: Any) -> Graph:
    """Load Language Model, as `llm`."""
    return {"llm": node("Darkroom_LoadLanguageModel", **inputs)}


def written(comfy: ComfyServer, graph: Graph, clip: list[Any]) -> tuple[list[int], list[int], str]:
    """The tokens of the question, those that come after it, and what Generate Text shows of them."""
    graph = {
        **graph,
        "text": node("TextGenerate", clip=clip, prompt=PROMPT, max_length=MOST, sampling_mode="off"),
        "shown": node("DarkroomProbe", task="plain", path="", anything=["text", 0]),
        "tokens": node(
            "DarkroomProbe", task="written", path="", clip=clip, arguments=f'{{"prompt": "{PROMPT}", "most": {MOST}}}'
        ),
    }
    outputs = comfy.run(graph, limit=600)
    seen = outputs["tokens"]["seen"][0]
    return seen["asked"], seen["new"], outputs["shown"]["seen"][0]


def applied(graph: Graph, clip: list[Any], name: str, strength: float = 1.0) -> Graph:
    """A LoRA file on a CLIP alone, as `lora`."""
    return {
        **graph,
        "lora": node("Darkroom_ApplyLoRA", lora_name=name, strength_model=1.0, strength_clip=strength, clip=clip),
    }


def same_tokens(
    comfy: ComfyServer, graph: Graph, clip: list[Any], path: Path, tokenizer: Any, folder: Path, size: float
) -> list[int]:
    """Asserts the law for a model alone and with a LoRA; returns the question's tokens."""
    lora = drawn_lora(path, size)
    name = f"{folder.name}.safetensors"
    export.write(comfy.base / "models" / "loras" / name, lora, {})
    stop = languages.ends_of(path, tokenizer)
    asked, plain, shown = written(comfy, graph, clip)
    assert plain == by_peft(path, asked, None, stop, folder)
    assert shown == tokenizer.decode(plain, skip_special_tokens=True)
    again, changed, _ = written(comfy, applied(graph, clip, name), ["lora", 1])
    assert again == asked
    assert changed == by_peft(path, asked, lora, stop, folder)
    assert changed != plain
    assert written(comfy, applied(graph, clip, name, strength=0), ["lora", 1])[1] == plain
    return asked


@real
def test_the_real_model_writes_what_transformers_and_peft_write(comfy: ComfyServer, tmp_path: Path):
    path = smollm.folder()
    tokenizer = languages.tokenizer(path)
    asked = same_tokens(comfy, loader(model=SMOLLM), ["llm", 0], path, tokenizer, tmp_path, 0.25)
    assert asked == list(Chat(tokenizer).question(PROMPT))
    assert "Paris" in written(comfy, loader(model=SMOLLM), ["llm", 0])[2]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"tie_word_embeddings": False}),
        (
            "llama",
            {
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            },
        ),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma3_text", {"num_hidden_layers": 7, "sliding_window": 8}),
    ],
    ids=["llama", "llama3", "mistral", "qwen2", "qwen3", "gemma3"],
)  # fmt: skip
def test_a_folder_of_every_kind_writes_what_transformers_and_peft_write(
    comfy: ComfyServer, tmp_path: Path, kind: str, changes: dict[str, Any]
):
    folder = toys.write_tiny(comfy.base / "models" / "language_models" / "owner" / tmp_path.name, kind, **changes)
    tokenizer = languages.tokenizer(folder)
    graph = loader(model=f"owner/{tmp_path.name}")
    asked = same_tokens(comfy, graph, ["llm", 0], folder, tokenizer, tmp_path, 0.5)
    assert asked == list(Chat(tokenizer).question(PROMPT))
    by_path = written(comfy, loader(model=SMOLLM, path=str(folder)), ["llm", 0])
    assert by_path == written(comfy, graph, ["llm", 0])
    held = comfy.probe("held", graph, {"clip": ["llm", 0]}).plain
    assert held == {"path": str(folder), "tokenizer": "", "writes": True, "template": ""}
    shutil.rmtree(folder)


@pytest.mark.long
def test_a_text_encoder_as_a_single_file_writes_what_transformers_and_peft_write(comfy: ComfyServer, tmp_path: Path):
    comfy_folder = find_comfy()
    assert comfy_folder is not None
    sizes: dict[str, Any] = {
        "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    }  # fmt: skip
    file = toys.write_tiny(comfy.base / "models" / "text_encoders" / "qwen3_06b.safetensors", "qwen3", **sizes)
    tokenizer = languages.tokenizer(file, comfy_folder / "comfy" / "text_encoders" / "qwen25_tokenizer")
    graph = {"llm": node("CLIPLoader", clip_name=file.name, type="stable_diffusion", device="default")}
    asked = same_tokens(comfy, graph, ["llm", 0], file, tokenizer, tmp_path, 0.3)
    held = comfy.probe("held", graph, {"clip": ["llm", 0]}).plain
    assert held["path"] == str(file)
    assert held["writes"]
    assert len(languages.tokenizer(file, held["tokenizer"])) == len(tokenizer)
    assert list(Chat(tokenizer, held["template"]).question(PROMPT)) == asked
    file.unlink()


def test_what_holds_no_language_model_is_named(comfy: ComfyServer):
    said = comfy.probe("held", demo_loader(), {"clip": ["base", 1]}).plain
    assert "was not read by ComfyUI's Load CLIP or by Load Language Model" in said


def test_a_lora_on_the_clip_is_not_trained_over_in_silence(comfy: ComfyServer, tmp_path: Path):
    folder = toys.write_tiny(comfy.base / "models" / "language_models" / "patched")
    export.write(comfy.base / "models" / "loras" / "patched.safetensors", drawn_lora(folder, 0.5), {})
    graph = applied(loader(model="patched"), ["llm", 0], "patched.safetensors")
    assert "a LoRA is applied to it already" in comfy.probe("held", graph, {"clip": ["lora", 1]}).plain


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (loader(model="nowhere"), "there is no language model nowhere"),
        (loader(model="../../../etc"), "there is no language model"),
        (loader(model=SMOLLM, path="/no/such/folder"), "does not exist"),
    ],
    ids=["name", "above", "path"],
)
def test_a_model_that_is_not_there_is_named(comfy: ComfyServer, graph: Graph, message: str):
    with pytest.raises(PromptFailed) as caught:
        comfy.run({**graph, "seen": node("DarkroomProbe", task="plain", path="", anything=["llm", 0])})
    assert message in caught.value.details["exception_message"]


def test_a_lora_that_fits_to_nothing_wired_is_an_error(comfy: ComfyServer, tmp_path: Path):
    folder = toys.write_tiny(comfy.base / "models" / "language_models" / "small")
    other = toys.write_tiny(tmp_path / "other", hidden_size=32)
    loras = comfy.base / "models" / "loras"
    export.write(loras / "other model.safetensors", drawn_lora(other, 0.5), {})
    export.write(loras / "pictures.safetensors", {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(1, 4),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(4, 1),
    }, {})  # fmt: skip
    seen = {"seen": node("DarkroomProbe", task="plain", path="", anything=["lora", 1])}
    for name, message in (("other model", "have another shape than this model's"), ("pictures", "no MODEL is wired")):
        with pytest.raises(PromptFailed) as caught:
            comfy.run({**applied(loader(model=folder.name), ["llm", 0], f"{name}.safetensors"), **seen})
        assert message in caught.value.details["exception_message"]
    nothing = {"lora": node("Darkroom_ApplyLoRA", lora_name="pictures.safetensors", strength_model=1, strength_clip=1)}
    with pytest.raises(PromptFailed) as caught:
        comfy.run({**nothing, **seen})
    assert "there is nothing to apply the LoRA to" in caught.value.details["exception_message"]
