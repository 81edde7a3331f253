"""Whether the network agrees that what a heatmap shows mattered: the image is changed there, and the network asked again.

Deletion and insertion (Petsiuk 2018) on a small grid of steps, and the map of the mirrored image. What the numbers must
reach is for `quality`. Nothing is asked of a map that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

STEPS = (0.05, 0.15, 0.4)  # shares of the image, hottest first, that are taken away or put in
PASSES = 2 * len(STEPS)  # for each map; an image takes three more, blurred, flat and mirrored, for all of its maps
LEAST_CHANGE = 0.3  # of the probability, without which deletion and insertion can tell nothing
_BLUR = 1 / 12  # of the image's longer side: no finding is told from its surroundings any more


def blurred(image: np.ndarray) -> np.ndarray:
    """An image (C, H, W) in which nothing small is left: what stands where something is taken away."""
    sigma = _BLUR * max(image.shape[1:])
    small = [cv2.resize(plane, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) for plane in image]
    soft = [cv2.GaussianBlur(plane, (0, 0), sigma / 4) for plane in small]
    size = (image.shape[2], image.shape[1])
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in soft])


def probes(image: np.ndarray, soft: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The images to ask about one map: its hottest places blurred, step by step, then these alone sharp: (PASSES, C, H, W)."""
    heat = cv2.resize(values, (image.shape[2], image.shape[1]), interpolation=cv2.INTER_CUBIC)
    rank = np.empty(heat.size, dtype=np.int32)
    rank[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size)  # by rank: much of a map may be one value
    masks = [(rank < step * heat.size).reshape(1, *heat.shape) for step in STEPS]
    return np.stack(
        [*(np.where(mask, soft, image) for mask in masks), *(np.where(mask, image, soft) for mask in masks)]
    )


def areas(answers: Sequence[float], whole: float, soft: float) -> Mapping[str, float]:
    """Areas under the curves of deletion (low is good) and insertion (high is good), from the probabilities of `probes`.

    `whole` and `soft` are the probabilities of the image and of the blurred one. `gain` is insertion minus deletion:
    for a map that points nowhere in particular it is about 0.
    """
    at = (0.0, *STEPS, 1.0)
    count = len(STEPS)
    deletion = float(np.trapezoid([whole, *answers[:count], soft], at))
    insertion = float(np.trapezoid([soft, *answers[count:], whole], at))
    return {"deletion": deletion, "insertion": insertion, "gain": insertion - deletion}


def agreement(values: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two maps of one shape, -1 to 1; 0 when one of them is constant or not finite."""
    if not (np.isfinite(values).all() and np.isfinite(other).all()) or values.std() < 1e-6 or other.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(values.ravel(), other.ravel())[0, 1])
