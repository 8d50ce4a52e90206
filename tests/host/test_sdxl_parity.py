"""SDXL in the trainer and in ComfyUI, on one checkpoint that the stock loader takes: the same numbers.

The checkpoint predicts v with zero terminal SNR, by the marks in it; test_family_parity.py has epsilon.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.host.test_family_parity import CAPTIONS, comfys, random_lora, wear
from tests.trainer.families.toy import relative
from trainer import families, gauge
from trainer.families import sdxl, sdxl_random

FAMILY = sdxl.FAMILY
SIZES = (((1023, 517), (9, 0), (96, 64)), ((640, 1200), (0, 33), (64, 128)))
"""Of two pictures: size, crop, bucket; width first."""

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.usefixtures("sdxl_alone")]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The trainer's models, the inputs, and what ComfyUI made of them."""
    folder = tmp_path_factory.mktemp("p\u00e4rity \u6a21")
    checkpoint = folder / "small xl model.safetensors"
    sdxl_random.write_random(checkpoint, full=False, prediction="v_prediction", zero_terminal_snr=True)
    assert families.prediction(checkpoint) == ("v_prediction", True)
    model, encoders = FAMILY.load_model(checkpoint, torch.float32), FAMILY.load_encoders(checkpoint)
    captions = CAPTIONS[:3]
    entries = encoders.encode_text(captions)
    skipped = {
        f"skip{skip}": FAMILY.load_encoders(checkpoint, clip_skip=skip).encode_text(captions[:1])[0]["hidden"]
        for skip in (1, 3)
    }
    told = [FAMILY.size_conditioning(*sizes) for sizes in SIZES]
    generator = torch.Generator().manual_seed(0)
    given = {
        "pixels": torch.rand(2, 3, 64, 96, generator=generator),
        "latents": torch.randn(1, 4, 8, 12, generator=generator) * 4,
        "noisy": torch.randn(2, 4, 16, 8, generator=generator),
        "timestep": torch.tensor([10, 800]),
        "hidden": torch.cat([entry["hidden"] for entry in entries[:2]]),
        "pooled": torch.cat([entry["pooled"] for entry in entries[:2]]),
        "size_ids": torch.cat([one["size_ids"] for one in told]),
    }
    conditioning = {name: given[name] for name in ("hidden", "pooled", "size_ids")}
    with torch.no_grad():
        prediction = FAMILY.predict(model, given["noisy"], given["timestep"], conditioning)
    options: dict[str, Any] = {"width": 64, "height": 128, "steps": 5, "guidance": 4.0, "seed": 5}
    options |= {"prediction": "v_prediction", "zero_terminal_snr": True}
    ours = {
        "sample": FAMILY.sample(model, *entries[:2], **options),
        "latents": encoders.encode_images(given["pixels"]),
        "pixels": encoders.decode_latents(given["latents"]),
        "prediction": prediction,
        **skipped,
    }
    lora = random_lora(FAMILY, model, encoders)
    wear(FAMILY, model, encoders, lora)
    with torch.no_grad():
        ours["lora_prediction"] = FAMILY.predict(model, given["noisy"], given["timestep"], conditioning)
    ours["lora_hidden"] = encoders.encode_text(captions[:1])[0]["hidden"]
    # Two models of this size at once would be too much for a small machine.
    del model, encoders
    gauge.release(torch.device("cpu"))
    theirs = comfys(checkpoint, captions, given, lora)
    checkpoint.unlink()
    layers = sum(name.endswith(".alpha") for name in lora)
    return {"entries": entries, "ours": ours, "theirs": theirs, "layers": layers}


def test_text(sides: dict[str, Any]) -> None:
    for i, entry in enumerate(sides["entries"]):
        for name, tensor in entry.items():
            assert tensor.shape == sides["theirs"][f"{name}{i}"].shape
            assert relative(tensor, sides["theirs"][f"{name}{i}"]) < 1e-5, name
    assert sides["entries"][2]["hidden"].shape == (1, 154, 2048)
    # Two is what it takes by itself.
    assert torch.equal(sides["theirs"]["skip2"], sides["theirs"]["hidden0"])
    for skip in ("skip1", "skip3"):
        assert relative(sides["ours"][skip], sides["theirs"][skip]) < 1e-5, skip
        assert relative(sides["ours"][skip], sides["theirs"]["skip2"]) > 0.01, skip


@pytest.mark.parametrize("what", ["latents", "pixels", "prediction"])
def test_latents_pixels_and_prediction(sides: dict[str, Any], what: str) -> None:
    assert relative(sides["ours"][what], sides["theirs"][what]) < 1e-5


def test_schedule_and_sample_are_the_ksamplers(sides: dict[str, Any]) -> None:
    alphas = FAMILY.noise_schedule(zero_terminal_snr=True)
    # 1 - alpha loses digits where alpha is almost 1.
    torch.testing.assert_close(((1 - alphas) / alphas).sqrt(), sides["theirs"]["sigmas"], rtol=1e-4, atol=0)
    assert sides["theirs"]["sigmas"][-1] > 4000
    assert relative(sides["ours"]["sample"], sides["theirs"]["sample"]) < 1e-4


def test_a_lora_of_everything_does_the_same(sides: dict[str, Any]) -> None:
    """Every exported key is patched, those of both text encoders too, and with them both sides say the same."""
    ours, theirs = sides["ours"], sides["theirs"]
    text = (12 + 32) * 6
    assert int(theirs["text_patches"]) == text
    assert int(theirs["patches"]) == sides["layers"] - text > 0
    for name, before in (("lora_prediction", "prediction"), ("lora_hidden", "hidden0")):
        assert relative(ours[name], theirs[name]) < 1e-5, name
        assert relative(theirs[name], theirs[before]) > 1e-3, name
