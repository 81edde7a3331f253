"""From images to a study: how the probabilities of its views and slices become one for each class. A model's card says which.

"max": the image that shows it best. "topK-mean" (top3-mean, ...): the mean of the K images that show it best, against the
chance peak of a long series. "noisy-or": at least one image is right, were they independent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medai_pipeline.errors import ModelError

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry

KEY_IMAGES = 3
Rule: TypeAlias = Callable[[np.ndarray], np.ndarray]  # probabilities (N, K), best first in each column -> (K,)


def rule_of(name: str) -> Rule:
    """Raises ModelError for a rule that is not known."""
    top = re.fullmatch(r"top([1-9]\d*)-mean", name)
    if top:
        most = int(top[1])
        return lambda best: best[:most].mean(axis=0)
    if name == "max":
        return lambda best: best[0]
    if name == "noisy-or":
        return lambda best: 1 - np.prod(1 - best, axis=0)
    raise ModelError(f"unknown aggregation {name!r}: choose max, noisy-or or topK-mean (top3-mean, say)")


def is_known(name: str) -> bool:
    try:
        rule_of(name)
    except ModelError:
        return False
    return True


def aggregate(probabilities: np.ndarray, entry: CatalogEntry) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """Image probabilities (N, K) to the study's (K,), and per class the rows that show it best (at most 3, best first).

    Exclusive classes are brought back to a sum of 1.
    """
    best = -np.sort(-probabilities, axis=0).astype(np.float64)
    study = np.clip(rule_of(entry.aggregation)(best), 0, 1)
    if not entry.multi_label:
        study = study / study.sum()
    return study.astype(np.float32), best_rows(probabilities)


def best_rows(probabilities: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Per class of (N, K) the rows that show it best, at most 3, best first; of equal ones the earlier.

    A row that is not among them will not be, whatever rows follow.
    """
    order = np.argsort(-probabilities, axis=0, kind="stable")
    return tuple(tuple(int(row) for row in order[:KEY_IMAGES, k]) for k in range(probabilities.shape[1]))
