"""What every model family must do; each file of the package that holds a FAMILY is tested by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer import families
from trainer.errors import BaseModelError

FAMILIES = families.all_families()


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> families.Family:
    return request.param


@pytest.fixture(scope="module")
def base(family: families.Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.tiny(tmp_path_factory.mktemp("b\u00e4se \u6a21\u578b") / "tiny base.safetensors", 0)


@pytest.fixture(scope="module")
def denoiser(family: families.Family, base: Path) -> nn.Module:
    return family.load_model(base, torch.float32)


@pytest.fixture(scope="module")
def encoders(family: families.Family, base: Path) -> families.Encoders:
    return family.load_encoders(base)


def conditioned(family: families.Family, encoders: families.Encoders, *captions: str) -> list[dict[str, torch.Tensor]]:
    """All that ``predict`` wants of captions, for pictures of 64 x 64."""
    sizes = family.size_conditioning((64, 64), (0, 0), (64, 64))
    return [{**entry, **sizes} for entry in encoders.encode_text(captions)]


def test_the_list_is_complete_and_names_are_unique() -> None:
    folder = Path(families.__file__).parent
    with_family = {file.stem for file in folder.glob("*.py") if re.search(r"^FAMILY\b", file.read_text("utf-8"), re.M)}
    assert {family.name for family in FAMILIES} == with_family
    assert {"sd15", "sdxl"} <= with_family


def test_get(family: families.Family) -> None:
    assert families.get(family.name) is family
    with pytest.raises(BaseModelError, match=family.name):
        families.get(family.name + "x")
    with pytest.raises(BaseModelError, match="known are"):
        families.get("qqqqqqqq")


def test_numbers(family: families.Family) -> None:
    assert family.latent_channels > 0
    assert family.latent_scale > 0
    assert family.downsample in (4, 8, 16, 32)
    assert family.default_clip_skip >= 1
    assert set(family.targets) == {"attention", "linear", "conv"}


def test_noise_schedule_falls(family: families.Family) -> None:
    usual, rescaled = family.noise_schedule(), family.noise_schedule(zero_terminal_snr=True)
    for alphas in (usual, rescaled):
        assert alphas.shape == (1000,)
        assert alphas.dtype == torch.float32
        assert 0 < alphas[-1] < alphas[0] < 1
        assert (alphas.diff() < 0).all()
    assert rescaled[0] == usual[0]
    assert rescaled[-1] < 1e-6 < usual[-1]


def test_tiny_is_a_function_of_the_seed(family: families.Family, base: Path, tmp_path: Path) -> None:
    same = family.tiny(tmp_path / "same.safetensors", 0)
    other = family.tiny(tmp_path / "other.safetensors", 1)
    assert same.read_bytes() == base.read_bytes()
    assert other.read_bytes() != base.read_bytes()
    assert base.stat().st_size < 8_000_000


def test_a_file_is_of_one_family(family: families.Family, base: Path) -> None:
    assert families.detect(base) is family
    assert families.detect(str(base)) is family
    from trainer.weights import read_header

    assert [f for f in FAMILIES if f.recognise(read_header(base))] == [family]


@pytest.mark.usefixtures("offline")
def test_everything_loads_offline(family: families.Family, base: Path) -> None:
    families.detect(base)
    family.load_model(base, torch.float32)
    family.load_encoders(base).encode_text(["a photo"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_denoiser_is_frozen(family: families.Family, base: Path, dtype: torch.dtype) -> None:
    model = family.load_model(base, dtype)
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {(p.device.type, p.requires_grad) for p in model.parameters()} == {("cpu", False)}


def test_loading_twice_gives_the_same_weights(family: families.Family, base: Path, denoiser: nn.Module) -> None:
    again = family.load_model(base, torch.float32).state_dict()
    assert again.keys() == denoiser.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_targets_grow(family: families.Family, denoiser: nn.Module) -> None:
    chosen = {
        which: {name for name, module in denoiser.named_modules() if family.is_target(name, module, which)}
        for which in family.targets
    }
    assert set() < chosen["attention"] < chosen["linear"] < chosen["conv"]
    for name in chosen["conv"]:
        assert isinstance(denoiser.get_submodule(name), nn.Linear | nn.Conv2d)
    with pytest.raises(ValueError, match="everything"):
        family.is_target("mid_block", nn.Linear(2, 2), "everything")


def test_export_keys_are_unique(family: families.Family, denoiser: nn.Module, encoders: families.Encoders) -> None:
    names = [name for name, module in denoiser.named_modules() if family.is_target(name, module, "conv")]
    keys = [family.export_key(name) for name in names]
    for part, model in encoders.text_models.items():
        found = [name for name, module in model.named_modules() if family.text_target(name, module)]
        assert found, "text encoders can be trained"
        assert all(isinstance(model.get_submodule(name), nn.Linear) for name in found)
        keys += [family.export_key(name, part) for name in found]
        names += found
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[\w.]+", key) for key in keys)


def test_images_round(family: families.Family, encoders: families.Encoders) -> None:
    size = family.downsample
    pixels = torch.rand(2, 3, 4 * size, 6 * size, generator=torch.Generator().manual_seed(0))
    latents = encoders.encode_images(pixels)
    assert latents.shape == (2, family.latent_channels, 4, 6)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    torch.testing.assert_close(latents, encoders.encode_images(pixels), rtol=0, atol=0)
    one_by_one = torch.cat([encoders.encode_images(pixels[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(latents, one_by_one, rtol=1e-4, atol=1e-5)
    decoded = encoders.decode_latents(latents)
    assert decoded.shape == pixels.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert decoded.std() > 0
    with pytest.raises(ValueError, match="multiples"):
        encoders.encode_images(pixels[..., :-1])


def test_text(family: families.Family, encoders: families.Encoders, denoiser: nn.Module) -> None:
    captions = ["a red cat", "", "a blue dog " * 60, "a red cat"]
    batch = encoders.encode_text(captions)
    assert [set(entry) for entry in batch] == [set(batch[0])] * 4
    for entry in batch:
        assert entry["hidden"].ndim == 3
        assert entry["hidden"].shape[0] == 1
        assert entry["hidden"].dtype == torch.float32
        assert entry["hidden"].isfinite().all()
        assert not entry["hidden"].requires_grad
    torch.testing.assert_close(batch[0], batch[3], rtol=0, atol=1e-6)
    assert batch[2]["hidden"].shape[1] > batch[0]["hidden"].shape[1]
    assert not torch.equal(batch[0]["hidden"], batch[1]["hidden"])
    for caption, entry in zip(captions, batch, strict=True):
        torch.testing.assert_close(entry, encoders.encode_text([caption])[0], rtol=1e-4, atol=1e-5)
    assert encoders.encode_text([]) == []


def test_text_with_a_graph(family: families.Family, base: Path) -> None:
    encoders = family.load_encoders(base)
    captions = ["a red cat", "", "a blue dog " * 60]
    tokens = [encoders.tokenize(caption) for caption in captions]
    for entry in tokens:
        assert entry.keys() == encoders.text_models.keys()
        assert {(ids.dtype, ids.shape[1]) for ids in entry.values()} == {(torch.int64, 77)}
    plain = encoders.encode_text(captions)
    assert not any(tensor.requires_grad for entry in plain for tensor in entry.values())
    assert not any(p.requires_grad for model in encoders.text_models.values() for p in model.parameters())
    for model in encoders.text_models.values():
        model.requires_grad_(True)
    live = encoders.conditioning(tokens)
    torch.testing.assert_close(plain, live, rtol=0, atol=1e-6)
    sum(tensor.square().sum() for entry in live for tensor in entry.values()).backward()  # type: ignore[union-attr]
    for name, model in encoders.text_models.items():
        reached = {n.split(".layers.")[-1].split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        assert "0" in reached, name
    assert encoders.conditioning([]) == []


def test_clip_skip(family: families.Family, base: Path, encoders: families.Encoders) -> None:
    usual = encoders.encode_text(["a cat"])[0]
    skips = [family.load_encoders(base, clip_skip=skip).encode_text(["a cat"])[0] for skip in (1, 2)]
    torch.testing.assert_close(skips[family.default_clip_skip - 1], usual, rtol=0, atol=0)
    assert not torch.allclose(skips[0]["hidden"], skips[1]["hidden"], rtol=1e-2)
    if "pooled" in usual:
        torch.testing.assert_close(skips[0]["pooled"], skips[1]["pooled"], rtol=1e-6, atol=1e-6)
    for skip in (0, -1, 3):
        with pytest.raises(BaseModelError, match=f"clip_skip: {skip}, but the text_encoder of .* has 2 layers"):
            family.load_encoders(base, clip_skip=skip)


def test_prediction_is_read_from_the_file(family: families.Family, base: Path, tmp_path: Path) -> None:
    assert families.prediction(base) == ("epsilon", False)
    path = tmp_path / "v.safetensors"
    for zero_terminal_snr in (False, True):
        family.tiny(path, 0, prediction="v_prediction", zero_terminal_snr=zero_terminal_snr)
        assert families.prediction(path) == ("v_prediction", zero_terminal_snr)
        assert families.detect(path) is family
        family.load_model(path, torch.float32)


def test_sizes(family: families.Family, encoders: families.Encoders, denoiser: nn.Module) -> None:
    told = family.size_conditioning((640, 480), (3, 5), (512, 384))
    for tensor in told.values():
        assert tensor.shape[0] == 1
        assert tensor.dtype == torch.float32
    entry = conditioned(family, encoders, "a red cat")[0]
    assert entry.keys() == encoders.encode_text([""])[0].keys() | told.keys()
    noisy = torch.randn(1, family.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (family.predict(denoiser, noisy, torch.tensor([9]), e) for e in (entry, entry | told))
    assert torch.equal(first, second) == (not told)


def test_prediction_depends_on_everything(
    family: families.Family, denoiser: nn.Module, encoders: families.Encoders
) -> None:
    one, other = conditioned(family, encoders, "a red cat", "the blue circle")
    noisy = torch.randn(2, family.latent_channels, 8, 16, generator=torch.Generator().manual_seed(0))
    early, late = torch.tensor([10, 10]), torch.tensor([10, 900])
    conditioning = {name: tensor.expand(2, *tensor.shape[1:]) for name, tensor in one.items()}
    with torch.no_grad():
        first = family.predict(denoiser, noisy, early, conditioning)
        assert first.shape == noisy.shape
        assert first.isfinite().all()
        torch.testing.assert_close(first, family.predict(denoiser, noisy, early, conditioning), rtol=0, atol=0)
        changed = family.predict(denoiser, noisy, late, conditioning)
        torch.testing.assert_close(changed[0], first[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(changed[1], first[1], rtol=1e-3, atol=1e-4)
        mixed = {name: torch.cat([one[name], other[name]]) for name in one}
        changed = family.predict(denoiser, noisy, early, mixed)
        torch.testing.assert_close(changed[0], first[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(changed[1], first[1], rtol=1e-4, atol=1e-5)


def test_prediction_lets_gradients_through(
    family: families.Family, denoiser: nn.Module, encoders: families.Encoders
) -> None:
    noisy = torch.randn(1, family.latent_channels, 8, 8, requires_grad=True)
    family.predict(denoiser, noisy, torch.tensor([500]), conditioned(family, encoders, "")[0]).sum().backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0


def test_prediction_in_half_precision(family: families.Family, base: Path, encoders: families.Encoders) -> None:
    model = family.load_model(base, torch.bfloat16)
    noisy = torch.randn(1, family.latent_channels, 8, 8)
    with torch.no_grad():
        said = family.predict(model, noisy, torch.tensor([500]), conditioned(family, encoders, "")[0])
    assert said.dtype == torch.bfloat16


def test_samples(family: families.Family, denoiser: nn.Module, encoders: families.Encoders) -> None:
    prompt, negative, long = encoders.encode_text(["a red cat", "", "a blue dog " * 60])
    size = family.downsample
    options = {"width": 8 * size, "height": 12 * size, "steps": 3, "guidance": 3.0, "seed": 7}

    def draw(*conditioning: dict[str, torch.Tensor], **changes: float | str) -> torch.Tensor:
        return family.sample(denoiser, *conditioning, **(options | changes))  # type: ignore[arg-type]

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = draw(prompt, negative)
    assert torch.equal(torch.random.get_rng_state(), state), "sampling must leave the global generator alone"
    assert first.shape == (1, family.latent_channels, 12, 8)
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(draw(prompt, negative), first)
    assert not torch.allclose(draw(prompt, negative, seed=8), first)
    assert not torch.allclose(draw(prompt, negative, guidance=5.0), first, rtol=1e-4)
    assert not torch.allclose(draw(prompt, negative, prediction="v_prediction"), first, rtol=1e-2)
    assert not torch.allclose(draw(prompt, negative, zero_terminal_snr=True), first, rtol=1e-2)
    assert not torch.allclose(draw(negative, negative), first, rtol=1e-4)
    # Without guidance the negative prompt counts for nothing; a prompt against itself is not guided either.
    torch.testing.assert_close(draw(prompt, long, guidance=1.0), draw(prompt, negative, guidance=1.0), rtol=0, atol=0)
    torch.testing.assert_close(
        draw(prompt, negative, guidance=1.00001), draw(prompt, negative, guidance=1.0), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(draw(prompt, prompt), draw(prompt, negative, guidance=1.0), rtol=1e-3, atol=1e-3)
    assert draw(long, negative).isfinite().all(), "prompts of different length"
    with pytest.raises(ValueError, match="sample"):
        draw(prompt, negative, width=8 * size + 1)
    with pytest.raises(ValueError, match="sample"):
        draw(prompt, negative, steps=0)


def test_a_broken_copy_is_refused(family: families.Family, base: Path, tmp_path: Path) -> None:
    cut = tmp_path / "c\u00fct off.safetensors"
    cut.write_bytes(base.read_bytes()[:-1000])
    for load in (families.detect, lambda p: family.load_model(p, torch.float32), family.load_encoders):
        with pytest.raises(BaseModelError, match="cut off"):
            load(cut)
