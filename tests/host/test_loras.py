"""LoRAs in the real server: every method on SDXL, strengths by block, resized and merged ones, and core's nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.host.adapted import Parts
from tests.host.checkpoints import SDXL, add_random_sdxl
from tests.host.graphs import CLIP, MODEL, Graph, apply_lora, checkpoint_loader, demo_loader, node
from tests.host.measure import relative_error
from tests.host.server import ComfyServer, PromptFailed
from tests.trainer.adapters.small import Tensors, relative
from tests.trainer.loras.made import norm
from trainer import adapters, export, lorafile
from trainer.demo import BASE
from trainer.loras import inspection

pytestmark = pytest.mark.host
PLAIN = "lora"


@pytest.fixture(scope="module")
def demo() -> Parts:
    return Parts(BASE, lambda name: True)


@pytest.fixture(scope="module")
def xl(comfy: ComfyServer) -> Parts:
    """Layers of every kind of the big checkpoint, and the first layer of either text encoder."""
    some = ("down_blocks.1.attentions.0.", "down_blocks.0.downsamplers", "mid_block.", "up_blocks.0.resnets.0.")
    return Parts(add_random_sdxl(comfy.base), lambda name: name.startswith(some), text_layers=1)


@pytest.fixture(scope="module")
def put(comfy: ComfyServer, demo: Parts) -> Callable[..., tuple[str, dict[str, Any]]]:
    """`put(method)`: a LoRA of the demo base among the server's, its name and the adapted models."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}

    def write(method: str = PLAIN) -> tuple[str, dict[str, Any]]:
        if method not in known:
            made, name = demo.with_adapters(method), f"blocks {method} \u6f2b.safetensors"
            export.write(comfy.base / "models" / "loras" / name, demo.lora(made), {"ss_output_name": "whole"})
            known[method] = (name, made)
        return known[method]

    return write


def apply(lora: list[Any], strength: float = 0.8) -> dict[str, Any]:
    """Apply LoRA on MODEL and CLIP."""
    made = apply_lora(strength, lora=lora)
    made["inputs"]["clip"] = CLIP
    return made


def load(name: str) -> dict[str, Any]:
    return node("Darkroom_LoadTrainedLoRA", run=name, checkpoint="last")


def patched(comfy: ComfyServer, graph: Graph) -> Tensors:
    """The weights behind `apply` that are patched."""
    return comfy.probe("weights", graph, {"model": ["apply", 0], "clip": ["apply", 1]}, keys=[]).tensors


@pytest.mark.long
@pytest.mark.parametrize("method", adapters.METHODS)
def test_sdxl_is_patched_by_every_method_as_peft_merges_it(comfy: ComfyServer, xl: Parts, method: str):
    made, name = xl.with_adapters(method), f"xl {method} \u6cd5.safetensors"
    export.write(comfy.base / "models" / "loras" / name, xl.lora(made), {})
    plain = xl.plain(made)
    for strength in (0.8, 1.0):
        graph = {**checkpoint_loader(SDXL), "load": load(name), "apply": apply(["load", 0], strength)}
        seen, wanted = patched(comfy, graph), xl.wanted(made, strength)
        assert seen.keys() == wanted.keys() == plain.keys()
        assert len({key.split(".")[0] for key in seen}) == 3, "the denoiser and both text encoders"
        for key, weight in seen.items():
            # ComfyUI keeps text encoders in fp16, also on the CPU.
            near = 1e-5 if key.startswith("diffusion_model") else 1e-3
            assert relative(weight, wanted[key]) < near, key
            assert relative_error(weight - plain[key], wanted[key] - plain[key]) < (1e-3 if near < 1e-4 else 5e-2), key


def test_cores_nodes_patch_sdxl_alike(comfy: ComfyServer, xl: Parts):
    """LoraLoader from the file, LoraModelLoader from our LORA_MODEL: the very weights of Apply LoRA."""
    made, name = xl.with_adapters(PLAIN), "xl core.safetensors"
    export.write(comfy.base / "models" / "loras" / name, xl.lora(made), {})
    graph = {**checkpoint_loader(SDXL), "load": load(name), "apply": apply(["load", 0])}
    ours = patched(comfy, graph)
    at = {"strength_model": 0.8, "strength_clip": 0.8}
    core = node("LoraLoader", model=MODEL, clip=CLIP, lora_name=name, **at)
    theirs = patched(comfy, {**checkpoint_loader(SDXL), "apply": core})
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[key]) for key, weight in ours.items())
    hot = node("LoraModelLoader", model=MODEL, lora=["load", 0], strength_model=0.8, bypass=False)
    seen = comfy.probe("weights", {**graph, "hot": hot}, {"model": ["hot", 0]}, keys=[]).tensors
    assert {key for key in ours if key.startswith("diffusion_model")} == seen.keys()
    assert all(torch.equal(weight, ours[key]) for key, weight in seen.items())


def test_diffusers_takes_an_sdxl_file(comfy: ComfyServer, xl: Parts, tmp_path: Path):
    from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin as Loader

    made, file = xl.with_adapters(PLAIN), tmp_path / "xl \u6f2b.safetensors"
    export.write(file, xl.lora(made), {})
    state: Any
    state, alphas = Loader.lora_state_dict(str(file), unet_config=xl.parts["unet"].config)[:2]  # type: ignore[misc]
    unet = xl.with_adapters(PLAIN)["unet"]
    unet = type(unet).from_config(unet.config)
    unet.load_state_dict(xl.parts["unet"].state_dict())
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet)
    unet.fuse_lora(lora_scale=1.0)
    unet.unload_lora()
    found = unet.state_dict()
    changed = {f"{layer.name}.weight" for layer in adapters.layers(made["unet"])}
    wanted = xl.wanted({"unet": made["unet"]}, 1.0)
    for key, weight in xl.by_comfys_keys("unet", {name: found[name] for name in changed}).items():
        assert relative(weight, wanted[key]) < 1e-5, key
    assert len(changed) == len(wanted) > 30


@pytest.mark.parametrize("method", [method for method in adapters.METHODS if method != "dora"])
def test_blocks_are_scaled_exactly_by_every_method(comfy: ComfyServer, demo: Parts, put: Any, method: str):
    name, made = put(method)
    keys = {key for layer in demo.lora(made) for key in [layer.partition(".")[0]]}
    assert {"te", "down 0", "mid", "up 2"} <= set(inspection.blocks_of(lorafile.parse(demo.lora(made)))), keys
    strengths = {"mid": 0.5, "up 2": 0.0, "te": -0.25, "down 0": 2.0}
    text = "\n".join(f"{block}: {strength}" for block, strength in strengths.items())
    graph = {**demo_loader(), "load": load(name), "apply": apply(["blocks", 0])}
    graph["blocks"] = node("Darkroom_LoRABlocks", lora=["load", 0], strengths=text)
    seen, plain = patched(comfy, graph), demo.plain(made)
    expected = {
        block: demo.wanted(made, 0.8 * strength) for block, strength in {**strengths, "else": 1.0}.items() if strength
    }
    places = {"diffusion_model.middle_block": "mid", "clip_l": "te"}
    counts = dict.fromkeys([*strengths, "else"], 0)
    blocks = by_block(demo, made)
    assert set(seen) == {key for key in plain if blocks[key] != "up 2"}, "a block at 0 is left out"
    for key, weight in seen.items():
        block = next((b for start, b in places.items() if key.startswith(start)), blocks[key])
        assert block == blocks[key]
        of = block if block in strengths else "else"
        counts[of] += 1
        assert relative(weight, expected[of][key]) < 1e-5, key
    assert min(count for block, count in counts.items() if block != "up 2") > 5


def by_block(demo: Parts, made: dict[str, Any]) -> dict[str, str]:
    """The block of every layer with adapters, by ComfyUI's keys."""
    found: dict[str, str] = {}
    for part, model in made.items():
        for layer in adapters.layers(model):
            block = inspection.block(demo.family.export_key(layer.name, part))
            found |= dict.fromkeys(demo.by_comfys_keys(part, {f"{layer.name}.weight": torch.ones(1)}), block)
    return found


def test_a_dora_by_blocks_is_refused_and_left_out(comfy: ComfyServer, demo: Parts, put: Any):
    name, made = put("dora")
    graph = {**demo_loader(), "load": load(name), "apply": apply(["blocks", 0])}
    graph["blocks"] = node("Darkroom_LoRABlocks", lora=["load", 0], strengths="mid: 0.5")
    with pytest.raises(PromptFailed, match="DoRA layers cannot be scaled by block"):
        patched(comfy, graph)
    graph["blocks"]["inputs"]["strengths"] = "mid: 0"
    seen, wanted = patched(comfy, graph), demo.wanted(made, 0.8)
    assert seen.keys() == {key for key in wanted if "middle_block" not in key}
    assert all(relative(weight, wanted[key]) < 1e-5 for key, weight in seen.items())


def test_the_picture_of_blocks_is_on_the_node_and_an_unknown_block_named(comfy: ComfyServer, put: Any):
    name, _ = put()
    graph: Graph = {"load": load(name), "blocks": node("Darkroom_LoRABlocks", lora=["load", 0], strengths="")}
    graph["show"] = node("PreviewImage", images=["blocks", 1])
    outputs = comfy.run(graph)
    on_node, handed = (comfy.image(outputs[n]["images"][0]) for n in ("blocks", "show"))
    assert on_node.size == handed.size
    assert on_node.width >= 560
    graph["blocks"]["inputs"]["strengths"] = "up 9: 0.5"
    with pytest.raises(PromptFailed, match="the LoRA has no block 'up 9'") as caught:
        comfy.run(graph)
    assert (
        "its blocks are: te, down 0, down 1, down 2, mid, up 0, up 1, up 2"
        in (caught.value.details["exception_message"])
    )


def test_a_lora_is_resized_saved_and_applied(comfy: ComfyServer, demo: Parts, put: Any):
    name, made = put()
    graph = {**demo_loader(), "load": load(name), "apply": apply(["resize", 0], 1.0)}
    graph["resize"] = node("Darkroom_ResizeLoRA", lora=["load", 0], rank=2, energy=1.0)
    graph["save"] = node("Darkroom_SaveLoRA", lora=["resize", 0], filename="resized")
    outputs = comfy.run({n: graph[n] for n in ("load", "resize", "save")})
    told = outputs["resize"]["text"][0]
    assert "layers at a lower rank" in told.splitlines()[0]
    tensors, header = export.read(comfy.base / "models" / "loras" / "resized.safetensors")
    assert {len(t) for n, t in tensors.items() if "lora_down" in n} == {2}
    assert (header["ss_network_dim"], header["darkroom.resized"]) == ("2", "whole from rank 3 to 2")
    seen, plain, whole = patched(comfy, graph), demo.plain(made), demo.wanted(made, 1.0)
    lost = {key: weight - whole[key] for key, weight in seen.items()}
    share = norm(lost) / norm({key: whole[key] - plain[key] for key in whole})
    assert f"({100 * share:.1f} % of the norm)" in told, "the node says how near it is"
    graph["resize"]["inputs"]["rank"] = 8
    outputs = comfy.run({n: graph[n] for n in ("load", "resize", "save")})
    assert outputs["resize"]["text"] == ["Unchanged: it is of rank 3 already"]
    name, _ = put("lokr")
    with pytest.raises(PromptFailed, match="the wired LoRA holds LoKr layers; resize takes files of LoRA alone"):
        comfy.run({**graph, "load": load(name)})


def test_merged_loras_do_what_they_do_together(comfy: ComfyServer, demo: Parts, put: Any):
    name, _ = put()
    other = {
        n: t * 0.7 if "lora_up" in n else t.flip(0) for n, t in export.read(loras(comfy) / name)[0].items() if t.ndim
    }
    export.write(loras(comfy) / "other.safetensors", other, {"ss_output_name": "other"})
    graph = {**demo_loader(), "load": load(name), "load 2": load("other.safetensors")}
    graph["first"] = apply(["load", 0], 0.8)
    second = apply(["load 2", 0], -0.5)
    second["inputs"] |= {"model": ["first", 0], "clip": ["first", 1]}
    both = patched(comfy, {**graph, "apply": second})
    graph["merge"] = node(
        "Darkroom_MergeLoRAs", lora_1=["load", 0], strength_1=0.8, lora_2=["load 2", 0], strength_2=-0.5, rank=0
    )
    outputs = comfy.run({n: graph[n] for n in ("load", "load 2", "merge")} | {
        "save": node("Darkroom_SaveLoRA", lora=["merge", 0], filename="merged")})  # fmt: skip
    assert outputs["merge"]["text"][0].endswith("exact")
    merged = patched(comfy, {**graph, "apply": apply(["merge", 0], 1.0)})
    assert merged.keys() == both.keys()
    assert all(relative(weight, both[key]) < 1e-5 for key, weight in merged.items())
    header = export.read(loras(comfy) / "merged.safetensors")[1]
    assert header["darkroom.merged"] == '[{"file": "whole", "strength": 0.8}, {"file": "other", "strength": -0.5}]'
    graph["merge"]["inputs"] |= {"strength_1": 0.0, "strength_2": 0.0}
    with pytest.raises(PromptFailed, match="every strength is 0"):
        comfy.run({**graph, "save": node("Darkroom_SaveLoRA", lora=["merge", 0], filename="merged")})


def test_core_saves_what_our_nodes_made(comfy: ComfyServer, put: Any):
    name, _ = put()
    graph: Graph = {"load": load(name)}
    graph["blocks"] = node("Darkroom_LoRABlocks", lora=["load", 0], strengths="mid: 0.5")
    graph["core"] = node("SaveLoRA", lora=["blocks", 0], prefix="loras/by core blocks", steps=7)
    comfy.run(graph)
    (saved,) = (comfy.base / "output" / "loras").glob("by core blocks_7_steps*.safetensors")
    tensors, _ = export.read(saved)
    before, _ = export.read(loras(comfy) / name)
    assert tensors.keys() == before.keys()
    changed = {n.partition(".")[0] for n in tensors if not torch.equal(tensors[n], before[n])}
    assert changed == {n.partition(".")[0] for n in tensors if "_mid_block_" in n}


def loras(comfy: ComfyServer) -> Path:
    return comfy.base / "models" / "loras"
