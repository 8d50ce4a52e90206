"""The trainer: everything that LoRA Darkroom does without ComfyUI. Also a program: ``python -m trainer``."""

__version__ = "0.1.0"
