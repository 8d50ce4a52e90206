"""The export law in the real ComfyUI: the weight that it patches at a strength is the one that PEFT merges there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import find_comfy
from tests.host.adapted import Parts
from tests.host.graphs import CLIP, apply_lora, demo_loader
from tests.host.server import ComfyServer, comfy_python
from tests.trainer.adapters.small import CASES, Small, Tensors, adapted, export_key, merged, relative
from trainer import adapters, export
from trainer.demo import BASE

pytestmark = pytest.mark.host
STRENGTHS = (1.0, 0.8, -0.5)


def comfys(folder: Path, files: dict[str, Tensors], base: Mapping[str, torch.Tensor]) -> Tensors:
    """What ComfyUI makes of weights by their key, with each file: ``<file>/<strength>/<key>``."""
    comfy = find_comfy()
    assert comfy is not None
    given = {f"base/{key}": weight.detach().contiguous() for key, weight in base.items()}
    given |= {f"{file}/{name}": tensor.contiguous() for file, lora in files.items() for name, tensor in lora.items()}
    inputs, outputs = folder / "in.safetensors", folder / "out.safetensors"
    save_file(given, inputs, metadata={"strengths": json.dumps(STRENGTHS)})
    command = [comfy_python(comfy), str(Path(__file__).with_name("law_side.py")), str(comfy), str(inputs), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=comfy)
    assert done.returncode == 0, done.stderr[-4000:]
    # It only logs what it could not load, or could not apply.
    assert "not loaded" not in done.stderr, done.stderr[-4000:]
    assert "ERROR" not in done.stderr, done.stderr[-4000:]
    return load_file(outputs)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """Every case's file, and a rotation, in ComfyUI."""
    files = {case: adapters.exported(adapted(case), export_key) for case in CASES}
    blocks = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    files["oft"] = {"lora_unet_linear.oft_blocks": blocks}
    base = {export_key(n.removesuffix(".weight")): p for n, p in Small().named_parameters() if n.endswith(".weight")}
    return comfys(tmp_path_factory.mktemp("l\u00e4w \u6cd5"), files, base)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_patched_weights_are_pefts_merged_ones(theirs: Tensors, case: str, strength: float):
    base = Small()
    wanted = merged(adapted(case), strength)
    assert wanted.keys() == {"linear", "wide", "one", "inner.three"}
    for name, weight in wanted.items():
        found = theirs[f"{case}/{strength}/{export_key(name)}"]
        plain = base.get_parameter(f"{name}.weight")
        assert found.shape == weight.shape
        assert relative(found, weight) < 1e-5, name
        assert relative(found - plain, weight - plain) < 1e-4, name  # the change itself, for its sign and scale


def test_why_oft_is_left_out(theirs: Tensors):
    """ComfyUI's rotation acts on the output side, PEFT's on the input side; and by the square of the strength."""
    weight = Small().linear.weight
    change = theirs["oft/1.0/lora_unet_linear"] - weight
    assert (
        relative((theirs["oft/1.0/lora_unet_linear"].T @ theirs["oft/1.0/lora_unet_linear"]), weight.T @ weight) < 1e-5
    )
    assert relative(theirs["oft/-0.5/lora_unet_linear"] - weight, 0.25 * change) < 1e-4


@pytest.fixture(scope="module")
def demo() -> Parts:
    return Parts(BASE, lambda name: True)


@pytest.mark.parametrize("method", adapters.METHODS)
def test_apply_lora_patches_the_denoiser_and_the_text_encoder_by_every_method(
    comfy: ComfyServer, demo: Parts, method: str
):
    made, name = demo.with_adapters(method), f"l\u00e4w {method}.safetensors"
    export.write(comfy.base / "models" / "loras" / name, demo.lora(made), {})
    plain = demo.plain(made)
    for strength in (0.8, 1.0):
        apply = apply_lora(strength, name=name)
        apply["inputs"]["clip"] = CLIP
        wires = {"model": ["apply", 0], "clip": ["apply", 1]}
        seen = comfy.probe("weights", {**demo_loader(), "apply": apply}, wires, keys=[])
        wanted = demo.wanted(made, strength)
        assert seen.tensors.keys() == wanted.keys()
        assert len(wanted) > 90
        for key, weight in seen.tensors.items():
            assert relative(weight, wanted[key]) < 1e-5, key
        assert min(relative(plain[n], w) for n, w in wanted.items()) > 1e-4, "every weight should have been changed"
