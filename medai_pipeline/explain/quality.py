"""Whether a heatmap may be shown as evidence: one number a check, and what each must reach.

A map that fails is kept and marked, with the reason; it is never drawn. Only the map and the image it lies on are
needed here; numbers that come from asking the network again are `faithfulness`'s, and are only compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

LEAST_INSIDE = 0.5  # share of the heat that must lie on the patient
MOST_SPREAD = 0.9  # share of the image that may be hotter than half the greatest heat
LEAST_CONTRAST = 1e-3  # between the least and the greatest heat
# Measured on phantoms: of 52 true maps 51 gain 0.23 or more; of the same maps moved half a grid away 47 gain less than 0.2.
# True maps agree with that of the mirrored image by 0.78 and more, maps of two classes by 0.57 in the middle.
LEAST_GAIN = 0.2
LEAST_AGREEMENT = 0.6
_DARK = 0.08  # share of the image's range, above its darkest, that still counts as air around the patient
_LONG_SIDE = 128  # pixels; the outline of a patient needs no more
_LEAST_BODY = 0.1  # a body mask smaller than this share of the image has missed the body


def judge(
    values: np.ndarray, image: np.ndarray, asked: Mapping[str, float] | None = None
) -> tuple[Mapping[str, float], bool, str]:
    """(numbers, reliable, reason) for heat (h, w) in [0, 1] on the normalized image (H, W), larger is brighter.

    `inside_body`: share of the heat on the patient; `spread`: share of the map above half of the greatest heat;
    `contrast`: greatest minus least heat; `asked`: what the network said when asked again, as far as it could say
    something (`deletion`, `insertion`, `gain`, `mirrored`). The reason is one sentence, "" when reliable.
    """
    if not np.isfinite(values).all():
        return {"finite": 0.0}, False, "The map is not finite."
    contrast = float(values.max() - values.min())
    if contrast < LEAST_CONTRAST:
        return {"finite": 1.0, "contrast": contrast}, False, "The map is empty: no place speaks for this finding."
    numbers = {
        "finite": 1.0,
        "contrast": round(contrast, 4),
        "spread": round(float((values >= 0.5 * values.max()).mean()), 4),
        "inside_body": round(inside_share(values, body_mask(_small(image))), 4),
        **{name: round(float(number), 4) for name, number in (asked or {}).items()},
    }
    reason = _reason(numbers)
    return numbers, not reason, reason


def _reason(numbers: Mapping[str, float]) -> str:
    if numbers["inside_body"] < LEAST_INSIDE:
        return f"Only {numbers['inside_body']:.0%} of the heat lies on the patient."
    if numbers["spread"] > MOST_SPREAD:
        return "The heat covers the whole image and points at nothing."
    if numbers.get("gain", 1) < LEAST_GAIN:
        return "Without the hot places the model answers as it does without others: they are not why."
    if numbers.get("mirrored", 1) < LEAST_AGREEMENT:
        return f"The mirrored image has another map (agreement {numbers['mirrored']:.0%})."
    return ""


def _small(image: np.ndarray) -> np.ndarray:
    shrink = min(1.0, _LONG_SIDE / max(image.shape))
    size = (max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink)))
    return cv2.resize(np.asarray(image, dtype=np.float32), size, interpolation=cv2.INTER_AREA)


def body_mask(image: np.ndarray) -> np.ndarray:
    """Where the patient is: everything but the dark area that touches the border of the image; bool (H, W).

    Lungs are dark but enclosed, and stay in. Where hardly anything would be left, the whole image counts as patient.
    """
    image = np.asarray(image, dtype=np.float32)
    darkest, brightest = np.percentile(image, (1, 99.5))
    dark = (image <= darkest + _DARK * (brightest - darkest)).astype(np.uint8)
    _, marks = cv2.connectedComponents(dark, connectivity=4)
    border = np.concatenate([marks[0], marks[-1], marks[:, 0], marks[:, -1]])
    around = np.isin(marks, np.setdiff1d(border, [0]))
    return ~around if (~around).mean() >= _LEAST_BODY else np.ones(image.shape, dtype=bool)


def inside_share(values: np.ndarray, mask: np.ndarray) -> float:
    """Share of the heat (h, w) that lies on the mask (H, W), each heat cell weighed by how much of it is covered."""
    covered = cv2.resize(mask.astype(np.float32), values.shape[::-1], interpolation=cv2.INTER_AREA)
    total = float(values.sum())
    return float((values * covered).sum()) / total if total > 0 else 0.0
