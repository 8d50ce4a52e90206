"""The writer of commented YAML, the files of configs/, and what a text written by it means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import TrainConfig, load, loads, parse
from trainer.errors import UserError
from trainer.setup import presets, template

CONFIGS = sorted(presets.FOLDER.glob("*.yaml"))


# --- the folder


def test_the_folder_is_what_the_program_writes() -> None:
    """After a change of fields or comments: python -m trainer.setup.presets."""
    written = presets.files()
    assert {path.name for path in presets.FOLDER.iterdir() if path.suffix in (".yaml", ".json")} == written.keys()
    for name, text in written.items():
        assert (presets.FOLDER / name).read_bytes() == text.encode("utf-8"), name


GUIDE = {
    "lora_rank": 8, "learning_rate": 2e-4, "lr_scheduler": "cosine", "warmup_steps": 100, "epochs": 10,
    "log_interval": 10, "save_steps": 100, "resolution": 512, "mixed_precision": "fp16",
    "gradient_checkpointing": True, "batch_size": 2, "gradient_accumulation_steps": 2,
    "train_data_dir": Path("data/style_train"), "metadata_path": Path("data/style_train/metadata.csv"),
    "base_model": Path("models/Stable-diffusion/v1-5-pruned.safetensors"), "output_dir": Path("output/my_style_lora"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["lora_default.yaml", "guide_3090.yaml"])
def test_the_template_has_the_guides_values_to_the_letter(name: str) -> None:
    config, default = load(presets.FOLDER / name), parse({})
    assert {field: getattr(config, field) for field in GUIDE} == GUIDE
    assert {field for field, value in config if value != getattr(default, field)} <= GUIDE.keys()
    text = (presets.FOLDER / name).read_text(encoding="utf-8")
    for line in ("learning_rate: 2e-4 ", "train_data_dir: ./data/style_train ", "output_dir: ./output/my_style_lora "):
        assert f"\n{line}" in text


@pytest.mark.parametrize("family", presets.FAMILIES)
def test_a_family_s_presets_train_the_same(family: str) -> None:
    configs = [load(presets.FOLDER / f"{family}_{card}gb.yaml") for card in presets.CARDS]
    assert {config.window for config in configs} == {4}
    assert len({str(config.identity()) for config in configs}) == 1
    assert [config.batch_size for config in configs] == sorted(config.batch_size for config in configs)
    auto = {"warmup_steps": "auto", "mixed_precision": "auto"}
    expected = {"sd15": auto, "sdxl": {**auto, "resolution": 1024, "learning_rate": 1e-4}}[family]
    assert configs[0].identity() == parse(expected).identity()
    if family == "sdxl":
        assert all(config.batch_size == 1 for config in configs[:3])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_file_is_no_wall(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    rest = next(number for number, line in enumerate(lines) if line.startswith("# The rest."))
    assert rest <= 25
    first = {line.partition(":")[0] for line in lines[:rest] if re.match(r"\w+:", line)}
    assert {"base_model", "train_data_dir", "output_dir", "lora_rank", "learning_rate", "epochs", "batch_size"} <= first
    if path.stem != "lora_default":
        assert "# Not yet run on a card of this size." in lines


# --- the writer


def test_every_field_has_one_comment() -> None:
    inside = [name for blocks in template.SECTIONS.values() for block in blocks.values() for name in block]
    assert sorted([*template.FIRST, *inside]) == sorted(TrainConfig.model_fields.keys() - {"auto"})
    assert set(template.PATHS) == {n for n, info in TrainConfig.model_fields.items() if "Path" in str(info.annotation)}


TEXTS = st.text(max_size=120).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
NAMES = st.text(min_size=1, max_size=60, alphabet=st.characters(min_codepoint=32, blacklist_categories=["Cs", "Cc"]))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "trigger_word": TEXTS,
    "class_prompt": TEXTS,
    "output_dir": NAMES.map(lambda n: f"out/{n} end"),
    "base_model": NAMES.filter(lambda n: n.strip(' "') != "" and not n.startswith("~")),
    "learning_rate": st.floats(1e-12, 10, exclude_min=True),
    "weight_decay": st.floats(0, 1),
    "lora_alpha": st.none() | st.floats(1e-6, 4096),
    "mask": st.sampled_from(["no", "alpha", "files"]),
    "mixed_precision": st.sampled_from(["auto", "no", "fp16", "bf16"]),
    "zero_terminal_snr": st.none() | st.just(False),
    "lora_blocks": st.lists(TEXTS, max_size=3),
    "exclude": st.lists(TEXTS, max_size=3),
    "lora_ranks": st.dictionaries(TEXTS, st.integers(1, 1024), max_size=3),
    "optimizer_args": st.dictionaries(
        TEXTS,
        st.booleans() | st.floats(-1e9, 1e9) | st.integers() | TEXTS | st.lists(st.floats(0, 1), min_size=1),
        max_size=3,
    ),
    "sample_prompts": st.lists(TEXTS | st.fixed_dictionaries({"prompt": TEXTS, "negative": TEXTS}), max_size=3),
    "max_steps": st.none() | st.integers(1, 10**9),
    "lora_rank": st.just("auto") | st.integers(1, 1024),
    "gradient_checkpointing": st.just("auto") | st.booleans(),
    "warmup_steps": st.just("auto") | st.integers(0, 1_000_000),
}


@settings(deadline=None, max_examples=150)
@given(st.fixed_dictionaries({}, optional=FIELDS))
def test_what_is_written_reads_back_equal(fields: dict[str, Any]) -> None:
    config = parse(fields)
    text = template.write(config, ["a title"], "schema.json")
    assert loads(text) == config
    assert len([line for line in text.splitlines() if line.startswith("# a title")]) == 1


def test_values_stand_as_people_write_them(tmp_path: Path) -> None:
    config = parse(
        {
            "learning_rate": 0.00015, "mixed_precision": "no", "mask": "no", "train_data_dir": "d\u00e4ta/\u6c34 1",
            "base_model": "C:/models/x.safetensors", "output_dir": "../out", "cache_dir": "/c", "sample_prompts": ["a"],
            "lora_ranks": {"mid_block": 16}, "weight_decay": 0.0, "epochs": 3,
        }
    )  # fmt: skip
    lines = [re.split(r"\s+# ", line)[0] for line in template.write(config, ["x"]).splitlines()]
    for line in (
        "learning_rate: 1.5e-4", "  mixed_precision: no", "  mask: no", "train_data_dir: ./d\u00e4ta/\u6c34 1",
        "base_model: C:/models/x.safetensors", "output_dir: ../out", "  cache_dir: /c", "- a", "    mid_block: 16",
        "  weight_decay: 0.0", "metadata_path:", 'trigger_word: ""', "  lora_alphas: {}",
    ):  # fmt: skip
        assert line in lines or f"  {line}" in lines, line


def test_a_long_value_has_its_comment_above() -> None:
    config = parse({"base_model": "/models/" + "a long folder/" * 8 + "base.safetensors"})
    lines = template.write(config, ["x"]).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("base_model:"))
    assert lines[place - 1] == f"# {template.FIRST['base_model']}"
    assert "#" not in lines[place]
    assert max(map(len, lines[:place] + lines[place + 1 :])) <= 120


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "new \u98ce" / "my \u00fc.yaml"
    template.save_new(path, "a: \u6c34\n")
    with pytest.raises(UserError) as error:
        template.save_new(path, "b")
    assert str(error.value) == f"{path} exists already; it is not overwritten\n  -> give another name with -o"
    assert path.read_bytes() == "a: \u6c34\n".encode()
    with pytest.raises(UserError, match=r"^cannot write .*: Not a directory"):
        template.save_new(path / "below a file" / "x.yaml", "b")
