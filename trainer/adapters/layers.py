"""The adapted layers of a model: their weights, what they change, and their strength."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError

ADAPTER = "default"


@dataclass(frozen=True)
class Adapted:
    """One adapted layer.

    Args:
        name: the module's name in the model, as it was before.
        layer: PEFT's layer.
    """

    name: str
    layer: Any

    @property
    def parts(self) -> dict[str, nn.Parameter]:
        """Its trained weights: ``down`` [r, in(, kh, kw)], ``up`` [out, r(, 1, 1)] and of a DoRA ``magnitude``; of a
        LoHa ``w1_a``, ``w1_b``, ``w2_a``, ``w2_b``; of a LoKr ``w1`` and ``w2``, each whole or as ``_a`` and ``_b``.
        """
        if not self._is_lora:
            held = ((name, getattr(self.layer, name)) for name in self.layer.adapter_layer_names)
            return {name.partition("_")[2]: dict_[ADAPTER] for name, dict_ in held if ADAPTER in dict_}
        found = {"down": self.layer.lora_A[ADAPTER].weight, "up": self.layer.lora_B[ADAPTER].weight}
        if self.method == "dora":
            found["magnitude"] = self.layer.lora_magnitude_vector[ADAPTER].weight
        return found

    @property
    def method(self) -> str:
        """``lora``, ``rslora``, ``dora``, ``loha`` or ``lokr``."""
        if not self._is_lora:
            return "loha" if hasattr(self.layer, "hada_w1_a") else "lokr"
        if ADAPTER in self.layer.lora_magnitude_vector:
            return "dora"
        return "rslora" if self.layer.use_rslora[ADAPTER] else "lora"

    @property
    def down(self) -> nn.Parameter:
        """Of a LoRA, the trained ``A``."""
        return self.parts["down"]

    @property
    def up(self) -> nn.Parameter:
        """Of a LoRA, the trained ``B``."""
        return self.parts["up"]

    @property
    def rank(self) -> int:
        """r, as it was asked for."""
        return int(self.layer.r[ADAPTER])

    @property
    def alpha(self) -> float:
        """As it was asked for; the scale is alpha / r, of an rsLoRA alpha / sqrt(r)."""
        return float((self.layer.lora_alpha if self._is_lora else self.layer.alpha)[ADAPTER])

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight."""
        return self.layer.get_base_layer().weight.detach()

    @property
    def _is_lora(self) -> bool:
        return hasattr(self.layer, "lora_A")

    def change(self) -> torch.Tensor:
        """The change of the weight at the strength at hand, in its shape, fp32."""
        with torch.no_grad():
            product = self.layer.get_delta_weight(ADAPTER).float()
            if self.method != "dora":
                return product
            weight = self.weight.float()
            factor = self.parts["magnitude"].flatten() / weight_norm(weight, product).flatten()
            return rows(factor, weight) * (weight + product) - weight


def rows(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[out] as [out, 1, ...], to multiply a weight's rows with."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def weight_norm(
    weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float = 1.0, adapter_name: str | None = None
) -> torch.Tensor:
    """The norms of the rows of ``weight + scaling * lora_weight`` in fp32, and never zero.

    It takes the place of PEFT's method in DoRA layers: [out], of a convolution [1, out, 1, 1].
    """
    changed = (weight.detach().float() + scaling * lora_weight.detach().float()).flatten(1)
    norm = torch.linalg.vector_norm(changed, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return norm if weight.ndim == 2 else norm.reshape(1, -1, *[1] * (weight.ndim - 2))


def layers(model: nn.Module) -> Iterator[Adapted]:
    """The adapted layers, in the model's order."""
    for name, layer in peft_layers(model):
        yield Adapted(name, layer)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights by name, ``<module>.<part>``, such as ``<module>.down`` and ``<module>.up``."""
    return {f"{layer.name}.{part}": p for layer in layers(model) for part, p in layer.parts.items()}


def load(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Puts back the weights that ``parameters`` named.

    Raises:
        CheckpointError: names or shapes differ.
    """
    mine = parameters(model)
    if mine.keys() != tensors.keys() or any(mine[n].shape != t.shape for n, t in tensors.items()):
        raise CheckpointError("the checkpoint's adapter is of another shape than this run's", "start a new run")
    with torch.no_grad():
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)


@contextmanager
def strength(model: nn.Module, value: float) -> Iterator[None]:
    """Within it the adapter acts at a strength (1: as trained, 0: the base alone).

    A DoRA at strength s is ComfyUI's: s times the whole change of the weight, not the one that s times the product of
    its matrices would make.
    """
    with ExitStack() as stack:
        for layer in layers(model):
            if layer.method == "dora":
                # What PEFT adds to the base layer's output comes out of this module.
                magnitude = layer.layer.lora_magnitude_vector[ADAPTER]
                stack.callback(magnitude.register_forward_hook(lambda _m, _i, output: output * value).remove)
            else:
                scaling = layer.layer.scaling
                stack.callback(scaling.__setitem__, ADAPTER, scaling[ADAPTER])
                scaling[ADAPTER] *= value
        yield


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it the model is the base alone, and its adapters take no gradient."""
    found = [layer for _, layer in peft_layers(model) if not layer.disable_adapters]
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


def peft_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's layers by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module
