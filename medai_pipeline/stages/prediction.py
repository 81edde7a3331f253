"""predictions: the models over the images of several studies at once, and what stands for an answer where none is due."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.errors import MedaiError, ModelChanged, ModelError
from medai_pipeline.records import ModelRef, StudyPrediction, StudyTensors

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry, ModelSet
    from medai_pipeline.models.load import LoadedModel

log = logging.getLogger(__name__)


def _packaged() -> ModelSet:
    from medai_pipeline.models.catalog import packaged

    return packaged()


@dataclass(frozen=True, slots=True)
class Inference:
    """Where weights lie and what computes: `models_path` for the site's weights, CUDA when `gpu` and there is one.

    `models` are those in force; a run takes them once, so that a promotion never divides it.
    """

    models_path: Path
    gpu: bool = True
    batch_size: int = 32
    models: ModelSet = field(default_factory=_packaged)

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"


def warm(inference: Inference) -> list[str]:
    """Imports what is slow to import and loads every model whose weights are here; returns their names."""
    import great_expectations  # noqa: F401

    loaded = []
    for known in (*inference.models.active, *inference.models.shadow):
        try:
            load_models(known, inference)
        except ModelError as error:
            log.error("%s", error.reason)  # its studies fail with this reason; the other models serve
            continue
        loaded.append(known.name)
    return loaded


def predict_studies(studies: Sequence[StudyTensors], inference: Inference) -> dict[str, StudyPrediction | MedaiError]:
    """What the active model says of each study, in batches over several. A study that fails is given its error; others
    go on. ModelChanged is that of a study whose tensors were made for another input than its model takes today.

    Networks that are in force no more are let go before: a worker that runs for months keeps none of them."""
    _let_go(inference.models)
    results: dict[str, StudyPrediction | MedaiError] = {s.study_key: no_prediction(s) for s in studies if not s.model}
    groups: dict[str, list[StudyTensors]] = defaultdict(list)
    for study in studies:
        if study.model:
            try:
                groups[model_for(study, inference).label].append(study)
            except ModelChanged as error:
                results[study.study_key] = error
    for label in sorted(groups):
        results |= ask_model(inference.models.entry(label), groups[label], inference)
    return results


def model_for(study: StudyTensors, inference: Inference) -> CatalogEntry:
    """The active model of a study whose tensors are there. Raises ModelChanged when it does not take them (any more)."""
    chosen = inference.models.choose(study.modality, study.body_part).entry
    if chosen is None:
        raise ModelChanged("no model is active for this study any more: promote one, or materialize normalized_tensors")
    if chosen.contract != study.contract:
        raise ModelChanged(
            f"{chosen.label} takes images of another shape or range: materialize normalized_tensors again"
        )
    return chosen


def model_ref(study: StudyTensors, inference: Inference) -> ModelRef:
    """Which weights would answer for a study now; nameless without a model. Raises ModelChanged as `model_for` does."""
    if not study.model:
        return ModelRef("", "", "")
    entry = model_for(study, inference)
    return ModelRef(entry.name, entry.version, entry.weights_sha256 or "")


def ask_model(
    entry: CatalogEntry, group: Sequence[StudyTensors], inference: Inference, role: str = "primary"
) -> dict[str, StudyPrediction | MedaiError]:
    """One model about several studies, whose tensors fit it: an answer or an error each."""
    try:
        models = load_models(entry, inference)
    except MedaiError as error:
        return {study.study_key: error for study in group}
    results: dict[str, StudyPrediction | MedaiError] = {}
    try:
        results.update({p.study_key: p for p in _answers(entry, models, group, inference)})
    except MedaiError:
        # One study spoilt the batch (a NaN, say): find out which, so that the others still get their answer.
        for study in group:
            try:
                results[study.study_key] = _answers(entry, models, [study], inference)[0]
            except MedaiError as error:
                results[study.study_key] = error
    return {key: _in_role(answer, role) for key, answer in results.items()}


def load_models(entry: CatalogEntry, inference: Inference) -> list[LoadedModel]:
    """The model, or the members of an ensemble by their weight."""
    from medai_pipeline.models.ensemble import check_members, ranked
    from medai_pipeline.models.load import load

    members = [inference.models.entry(name) for name in ranked(entry)]
    if members:
        check_members(entry, members)
    return [load(model, inference.models_path, inference.device) for model in members or [entry]]


def _let_go(models: ModelSet) -> None:
    from medai_pipeline.models.load import keep_only

    in_force = (*models.active, *models.shadow)
    keep_only({entry.label for entry in in_force} | {member for entry in in_force for member in entry.members})


def _answers(
    entry: CatalogEntry, models: Sequence[LoadedModel], group: Sequence[StudyTensors], inference: Inference
) -> list[StudyPrediction]:
    from medai_pipeline.models.ensemble import combine
    from medai_pipeline.models.infer import predict_studies as predict

    said = [predict(model, group, batch_size=inference.batch_size) for model in models]
    return [combine(entry, answers) for answers in zip(*said, strict=True)] if entry.members else said[0]


def _in_role(answer: StudyPrediction | MedaiError, role: str) -> StudyPrediction | MedaiError:
    return answer if isinstance(answer, MedaiError) else replace(answer, model=replace(answer.model, role=role))


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
