"""Run by ComfyUI's own Python: what ComfyUI makes of a checkpoint, for comparison with the trainer.

    python comfy_side.py <ComfyUI> <checkpoint> <inputs.safetensors> <outputs.safetensors>

The inputs' metadata holds ``captions`` (JSON list). ``lora/<name>`` are the tensors of a LoRA file. Inputs with
``pooled`` and ``size_ids`` are SDXL's.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(root: str, checkpoint: str, inputs: str, outputs: str) -> None:
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, root)
    import comfy.options  # type: ignore[import-not-found]

    comfy.options.enable_args_parsing()
    import comfy.model_management  # type: ignore[import-not-found]
    import comfy.sample  # type: ignore[import-not-found]
    import comfy.sd  # type: ignore[import-not-found]
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    def told(index: int) -> dict[str, Any]:
        """What the model embeds beside the timestep, if anything, of one of the inputs."""
        names = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
        sizes = dict(zip(names, given["size_ids"][index].tolist(), strict=True)) if "size_ids" in given else {}
        return {"pooled_output": given["pooled"][index : index + 1], **sizes} if sizes else {}

    with safe_open(inputs, framework="pt") as opened:
        metadata = opened.metadata()
    given = load_file(inputs)
    result = {}
    with torch.inference_mode():
        options = {"dtype": torch.float32}
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint, te_model_options=options)
        tokens = [clip.tokenize(caption, disable_weights=True) for caption in json.loads(metadata["captions"])]
        for i, one in enumerate(tokens):
            result[f"hidden{i}"], pooled = clip.encode_from_tokens(one, return_pooled=True)
            if "pooled" in given:
                result[f"pooled{i}"] = pooled
        for skip in (1, 2, 3):
            skipping = clip.clone()
            skipping.clip_layer(-skip)
            result[f"skip{skip}"] = skipping.encode_from_tokens(tokens[0])
        result["latents"] = vae.encode(given["pixels"].movedim(1, -1))
        result["pixels"] = vae.decode(given["latents"]).movedim(-1, 1)
        result["sigmas"] = model.model.model_sampling.sigmas
        prompt, negative = (clip.encode_from_tokens_scheduled(one) for one in tokens[:2])
        empty = torch.zeros(1, 4, 16, 8)
        noise = comfy.sample.prepare_noise(empty, 5)
        result["sample"] = comfy.sample.sample(
            model, noise, 5, 4.0, "euler", "normal", prompt, negative, empty, seed=5, disable_pbar=True
        )
        embedded = [model.model.encode_adm(**told(i)) for i in range(len(given["noisy"])) if told(i)]
        inputs_of_unet = {"x": given["noisy"], "timesteps": given["timestep"].float(), "context": given["hidden"]}
        inputs_of_unet |= {"y": torch.cat(embedded)} if embedded else {}
        result["prediction"] = model.model.diffusion_model(**inputs_of_unet)
        lora = {name.removeprefix("lora/"): tensor for name, tensor in given.items() if name.startswith("lora/")}
        if lora:
            patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
            result["patches"] = torch.tensor(len(patched.patches))
            result["text_patches"] = torch.tensor(len(patched_clip.patcher.patches))
            comfy.model_management.load_models_gpu([patched], force_full_load=True)
            result["lora_prediction"] = patched.model.diffusion_model(**inputs_of_unet)
            result["lora_hidden"] = patched_clip.encode_from_tokens(tokens[0])
    save_file({name: tensor.clone().contiguous() for name, tensor in result.items()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
