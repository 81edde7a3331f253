"""How far a study lies from what a model was trained on: a distance of its pooled features, without another pass.

The features of held-out images are described by their mean, their main directions and what is left beside these
(a Gaussian of low rank; Lee 2018 uses the full one). `limit` is what hardly any held-out study reaches, so that a score of
1 means: not like training. Both come from the validation split; the test split is left for figures. The numbers lie beside the weights, those of a registered version by their own SHA-256; a model
without them has no score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medai_pipeline.errors import WeightsRefused
from medai_pipeline.models.catalog import CatalogEntry

RANK = 24
FOLDS = 10
QUANTILE = 0.99  # of held-out studies that must stay below the limit
SLACK = 1.15  # a few hundred studies do not show the far end of a distribution
_LEAST = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """Features of dimension D: `mean` (D,), `axes` (R, D) orthonormal, `scales` (R,) and `rest` standard deviations."""

    mean: np.ndarray
    axes: np.ndarray
    scales: np.ndarray
    rest: float
    limit: float = 1.0

    def distances(self, pooled: np.ndarray) -> np.ndarray:
        """The distance of each image, in standard deviations an axis: pooled (N, D) -> (N,)."""
        away = np.asarray(pooled, np.float64) - self.mean
        along = away @ self.axes.T
        beside = np.maximum((away**2).sum(1) - (along**2).sum(1), 0) / max(1, away.shape[1] - len(self.axes))
        squared = ((along / self.scales) ** 2).sum(1) + beside / self.rest**2
        return np.sqrt(squared / (len(self.axes) + 1))

    def novelty(self, pooled: np.ndarray) -> float:
        """A study's score from its images' features (N, D): its median image over the limit. Above 1: not like training."""
        return float(np.median(self.distances(pooled)) / self.limit)


def fit(pooled: np.ndarray, rank: int = RANK) -> Familiarity:
    """The description of held-out images' features (N, D): at most `rank` directions, and no more than half of N can show."""
    pooled = np.asarray(pooled, np.float64)
    mean = pooled.mean(0)
    _, singular, axes = np.linalg.svd(pooled - mean, full_matrices=False)
    rank = min(rank, len(axes), len(pooled) // 2)
    deviations = singular / np.sqrt(max(1, len(pooled) - 1))
    beside = np.sqrt((deviations[rank:] ** 2).sum() / max(1, pooled.shape[1] - rank))
    return Familiarity(mean, axes[:rank], np.maximum(deviations[:rank], _LEAST), max(float(beside), _LEAST))


def described(studies: Sequence[np.ndarray], rank: int = RANK) -> Familiarity:
    """The description of held-out studies, each its images' features (N, D), and its limit.

    For the limit each study is judged by a description of other ones (10 folds), as a new study will be: in a description of
    itself every study lies too near. A single study has no others.
    """
    folds = min(FOLDS, len(studies))
    scores: list[float] = []
    for fold in range(folds):
        others = [pooled for number, pooled in enumerate(studies) if number % folds != fold] or list(studies)
        known = fit(np.concatenate(others), rank)
        scores += [float(np.median(known.distances(pooled))) for pooled in studies[fold::folds]]
    return replace(fit(np.concatenate(studies), rank), limit=SLACK * float(np.quantile(scores, QUANTILE)))


def features_file(entry: CatalogEntry) -> str:
    return f"{entry.name}-{entry.version}.features"


def beside(weights: Path, entry: CatalogEntry) -> Path | None:
    """The statistics that lie beside weights: by the name of their file, else by the version's."""
    places = (weights.with_suffix(".features"), weights.with_name(features_file(entry)))
    return next((path for path in places if path.is_file()), None)


def write(known: Familiarity, path: Path) -> None:
    from safetensors.numpy import save_file

    numbers = np.array([known.rest, known.limit])
    save_file(
        {"mean": known.mean, "axes": np.ascontiguousarray(known.axes), "scales": known.scales, "rest_limit": numbers},
        str(path),
    )


def read(path: Path | None, sha256: str | None = None) -> Familiarity | None:
    """What the file says; None when there is none. Raises WeightsRefused for one that is damaged, or not the one of `sha256`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if path is None or not path.is_file():
        if sha256:
            raise WeightsRefused(
                f"what its training's features look like (digest {sha256[:12]}) is missing: put the .features file back beside "
                "the weights, or register a version whose card names none (features_sha256)"
            )
        return None
    data = path.read_bytes()
    if sha256 and (digest := digest_of(data)) != sha256:
        raise WeightsRefused(f"{path.name} has digest {digest[:12]}, expected {sha256[:12]}: restore the file")
    try:
        found = load(data)
        rest, limit = (float(value) for value in found["rest_limit"])
        return Familiarity(found["mean"], found["axes"], found["scales"], rest, limit)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsRefused(f"{path.name} is damaged ({type(error).__name__}): restore or delete it") from error


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
