"""The embedded base: a drawn world, the latent diffusion model trained on it, and a probe that judges pictures."""

from __future__ import annotations

from pathlib import Path

BASE = Path(__file__).with_name("base.safetensors")
"""The embedded base: a single-file checkpoint that describes itself (see ``trainer.families.sd15``)."""
SAILOR = Path(__file__).with_name("sailor.jsonl")
"""40 questions and a sailor's answers, for a language model."""
WISHES = Path(__file__).with_name("wishes.jsonl")
"""36 short wishes and what to ask the embedded base for, in one person's style, for a language model."""
