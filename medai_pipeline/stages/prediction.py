"""predictions: the models over the images of several studies at once, and what stands for an answer where none is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medai_pipeline.errors import MedaiError
from medai_pipeline.records import ModelRef, StudyPrediction, StudyTensors


@dataclass(frozen=True, slots=True)
class Inference:
    """Where weights lie and what computes: `models_path` for the site's weights, CUDA when `gpu` and there is one."""

    models_path: Path
    gpu: bool = True
    batch_size: int = 32


def warm(inference: Inference) -> list[str]:
    """Imports what is slow to import and loads every model whose weights are here; returns their names."""
    import great_expectations  # noqa: F401

    from medai_pipeline.errors import WeightsMissing
    from medai_pipeline.models.catalog import catalog
    from medai_pipeline.models.load import load

    loaded = []
    for known in catalog():
        try:
            load(known, inference.models_path, "cuda" if inference.gpu else "cpu")
        except WeightsMissing:
            continue  # the catalog names it for sites that have its weights
        loaded.append(known.name)
    return loaded


def predict_studies(studies: Sequence[StudyTensors], inference: Inference) -> dict[str, StudyPrediction | MedaiError]:
    """One batch a model over the images of several studies. A study that fails is given its error; others go on."""
    from medai_pipeline.models.catalog import entry
    from medai_pipeline.models.infer import predict_studies as predict
    from medai_pipeline.models.infer import predict_study
    from medai_pipeline.models.load import load

    results: dict[str, StudyPrediction | MedaiError] = {s.study_key: no_prediction(s) for s in studies if not s.model}
    device = "cuda" if inference.gpu else "cpu"
    for name in sorted({s.model for s in studies if s.model}):
        group = [s for s in studies if s.model == name]
        try:
            model = load(entry(name), inference.models_path, device)
        except MedaiError as error:
            results.update({s.study_key: error for s in group})
            continue
        try:
            predicted = predict(model, group, batch_size=inference.batch_size)
            results.update({p.study_key: p for p in predicted})
        except MedaiError:
            # One study spoilt the batch (a NaN, say): find out which, so that the others still get their answer.
            for study in group:
                try:
                    results[study.study_key] = predict_study(model, study, batch_size=inference.batch_size)
                except MedaiError as error:
                    results[study.study_key] = error
    return results


def no_prediction(tensors: StudyTensors) -> StudyPrediction:
    """What stands for a prediction when no model covers the study: no classes, no numbers."""
    none = np.zeros((0,), np.float32)
    return StudyPrediction(
        study_key=tensors.study_key,
        revision=tensors.revision,
        model=ModelRef("", "", ""),
        labels=(),
        multi_label=True,
        items=(),
        image_probabilities=np.zeros((0, 0), np.float32),
        probabilities=none,
        uncertainty=none,
        thresholds=none,
        key_images=(),
        features=np.zeros((0, 0, 0, 0), np.float32),
        feature_rows=(),
        head=np.zeros((0, 0), np.float32),
    )
