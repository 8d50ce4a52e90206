"""Adapters by PEFT: LoRA, rsLoRA, DoRA, LoKr and LoHa layers on a frozen model, to files and back."""

from .files import exported, from_file, start_from
from .inject import METHODS, inject
from .layers import Adapted, disabled, layers, load, parameters, strength

__all__ = [
    "METHODS",
    "Adapted",
    "disabled",
    "exported",
    "from_file",
    "inject",
    "layers",
    "load",
    "parameters",
    "start_from",
    "strength",
]
