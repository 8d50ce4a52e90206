"""Language models in folders of transformers: ``config.json``, safetensors weights, a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BaseModelError
from ..weights import Header, read_header
from ..weights.header import AGAIN, PICKLES, read_json
from ..weights.quantised import check
from .base import TITLES, Kind, Source, check_known, numbers, text_only

_WHICH = "choose a folder of a causal language model of transformers, such as Llama, Qwen, Mistral or Gemma"
_UNQUANTISED = "choose the model as it was published, in bf16 or fp16: base_weights: nf4 holds it in 4 bits by itself"
# Models that see pictures, whose language model is another one's.
_INNER = {"qwen2_vl": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2"}
# In the list of causal models, but made to fill gaps.
_BIDIRECTIONAL = {"bert", "camembert", "electra", "megatron-bert", "roberta", "roberta-prelayernorm", "xlm-roberta"}
_INDEX = "model.safetensors.index.json"


def read(path: Path) -> Source:
    """What a folder's config and the headers of its weights say.

    Raises:
        BaseModelError: it is no folder of a causal language model, its weights are missing, pickled or quantised, or
            it needs code of its own.
    """
    config = _config(path)
    name = str(config["model_type"])
    header = text_only(_header(path))
    check(header)
    kind = Kind(
        name,
        TITLES.get(name, name),
        True,
        _number(path, config, "num_hidden_layers", "n_layer", "num_layers"),
        _number(path, config, "hidden_size", "n_embd", "d_model"),
        _number(path, config, "vocab_size"),
        _number(path, config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        numbers(header),
    )
    return Source(kind, header, config)


def _config(path: Path) -> dict[str, Any]:
    """The config of the language model of a folder, refused where it cannot be trained."""
    file = path / "config.json"
    if not file.is_file():
        raise BaseModelError(f"{path} is {_instead(path)}", _WHICH)
    config = read_json(file)
    _refuse_quantised(path, config)
    name = config.get("model_type")
    if not isinstance(name, str):
        raise BaseModelError(f"{file} says no model_type, so nobody knows what model it is", _WHICH)
    inner = config.get("text_config")
    if name in _INNER or isinstance(inner, Mapping):
        outer = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
        config = {**outer, **(inner or {})}
        name = config["model_type"] = _INNER.get(name) or _INNER.get(config["model_type"]) or config["model_type"]
        if name == "qwen2":
            # Positions in time, height and width: without pictures all three are the same.
            config.pop("rope_scaling", None)
            rotary = config.pop("rope_parameters", None) or {}
            config.setdefault("rope_theta", rotary.get("rope_theta", 1e6))
    if config.get("is_encoder_decoder"):
        raise BaseModelError(f"{path} is an encoder-decoder ({name}); a causal language model is expected", _WHICH)
    check_known(path, name)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if name not in CAUSAL:
        if "auto_map" in config:
            raise BaseModelError(
                f"{path} brings code of its own for its architecture ({name}), which is not run",
                f"{_WHICH}, that transformers knows by itself",
            )
        raise BaseModelError(f"{path} is a {name} model, no causal language model that transformers knows", _WHICH)
    made = [one for one in config.get("architectures") or () if isinstance(one, str)]
    writes = not made or any("CausalLM" in one or "LMHead" in one or "Conditional" in one for one in made)
    if name in _BIDIRECTIONAL or not writes:
        raise BaseModelError(f"{path} is a {made[0] if made else name}, which does not write text", _WHICH)
    return config


def _instead(path: Path) -> str:
    """What a folder without config.json is."""
    if (path / "model_index.json").is_file():
        return "a folder of diffusers, a model of images; a language model is expected"
    if (path / "adapter_config.json").is_file():
        return "a LoRA (a folder of PEFT), which is trained on top of a model: choose that model"
    if (path / "params.json").is_file():
        return "in Mistral's or Meta's own format, not transformers'"
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return f"a folder with a GGUF ({ggufs[0].name}), whose weights are quantised, and without config.json"
    return "no folder of transformers: it has no config.json"


def _refuse_quantised(path: Path, config: Mapping[str, Any]) -> None:
    noted = config.get("quantization_config") or config.get("compression_config")
    if noted:
        how = noted.get("quant_method", "a method it does not name") if isinstance(noted, Mapping) else noted
        raise BaseModelError(f"{path} holds quantised weights ({how}); full ones are expected", _UNQUANTISED)


def _header(path: Path) -> Header:
    """The headers of all safetensors files of a folder, as one."""
    found = [path / "model.safetensors"]
    if (path / _INDEX).is_file():
        named = read_json(path / _INDEX).get("weight_map")
        if not isinstance(named, Mapping) or not named:
            raise BaseModelError(f"{path / _INDEX} names no files", AGAIN)
        found = sorted({path / str(name) for name in named.values()})
        missing = [file.name for file in found if not file.is_file()]
        if missing:
            raise BaseModelError(f"{path} lacks {len(missing)} of its {len(found)} files: {missing[0]}", AGAIN)
    elif not found[0].is_file():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise BaseModelError(f"{path} holds {_weights(path, len(found))}", _safetensors(path))
    headers = [read_header(file) for file in found]
    return Header(
        path,
        {name: info for one in headers for name, info in one.tensors.items()},
        {name: file for one in headers for name, file in one.files.items()},
    )


def _weights(path: Path, count: int) -> str:
    if count:
        return f"{count} safetensors files and no {_INDEX} that says which belong together"
    pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLES)
    return f"its weights only as a pickle ({pickles[0]})" if pickles else "no weights (model.safetensors)"


def _safetensors(path: Path) -> str:
    if any(file.suffix.lower() in PICKLES for file in path.iterdir()):
        return "get the version with safetensors: a pickle can run any code when it is opened"
    return AGAIN


def _number(path: Path, config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return config[name]
    # What a config does not say is its architecture's default.
    from transformers import AutoConfig

    plain = {key: value for key, value in config.items() if key != "model_type"}
    try:
        whole = AutoConfig.for_model(str(config["model_type"]), **plain)
    except Exception as error:
        raise BaseModelError(f"{path / 'config.json'} cannot be used: {error}", AGAIN) from error
    value = next((getattr(whole, name) for name in names if isinstance(getattr(whole, name, None), int)), None)
    return 0 if value is None else value
