"""Weights stored in 8 bits with a scale: what they stand for; every other quantisation is refused by name.

Three ways of saying it are in use, and all mean ``weight * scale``: ``X.scale_weight`` beside a mark ``scaled_fp8``;
``X.weight_scale``, alone or beside ``X.comfy_quant`` (JSON as bytes); and ``_quantization_metadata`` in a file's header
(ComfyUI: ``comfy.utils.convert_old_quants`` and ``comfy.ops``). fp8 without scales needs nothing: its values are meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from ..errors import BaseModelError
from .header import Header

_SCALES = (".scale_weight", ".weight_scale")
_OF_ACTIVATIONS = (".scale_input", ".input_scale")
_LAYER, _MARK, _IN_HEADER = ".comfy_quant", "scaled_fp8", "_quantization_metadata"
_FORMATS = {"float8_e4m3fn", "float8_e5m2"}
_FP8 = {"F8_E4M3", "F8_E5M2"}
_OTHERS = {
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes, 8 bit",
    ".qweight": "GPTQ or AWQ",
    ".weight_scale_2": "nvfp4",
    ".weight_s_rel": "asym_w4a8_int8",
    ".pre_quant_scale": "nvfp4",
}
_CURE = "train on the fp16, bf16 or fp32 version of the model; fp8 with or without one scale a weight will do, too"


def check(header: Header) -> None:
    """Makes sure that the weights of a file or folder can be read as numbers.

    Raises:
        BaseModelError: some are quantised otherwise than to fp8 with one scale a weight; the message names the first.
    """
    for what in _strange(header):
        raise BaseModelError(f"{header.path} holds quantised weights: {what}", _CURE)


def scale_of(header: Header, name: str) -> str | None:
    """The name of the tensor that a weight has to be multiplied by; None if it stands for itself."""
    if not name.endswith(".weight"):
        return None
    layer = name.removesuffix(".weight")
    return next((layer + end for end in _SCALES if layer + end in header.tensors), None)


def is_note(name: str) -> bool:
    """Whether a tensor is no weight, but says how the weights are stored."""
    last = name.replace("/", ".").rpartition(".")[2]
    return last == _MARK or name.endswith((*_SCALES, *_OF_ACTIVATIONS, _LAYER))


def _strange(header: Header) -> Iterator[str]:
    notes = _notes(header)
    for name, info in header.tensors.items():
        for end, kind in _OTHERS.items():
            if end in name:
                yield f"{name} ({kind})"
        if name in notes:
            yield from _format(name, notes[name])
        if name.endswith(_SCALES):
            weight = name.rpartition(".")[0] + ".weight"
            stored = header.tensors.get(weight)
            if stored is None:
                yield f"{name} is the scale of no weight"
            elif stored.dtype not in _FP8:
                yield f"{weight} is of type {stored.dtype}, not fp8, and yet has a scale"
            elif info.shape not in ((), (1,)):
                yield f"{name} has the shape {list(info.shape)}; one number is understood"
        elif name.endswith(".weight") and info.dtype[0] in "IU":
            yield f"{name} is of type {info.dtype}"
    if _IN_HEADER in header.metadata:
        try:
            layers = json.loads(header.metadata[_IN_HEADER])["layers"]
            for layer, note in layers.items():
                yield from _format(layer, note)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"{_IN_HEADER} in its header is not understood"


def _format(name: str, note: object) -> Iterator[str]:
    kind = note.get("format") if isinstance(note, dict) else note
    if kind not in _FORMATS:
        yield f"{name} ({kind})"


def _notes(header: Header) -> dict[str, object]:
    """What the layers' notes say: JSON as bytes, in tensors of their own."""
    from safetensors import SafetensorError, safe_open

    notes: dict[str, object] = {name: "not understood" for name in header.tensors if name.endswith(_LAYER)}
    for path in {header.files[name] for name in notes}:
        with suppress(OSError, SafetensorError), safe_open(path, framework="pt", device="cpu") as file:
            for name in (name for name in notes if header.files[name] == path):
                with suppress(ValueError, TypeError):
                    inside = name.split("/", 1)[1] if header.is_folder else name
                    notes[name] = json.loads(bytes(file.get_tensor(inside).tolist()))
    return notes
