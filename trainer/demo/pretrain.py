"""Makes the embedded base and its probe from nothing: ``python -m trainer.demo.pretrain --output DIR [--hours H]``.

Stages, each in DIR, each saved as it goes (safetensors and JSON) and continued when started again:

1. ``linear.safetensors``: what the latents are, a linear map (``latents``), 5 % of the time.
2. ``denoiser.safetensors``: UNet and text encoder on these latents (``denoiser``), 70 %.
3. ``decoder.safetensors``: TAESD's decoder (``vae``), 20 %; its encoder is written, not learned.
4. ``probe.safetensors``, ``base.safetensors``: the judge (``probe_training``) and the checkpoint, 5 %.

More hours than before: the rates rise again and the training goes on from what there is.

The recipe of the denoiser: epsilon, SD1.5's schedule, min-SNR 5, batch 48, bfloat16 autocast, Muon for the matrices
(rate 0.02) and AdamW for the rest, rates falling linearly, averaged weights (0.997), 8 % empty captions, 30 % of the
timesteps drawn again from the upper half, half of the noises shifted a little as a whole.

Figures of the shipped file, on two busy AVX-512 cores, the stages side by side, the noises shifted only from 34,000
pictures on, and the linear map learned with the border repeated outwards: held-out loss after 10, 29, 48, 77, 106 and
154 thousand pictures .038, .024, .019, .0145, .0123 and .0107, in 78 minutes; 29.5 dB for the decoder after 2,459
steps, on held-out pictures, strange styles among them. By the probe, on 144 sampled pictures (guidance 4, 20 steps) of
all shapes, colours, grounds and known styles: shape, colour and ground 1.00, style .99, neon .007. After 61 thousand
pictures everything was recognisable, lines still broken.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..families import sd15
from ..files import write_tensors
from ..weights import read_header
from . import probe_training, vocabulary
from .denoiser import Pretraining
from .latents import LinearLatents, learn, preview_factors
from .vae import DecoderTraining, encoder_weights, tiny_autoencoder


def write_checkpoint(path: Path, training: Pretraining, decoder: DecoderTraining) -> Path:
    """The averaged weights as a single fp16 file that describes itself (see ``families.sd15``).

    Beside the configs its header has ``latent_rgb`` under ``vae``: factors and bias for ComfyUI's fast previews.
    """
    model = training.averaged()
    vae = tiny_autoencoder()
    vae.encoder.load_state_dict(encoder_weights(training.linear, vae.encoder))  # type: ignore[union-attr, arg-type]
    vae.decoder.load_state_dict(decoder.ema)  # type: ignore[union-attr]
    tables = vocabulary.vocabulary()
    sd15.save_checkpoint(
        path,
        unet=model["unet"],
        text_encoder=model["text_encoder"],
        vae=vae,
        vocab=tables,
        merges=[" ".join(pair) for pair in vocabulary.merges()],
        # The decoder takes what the denoiser gives, so the file's "unscaled" latents are these over 0.18215.
        vae_scale=sd15.FAMILY.latent_scale,
    )
    header = read_header(path)
    described = json.loads(header.metadata[sd15.DESCRIPTION])
    factors, bias = preview_factors(training.linear)
    described["vae"]["latent_rgb"] = {"factors": factors, "bias": bias}
    from safetensors.torch import load_file

    write_tensors(path, load_file(path), {sd15.DESCRIPTION: json.dumps(described, sort_keys=True)})
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo.pretrain", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument("--hours", type=float, default=1.5, metavar="H", help="of training (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the CPU (default %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    folder, seconds = chosen.output, chosen.hours * 3600
    folder.mkdir(parents=True, exist_ok=True)
    linear_file = folder / "linear.safetensors"
    if not linear_file.exists():
        learn(0.05 * seconds).save(linear_file)
    linear = LinearLatents.load(linear_file)
    training = Pretraining(folder, linear)
    training.run(0.70 * seconds)
    decoder = DecoderTraining(folder, linear)
    decoder.run(0.20 * seconds)
    averaged = decoder.averaged()

    @torch.no_grad()
    def reconstruct(pixels: torch.Tensor) -> torch.Tensor:
        return decoder.decode(averaged, linear(pixels)).clamp(0, 1)

    probe_training.train(folder / "probe.safetensors", reconstruct, seconds=0.05 * seconds)
    print(write_checkpoint(folder / "base.safetensors", training, decoder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
