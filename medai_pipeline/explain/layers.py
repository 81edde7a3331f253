"""Where in a network a class activation map is read: found by running it once, and token layers turned into maps.

Knows torch modules, no particular architecture. What is computed from the layers is for `cam` and `gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medai_pipeline.errors import ModelError

if TYPE_CHECKING:
    import torch


_ATTENTION = frozenset({"attn", "attention", "self_attn"})


@dataclass(frozen=True, slots=True)
class TargetLayer:
    """A layer by its name in the network, and how its output is a map: "maps" (N, D, h, w), "last" (N, h, w, D),
    "tokens" (N, prefix + h * w, D)."""

    name: str
    shape: str
    grid: tuple[int, int]
    prefix: int = 0

    def as_maps(self, output: torch.Tensor) -> torch.Tensor:
        """The layer's output as (N, D, h, w), a view: gradients flow through it."""
        if self.shape == "maps":
            return output
        if self.shape == "last":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :]
        return tokens.reshape(len(output), *self.grid, output.shape[-1]).permute(0, 3, 1, 2)


def target_layers(network: torch.nn.Module, pixels: torch.Tensor, names: Sequence[str] = ()) -> tuple[TargetLayer, ...]:
    """The layers called `names`, else the last one whose places each have a say in the answer; pixels (1, C, H, W).

    The output of a vision transformer's last block is passed over where only its class token is read: the patches
    there have no gradient, and a map of them would be empty. Raises ModelError when there is none, or no such name.
    """
    seen = _run(network, pixels)
    if names:
        found = tuple(layer for name in names for layer, _ in seen if layer.name == name)
        missing = sorted(set(names) - {layer.name for layer in found})
        if missing:
            raise ModelError(f"no layer with feature maps is called {', '.join(missing)}; the last are {_last(seen)}")
        return found
    for layer, gradient in reversed(seen):
        if gradient is not None and bool(layer.as_maps(gradient).abs().amax((0, 1)).gt(0).float().mean() > 0.5):
            return (layer,)
    raise ModelError("the network has no layer with feature maps; name the layer to explain (GRADCAM_LAYERS)")


def _run(network: torch.nn.Module, pixels: torch.Tensor) -> list[tuple[TargetLayer, torch.Tensor | None]]:
    """Every layer that gives maps, in the order of execution, with the gradient of the answer at its output."""
    import torch

    names = {module: name for name, module in network.named_modules() if name}
    outputs: list[tuple[TargetLayer, torch.Tensor]] = []

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        layer = _layer(network, names[module], output)
        if layer is not None and output.requires_grad:
            outputs.append((layer, output))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.enable_grad():
            answer = network(pixels.detach().requires_grad_())
            gradients = torch.autograd.grad(
                answer.abs().sum(), [output for _, output in outputs], allow_unused=True
            ) if outputs else ()  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    return [(layer, gradient) for (layer, _), gradient in zip(outputs, gradients, strict=True)]


def _layer(network: torch.nn.Module, name: str, output: Any) -> TargetLayer | None:
    """How this output is a map, or None when it is none. Channels are where the network's own width says they are.

    What happens inside attention has as many dimensions as a map, but tokens by tokens: it is none.
    """
    import torch

    if not isinstance(output, torch.Tensor) or _ATTENTION & set(name.split(".")):
        return None
    width = getattr(network, "num_features", None)
    if output.ndim == 4:
        last = output.shape[-1] == width and output.shape[1] != width
        high, wide = output.shape[1:3] if last else output.shape[2:]
        return TargetLayer(name, "last" if last else "maps", (high, wide)) if high * wide > 1 else None
    if output.ndim == 3 and output.shape[-1] == width:
        prefix = int(getattr(network, "num_prefix_tokens", 0))
        grid = _grid(network, output.shape[1] - prefix)
        return TargetLayer(name, "tokens", grid, prefix) if grid else None
    return None


def _grid(network: torch.nn.Module, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of the patches: the network's own, else a square."""
    own = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if own and own[0] * own[1] == tokens:
        return int(own[0]), int(own[1])
    side = math.isqrt(max(tokens, 0))
    return (side, side) if side > 1 and side * side == tokens else None


def _last(seen: Sequence[tuple[TargetLayer, Any]]) -> str:
    return ", ".join(layer.name for layer, _ in seen[-3:]) or "none"
