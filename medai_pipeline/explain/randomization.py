"""Does a map depend on what the network has learned at all? The parameter randomization check (Adebayo 2018).

Asked when a model is registered, not for each study: it says whether a method is of use with an architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.explain.faithfulness import agreement
from medai_pipeline.explain.gradients import layer_maps
from medai_pipeline.explain.network import Network

if TYPE_CHECKING:
    import torch

MOST_AGREEMENT = 0.5  # of the maps of the network and of one whose weights were shuffled


def randomized_agreement(
    network: Network, images: Sequence[np.ndarray], class_index: int, method: str = "gradcam", seed: int = 0
) -> float:
    """Mean correlation of a class's maps with those of the same network, its weights shuffled inside each layer.

    Images (C, H, W). Near 0: the maps follow from what was learned. Above MOST_AGREEMENT they show the image or the
    architecture, and the method should not be used with this network.
    """
    other = replace(network, module=shuffled(network.module, seed), _found=list(network.targets(images[0])))
    pairs = (
        (layer_maps(one.views(image, [class_index]), method)[0] for one in (network, other)) for image in images
    )  # fmt: skip
    return float(np.mean([agreement(mine, theirs) for mine, theirs in pairs]))


def shuffled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """A copy whose every weight of two or more dimensions holds the same numbers in another order."""
    import torch

    made, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return made
