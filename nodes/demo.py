"""Load Demo Base: the small model that ships with the pack, so that anyone can train without a download."""

from __future__ import annotations

from comfy_api.latest import io

from .host import demo_base


class LoadDemoBase(io.ComfyNode):
    """The embedded base model as MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, outputs and texts."""
        return io.Schema(
            node_id="Darkroom_LoadDemoBase",
            display_name="Load Demo Base",
            category="LoRA Darkroom",
            description="A small text-to-image model that ships with LoRA Darkroom (11 MB, pictures of 128 x 128 "
            "pixels). It draws simple shapes, in Stable Diffusion 1.5's architecture: try a whole training in "
            "minutes, without a download and without a GPU.",
            search_aliases=["demo", "tiny model", "test model", "embedded base", "\u6f14\u793a", "\u793a\u4f8b"],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The denoiser."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder; it knows only the words of the demo."),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the file by ComfyUI's own loader."""
        return io.NodeOutput(*demo_base.load())
