"""Class activation maps from features and the gradient of a class with respect to them. A method is one weight function.

When the head is global average pooling and one linear layer the gradient needs no backward pass: it is head[k, d] / (h * w)
at each place, and the features are those of the prediction's own forward pass (`class_map`). For other networks `gradients`
gives both. Turning maps into pictures or boxes is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import cv2
import numpy as np

from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.methods import ALL_METHODS

WeightFunction: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
_PLACES = (1, 2)


def _gradcam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Mean gradient of each feature map (Selvaraju 2017, equation 1)."""
    return gradient.mean(axis=_PLACES, keepdims=True)


def _gradcam_plus_plus(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Chattopadhyay 2018, equation 19."""
    squared = gradient**2
    share = squared / (2 * squared + features.sum(axis=_PLACES, keepdims=True) * gradient**3 + 1e-6)
    return (np.maximum(gradient, 0) * np.where(gradient != 0, share, 0)).sum(axis=_PLACES, keepdims=True)


def _xgradcam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Fu 2020, equation 8: gradients weighed by each place's share of its map."""
    total = features.sum(axis=_PLACES, keepdims=True)
    return (gradient * features).sum(axis=_PLACES, keepdims=True) / (total + 1e-7)


def _hirescam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Draelos 2020: gradient times feature, place by place."""
    return gradient


def _layercam(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Jiang 2021, equation 6: as HiRes-CAM, with the positive gradients alone."""
    return np.maximum(gradient, 0)


METHODS: Mapping[str, WeightFunction] = {
    "gradcam": _gradcam,
    "gradcam++": _gradcam_plus_plus,
    "xgradcam": _xgradcam,
    "hirescam": _hirescam,
    "layercam": _layercam,
}


def class_map(features: np.ndarray, head_row: np.ndarray, method: str = "gradcam") -> np.ndarray:
    """Heat of one class for a pooled linear head: features (D, h, w), head_row (D,) -> float32 (h, w) in [0, 1].

    A map without any heat stays all zero, and one that is not finite becomes all NaN: `quality` refuses both.

    Raises SettingsError when no such method is known.
    """
    features = np.asarray(features, dtype=np.float32)
    gradient = np.asarray(head_row, dtype=np.float32)[:, None, None] / np.float32(features.shape[1] * features.shape[2])
    return gradient_map(features, np.broadcast_to(gradient, features.shape), method)


def gradient_map(features: np.ndarray, gradient: np.ndarray, method: str = "gradcam") -> np.ndarray:
    """Heat of one class: features and its gradient (D, h, w) -> float32 (h, w) in [0, 1], as `class_map` does.

    Raises SettingsError when no such method is known.
    """
    weights = known_method(method)
    with np.errstate(all="ignore"):  # not finite is a result that `quality` names, not a warning in a log
        return scale(np.einsum("dhw,dhw->hw", np.broadcast_to(weights(features, gradient), features.shape), features))


def known_method(method: str) -> WeightFunction:
    """The weight function of a method by its name. Raises SettingsError that lists the names."""
    if method not in METHODS:
        raise SettingsError(f"unknown explanation method {method}; use one of {', '.join(ALL_METHODS)}")
    return METHODS[method]


def fused(maps: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the maps of several layers on the finest of their grids, in [0, 1]; NaN as soon as one is."""
    size = max((one.shape for one in maps), key=lambda shape: shape[0] * shape[1])
    return scale(np.mean([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in maps], axis=0))


def scale(heat: np.ndarray) -> np.ndarray:
    """Positive part of a map, from its least to its greatest value, as float32 in [0, 1]."""
    if not np.isfinite(heat).all():
        return np.full(heat.shape, np.nan, dtype=np.float32)
    heat = np.maximum(heat, 0)
    heat = heat - heat.min()
    return (heat / (np.float32(1e-7) + heat.max())).astype(np.float32)
