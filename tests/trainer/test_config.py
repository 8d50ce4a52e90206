"""The guide's YAML to the letter, every fault by name, and what a config writes reads back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import config as configs
from trainer import yaml_text
from trainer.config import TrainConfig, load, loads, parse, parse_value
from trainer.errors import ConfigError

FIELDS = TrainConfig.model_fields

GUIDE_FLAT = """
train_data_dir: ./data/style_train
metadata_path: ./data/style_train/metadata.csv
base_model: ./models/Stable-diffusion/v1-5-pruned.safetensors
lora_rank: 8
batch_size: 4
gradient_accumulation_steps: 2
learning_rate: 2e-4
lr_scheduler: "cosine"
warmup_steps: 100
epochs: 10
log_interval: 10
save_steps: 100
use_fp16: true
gradient_checkpointing: true
resolution: 512
output_dir: ./output/my_style_lora
"""

GUIDE_SECTIONS = """
train_data_dir: ./data/style_train
metadata_path: ./data/style_train/metadata.csv
output_dir: ./output/my_style_lora
model_config:
  base_model: ./models/Stable-diffusion/v1-5-pruned.safetensors
  lora_rank: 8
train_config:
  batch_size: 4
  gradient_accumulation_steps: 2
  learning_rate: 2e-4
  lr_scheduler: "cosine"
  warmup_steps: 100
  epochs: 10
  log_interval: 10
  save_steps: 100
  use_fp16: true
  gradient_checkpointing: true
  resolution: 512
"""


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        loads(text)
    return error.value.problems


# --- auto


def test_auto_in_place_of_a_value_is_kept_apart_until_it_is_chosen() -> None:
    config = loads("lora_rank: auto\ntrain_config:\n  learning_rate: auto\n  epochs: 3")
    assert config.auto == ("lora_rank", "learning_rate")
    assert (config.lora_rank, config.learning_rate, config.epochs) == (8, 2e-4, 3)
    assert "lora_rank: auto" in config.to_yaml()
    assert config.but(lora_rank=16).auto == ("learning_rate",)
    assert config.but(lora_rank=16).lora_rank == 16


def test_auto_true_means_all_that_the_file_does_not_set() -> None:
    config = loads("auto: true\nlora_rank: 16\nmixed_precision: bf16")
    assert {*config.auto} == {*configs.AUTO_FIELDS} - {"lora_rank"}
    assert (config.lora_rank, config.warmup_steps, config.mixed_precision) == (16, "auto", "bf16")
    assert loads("auto: false") == loads("")
    assert loads("auto: true\nuse_fp16: false").mixed_precision == "no"


def test_an_override_wins_over_auto_and_auto_over_a_value() -> None:
    assert loads("lora_rank: auto", overrides={"lora_rank": 4}).auto == ()
    assert loads("lora_rank: 4", overrides={"lora_rank": "auto"}).auto == ("lora_rank",)
    everything = loads(GUIDE_FLAT, overrides=configs.all_auto() | {"epochs": 7})
    assert {*everything.auto} == {*configs.AUTO_FIELDS} - {"epochs"}
    assert everything.epochs == 7


def test_prodigy_needs_no_rate_where_that_is_auto() -> None:
    assert loads("optimizer: prodigy\nlearning_rate: auto").auto == ("learning_rate",)


@pytest.mark.parametrize("text", [GUIDE_FLAT, GUIDE_SECTIONS], ids=["flat", "sections"])
def test_the_guide_s_file_means_what_the_guide_says(text: str) -> None:
    config = loads(text)
    assert config.train_data_dir == Path("data/style_train")
    assert config.metadata_path == Path("data/style_train/metadata.csv")
    assert config.base_model == Path("models/Stable-diffusion/v1-5-pruned.safetensors")
    assert config.output_dir == Path("output/my_style_lora")
    assert config.name == "my_style_lora"
    assert (config.lora_rank, config.alpha) == (8, 8.0)
    assert (config.batch_size, config.gradient_accumulation_steps, config.window) == (4, 2, 8)
    assert config.learning_rate == 2e-4
    assert (config.lr_scheduler, config.warmup_steps, config.epochs) == ("cosine", 100, 10)
    assert (config.log_interval, config.save_steps, config.resolution) == (10, 100, 512)
    assert config.mixed_precision == "fp16"
    assert config.gradient_checkpointing is True


def test_a_missing_key_means_the_guide_s_value() -> None:
    """Only what the guide leaves open may differ: where the captions lie, and the accumulation of its walk-through."""
    written = loads(GUIDE_FLAT).to_plain()
    assert {name for name, value in loads("").to_plain().items() if written[name] != value} == {
        "metadata_path",
        "gradient_accumulation_steps",
    }


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("2e-4", 2e-4), ("2E-4", 2e-4), ("2.0e-4", 2e-4), ("2.e-4", 2e-4), (".2e-3", 2e-4), ("0.0002", 2e-4),
        ("+2e-4", 2e-4), ("1e0", 1.0), ("1", 1.0), ("2e-0_4", None), ("'2e-4'", None), ("2e", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text: str, rate: float | None) -> None:
    if rate is None:
        assert faults(f"learning_rate: {text}")[0].startswith("learning_rate: expected a number, got '")
    else:
        assert loads(f"learning_rate: {text}").learning_rate == rate


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("use_fp16: true", "fp16"),
        ("use_fp16: yes", "fp16"),
        ("use_fp16: false", "no"),
        ("use_fp16:", "fp16"),
        ("mixed_precision: no", "no"),
        ("mixed_precision: 'no'", "no"),
        ("mixed_precision: bf16", "bf16"),
        ("mixed_precision: fp16\nuse_fp16: true", "fp16"),
        ("mixed_precision: no\nuse_fp16: false", "no"),
        ("mixed_precision: bf16\nuse_fp16: false", "bf16"),
        ("", "fp16"),
    ],
)
def test_the_two_names_of_the_precision(text: str, precision: str) -> None:
    assert loads(text).mixed_precision == precision


@pytest.mark.parametrize(
    ("text", "changes", "precision"),
    [
        ("use_fp16: true", {"mixed_precision": "bf16"}, "bf16"),
        ("use_fp16: true", {"mixed_precision": False}, "no"),
        ("mixed_precision: bf16", {"use_fp16": True}, "fp16"),
        ("mixed_precision: fp16", {"use_fp16": False}, "no"),
    ],
)
def test_an_override_of_either_name_wins_over_both(text: str, changes: dict[str, Any], precision: str) -> None:
    assert loads(text, overrides=changes).mixed_precision == precision


def test_overrides_win_and_are_checked() -> None:
    assert loads(GUIDE_SECTIONS, overrides={"lora_rank": 16}).lora_rank == 16
    with pytest.raises(ConfigError, match="lora_rnk: unknown field; did you mean lora_rank"):
        loads(GUIDE_SECTIONS, overrides={"lora_rnk": 16})
    with pytest.raises(ConfigError, match="use_fp16: true contradicts mixed_precision: no"):
        loads("", overrides={"use_fp16": True, "mixed_precision": "no"})


def test_empty_values_are_as_if_the_line_were_not_there() -> None:
    empty = "".join(f"{name}:\n" for name in [*FIELDS, *configs.SECTIONS])
    assert loads(empty) == loads("")
    assert loads("lora_rank:\nmodel_config:\n  lora_rank: 16").lora_rank == 16


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_with_or_without_a_byte_order_mark_and_chinese_paths(
    tmp_path: Path, encoding: str, newline: str
) -> None:
    path = tmp_path / "m\u00fc config \u914d\u7f6e.yaml"
    text = "train_data_dir: ./\u6570\u636e/\u98ce\u683c \u4e00\ntrigger_word: \u6c34\u58a8 # \u6ce8\u91ca\n"
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    config = load(path)
    assert config.train_data_dir == Path("\u6570\u636e/\u98ce\u683c \u4e00")
    assert config.trigger_word == "\u6c34\u58a8"
    # What is written stays readable.
    assert "\u98ce\u683c \u4e00" in config.to_yaml()


def test_paths_lose_quotes_and_spaces_around_them_and_find_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    config = loads("base_model: ' \"C:/my models/x.safetensors\" '\ntrain_data_dir: ~/pictures")
    assert config.base_model == Path("C:/my models/x.safetensors")
    assert config.train_data_dir == Path("/home/someone/pictures")


@pytest.mark.parametrize(("text", "value"), [("16", 16), ("2e-4", 2e-4), ("no", False), ("[a, b]", ["a", "b"]),
                                             ("", None), ("a b", "a b")])  # fmt: skip
def test_a_value_of_the_command_line(text: str, value: Any) -> None:
    assert parse_value(text) == value


def test_a_value_that_is_no_yaml_is_said() -> None:
    with pytest.raises(ConfigError) as error:
        parse_value("[1")
    assert error.value.problems[0].startswith("cannot read the value '[1': not YAML: ")


BROKEN = {
    "lora_rnk: 8": "lora_rnk: unknown field; did you mean lora_rank?",
    "learningrate: 8": "learningrate: unknown field; did you mean learning_rate?",
    "zzz: 8": "zzz: unknown field; see configs/lora_default.yaml for the known ones",
    "8: 8": "8: unknown field; see configs/lora_default.yaml for the known ones",
    "train_confg:\n  epochs: 3": "train_confg: unknown field; did you mean train_config?",
    "auto: [lora_rank]": "auto: expected true or false, got ['lora_rank']; for one field: lora_rank: auto",
    "seed: auto": "seed: expected a whole number, got 'auto' (default 42)",
    "lora_rank: 0": "lora_rank: expected at least 1, got 0 (default 8)",
    "lora_rank: 1025": "lora_rank: expected at most 1024, got 1025 (default 8)",
    "lora_rank: 8.0": "lora_rank: expected a whole number, got 8.0 (default 8)",
    "lora_rank: '8'": "lora_rank: expected a whole number, got '8' (default 8)",
    "lora_rank: true": "lora_rank: expected a whole number, got True (default 8)",
    "lora_alpha: 0": "lora_alpha: expected more than 0.0, got 0",
    "learning_rate: fast": "learning_rate: expected a number, got 'fast' (default 0.0002)",
    "learning_rate: 0": "learning_rate: expected more than 0.0, got 0 (default 0.0002)",
    "learning_rate: 11": "learning_rate: expected at most 10.0, got 11 (default 0.0002)",
    "learning_rate: .nan": "learning_rate: expected a finite number, got nan (default 0.0002)",
    "max_grad_norm: .inf": "max_grad_norm: expected a finite number, got inf (default 1.0)",
    "learning_rate: true": "learning_rate: expected a number, got True (default 0.0002)",
    "resolution: 500": "resolution: expected a multiple of 64, got 500 (default 512)",
    "resolution: 32": "resolution: expected a multiple of 64, got 32 (default 512)",
    "resolution: 0": "resolution: expected at least 64, got 0 (default 512)",
    "lr_scheduler: Cosine": "lr_scheduler: expected 'constant', 'linear', 'cosine', 'cosine_with_restarts' or "
    "'polynomial', got 'Cosine' (default cosine)",
    "lora_targets: all": "lora_targets: expected 'attention', 'linear' or 'conv', got 'all' (default linear)",
    "mixed_precision: fp32": "mixed_precision: expected 'auto', 'no', 'fp16' or 'bf16', got 'fp32' (default fp16)",
    "gradient_checkpointing: 'true'": "gradient_checkpointing: expected true or false, got 'true' (default True)",
    "use_fp16: 1": "use_fp16: expected true or false, got 1",
    "use_fp16: true\nmixed_precision: no": "use_fp16: true contradicts mixed_precision: no; give one of them",
    "use_fp16: true\nmixed_precision: bf16": "use_fp16: true contradicts mixed_precision: bf16; give one of them",
    "use_fp16: false\nmixed_precision: fp16": "use_fp16: false contradicts mixed_precision: fp16; give one of them",
    "device: gpu": "device: expected auto, cpu, mps, cuda or cuda:N, got 'gpu' (default auto)",
    "task_type: video": "task_type: expected 'image-generation' or 'text-generation', got 'video' "
    "(default image-generation)",
    "task_type: text-generation\nflip: true": "flip: is of images, and has no effect with task_type: text-generation; "
    "leave it out",
    "task_type: text-generation\nlora_targets: conv": "lora_targets: a language model has no convolutions; expected "
    "linear or attention, got conv",
    "max_length: 4": "max_length: expected at least 8, got 4 (default 1024)",
    "sample_max_tokens: 0": "sample_max_tokens: expected at least 1, got 0 (default 96)",
    "trigger_word: 5": "trigger_word: expected a text, got 5",
    "sample_prompts: a cat": "sample_prompts: expected a list of texts, got 'a cat'",
    "sample_prompts: [a cat, 5]": "sample_prompts.1: expected a text, or fields such as `prompt: a house`, got 5",
    "sample_prompts: [{prompt: a, stepz: 3}]": "sample_prompts.0.stepz: unknown field; did you mean steps?",
    "sample_prompts: [{prompt: a, x: 3}]": "sample_prompts.0.x: unknown; a prompt has prompt, negative, seed, steps, "
    "guidance, strength, width, height",
    "sample_prompts: [{prompt: a, steps: 0}]": "sample_prompts.0.steps: expected at least 1, got 0",
    "sample_prompts: [{seed: 1}]": "sample_prompts.0.prompt: expected a text, got {'seed': 1}",
    "warmup_steps: -3": "warmup_steps: expected a whole number from 0 to 1000000, or auto, got -3 (default 100)",
    "warmup_steps: short": "warmup_steps: expected a whole number from 0 to 1000000, or auto, got 'short' "
    "(default 100)",
    "lora_ranks: {mid_block: 0}": "lora_ranks.mid_block: expected at least 1, got 0",
    "lora_ranks: 16": "lora_ranks: expected names with values, as in `mid_block: 16`, got 16",
    "lora_alphas: {mid_block: x}": "lora_alphas.mid_block: expected a number, got 'x'",
    "lora_blocks: up_blocks.1": "lora_blocks: expected a list of texts, got 'up_blocks.1'",
    "lora_method: locon": "lora_method: expected 'lora', 'rslora', 'dora', 'lokr' or 'loha', got 'locon' "
    "(default lora)",
    "optimizer: adam": "optimizer: expected 'adamw', 'adamw8bit', 'adafactor', 'prodigy', 'lion' or 'schedulefree', "
    "got 'adam' (default adamw)",
    "optimizer_args: {betas: [0.9, x]}": "optimizer_args.betas: expected a number, true, false, a text or a list of "
    "numbers, got [0.9, 'x']",
    "optimizer_args: {betas: []}": "optimizer_args.betas: expected a number, true, false, a text or a list of "
    "numbers, got []",
    "lokr_factor: 0": "lokr_factor: expected -1, or 1 to 1024, got 0 (default -1)",
    "lora_method: oft": "lora_method: oft: ComfyUI turns a layer's output by what an OFT file holds, and by the square "
    "of the strength, while PEFT turns its input: no file could make it compute what was trained",
    "optimizer: prodigy": "learning_rate: prodigy finds the rate by itself, and multiplies it with this; expected "
    "1.0, got 0.0002",
    "optimizer: prodigy\nlearning_rate: 1\ntrain_text_encoder: true\ntext_encoder_learning_rate: 0.5": (
        "text_encoder_learning_rate: prodigy has one rate for all; expected 1.0, or nothing"
    ),
    "optimizer: schedulefree\nema_decay: 0.99": "ema_decay: schedulefree averages by itself; expected 0",
    "text_encoder_learning_rate: 1e-5": "text_encoder_learning_rate: has no effect without train_text_encoder: true",
    "prior_preservation: 1": "class_prompt: expected a text, such as: a woman; prior_preservation needs it",
    "prediction_type: epsilon\nzero_terminal_snr: true": "zero_terminal_snr: true makes no sense with "
    "prediction_type: epsilon (there is no signal left to subtract from); expected v_prediction",
    "prediction_type: v": "prediction_type: expected 'auto', 'epsilon' or 'v_prediction', got 'v' (default auto)",
    "clip_skip: 0": "clip_skip: expected at least 1, got 0",
    "min_snr_gamma: -1": "min_snr_gamma: expected at least 0.0, got -1",
    "huber_delta: 0": "huber_delta: expected more than 0.0, got 0 (default 0.1)",
    "ema_decay: 1": "ema_decay: expected less than 1.0, got 1 (default 0.0)",
    "lora_dropout: 1": "lora_dropout: expected less than 1.0, got 1 (default 0.0)",
    "mask: yes": "mask: expected 'no', 'alpha' or 'files', got True (default no)",
    "output_dir: ''": "output_dir: expected a path, got an empty text",
    "output_dir: 5": "output_dir: expected a path, got 5 (default output/my_style_lora)",
    "output_dir: /": "output_dir: expected a folder whose last part can name the LoRA, got '/'",
    "output_dir: a/..": "output_dir: expected a folder whose last part can name the LoRA, got 'a/..'",
    "cache_dir: ~no_such_user/x": "cache_dir: expected a path, got '~no_such_user/x', and there is no such user",
    "seed: -1": "seed: expected at least 0, got -1 (default 42)",
    "seed: 9223372036854775808": "seed: expected at most 9223372036854775807, got 9223372036854775808 (default 42)",
    "epochs: 0": "epochs: expected at least 1, got 0 (default 10)",
    "caption_dropout: 1.5": "caption_dropout: expected at most 1.0, got 1.5 (default 0.05)",
    "lora_rank: 8\nlora_rank: 16": "lora_rank: given twice (again in line 2); keep one",
    "lora_rank: 8\nmodel_config:\n  lora_rank: 16": "lora_rank: 8 at the top, but 16 in model_config; keep one",
    "model_config:\n  epochs: 1\ntrain_config:\n  epochs: 2": "epochs: 1 in model_config, but 2 in train_config; "
    "keep one",
    "model_config: 8": "model_config: expected fields below it, got 8",
    "- lora_rank": "expected lines like `lora_rank: 8`, got list ['lora_rank']",
    "lora_rank 8": "expected lines like `lora_rank: 8`, got str 'lora_rank 8'",
    "lora_rank: 8\n alpha: 8": "not YAML: mapping values are not allowed here (line 2)",
    "\tlora_rank: 8": "not YAML: found character '\\t' that cannot start any token (line 1)",
    "sample_prompts: [a": "not YAML: expected ',' or ']', but got '<stream end>' (line 1)",
    'base_model: "C:\\data"': "not YAML: found unknown escape character 'd'; write Windows paths with / or without "
    "quotes (line 1)",
    "x: !!python/name:os.system": "not YAML: could not determine a constructor for the tag "
    "'tag:yaml.org,2002:python/name:os.system' (line 1)",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_config_is_refused_in_words(text: str) -> None:
    assert faults(text) == (BROKEN[text],)


def test_all_faults_are_told_at_once() -> None:
    text = "lora_rnk: 8\nbatch_size: 0\nresolution: 500\nuse_fp16: maybe\nepochs: 1\ntrain_config:\n  epochs: 2"
    with pytest.raises(ConfigError) as error:
        loads(text, source="my.yaml")
    assert str(error.value) == (
        "my.yaml has 5 faults:\n"
        "  - epochs: 1 at the top, but 2 in train_config; keep one\n"
        "  - use_fp16: expected true or false, got 'maybe'\n"
        "  - resolution: expected a multiple of 64, got 500 (default 512)\n"
        "  - batch_size: expected at least 1, got 0 (default 4)\n"
        "  - lora_rnk: unknown field; did you mean lora_rank?"
    )


def test_unusable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m\u00fc config \u914d\u7f6e.yaml"
    for make, message in (
        (lambda: None, "the file does not exist; copy configs/lora_default.yaml and edit the copy"),
        (lambda: path.write_bytes("trigger_word: \u98ce\u683c".encode("gbk")), "not UTF-8 text ("),
        (lambda: path.write_bytes("lora_rank: 8".encode("utf-16")), "not UTF-8 text ("),
        (lambda: path.write_text("[", encoding="utf-8"), "not YAML: "),
        (lambda: (path.unlink(), path.mkdir()), "the file is a folder; copy"),
    ):
        make()
        with pytest.raises(ConfigError) as error:
            load(path)
        assert str(error.value).startswith(f"{path} has 1 fault:\n  - {message}")


# --- what is written reads back equal


def _paths() -> st.SearchStrategy[str]:
    # Not beginning with ~, which means the home folder; the rest of what a user may type is fair.
    parts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="~/"), min_size=1, max_size=8)
    return st.lists(parts, min_size=1, max_size=3).map(lambda p: "/".join([*p, "end"]))


def _values(name: str) -> st.SearchStrategy[Any]:
    """Valid values of a field, from its own bounds, and `auto` where it may be."""
    own = _own_values(name)
    return own | st.just("auto") if name in configs.AUTO_FIELDS else own


def _own_values(name: str) -> st.SearchStrategy[Any]:
    info = FIELDS[name]
    bounds = {k: getattr(m, k) for m in info.metadata for k in ("ge", "gt", "le", "lt", "multiple_of") if hasattr(m, k)}
    annotation = str(info.annotation)
    if name == "auto":
        return st.booleans()
    if name == "sample_prompts":
        return st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3)
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    if name in ("lora_blocks", "exclude"):
        return st.lists(words, max_size=3)
    if name in ("lora_ranks", "lora_alphas"):
        return st.dictionaries(words, st.integers(1, 1024), max_size=3)
    if name == "optimizer_args":
        numbers = st.integers() | st.floats(allow_nan=False)
        lists = st.lists(numbers, min_size=1, max_size=3)
        return st.dictionaries(words, st.booleans() | numbers | words | lists, max_size=3)
    if name == "warmup_steps":
        return st.just("auto") | st.integers(0, 1_000_000)
    if name == "device":
        return st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:1"])
    if "Literal" in annotation:
        return st.sampled_from([*getattr(info.annotation, "__args__", ())])
    if "Path" in annotation:
        return _paths()
    if "str" in annotation:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    if "bool" in annotation:
        return st.booleans()
    if "float" in annotation:
        low = bounds.get("gt", bounds.get("ge"))
        high = bounds.get("lt", bounds.get("le", 1e6))
        return st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
    step = bounds.get("multiple_of", 1)
    return st.integers(-(-bounds["ge"] // step), bounds.get("le", 10**9) // step).map(lambda n: n * step)


def _sensible(values: dict[str, Any]) -> dict[str, Any]:
    """Without what does not go together."""
    changed = dict(values)
    if changed.get("optimizer") == "prodigy":
        changed["learning_rate"] = 1.0
        changed.pop("text_encoder_learning_rate", None)
    if changed.get("optimizer") == "schedulefree":
        changed["ema_decay"] = 0.0
    if changed.get("prediction_type") == "epsilon":
        changed["zero_terminal_snr"] = False
    if changed.get("prior_preservation"):
        changed["class_prompt"] = "a woman"
    if changed.get("lokr_factor") == 0:
        changed["lokr_factor"] = 1
    if changed.get("task_type") == "text-generation":
        of_images = ("train_text_encoder", "text_encoder_learning_rate", "prior_preservation", "reg_data_dir",
                     "caption_shuffle", "flip", "clip_skip", "exclude")  # fmt: skip
        changed = {name: value for name, value in changed.items() if name not in of_images}
        if changed.get("lora_targets") == "conv":
            changed["lora_targets"] = "attention"
    if "text_encoder_learning_rate" in changed:
        changed["train_text_encoder"] = True
    if changed.get("early_stopping_patience"):
        changed["validation_steps"] = changed.get("validation_steps") or 1
    return changed


CONFIGS = st.fixed_dictionaries({}, optional={name: _values(name) for name in FIELDS}).map(_sensible)


@given(CONFIGS)
def test_what_is_written_loads_to_an_equal_config(values: dict[str, Any]) -> None:
    config = parse(values)
    assert loads(config.to_yaml()) == config
    assert loads(config.resolved().to_yaml()) == config.resolved()
    assert config.but() == config
    assert config.to_plain().keys() == FIELDS.keys() - {"auto"}


ODD_TEXTS = [
    "1e-4", "5e3", "1_0e1", "no", "null", "~", "8", "2024-01-01", "a\u2028b", "a\x85b", "a\rb", "\n", " a ",
    "a: b", "# a", "\ufeff", "\U0001f3a8", "\u6c34\u58a8",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_texts_that_yaml_would_read_as_something_else_come_back(text: str) -> None:
    config = parse({"trigger_word": text, "sample_prompts": [text, {"prompt": "a", "negative": text}]})
    back = loads(config.to_yaml())
    assert (back.trigger_word, back.sample_prompts[0].prompt, back.sample_prompts[1].negative) == (text, text, text)


def test_resolved_paths_are_absolute_and_the_rest_is_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = loads(GUIDE_FLAT)
    resolved = config.resolved()
    assert resolved.output_dir == tmp_path / "output" / "my_style_lora"
    assert resolved.metadata_path == tmp_path / "data" / "style_train" / "metadata.csv"
    assert resolved.cache_dir is None
    assert resolved.identity() == config.identity()
    assert resolved.resolved() == resolved


def test_a_list_of_numbers_is_an_argument_of_an_optimizer() -> None:
    config = loads("optimizer_args: {betas: [0.9, 0.99]}")
    assert (
        config.optimizer_args
        == {"betas": [0.9, 0.99]}
        == parse({"optimizer_args": {"betas": (0.9, 0.99)}}).optimizer_args
    )
    assert loads(config.to_yaml()).identity() == config.identity() != loads("").identity()


# --- the fields


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_documented_and_its_default_is_valid(name: str) -> None:
    info = FIELDS[name]
    assert info.description
    assert info.description[0].isupper() or info.description[0].isdigit() or name in ("auto", "device")
    assert info.description.endswith(".")
    default = False if name == "auto" else info.default
    assert parse({name: list(default) if isinstance(default, tuple) else default}) == loads("")


def test_half_the_batch_in_half_the_memory_is_the_same_run() -> None:
    config = loads("batch_size: 4\ngradient_accumulation_steps: 1")
    assert config.but(batch_size=1, gradient_accumulation_steps=4).identity() == config.identity()
    assert config.but(batch_size=2).identity() != config.identity()


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        loads("").lora_rank = 16  # type: ignore[misc]


IDENTITY = {
    "task_type", "clip_skip", "trigger_word", "repeats", "caption_dropout", "resolution", "validation_images",
    "caption_shuffle", "keep_tokens", "flip", "mask", "mask_outside", "prior_weight", "prior_preservation",
    "class_prompt", "lora_rank", "lora_alpha", "lora_targets", "lora_method", "lora_blocks", "lora_ranks",
    "lora_alphas", "lora_dropout", "lokr_factor", "train_text_encoder", "text_encoder_learning_rate",
    "optimizer", "optimizer_args", "learning_rate", "lr_scheduler", "lr_cycles", "lr_power", "warmup_steps",
    "weight_decay", "max_grad_norm", "noise_offset", "min_snr_gamma", "loss_type", "huber_delta", "ema_decay", "seed",
    "mixed_precision", "base_weights",
}  # fmt: skip


def test_the_identity_is_what_shapes_the_trajectory() -> None:
    """A field in neither set is new: decide, then write it down here."""
    others = {
        # Their content is the job's.
        "base_model", "prediction_type", "zero_terminal_snr", "train_data_dir", "metadata_path", "reg_data_dir",
        "exclude",
        "init_lora", "output_dir", "cache_dir", "caption_source", "tokenizer", "chat_template", "max_length",
        # Of these, only the effective batch counts.
        "batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "vram_limit",
        "auto", "epochs", "max_steps", "device", "log_interval", "save_steps", "validation_steps",
        "early_stopping_patience",
        "sample_every", "sample_prompts", "sample_inference_steps", "sample_guidance", "sample_strength",
        "sample_max_tokens",
    }  # fmt: skip
    void = {"keep_tokens", "mask_outside", "prior_weight", "class_prompt", "lokr_factor", "lr_cycles", "lr_power",
            "text_encoder_learning_rate", "huber_delta", "base_weights"}  # fmt: skip
    batch = "effective batch (batch_size x gradient_accumulation_steps)"
    assert loads("").identity().keys() == {*IDENTITY - void, batch}
    assert FIELDS.keys() == IDENTITY | others


@pytest.mark.parametrize(
    ("void", "counts"),
    [
        ({"keep_tokens": 2}, {"caption_shuffle": True}),
        ({"mask_outside": 0.2}, {"mask": "files"}),
        ({"prior_weight": 0.5}, {"reg_data_dir": "/x"}),
        ({"class_prompt": "a woman"}, None),
        ({"lokr_factor": 4}, {"lora_method": "lokr"}),
        ({"lr_cycles": 3}, {"lr_scheduler": "cosine_with_restarts"}),
        ({"lr_cycles": 3, "optimizer": "schedulefree"}, None),
        ({"lr_power": 2.0}, {"lr_scheduler": "polynomial"}),
        ({"huber_delta": 0.2}, {"loss_type": "huber"}),
        ({"base_weights": "full"}, None),
        ({"lr_scheduler": "linear", "optimizer": "schedulefree"}, None),
    ],
)
def test_what_another_field_makes_void_is_no_part_of_the_identity(
    void: dict[str, Any], counts: dict[str, Any] | None
) -> None:
    rest = {name: value for name, value in void.items() if name == "optimizer"}
    assert parse(void).identity() == parse(rest).identity()
    if counts is not None:
        assert parse({**void, **counts}).identity() != parse(counts).identity()


@pytest.mark.parametrize(
    ("given", "prediction", "same"),
    [
        ({"lora_alpha": 8}, "epsilon", True),
        ({"lora_alpha": 4}, "epsilon", False),
        ({"lora_alpha": 16, "lora_rank": 16}, "epsilon", True),
        ({"lora_alpha": 8, "lora_ranks": {"mid_block": 4}}, "epsilon", False),
        ({"min_snr_gamma": 0}, "epsilon", True),
        ({"min_snr_gamma": 0}, "v_prediction", False),
        ({"min_snr_gamma": 5}, "v_prediction", True),
        ({"min_snr_gamma": 5}, "epsilon", False),
        ({"text_encoder_learning_rate": 1e-4, "train_text_encoder": True}, "epsilon", True),
        ({"text_encoder_learning_rate": 2e-4, "train_text_encoder": True}, "epsilon", False),
        (
            {"text_encoder_learning_rate": 1.0, "learning_rate": 1.0, "train_text_encoder": True,
             "optimizer": "prodigy"}, "epsilon", True,
        ),
    ],
)  # fmt: skip
def test_what_an_empty_field_means_is_the_same_as_saying_it(given: dict[str, Any], prediction: str, same: bool) -> None:
    said = {"lora_alpha", "min_snr_gamma", "text_encoder_learning_rate"}
    empty = {name: value for name, value in given.items() if name not in said}
    assert (parse(given).identity(prediction) == parse(empty).identity(prediction)) == same


@pytest.mark.parametrize(
    ("given", "alpha"), [({}, 8.0), ({"lora_rank": 16}, 16.0), ({"lora_rank": 16, "lora_alpha": 4}, 4.0)]
)
def test_alpha_is_the_rank_unless_given(given: dict[str, Any], alpha: float) -> None:
    assert parse(given).alpha == alpha


def test_a_changed_copy_is_checked() -> None:
    config = loads(GUIDE_FLAT)
    assert config.but(lora_rank=16, epochs=3) == loads(GUIDE_FLAT, overrides={"lora_rank": 16, "epochs": 3})
    assert config.but(metadata_path=None).metadata_path is None
    with pytest.raises(ConfigError, match="lora_rank: expected at least 1, got 0"):
        config.but(lora_rank=0)


def test_given_is_what_a_text_sets() -> None:
    text = "epochs: 3\nmodel_config:\n  lora_rank: 4\n  lora_alpha:\nuse_fp16: true\nno_such: 1\n"
    assert configs.given(text) == {"epochs": 3, "lora_rank": 4, "no_such": 1, "mixed_precision": "fp16"}
    assert configs.given("") == {}
    with pytest.raises(ConfigError, match="keep one"):
        configs.given("epochs: 3\ntrain_config:\n  epochs: 4\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"mid_block": 16}, "{mid_block: 16}"),
        (["mid_block", "up_blocks.1", "a, b"], "[mid_block, up_blocks.1, 'a, b']"),
        ({"prompt": "\u4e00\u53ea\u732b " * 60}, None),
        ({"prompt": "two\nlines", "seed": 1}, None),
        ({"eps": 1e-07, "betas": [0.9, 0.99], "x": True}, None),
    ],
)
def test_yaml_on_one_line(data: Any, text: str | None) -> None:
    written = yaml_text.line(data)
    assert "\n" not in written
    assert yaml_text.loads(written) == data
    assert text is None or written == text
