"""Run by ComfyUI's own Python: what ComfyUI makes of a checkpoint, for comparison with the trainer.

    python comfy_side.py <ComfyUI> <checkpoint> <inputs.safetensors> <outputs.safetensors>

The inputs' metadata holds ``captions`` (JSON list) and ``keys`` (JSON list of LoRA modules with their shapes).
"""

from __future__ import annotations

import json
import sys


def main(root: str, checkpoint: str, inputs: str, outputs: str) -> None:
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, root)
    import comfy.options  # type: ignore[import-not-found]

    comfy.options.enable_args_parsing()
    import comfy.sample  # type: ignore[import-not-found]
    import comfy.sd  # type: ignore[import-not-found]
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(inputs, framework="pt") as opened:
        metadata = opened.metadata()
    given = load_file(inputs)
    result = {}
    with torch.inference_mode():
        options = {"dtype": torch.float32}
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint, te_model_options=options)
        tokens = [clip.tokenize(caption, disable_weights=True) for caption in json.loads(metadata["captions"])]
        for i, one in enumerate(tokens):
            result[f"hidden{i}"] = clip.encode_from_tokens(one)
        result["latents"] = vae.encode(given["pixels"].movedim(1, -1))
        result["pixels"] = vae.decode(given["latents"]).movedim(-1, 1)
        result["sigmas"] = model.model.model_sampling.sigmas
        prompt, negative = (clip.encode_from_tokens_scheduled(one) for one in tokens[:2])
        empty = torch.zeros(1, 4, 16, 8)
        noise = comfy.sample.prepare_noise(empty, 5)
        result["sample"] = comfy.sample.sample(
            model, noise, 5, 4.0, "euler", "normal", prompt, negative, empty, seed=5, disable_pbar=True
        )
        result["prediction"] = model.model.diffusion_model(
            given["noisy"], given["timestep"].float(), context=given["hidden"]
        )
        lora = {}
        for key, down, up in json.loads(metadata["keys"]):
            lora[f"{key}.lora_down.weight"], lora[f"{key}.lora_up.weight"] = torch.ones(down), torch.ones(up)
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
        result["patches"] = torch.tensor(len(patched.patches))
    save_file({name: tensor.clone().contiguous() for name, tensor in result.items()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
