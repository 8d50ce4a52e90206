"""On random weights our conditioning, noisy input, prediction and loss are diffusers' pipeline parts, in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.families.toy import Toy, relative
from trainer.config import TrainConfig
from trainer.families import sd15, sdxl
from trainer.objectives import Objective

EXACT = 1e-5
FAMILIES = {"sd15": sd15.FAMILY, "sdxl": sdxl.FAMILY}
LONG = "cat " * 100
CAPTIONS = ["name_(series)", "", "photo of a cat"]
SIZE, CROP, BUCKET = (1023, 517), (9, 0), (72, 40)


class Sides:
    """The same weights in the trainer, read from a file, and in a pipeline of diffusers."""

    def __init__(self, name: str, folder: Path) -> None:
        import diffusers
        from transformers import CLIPTokenizer

        self.family = FAMILIES[name]
        self.toy = Toy(family=self.family)
        self.file = self.toy.save(folder / "b\u00e4se \u6a21.safetensors")
        self.model = self.family.load_model(self.file, torch.float32)
        self.encoders = self.family.load_encoders(self.file)
        tables = self.toy.save_tokenizer(folder / "tokenizer")
        marks = {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "model_max_length": 77}
        parts: dict[str, Any] = {"unet": self.toy.unet, "vae": self.toy.vae, **self.toy.texts}
        parts["tokenizer"] = CLIPTokenizer.from_pretrained(str(tables), **marks)
        parts["scheduler"] = scheduler(steps_offset=1, clip_sample=False)
        if self.toy.is_xl:
            parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(str(tables), **{**marks, "pad_token": "!"})
            self.pipeline: Any = diffusers.StableDiffusionXLPipeline(**parts)
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            self.pipeline = diffusers.StableDiffusionPipeline(**parts)

    def theirs(self, caption: str, clip_skip: int | None = None) -> dict[str, torch.Tensor]:
        """The conditioning of a caption by the pipeline's own method, which knows only the first 77 tokens."""
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False, "clip_skip": clip_skip}
        with torch.no_grad():
            made = self.pipeline.encode_prompt(caption, device="cpu", **options)
        return {"hidden": made[0], "pooled": made[2]} if self.toy.is_xl else {"hidden": made[0]}


def scheduler(**options: Any) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)


@pytest.fixture(scope="module", params=list(FAMILIES))
def sides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides(request.param, tmp_path_factory.mktemp("p\u00e4rity \u98ce"))


def near(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], limit: float = EXACT) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        assert relative(tensor, theirs[name]) < limit, name


@pytest.mark.parametrize("caption", CAPTIONS)
def test_conditioning(sides: Sides, caption: str) -> None:
    near(sides.encoders.encode_text([caption])[0], sides.theirs(caption))


def test_conditioning_of_a_long_caption(sides: Sides) -> None:
    """The pipeline cuts a caption of 100 tokens off at 75; ours goes on in a second chunk, as ComfyUI does."""
    ours = sides.encoders.encode_text([LONG])[0]
    first, rest = sides.theirs(LONG), sides.theirs("cat " * 25)
    near(ours, {**first, "hidden": torch.cat([first["hidden"], rest["hidden"]], dim=1)})


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip(sides: Sides, skip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the family's own layer in diffusers: SD1.5's last with its norm, SDXL's penultimate without."""
    ours = sides.family.load_encoders(sides.file, clip_skip=sides.family.default_clip_skip + skip)
    entry = ours.encode_text(["a cat"])[0]
    first = sides.toy.texts["text_encoder"]
    if not hasattr(first, "text_model"):
        # The pipeline looks for the final norm at the level that transformers 5 dropped.
        monkeypatch.setattr(type(first), "text_model", property(lambda model: model), raising=False)
    near(entry, sides.theirs("a cat", clip_skip=skip))


def test_sdxl_without_skip_is_the_last_layer_without_its_norm(tmp_path: Path) -> None:
    toy = Toy(family=sdxl.FAMILY)
    encoders = sdxl.FAMILY.load_encoders(toy.save(tmp_path / "xl.safetensors"), clip_skip=1)
    ids = encoders.tokenize("a cat")
    with torch.no_grad():
        layers = [
            toy.texts[name](input_ids=ids[name], output_hidden_states=True).hidden_states[-1] for name in toy.texts
        ]
    assert relative(encoders.encode_text(["a cat"])[0]["hidden"], torch.cat(layers, dim=-1)) < EXACT


def test_sizes(sides: Sides) -> None:
    ours = sides.family.size_conditioning(SIZE, CROP, BUCKET)
    if not sides.toy.is_xl:
        assert ours == {}
        return
    # The library's order is (height, width), (top, left), (height, width).
    theirs = sides.pipeline._get_add_time_ids(
        SIZE[::-1], CROP[::-1], BUCKET[::-1], dtype=torch.float32, text_encoder_projection_dim=32
    )
    assert torch.equal(ours["size_ids"], theirs)
    assert ours["size_ids"].tolist() == [[517, 1023, 0, 9, 40, 72]]


@pytest.mark.parametrize("flip", [False, True])
def test_latents(sides: Sides, flip: bool) -> None:
    """Of a picture of odd shape, flipped or not, as the denoiser sees them."""
    from diffusers.image_processor import VaeImageProcessor

    pixels = torch.rand(1, 3, 40, 72, generator=torch.Generator().manual_seed(1))
    pixels = pixels.flip(-1) if flip else pixels
    processor: Any = VaeImageProcessor(vae_scale_factor=8)
    with torch.no_grad():
        mode = sides.toy.vae.encode(processor.preprocess(pixels)).latent_dist.mode()
        decoded = processor.postprocess(sides.toy.vae.decode(mode).sample, output_type="pt")
    ours = sides.encoders.encode_images(pixels)
    assert relative(ours * sides.family.latent_scale, mode * sides.toy.vae.config.scaling_factor) < EXACT
    assert relative(sides.encoders.decode_latents(mode), decoded) < EXACT


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 500, 999])
@pytest.mark.parametrize("caption", [*CAPTIONS, LONG])
def test_noisy_input_prediction_and_loss(sides: Sides, caption: str, timestep: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(timestep)
    latents, noise = (torch.randn(1, 4, 5, 9, generator=generator) for _ in range(2))
    steps = torch.tensor([timestep])
    entry = sides.encoders.encode_text([caption])[0] | sides.family.size_conditioning(SIZE, CROP, BUCKET)
    objective = Objective(sides.family.noise_schedule(), kind, TrainConfig(min_snr_gamma=0.0))
    library = scheduler(prediction_type=kind)
    noisy, theirs = objective.noisy(latents, noise, steps), library.add_noise(latents, noise, steps)
    assert relative(noisy, theirs) < EXACT
    target = noise if kind == "epsilon" else library.get_velocity(latents, noise, steps)
    assert relative(objective.target(latents, noise, steps), target) < EXACT
    given: dict[str, Any] = {"encoder_hidden_states": entry["hidden"]}
    if sides.toy.is_xl:
        given["added_cond_kwargs"] = {"text_embeds": entry["pooled"], "time_ids": entry["size_ids"]}
    with torch.no_grad():
        ours = sides.family.predict(sides.model, noisy, steps, entry)
        said = sides.toy.unet(theirs, steps, **given).sample
    assert relative(ours, said) < EXACT
    loss = objective.loss(ours, objective.target(latents, noise, steps), steps)
    assert loss.item() == pytest.approx(nn.functional.mse_loss(said, target).item(), rel=EXACT)


def test_schedules_are_the_librarys(sides: Sides) -> None:
    torch.testing.assert_close(sides.family.noise_schedule(), scheduler().alphas_cumprod, rtol=EXACT, atol=0)
    ours = sides.family.noise_schedule(zero_terminal_snr=True)
    theirs = scheduler(rescale_betas_zero_snr=True).alphas_cumprod
    # At the very end fp32 has few digits left; there the library is at zero, ComfyUI is not quite.
    torch.testing.assert_close(ours[:990], theirs[:990], rtol=1e-4, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert ours[-1].item() == pytest.approx(4.8973451890853435e-08, rel=1e-6)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_sampling_takes_the_noise_away(name: str, kind: str, zero_terminal_snr: bool) -> None:
    """With a denoiser that knows the picture, the sample is the picture."""
    family = FAMILIES[name]
    target = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alphas = family.noise_schedule(zero_terminal_snr)
    told = []

    class Oracle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, **given: Any) -> Any:
            told.append(given)
            alpha = alphas[timestep][:, None, None, None]
            signal, rest = alpha.sqrt(), (1 - alpha).sqrt()
            noise = (noisy - signal * target * family.latent_scale) / rest
            sample = noise if kind == "epsilon" else signal * noise - rest * target * family.latent_scale
            return type("Output", (), {"sample": sample})

    entry = {"hidden": torch.zeros(1, 77, 8), "pooled": torch.zeros(1, 8)}
    drawn = family.sample(
        Oracle(),
        entry,
        entry,
        width=32,
        height=32,
        steps=40,
        guidance=4.0,
        seed=3,
        prediction=kind,
        zero_terminal_snr=zero_terminal_snr,
    )
    if not (kind == "epsilon" and zero_terminal_snr):  # where all is noise, epsilon tells nothing of the picture
        assert relative(drawn, target) < 0.02
    if name == "sdxl":
        assert told[0]["added_cond_kwargs"]["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
