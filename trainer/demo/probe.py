"""A small convolutional network that judges pictures of the drawn world: shape, colour, background, style.

It is trained on drawn pictures in every style, neon included, as drawn and as the embedded base's autoencoder gives
them back, so that a decoder's softness does not fool it. `python -m trainer.demo.pretrain` trains it; its accuracy on
pictures that it has not seen is in its file's header.
"""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from . import world

FILE = Path(__file__).with_name("probe.safetensors")

LABELS: dict[str, tuple[str, ...]] = {
    "shape": world.SHAPES,
    "color": tuple(world.COLORS),
    "background": tuple(world.BACKGROUNDS),
    "style": (*world.STYLES, world.UNKNOWN_STYLE),
}
"""What is judged, and the answers in the order of the network's outputs."""


class Probe(nn.Module):
    """Pictures [N, 3, 128, 128] in 0..1 to a dict of logits [N, number of labels], by the names of `LABELS`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            kernel = 5 if number == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        # Where in the picture counts for the ground (its border), hence no pooling to a point.
        self.hidden = nn.Linear(widths[-1] * 4, 96)
        self.heads = nn.ModuleDict({name: nn.Linear(96, len(labels)) for name, labels in LABELS.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of every question."""
        features = self.features(F.avg_pool2d(pixels, 2) - 0.5)
        mean, top = features.mean((2, 3)), features.amax((2, 3))
        border = torch.cat([features[:, :, (0, -1), :].mean((2, 3)), features[:, :, :, (0, -1)].mean((2, 3))], 1)
        hidden = F.relu(self.hidden(torch.cat([mean, top, border], 1)))
        return {name: head(hidden) for name, head in self.heads.items()}


@cache
def load() -> Probe:
    """The trained network, in fp32, for evaluation."""
    model = Probe()
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in load_file(FILE).items()})
    return model.eval().requires_grad_(False)


@cache
def header() -> dict[str, str]:
    """The file's metadata; `accuracy` and `accuracy_reconstructed` are JSON, question to share answered right."""
    with safe_open(str(FILE), framework="pt") as opened:
        return dict(opened.metadata())


@torch.no_grad()
def probabilities(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """[N, 3, 128, 128] in 0..1 to a dict of probabilities [N, labels], in the order of `LABELS`."""
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, world.SIDE, world.SIDE):
        raise ValueError(f"the probe judges pictures [N, 3, {world.SIDE}, {world.SIDE}], not {list(images.shape)}")
    model = load()
    return {name: logits.softmax(1) for name, logits in model(images.float().clamp(0, 1)).items()}


def judge(images: torch.Tensor) -> dict[str, list[str]]:
    """[N, 3, 128, 128] in 0..1 to the likeliest answer of each picture, by the names of `LABELS`."""
    answers = probabilities(images)
    return {name: [LABELS[name][int(i)] for i in answers[name].argmax(1)] for name in LABELS}
