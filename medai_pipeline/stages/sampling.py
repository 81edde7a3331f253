"""How sure a model is of given images, by as many samples as a caller wants: Monte Carlo dropout over the network that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import StudyError
from medai_pipeline.records import StudyTensors
from medai_pipeline.stages.prediction import Inference, load_models

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry

QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
_SAMPLED = ("deviation", "information", *QUANTILES)


def sample_images(
    entry: CatalogEntry, tensors: StudyTensors, inference: Inference, samples: int, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a class, of the image that shows it best: `mean`, `deviation` (0..0.5), `entropy` and `information` in nats, and
    the 5th, 50th and 95th percentile of the probability, each of them one of the samples.

    Of an ensemble each member is sampled `samples` times and counts by its weight, as in its answer. A single model without
    dropout has nothing to sample: all but `mean` and `entropy` are None. Raises ModelError, StudyError when there is no image.
    """
    from medai_pipeline.models.ensemble import ranked
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.uncertainty import sampled, spread_of

    if not len(tensors.pixels):
        raise StudyError(tensors.no_model_reason or "no image can be read by this model")
    models, drawn = load_models(entry, inference), []
    for model in models:
        pooled = np.concatenate(
            [predict(model, part, len(part)).pooled for part in _parts(tensors.pixels, inference.batch_size)]
        )
        drawn.append(sampled(model, tensors.pixels, pooled, samples=samples, seed=seed))
    measured = len(models) > 1 or models[0].samples
    probabilities = np.concatenate(drawn)  # (samples, N, K)
    weights = np.repeat(list(ranked(entry).values()) or [1.0], samples)
    spread = spread_of(probabilities, entry.multi_label, weights)
    mean = np.average(probabilities, axis=0, weights=weights)
    rows = []
    for k, label in enumerate(entry.classes):
        best = int(mean[:, k].argmax())
        quantiles = np.quantile(
            probabilities[:, best, k].astype(np.float64),
            list(QUANTILES.values()),
            method="inverted_cdf",
            weights=weights,
        )
        numbers = {
            "mean": mean[best, k],
            "deviation": spread.deviation[best, k],
            "entropy": spread.entropy[best, k],
            "information": spread.information[best, k],
            **dict(zip(QUANTILES, quantiles, strict=True)),
        }
        told = {n: None if n in _SAMPLED and not measured else round(float(v), 6) for n, v in numbers.items()}
        rows.append({"label": label, "frame": tensors.items[best].frame, **told})
    return rows


def _parts(pixels: np.ndarray, size: int) -> list[np.ndarray]:
    """A batch each: of a clip's feature maps only those of one batch are in memory."""
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]
