"""How sure a model is of given images, by as many samples as a caller wants: Monte Carlo dropout over the network that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import StudyError
from medai_pipeline.records import StudyTensors
from medai_pipeline.stages.prediction import Inference, load_models

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry

QUANTILES = (0.05, 0.5, 0.95)


def sample_images(
    entry: CatalogEntry, tensors: StudyTensors, inference: Inference, samples: int, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a class, of the image that shows it best: `mean`, `deviation` (0..0.5), `entropy` and `information` in nats, and
    the 5th, 50th and 95th percentile of the probability.

    Of an ensemble each member is sampled `samples` times. Raises ModelError, StudyError when there is no image.
    """
    from medai_pipeline.models.infer import predict
    from medai_pipeline.models.uncertainty import sampled, spread_of

    if not len(tensors.pixels):
        raise StudyError(tensors.no_model_reason or "no image can be read by this model")
    drawn = []
    for model in load_models(entry, inference):
        said = predict(model, tensors.pixels, inference.batch_size)
        drawn.append(sampled(model, tensors.pixels, said.pooled, samples=samples, seed=seed))
    probabilities = np.concatenate(drawn)  # (samples, N, K)
    spread, mean = spread_of(probabilities, entry.multi_label), probabilities.mean(axis=0)
    rows = []
    for k, label in enumerate(entry.classes):
        best = int(mean[:, k].argmax())
        low, middle, high = np.quantile(probabilities[:, best, k], QUANTILES)
        numbers = {
            "mean": mean[best, k],
            "deviation": spread.deviation[best, k],
            "entropy": spread.entropy[best, k],
            "information": spread.information[best, k],
            "p05": low,
            "p50": middle,
            "p95": high,
        }
        item = tensors.items[best]
        rows.append({"label": label, "frame": item.frame, **{n: round(float(v), 6) for n, v in numbers.items()}})
    return rows
