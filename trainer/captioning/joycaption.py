"""JoyCaption (https://github.com/fpgaminer/joycaption) and other Llavas: made for captions that models are trained on.

It knows art, anime and what other models will not speak of, and writes in the manner of training captions. 8 billion
weights of Llama 3.1 and SigLIP: 17 GB on a card. It can be asked, but follows less well than Qwen what to leave out.
Folders that are already in 4 bits (6 GB) work with the package bitsandbytes.
"""

from __future__ import annotations

from .chat import chat
from .prompts import ASKED, question
from .vision import Vision

SYSTEM = "You are a helpful image captioner."  # what it was trained with

CAPTIONER = Vision(
    name="joycaption",
    description="What is asked, by JoyCaption (17 GB): made for training captions, knows art and anime.",
    models=("fancyfeast/llama-joycaption-beta-one-hf-llava",),  # alpha-two came without a processor
    kinds={"llava": "4.50.3"},
    ask=lambda processor, wish: chat(processor, question(wish), SYSTEM),
    takes=ASKED,
    picture_gb=0.5,
)
