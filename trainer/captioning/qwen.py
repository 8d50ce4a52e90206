"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923) and Qwen3-VL (https://arxiv.org/abs/2511.21631): can be asked anything.

The best at doing what is asked (what to describe, what to leave out, in which language), so the choice for the purposes
"style" and "character". On a card in 16 bits the weights take 2 GB a billion, and the pictures of a batch half a GB
each: Qwen3-VL-2B about 5 GB, Qwen2.5-VL-3B 8, Qwen3-VL-4B 10, Qwen2.5-VL-7B and Qwen3-VL-8B 17 to 18. The Instruct
variants only: those that think first would fill the caption with thoughts.
"""

from __future__ import annotations

from .chat import chat
from .prompts import ASKED, question
from .vision import Vision

# A picture becomes a token for each 28 x 28 (Qwen2.5-VL) or 32 x 32 pixels (Qwen3-VL), without a bound worth the name:
# a photograph of 24 megapixels would be 16,000 of them, which takes minutes and says no more.
PIXELS = 1024 * 1024

CAPTIONER = Vision(
    name="qwen",
    description="What is asked, by Qwen2.5-VL or Qwen3-VL (5 to 18 GB): follows purpose, prompt and length best.",
    models=(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
    ),
    kinds={"qwen2_5_vl": "4.50.3", "qwen3_vl": "4.57"},
    ask=lambda processor, wish: chat(processor, question(wish)),
    takes=ASKED,
    picture_gb=0.6,
    pixels=PIXELS,
    needs=("torchvision",),  # for videos, but the processor is not to be had without
)
