"""Run by ComfyUI's own Python: the weights that ComfyUI makes of base weights and LoRA files.

    python law_side.py <ComfyUI> <inputs.safetensors> <outputs.safetensors>

Inputs: ``base/<key>`` weights, and ``<file>/<name in the file>`` tensors of any number of LoRA files; metadata
``strengths``, JSON. Outputs: ``<file>/<strength>/<key>``.
"""

from __future__ import annotations

import json
import sys


def main(root: str, inputs: str, outputs: str) -> None:
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, root)
    import comfy.options  # type: ignore[import-not-found]

    comfy.options.enable_args_parsing()
    import comfy.lora  # type: ignore[import-not-found]
    import comfy.lora_convert  # type: ignore[import-not-found]
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(inputs, framework="pt") as opened:
        strengths = json.loads(opened.metadata()["strengths"])
    files: dict = {}
    for name, tensor in load_file(inputs).items():
        file, _, inner = name.partition("/")
        files.setdefault(file, {})[inner] = tensor
    base = files.pop("base")
    result = {}
    for file, lora in files.items():
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), {key: key for key in base})
        for strength in strengths:
            for key, patch in patches.items():
                weight = comfy.lora.calculate_weight([(strength, patch, 1.0, None, None)], base[key].clone(), key)
                result[f"{file}/{strength}/{key}"] = weight.contiguous()
    save_file(result, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
