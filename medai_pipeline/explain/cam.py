"""Class activation maps from the features of the prediction's own forward pass. A method is one weight function.

Here belongs what follows in closed form when the head is global average pooling and one linear layer: the gradient of
class k with respect to feature map d is then head[k, d] / (h * w) at each place. Networks with other heads are served
by `reference`; turning maps into pictures or boxes is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from medai_pipeline.errors import SettingsError

WeightFunction: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _gradcam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Mean gradient of each feature map (Selvaraju 2017, equation 1)."""
    return gradient


def _gradcam_plus_plus(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Chattopadhyay 2018, equation 19, with the gradient constant over the map."""
    places = features.shape[1] * features.shape[2]
    squared = gradient**2
    share = squared / (2 * squared + features.sum(axis=(1, 2)) * gradient**3 + 1e-6)
    return places * np.maximum(gradient, 0) * np.where(gradient != 0, share, 0)


def _xgradcam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Fu 2020, equation 8: gradients weighed by each place's share of its map."""
    total = features.sum(axis=(1, 2))
    return gradient * total / (total + 1e-7)


METHODS: Mapping[str, WeightFunction] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "xgradcam": _xgradcam,
    "hirescam": _gradcam,  # Draelos 2020: gradient times feature, place by place; equal here, as the gradient is constant
}


def class_map(features: np.ndarray, head_row: np.ndarray, method: str = "gradcam") -> np.ndarray:
    """Heat of one class: features (D, h, w), head_row (D,) -> float32 (h, w) in [0, 1].

    A map without any heat stays all zero, and one that is not finite becomes all NaN: `quality` refuses both.

    Raises SettingsError when no such method is known.
    """
    if method not in METHODS:
        raise SettingsError(f"unknown explanation method {method}; use one of {', '.join(METHODS)}")
    features = np.asarray(features, dtype=np.float32)
    gradient = np.asarray(head_row, dtype=np.float32) / np.float32(features.shape[1] * features.shape[2])
    with np.errstate(all="ignore"):  # not finite is a result that `quality` names, not a warning in a log
        weights = METHODS[method](features, gradient)
        heat = np.tensordot(weights, features, axes=1)
    return scale(heat)


def scale(heat: np.ndarray) -> np.ndarray:
    """Positive part of a map, from its least to its greatest value, as float32 in [0, 1]."""
    if not np.isfinite(heat).all():
        return np.full(heat.shape, np.nan, dtype=np.float32)
    heat = np.maximum(heat, 0)
    heat = heat - heat.min()
    return (heat / (np.float32(1e-7) + heat.max())).astype(np.float32)
