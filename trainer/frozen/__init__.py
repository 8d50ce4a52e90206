"""A frozen base model in less room, for training a LoRA on top of it: weights in fewer bits, weights and activations
in RAM. Gradients are those of the weights as they are stored, and nothing of it is in an exported LoRA.

The order of use: load the model and put adapters on it (or later: both ways are right), then ``quantise``, then
``page``, then ``checkpointing``. A model that has been quantised is loaded anew to be quantised otherwise.
"""

from .activations import checkpointing
from .kinds import KINDS, possible
from .layers import Bytes, Frozen, bytes_as, bytes_of, numbers_of, page, quantise

__all__ = [
    "KINDS",
    "Bytes",
    "Frozen",
    "bytes_as",
    "bytes_of",
    "checkpointing",
    "numbers_of",
    "page",
    "possible",
    "quantise",
]
