"""Reading base models: what their files say of themselves, and their weights, offline and strictly."""

from .header import Header, TensorInfo, read_header
from .reading import empty_weights, fill, read_tensors, variant

__all__ = ["Header", "TensorInfo", "empty_weights", "fill", "read_header", "read_tensors", "variant"]
