"""LoRA Train Config's inputs: every field is one or is decided by the graph, and what wins over what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trainer import config as configs
from trainer import yaml_text
from trainer.config import TrainConfig, loads
from trainer.setup import presets


@pytest.fixture
def settings(load_node_file: Callable[[str], ModuleType]) -> Any:
    return load_node_file("settings")


@pytest.fixture
def resolve(settings: Any, tmp_path: Path) -> Callable[..., Any]:
    """`resolve({input: value}, wired=...)`; paths are relative to a folder, LoRAs are in another."""

    def typed(text: str, what: str) -> Path:
        return tmp_path / text

    read = settings.Reader(typed, typed, lambda text: tmp_path / "loras" / text)
    return lambda inputs, wired=(): settings.resolve(inputs, wired, read)


def error_of(action: Callable[[], Any]) -> Any:
    """What it raises. The pack's own classes have another package here than `trainer.errors`."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    assert type(caught.value).__name__ == "ConfigError"
    return caught.value


def test_every_field_is_an_input_or_decided_by_the_graph(settings: Any):
    assert settings.NAMES.keys() | settings.DECIDED.keys() | {"auto"} == TrainConfig.model_fields.keys()
    assert not settings.NAMES.keys() & settings.DECIDED.keys()
    assert all(settings.DECIDED.values())
    assert len(settings.IN_SIGHT) <= 6


def test_without_inputs_it_is_the_guides_config(resolve: Callable[..., Any], settings: Any):
    plain = TrainConfig().to_plain()
    found = resolve({})
    assert found.values == {field: plain[field] for field in settings.NAMES}
    assert found.notes == []


FULL: dict[str, Any] = {
    "epochs": 3, "seed": 7, "max_steps": 12, "lora_alpha": 4.0, "lora_method": "dora",
    "lora_blocks": ["mid_block", "up_blocks.1"], "lora_ranks": {"mid_block": 16}, "lora_alphas": {"to_q": 2.5},
    "optimizer_args": {"eps": 1e-7, "betas": [0.9, 0.99]}, "warmup_steps": "auto", "min_snr_gamma": 0.0,
    "mask": "alpha", "flip": True, "class_prompt": "a house", "mixed_precision": "no",
    "sample_prompts": [
        "a cat", "{a|b} c", {"prompt": "a dog, asleep", "seed": 5, "width": 64}, {"prompt": "line\nbreak"}, " spaces ",
        "\u4e00\u53ea\u732b", "{prompt: x}",
    ],
}  # fmt: skip


def test_a_config_becomes_widgets_and_comes_back(resolve: Callable[..., Any], settings: Any):
    config = configs.parse(FULL)
    shown = settings.widgets(config)
    assert list(shown) == [*settings.NAMES.values(), "auto"]
    assert all(isinstance(value, (str, int, float, bool)) for value in shown.values())
    assert shown["lora_ranks"] == "{mid_block: 16}"
    assert shown["training_seed"] == 7
    assert (shown["warmup_steps"], shown["min_snr_gamma"]) == (-1, 0.0)
    plain = config.to_plain()
    # A prompt of many lines, or in spaces, cannot stand on a line of its own: it is written as a mapping.
    assert resolve(shown).values == {field: plain[field] for field in settings.NAMES}


def test_empty_widgets_are_empty_fields(resolve: Callable[..., Any]):
    found = resolve({"max_steps": 0, "lora_alpha": 0.0, "min_snr_gamma": -1.0, "reg_data_dir": " ", "init_lora": ""})
    for field in ("max_steps", "lora_alpha", "min_snr_gamma", "reg_data_dir", "init_lora"):
        assert found.values[field] is None


def test_brackets_need_not_be_typed(resolve: Callable[..., Any]):
    found = resolve({"lora_ranks": "mid_block: 16, to_q: 4", "lora_blocks": "mid_block, up_blocks.1"})
    assert found.values["lora_ranks"] == {"mid_block": 16, "to_q": 4}
    assert found.values["lora_blocks"] == ["mid_block", "up_blocks.1"]


def test_faults_of_lines_are_told_with_their_inputs(resolve: Callable[..., Any]):
    error = error_of(lambda: resolve({"lora_ranks": "{a: ", "optimizer_args": "x: [1"}))
    assert [problem.partition(":")[0] for problem in error.problems] == ["lora_ranks", "optimizer_args"]


def test_paths_are_read_as_the_client_may(resolve: Callable[..., Any], tmp_path: Path):
    found = resolve({"reg_data_dir": "reg \u00fc", "yaml": "init_lora: neon.safetensors"})
    assert found.values["reg_data_dir"] == (tmp_path / "reg \u00fc").as_posix()
    assert found.values["init_lora"] == (tmp_path / "loras" / "neon.safetensors").as_posix()


def test_what_wins_over_what(resolve: Callable[..., Any], tmp_path: Path):
    file = tmp_path / "own \u6f2b.yaml"
    file.write_text("train_config:\n  epochs: 3\n  lora_rank: 3\nbatch_size: 3\nresolution: 576\n", encoding="utf-8")
    inputs = {"epochs": 1, "lora_rank": 1, "batch_size": 1, "resolution": 64, "yaml_file": file.name}
    found = resolve({**inputs, "yaml": "lora_rank: 2\nbatch_size: 2"}, wired={"batch_size", "learning_rate"})
    wanted = {"epochs": 3, "lora_rank": 2, "batch_size": 1, "resolution": 576}
    assert {field: found.values[field] for field in wanted} == wanted
    assert found.notes == [
        "the YAML wins over the widgets: resolution 576 (instead of 64), epochs 3 (instead of 1), "
        "lora_rank 2 (instead of 1)",
        "wired inputs win over the YAML: batch_size",
    ]


def test_auto_puts_widgets_aside_but_nothing_that_is_wired_or_given(resolve: Callable[..., Any]):
    inputs = {"auto": True, "lora_rank": 3, "epochs": 3, "resolution": 64, "yaml": "epochs: 4", "seed": 1}
    found = resolve(inputs, wired={"resolution"})
    chosen = {field for field in configs.all_auto() if found.values[field] == "auto"}
    assert chosen == set(configs.all_auto()) - {"epochs", "resolution"}
    assert (found.values["epochs"], found.values["resolution"], found.config.lora_rank) == (4, 64, 8)
    assert found.notes[-1].startswith("chosen by the pictures and the card, which Train LoRA knows: lora_rank, ")
    assert "epochs" not in found.notes[-1]
    # What goes to Train LoRA says so again.
    assert configs.parse(found.values).auto == found.config.auto


def test_auto_in_the_yaml_is_the_same_as_the_switch_and_a_wired_switch_wins(resolve: Callable[..., Any]):
    assert resolve({"yaml": "auto: true"}).values == resolve({"auto": True}).values
    assert resolve({"yaml": "auto: true", "auto": False}, wired={"auto"}).values == resolve({}).values
    assert resolve({"yaml": "lora_rank: auto", "lora_rank": 3}).values["lora_rank"] == "auto"
    assert "auto: expected true or false" in str(error_of(lambda: resolve({"yaml": "auto: 5"})))


def test_what_the_graph_decides_is_ignored_and_named(resolve: Callable[..., Any]):
    found = resolve({"yaml": "base_model: a.safetensors\nclip_skip: 2\nseed: 9\nprediction_type: epsilon"})
    assert found.values["seed"] == 9
    assert "base_model" not in found.values
    assert found.config.base_model == Path("a.safetensors")  # for the YAML that comes out
    assert found.notes[-1] == (
        "ignored in the YAML, because the graph decides: base_model, prediction_type (the wired MODEL); "
        "clip_skip (the wired CLIP)"
    )


def test_samples_are_drawn_for_train_loras_output(resolve: Callable[..., Any]):
    found = resolve({"yaml": "sample_every: 0"})
    assert found.values["sample_every"] == 1_000_000
    assert any(note.startswith("sample_every: 0") for note in found.notes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lora_rnk: 3", "lora_rnk: unknown field; did you mean lora_rank?"),
        ("epochs: 0", "epochs: expected at least 1, got 0 (default 10)"),
        ("- a", "expected lines like `lora_rank: 8`, got list ['a']"),
        ("use_fp16: true\nmixed_precision: bf16", "use_fp16: true contradicts mixed_precision: bf16; give one of them"),
        ("clip_skip: 99", "clip_skip: expected at most 12, got 99"),
    ],
)
def test_faults_of_the_yaml(resolve: Callable[..., Any], text: str, problem: str):
    assert error_of(lambda: resolve({"yaml": text})).problems == (problem,)


ODD = [{}, [], [[]], {"a": [1]}, True, -7, 1.5, "\0", float("nan"), 10**400, "\u6f2b"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_values_of_any_type_are_read_or_told(resolve: Callable[..., Any], settings: Any, odd: Any):
    told = set()
    for name in (*settings.NAMES.values(), "yaml", "yaml_file"):
        try:
            resolve({name: odd})
        except Exception as error:
            told.add(type(error).__name__)
    assert told == {"ConfigError"}


def test_a_file_that_is_not_there(resolve: Callable[..., Any]):
    assert "the file does not exist" in str(error_of(lambda: resolve({"yaml_file": "nothing.yaml"})))


def test_presets_by_name_and_as_widgets(resolve: Callable[..., Any], settings: Any):
    assert settings.preset_names()[:2] == ["sd15_6gb", "sd15_8gb"]
    assert {f"{name}.yaml" for name in settings.preset_names()} == {path.name for path in presets.FOLDER.glob("*.yaml")}
    for name, filled in settings.preset_widgets().items():
        plain = configs.load(presets.FOLDER / f"{name}.yaml").to_plain()
        wanted = {field: plain[field] for field in settings.NAMES}
        assert resolve({"yaml_file": name}).values == wanted
        assert resolve(filled).values == wanted
        assert not filled.keys() & {"training_seed", "sample_prompts", "class_prompt", "reg_data_dir", "init_lora"}


def test_another_trainers_file_is_known_for_what_it_is(resolve: Callable[..., Any]):
    message = str(error_of(lambda: resolve({"yaml_file": "my kohya.toml"})))
    assert "python -m trainer import my kohya.toml makes YAML of it" in message


def test_the_resolved_yaml_loads_again(resolve: Callable[..., Any], settings: Any):
    found = resolve({**settings.widgets(configs.parse(FULL)), "yaml": "base_model: models/x.safetensors"})
    text = settings.resolved_yaml(found.config)
    again = loads(text)
    assert again == configs.parse(found.config.to_plain())
    assert set(yaml_text.loads(text)) >= {"epochs", "model_config", "train_config", "data_config"}
