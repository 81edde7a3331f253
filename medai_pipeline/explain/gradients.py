"""Features and gradients of a class at some layers of any network: one forward pass, and one backward a class from the end.

For networks whose head is not pooled and linear, or when other layers are asked for; `cam` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.explain.cam import fused, gradient_map, known_method
from medai_pipeline.explain.layers import TargetLayer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class LayerView:
    """One layer on one image: features (D, h, w) and the gradient of each class asked for (K, D, h, w), float32."""

    layer: TargetLayer
    features: np.ndarray
    gradients: np.ndarray


def layer_views(
    network: torch.nn.Module, pixels: torch.Tensor, classes: Sequence[int], layers: Sequence[TargetLayer]
) -> list[LayerView]:
    """What `layers` see of one image (1, C, H, W), for each of `classes`. Parameters get no gradient; nothing is kept."""
    import torch

    outputs: dict[str, torch.Tensor] = {}
    hooks = [
        network.get_submodule(layer.name).register_forward_hook(
            lambda module, inputs, output, name=layer.name: outputs.__setitem__(name, output)
        )
        for layer in layers
    ]
    try:
        with torch.enable_grad():
            answer = network(pixels.detach().requires_grad_())
            wanted = [outputs[layer.name] for layer in layers]
            rows = [
                torch.autograd.grad(answer[0, index], wanted, retain_graph=True, allow_unused=True)
                for index in classes
            ]  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return [_view(layer, wanted[at], [row[at] for row in rows]) for at, layer in enumerate(layers)]


def _view(layer: TargetLayer, output: torch.Tensor, gradients: Sequence[torch.Tensor | None]) -> LayerView:
    import torch

    def plain(values: torch.Tensor) -> np.ndarray:
        return layer.as_maps(values.detach())[0].float().cpu().numpy()

    found = [plain(torch.zeros_like(output) if gradient is None else gradient) for gradient in gradients]
    return LayerView(layer, plain(output), np.stack(found))


def layer_maps(views: Sequence[LayerView], method: str) -> list[np.ndarray]:
    """The heat of each class, float32 (h, w) in [0, 1]; several layers are fused on the finest grid."""
    known_method(method)
    count = len(views[0].gradients)
    maps = [[gradient_map(view.features, view.gradients[k], method) for view in views] for k in range(count)]
    return [one[0] if len(one) == 1 else fused(one) for one in maps]
