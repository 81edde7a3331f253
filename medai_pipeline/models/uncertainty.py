"""How sure a model is: Monte Carlo dropout at its linear head (Gal and Ghahramani 2016). Numpy on kept features, no new pass."""

from __future__ import annotations

import numpy as np

from medai_pipeline.models.catalog import CatalogEntry

SAMPLES = 20


def head_deviation(
    pooled: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    entry: CatalogEntry,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Standard deviation (N, K) of the probabilities, 0..0.5, over `samples` dropout masks on `pooled` (N, D).

    Dropout directly before a linear head leaves the backbone's features as they are, so sampling the head alone equals
    full passes with the same masks. The masks depend on the seed alone, not on which images are asked together.
    """
    from medai_pipeline.models.infer import probabilities_of

    keep = 1 - entry.dropout
    masks = np.random.default_rng(seed).random((samples, pooled.shape[1])) < keep
    dropped = weight[None] * (masks / keep)[:, None, :]  # (samples, K, D)
    logits = np.einsum("nd,skd->snk", pooled.astype(np.float64), dropped) + bias
    return probabilities_of(logits, entry).std(axis=0).astype(np.float32)
