"""The network that predicted, as an explanation asks it again: its answers, its layers, its gradients.

Here is only what ties these together; how maps follow from them is in `cam`, `gradients` and `scorecam`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medai_pipeline.explain.gradients import LayerView, layer_views
from medai_pipeline.explain.layers import TargetLayer, target_layers

if TYPE_CHECKING:
    import torch

Answer: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """`answer` takes images float32 (N, C, H, W) and gives probabilities and logits, each (N, K), and the last features.

    `layers` names those to explain; empty: the one found by `target_layers`. What is found is kept in `_found`.
    """

    module: torch.nn.Module
    answer: Answer
    device: str = "cpu"
    layers: tuple[str, ...] = ()
    _found: list[TargetLayer] = field(default_factory=list)

    def targets(self, image: np.ndarray) -> tuple[TargetLayer, ...]:
        """The layers that maps are read from, looked up once with an image (C, H, W). Raises ModelError as it does."""
        if not self._found:
            self._found.extend(target_layers(self.module, self._tensor(image), self.layers))
        return tuple(self._found)

    def views(self, image: np.ndarray, classes: Sequence[int]) -> list[LayerView]:
        """What its layers see of one image (C, H, W), with the gradients of `classes`: one pass, one backward a class."""
        return layer_views(self.module, self._tensor(image), classes, self.targets(image))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) -> (N, K)."""
        return self.answer(images)[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) -> (N, K)."""
        return self.answer(images)[1]

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(image[None], dtype=np.float32)).to(self.device)
