"""Linear layers and convolutions that do not hold their weight as it is used.

The weight is made when a layer runs, and made again in backward, so that the graph keeps neither it nor its storage.
PEFT's layers sit on such a layer as on any other: it is still a ``nn.Linear`` or ``nn.Conv2d``, and its ``weight`` is
what the storage stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .kinds import Packed, pack, size, unpack
from .paging import Arena, Copier, Pager, copier_of

SMALL = 1 << 16  # numbers; a smaller weight stays as it is: first and last convolutions, where errors show most


class Frozen(nn.Module):
    """What both kinds of layer have in common.

    Args:
        kind: of ``kinds.KINDS``.
        held: the stored weight; of a paged layer its first tensor lies in RAM.
        shape: of the weight.
        dtype: of the weight, as one would find it in a layer that holds it.
        pager: brings the first tensor of ``held``; None: it lies where the layer is.
    """

    kind: str
    held: Packed
    shape: torch.Size
    dtype: torch.dtype
    pager: Pager | None
    bias: nn.Parameter | None

    @property
    def weight(self) -> torch.Tensor:
        """The weight, made at each access: changing it in place changes nothing."""
        return self._made(self.pager.glance(self.held[0]) if self.pager else self.held[0], self.dtype)

    def fetch(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in a number format, for a step of the model."""
        return self._made(self.pager.fetch(self.held[0]) if self.pager else self.held[0], dtype)

    def _made(self, first: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return unpack(self.kind, (first, *self.held[1:]), self.shape, dtype)

    def _prepared(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, Frozen]:
        # What autocast does of itself to a layer that holds its weight.
        device, dtype = x.device.type, self.dtype
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
            x = x.to(dtype)
        return x, self.fetch(dtype), None if self.bias is None else self.bias.to(dtype), self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        # ``to`` and its like: the storage moves, but its number format is its own.
        super()._apply(fn, recurse)
        first = self.held[0] if self.pager is None else torch.empty(0, device=self.pager.device)
        probe = fn(torch.empty(0, dtype=self.dtype, device=first.device))
        self.dtype = probe.dtype
        if self.pager is None:
            self.held = tuple(tensor.to(probe.device) for tensor in self.held)
        else:
            self.pager.move(probe.device)
            self.held = (self.held[0], *(tensor.to(probe.device) for tensor in self.held[1:]))
        if self.kind == "plain":
            self.held = (self.held[0].to(probe.dtype),)
        return self


class FrozenLinear(Frozen, nn.Linear):  # type: ignore[misc]
    """A linear layer."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return _Linear.apply(*self._prepared(input))


class FrozenConv2d(Frozen, nn.Conv2d):  # type: ignore[misc]
    """A convolution whose padding is zeros."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """PEFT makes an adapter's convolutions of the class of the base layer: these are plain ones."""
        return nn.Conv2d(*args, **kwargs) if args or kwargs else super().__new__(cls)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[B, in, h, w] -> [B, out, h', w']."""
        return _Conv2d.apply(*self._prepared(input))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: FrozenLinear
    ) -> torch.Tensor:
        ctx.layer, ctx.dtype = layer, weight.dtype
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        return grads[0] @ ctx.layer.fetch(ctx.dtype), None, None, None


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layer: FrozenConv2d
    ) -> torch.Tensor:
        ctx.layer, ctx.dtype, ctx.shape = layer, weight.dtype, x.shape
        return functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        layer: FrozenConv2d = ctx.layer
        weight = layer.fetch(ctx.dtype)
        how = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return torch.nn.grad.conv2d_input(ctx.shape, weight, grads[0], *how), None, None, None  # type: ignore[arg-type]


def quantise(model: nn.Module, kind: str, device: torch.device | str, *, smallest: int = SMALL) -> None:
    """Stores a frozen model's linear layers and convolutions in fewer bits, and moves the model to a device.

    One weight after the other, so that a model that lies in RAM never lies on the device as a whole. In nf4 are the
    linear layers, which is where it has been shown to be harmless (QLoRA, arXiv 2305.14314); convolutions are then in
    int8.

    Args:
        model: with or without adapters.
        kind: ``int8``, ``fp8`` or ``nf4``. In as many bytes int8 is four times as near to a trained weight as fp8.
        device: where weights are quantised, and the model is afterwards.
        smallest: numbers of the smallest weight that is quantised.

    Raises:
        ValueError: it is quantised or paged already.
    """
    layers = list(_candidates(model, smallest))
    if any(isinstance(layer, Frozen) for layer in model.modules()):
        raise ValueError("the model's weights are stored in another way already: load it anew")
    for layer in layers:
        own = _kind(kind, layer)
        held = tuple(tensor.contiguous() for tensor in pack(own, layer.weight.to(device)))
        _freeze(layer, own, held)
    model.to(device)


def page(
    model: nn.Module,
    device: torch.device | str,
    keep_bytes: int,
    *,
    smallest: int = SMALL,
    copier: Callable[[torch.device], Copier] = copier_of,
) -> None:
    """Keeps a frozen model's large weights in RAM, from where they are copied to a device as they are needed.

    The order in which they are needed is learnt in a first step; from then on the next ones are copied ahead, while
    the device computes. All else of the model is moved to the device.

    Args:
        model: quantised or not, on any device.
        device: where the model is to run.
        keep_bytes: of weights on the device, beside the one in use: what is needed next.
        smallest: numbers of the smallest weight that is paged.
        copier: how copies to a device are made.

    Raises:
        ValueError: it is paged already.
    """
    device = torch.device(device)
    if any(isinstance(layer, Frozen) and layer.pager for layer in model.modules()):
        raise ValueError("the model's weights lie in RAM already")
    pager = Pager(device, keep_bytes, copier)
    arena = Arena(pinned=device.type == "cuda")
    for layer in _candidates(model, smallest):
        if not isinstance(layer, Frozen):
            _freeze(layer, "plain", pack("plain", layer.weight))
        assert isinstance(layer, Frozen)
        layer.held = (arena.put(layer.held[0]), *(tensor.to(device) for tensor in layer.held[1:]))
        layer.pager = pager
    # Of a language model the part below its head is called by itself.
    getattr(model, "base_model", model).register_forward_pre_hook(pager.begin)
    model.to(device)


@dataclass(frozen=True)
class Bytes:
    """Where a model's numbers lie.

    Args:
        frozen: bytes of frozen weights where the model runs.
        trained: likewise, of adapters.
        ram: bytes of frozen weights in RAM, from where they are paged.
    """

    frozen: int
    trained: int
    ram: int


def bytes_of(model: nn.Module) -> Bytes:
    """What a model holds now; what a pager has brought to the device is not counted (``keep_bytes``)."""
    frozen = trained = ram = 0
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.requires_grad:
            trained += tensor.nbytes
        else:
            frozen += tensor.nbytes
    for layer in model.modules():
        if isinstance(layer, Frozen):
            first, *rest = (tensor.nbytes for tensor in layer.held)
            ram, frozen = (ram + first, frozen) if layer.pager else (ram, frozen + first)
            frozen += sum(rest)
    return Bytes(frozen, trained, ram)


def bytes_as(model: nn.Module, kind: str, dtype: torch.dtype) -> int:
    """Bytes of frozen weights that a model would have: what ``bytes_of`` says after ``quantise``.

    Args:
        model: neither quantised nor paged; may be on the meta device.
        kind: of ``KINDS``.
        dtype: of what is not quantised.
    """
    total = sum(p.numel() for p in (*model.parameters(), *model.buffers()) if not p.requires_grad) * dtype.itemsize
    for layer in _candidates(model, SMALL):
        weight = layer.weight
        total += size(_kind(kind, layer), weight.shape, dtype) - weight.numel() * dtype.itemsize
    return total


def numbers_of(model: nn.Module) -> int:
    """How many numbers of a model are frozen, however they are stored."""
    stored = sum(layer.shape.numel() for layer in model.modules() if isinstance(layer, Frozen))
    return stored + sum(p.numel() for p in model.parameters() if not p.requires_grad)


def _kind(kind: str, layer: nn.Module) -> str:
    return "int8" if kind == "nf4" and isinstance(layer, nn.Conv2d) else kind


def _candidates(model: nn.Module, smallest: int) -> Iterator[nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions whose weights are frozen, and not small.

    A language model's last one is left: it may be the embedding's weight, and errors show most in it.
    """
    heads: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = heads()
    for layer in model.modules():
        if layer is head:
            continue
        if isinstance(layer, Frozen):
            if layer.shape.numel() >= smallest:
                yield layer  # type: ignore[misc]
        elif (
            # Subclasses may use their weight otherwise.
            type(layer) in (nn.Linear, nn.Conv2d)
            and not any(parameter.requires_grad for parameter in layer.parameters())
            and layer.weight.numel() >= smallest  # type: ignore[operator, union-attr]
            and (isinstance(layer, nn.Linear) or layer.padding_mode == "zeros")
        ):
            yield layer  # type: ignore[misc]


def _freeze(layer: nn.Linear | nn.Conv2d, kind: str, held: Packed) -> None:
    """Turns a layer into one of ours in its place: a model may know it by several names."""
    weight = layer.weight
    del layer.weight
    layer.__class__ = FrozenLinear if isinstance(layer, nn.Linear) else FrozenConv2d  # type: ignore[assignment]
    assert isinstance(layer, Frozen)
    layer.kind, layer.held, layer.shape, layer.dtype, layer.pager = kind, held, weight.shape, weight.dtype, None
