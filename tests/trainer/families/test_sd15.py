"""SD1.5: what is loaded is what the libraries load; and the variants in which it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.families.toy import Toy, relative, rewrite
from trainer import families
from trainer.errors import BaseModelError
from trainer.families import ldm, sd15

FAMILY = sd15.FAMILY
UNET = "model.diffusion_model."


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.fixture(scope="module")
def captions(toy: Toy) -> list[str]:
    return ["a photo of a cat", "", "a cat of " * 40]


@pytest.mark.parametrize("timestep", [0, 500, 999])
def test_prediction_is_the_librarys(toy: Toy, toy_file: Path, timestep: int) -> None:
    model = FAMILY.load_model(toy_file, torch.float32)
    generator = torch.Generator().manual_seed(timestep)
    noisy = torch.randn(2, 4, 16, 8, generator=generator)
    hidden = torch.randn(2, 154, 48, generator=generator)
    steps = torch.tensor([timestep, timestep])
    with torch.no_grad():
        ours = FAMILY.predict(model, noisy, steps, {"hidden": hidden})
        theirs = toy.unet(noisy, steps, encoder_hidden_states=hidden).sample
    assert relative(ours, theirs) < 1e-5


def test_single_file_route_of_diffusers_agrees(toy: Toy, toy_file: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    for name, model in (("unet", toy.unet), ("vae", toy.vae)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(model.to_json_string(), encoding="utf-8")
    options = {"config": str(tmp_path), "local_files_only": True}
    unet = UNet2DConditionModel.from_single_file(str(toy_file), subfolder="unet", **options)
    assert same_weights(FAMILY.load_model(toy_file, torch.float32), unet)
    vae = AutoencoderKL.from_single_file(str(toy_file), subfolder="vae", **options)
    assert same_weights(FAMILY.load_encoders(toy_file).vae, vae)


@pytest.mark.usefixtures("offline")
def test_folder_and_file_are_the_same_model(toy: Toy, toy_file: Path, tmp_path: Path, captions: list[str]) -> None:
    folder = toy.save_folder(tmp_path / "f\u00f6lder \u6a21")
    assert families.detect(folder) is FAMILY
    assert same_weights(FAMILY.load_model(folder, torch.float32), FAMILY.load_model(toy_file, torch.float32))
    ours, theirs = FAMILY.load_encoders(folder), FAMILY.load_encoders(toy_file)
    for a, b in zip(ours.encode_text(captions), theirs.encode_text(captions), strict=True):
        assert relative(a["hidden"], b["hidden"]) < 1e-5
    pixels = torch.rand(1, 3, 32, 64)
    assert relative(ours.encode_images(pixels), theirs.encode_images(pixels)) < 1e-5


def test_folder_of_another_variant(toy: Toy, tmp_path: Path) -> None:
    folder = toy.save_folder(tmp_path / "variant", variant="fp16")
    assert not list(folder.rglob("model.safetensors"))
    assert same_weights(FAMILY.load_model(folder, torch.float32), toy.unet)
    assert same_weights(FAMILY.load_encoders(folder).vae, toy.vae)
    # The plain one wins where there are both.
    other = Toy(seed=1)
    other.unet.save_pretrained(folder / "unet")
    assert same_weights(FAMILY.load_model(folder, torch.float32), other.unet)


def test_sharded_folder(toy: Toy, tmp_path: Path) -> None:
    folder = toy.save_folder(tmp_path / "shards")
    for file in (folder / "unet").iterdir():
        file.unlink()
    toy.unet.save_pretrained(folder / "unet", max_shard_size="2MB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert same_weights(FAMILY.load_model(folder, torch.float32), toy.unet)


def test_text_encoder_is_the_librarys(toy: Toy, toy_file: Path, captions: list[str]) -> None:
    encoders = FAMILY.load_encoders(toy_file)
    for caption, entry in zip(captions, encoders.encode_text(captions), strict=True):
        with torch.no_grad():
            chunks = [
                toy.texts["text_encoder"](input_ids=ids[None]).last_hidden_state
                for ids in encoders.tokenize(caption)["text_encoder"]
            ]
        assert entry["hidden"].shape == (1, 77 * len(chunks), 48)
        assert relative(entry["hidden"], torch.cat(chunks, dim=1)) < 1e-5
    assert [entry["hidden"].shape[1] for entry in encoders.encode_text(captions)] == [77, 77, 154]


def test_kl_latents_are_the_mode_unscaled(toy: Toy, toy_file: Path) -> None:
    encoders = FAMILY.load_encoders(toy_file)
    pixels = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        mode = toy.vae.encode(pixels * 2 - 1).latent_dist.mode()
        decoded = toy.vae.decode(mode).sample
    assert relative(encoders.encode_images(pixels), mode) < 1e-5
    assert relative(encoders.decode_latents(mode), (decoded / 2 + 0.5).clamp(0, 1)) < 1e-5


def test_taesd_latents_are_shifted_and_scaled_as_in_comfyui(tmp_path: Path) -> None:
    toy = Toy("tiny")
    path = toy.save(tmp_path / "t\u00e4esd.safetensors", vae_scale=0.18215, vae_shift=0.25)
    encoders = FAMILY.load_encoders(path)
    pixels = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        # ComfyUI: TAESD.encode(x) = taesd_encoder(x * 0.5 + 0.5) / vae_scale + vae_shift, for x in -1..1.
        latents = toy.vae.encoder.layers(pixels) / 0.18215 + 0.25
        own = torch.tanh((latents - 0.25) * 0.18215 / 3) * 3
        decoded = toy.vae.decoder.layers(own).clamp(0, 1)
    assert relative(encoders.encode_images(pixels), latents) < 1e-5
    assert relative(encoders.decode_latents(latents), decoded) < 1e-5


def test_taesd_of_a_folder_gives_the_denoisers_latents(tmp_path: Path) -> None:
    toy = Toy("tiny")
    encoders = FAMILY.load_encoders(toy.save_folder(tmp_path / "tiny"))
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for_denoiser = toy.vae.encode(pixels * 2 - 1).latents
    assert relative(encoders.encode_images(pixels) * FAMILY.latent_scale, for_denoiser) < 1e-5


def test_schedule_is_the_librarys() -> None:
    from diffusers import DDPMScheduler

    theirs: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(FAMILY.noise_schedule(), theirs.alphas_cumprod, rtol=1e-5, atol=0)


def test_ema_and_positions_are_ignored(toy: Toy, toy_file: Path, tmp_path: Path) -> None:
    def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ema = {"model_ema." + n.removeprefix("model.").replace(".", ""): t + 1 for n, t in state.items() if UNET in n}
        extra = {
            "model_ema.decay": torch.tensor(0.9999),
            "betas": torch.zeros(1000),
            "model_ema.num_updates": torch.ones(()),
        }
        positions = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
        return state | ema | extra | positions

    path = rewrite(toy_file, tmp_path / "with ema.safetensors", old)
    assert path.stat().st_size > 1.5 * toy_file.stat().st_size
    assert same_weights(FAMILY.load_model(path, torch.float32), toy.unet)
    entry = FAMILY.load_encoders(path).encode_text(["a cat"])[0]
    assert torch.equal(entry["hidden"], FAMILY.load_encoders(toy_file).encode_text(["a cat"])[0]["hidden"])


def test_text_encoder_without_the_text_model_level(toy_file: Path, tmp_path: Path) -> None:
    path = rewrite(
        toy_file,
        tmp_path / "old.safetensors",
        lambda state: {n.replace("text_model.", ""): t for n, t in state.items()},
    )
    entry = FAMILY.load_encoders(path).encode_text(["a cat"])[0]
    assert torch.equal(entry["hidden"], FAMILY.load_encoders(toy_file).encode_text(["a cat"])[0]["hidden"])


def test_linear_vae_attention(toy: Toy, toy_file: Path, tmp_path: Path) -> None:
    def squeezed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t[:, :, 0, 0].contiguous() if ".attn_1." in n and t.ndim == 4 else t for n, t in state.items()}

    path = rewrite(toy_file, tmp_path / "linear.safetensors", squeezed)
    assert same_weights(FAMILY.load_encoders(path).vae, toy.vae)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_stored_dtypes(toy: Toy, tmp_path: Path, dtype: torch.dtype) -> None:
    path = toy.save(tmp_path / "half.safetensors", dtype=dtype)
    loaded = FAMILY.load_model(path, torch.float32).state_dict()
    for name, tensor in toy.unet.state_dict().items():
        assert torch.equal(loaded[name], tensor.to(dtype).float()), name
    assert FAMILY.load_encoders(path).encode_text(["a cat"])[0]["hidden"].dtype == torch.float32


def test_file_of_the_denoiser_alone(write_shapes: Callable[..., Path]) -> None:
    shapes = {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    diffusers = {
        "conv_in.weight": (320, 4, 3, 3),
        "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    for case in (shapes, diffusers, {UNET + name: shape for name, shape in shapes.items()}):
        path = write_shapes(case)
        assert families.detect(path) is FAMILY
        with pytest.raises(BaseModelError, match=r"holds no text encoder.*\n.*wired"):
            FAMILY.load_encoders(path)
        with pytest.raises(BaseModelError, match=r"its UNet lacks 68\d weights"):
            FAMILY.load_model(path, torch.float32)


def test_denoiser_alone_loads_in_all_three_namings(toy: Toy, toy_file: Path, tmp_path: Path) -> None:
    def alone(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return lambda state: {prefix + n.removeprefix(UNET): t for n, t in state.items() if n.startswith(UNET)}

    for prefix in (UNET, ""):
        path = rewrite(toy_file, tmp_path / "unet.safetensors", alone(prefix))
        assert same_weights(FAMILY.load_model(path, torch.float32), toy.unet)
    path = rewrite(toy_file, tmp_path / "diffusers.safetensors", lambda _: toy.unet.state_dict())
    assert same_weights(FAMILY.load_model(path, torch.float32), toy.unet)


def test_names_of_a_full_size_unet_and_vae() -> None:
    """Our names are SD1.5's: diffusers' conversion takes them all, and finds every weight of its own models."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    from trainer.weights import empty_weights

    assets = Path(sd15.__file__).parent / "assets" / "sd15"
    config = json.loads((assets / "unet" / "config.json").read_text(encoding="utf-8"))
    with empty_weights():
        unet: Any = UNet2DConditionModel.from_config(config)
        vae: Any = AutoencoderKL.from_config(json.loads((assets / "vae" / "config.json").read_text(encoding="utf-8")))
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    names = ldm.unet_state(unet.state_dict(), config["layers_per_block"])
    assert len(names) == 686
    for known in (
        "input_blocks.3.0.op.bias",
        "output_blocks.5.2.conv.weight",
        "output_blocks.2.1.conv.weight",
        "out.2.bias",
    ):
        assert UNET + known in names
    back = convert_ldm_unet_checkpoint(names, config=config)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in unet.state_dict().items()}
    names = ldm.kl_state(vae.state_dict())
    assert "first_stage_model.decoder.up.3.block.0.conv1.weight" in names
    back = convert_ldm_vae_checkpoint(names, vae.config)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in vae.state_dict().items()}
    counts = {
        which: sum(FAMILY.is_target(name, module, which) for name, module in unet.named_modules())
        for which in FAMILY.targets
    }
    assert counts == {"attention": 128, "linear": 192, "conv": 278}
    assert all(str(count) in FAMILY.targets[which] for which, count in counts.items())


def test_targets_by_name(toy: Toy) -> None:
    modules = dict(toy.unet.named_modules())
    transformer, block = "down_blocks.0.attentions.0.", "down_blocks.0.attentions.0.transformer_blocks.0."
    table = {
        block + "attn1.to_q": "attention",
        block + "attn2.to_out.0": "attention",
        block + "ff.net.0.proj": "linear",
        transformer + "proj_in": "linear",
        "mid_block.resnets.1.time_emb_proj": "conv",
        "up_blocks.1.resnets.0.conv_shortcut": "conv",
        "down_blocks.0.downsamplers.0.conv": "conv",
        "up_blocks.0.upsamplers.0.conv": "conv",
    }
    order = list(FAMILY.targets)
    for name, least in table.items():
        got = [which for which in order if FAMILY.is_target(name, modules[name], which)]
        assert got == order[order.index(least) :], name
    for name in ("conv_in", "conv_out", "time_embedding.linear_1", block + "attn1", "down_blocks.0.resnets.0.norm1"):
        assert not any(FAMILY.is_target(name, modules[name], which) for which in order), name
    assert FAMILY.export_key(block + "attn2.to_out.0") == (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    )


def test_text_encoder_keys(toy_file: Path) -> None:
    model = FAMILY.load_encoders(toy_file).text_models["text_encoder"]
    keys = {FAMILY.export_key(name, "text_encoder") for name, m in model.named_modules() if FAMILY.text_target(name, m)}
    assert len(keys) == 4 * 6
    assert "lora_te_text_model_encoder_layers_3_self_attn_out_proj" in keys
    # Whatever version of transformers named the module.
    for level in ("", "text_model."):
        key = FAMILY.export_key(f"{level}encoder.layers.0.mlp.fc1", "text_encoder")
        assert key == "lora_te_text_model_encoder_layers_0_mlp_fc1"
