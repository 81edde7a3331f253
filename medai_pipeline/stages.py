"""One plain function a stage: each joins the rooms below (dicom, models, explain, triage, quality, results) for one study.

Knows no Dagster, no database and no settings. Problems of one file become `Problem` records; what stops the whole
study is raised as StudyError with one line that may be shown to anybody. Bytes go in and out through `Objects`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from medai_pipeline import __version__
from medai_pipeline.dicom.deidentify import PROFILE, Deidentifier
from medai_pipeline.dicom.read import identity_of, parse
from medai_pipeline.dicom.select import select
from medai_pipeline.errors import DeidentificationError, DicomError, MedaiError, NoUsableImages, StudyError
from medai_pipeline.records import (
    DeidentifiedStudy,
    Identity,
    Instance,
    Manifest,
    ModelRef,
    Problem,
    QualityResult,
    Report,
    SourceInstance,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
    TensorItem,
)

SHORT_DIGEST = 12  # characters of a SHA-256 that name a file to a person
STUDIES_AT_ONCE = 32
IMAGES_AT_ONCE = 512
IMAGES_PER_STUDY = 1024  # more are sampled evenly: bounds memory (1024 x 224 x 224 x float32 = 205 MB)


class Objects(Protocol):
    """Where a stage puts and finds bytes: the encrypted store, or a plain folder of `medai analyze`."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...


# raw_dicom ---------------------------------------------------------------------------------------------------


def fetch_study(
    study_key: str, revision: int, source_digest: str, files: Iterable[bytes], objects: Objects
) -> Manifest:
    """Each file hashed and stored as it arrives; memory stays bounded by one file. The name holds no UID."""
    instances = []
    for data in files:
        digest = hashlib.sha256(data).hexdigest()
        name = f"raw/{study_key}/{digest}"
        objects.put(name, data)
        instances.append(SourceInstance(name, digest, len(data)))
    if not instances:
        raise StudyError("the study holds no file (any more); it is looked at again when a file arrives")
    return Manifest(study_key, revision, source_digest, tuple(sorted(instances, key=lambda i: i.sha256)))


# anonymized_instances ----------------------------------------------------------------------------------------


def deidentify_study(
    manifest: Manifest, objects: Objects, deidentifier: Deidentifier
) -> tuple[DeidentifiedStudy, Identity]:
    """Every file of the manifest by PS3.15 Annex E. A file that cannot be de-identified goes nowhere and is listed.

    Raises StudyError when no file is left.
    """
    instances: list[Instance] = []
    problems = list(manifest.problems)
    identity: Identity | None = None
    uids: dict[str, str] = {}
    for source in manifest.instances:
        subject = source.sha256[:SHORT_DIGEST]
        data = objects.get(source.object_key)
        try:
            result = deidentifier.deidentify(data)
            if identity is None:
                identity = identity_of(parse(data, pixels=False))
        except (DicomError, DeidentificationError) as error:
            problems.append(Problem(getattr(error, "code", "deidentification"), error.reason, subject))
            continue
        name = f"anonymized/{manifest.study_key}/{result.instance.sop_instance_uid}-{subject}.dcm"
        objects.put(name, result.data)
        uids.update(result.uids)
        instances.append(
            replace(
                result.instance,
                object_key=name,
                sha256=hashlib.sha256(result.data).hexdigest(),
                size_bytes=len(result.data),
            )
        )
    if identity is None:
        raise StudyError(
            f"none of the {len(manifest.instances)} files can be used: {_counted(p.reason for p in problems)}"
        )
    study = DeidentifiedStudy(
        manifest.study_key, manifest.revision, manifest.source_digest, PROFILE, select(instances), tuple(problems)
    )
    return study, replace(identity, uids=uids)


def check_deidentified(studies: Sequence[DeidentifiedStudy]) -> dict[str, DeidentifiedStudy]:
    """The studies with their instance checks, in one pass of Great Expectations."""
    from medai_pipeline.dicom.table import instance_table
    from medai_pipeline.quality.instances import check_instances

    results = check_instances({study.study_key: instance_table(study.instances) for study in studies})
    return {study.study_key: replace(study, checks=results[study.study_key]) for study in studies}


# normalized_tensors ------------------------------------------------------------------------------------------


def normalize_study(study: DeidentifiedStudy, objects: Objects, model_name: str = "") -> StudyTensors:
    """The images a model may see, as one float32 array (N, C, H, W) by the contract of the model chosen for them.

    A study no model covers comes back without pixels and with the reason; a study without one usable image raises
    NoUsableImages.
    """
    from medai_pipeline.models.catalog import choose, entry

    images = [instance for instance in study.instances if instance.usable]
    if not images:
        reasons = [i.reason for i in study.instances] + [p.reason for p in study.problems]
        raise NoUsableImages(f"no image that a model may see: {_counted(reasons)}")
    modality, body_part = _most_common((i.modality, i.body_part) for i in images)
    choice = choose(modality, body_part)
    chosen = entry(model_name) if model_name else choice.entry
    empty = StudyTensors(
        study.study_key, study.revision, modality, body_part, "", None, np.zeros((0, 0, 0, 0), np.float32), (),
        study.problems, choice.reason,
    )  # fmt: skip
    if chosen is None:
        return empty
    same_modality = [i for i in images if i.modality == modality]
    rows, items, problems = _prepare_all(same_modality, objects, chosen.contract)
    if not rows:
        raise NoUsableImages(f"no image could be decoded: {_counted(p.reason for p in problems)}")
    others = tuple(
        Problem("other-modality", f"modality {i.modality}, the study is read as {modality}", i.sop_instance_uid)
        for i in images
        if i.modality != modality
    )
    return replace(
        empty,
        model=chosen.name,
        contract=chosen.contract,
        pixels=np.stack(rows),
        items=tuple(items),
        problems=(*study.problems, *problems, *others),
        no_model_reason="",
        body_part_assumed=choice.assumed,
    )


def _prepare_all(instances, objects, contract):
    """Rows and items of all frames, in series order, at most IMAGES_PER_STUDY of them, evenly spaced."""
    from medai_pipeline.dicom.pixels import prepare
    from medai_pipeline.dicom.series import sort_series

    ordered = _evenly(sort_series(instances), IMAGES_PER_STUDY)
    rows: list[np.ndarray] = []
    items: list[TensorItem] = []
    problems: list[Problem] = []
    for instance in ordered:
        try:
            prepared = prepare(objects.get(instance.object_key), instance, contract)
        except DicomError as error:
            problems.append(Problem(error.code, error.reason, instance.sop_instance_uid))
            continue
        for tensor, item in prepared:
            rows.append(tensor)
            items.append(item)
    kept = _evenly(list(range(len(rows))), IMAGES_PER_STUDY)
    return [rows[i] for i in kept], [items[i] for i in kept], problems


def check_tensors(tensors: Sequence[StudyTensors]) -> dict[str, StudyTensors]:
    """The tensors with their checks; a study without a model has nothing to check."""
    from medai_pipeline.quality.tensors import check_tensors as check

    results = check([t for t in tensors if t.model])
    return {t.study_key: replace(t, checks=results.get(t.study_key, ())) for t in tensors}


# predictions -------------------------------------------------------------------------------------------------


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


def check_predictions(predictions: Sequence[StudyPrediction]) -> dict[str, StudyPrediction]:
    from medai_pipeline.quality.predictions import check_predictions as check

    results = check([p for p in predictions if p.labels])
    return {p.study_key: replace(p, checks=results.get(p.study_key, ())) for p in predictions}


# gradcam_maps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawing:
    """How heatmaps are made and drawn."""

    method: str = "gradcam"
    colormap: str = "inferno"
    alpha: float = 0.45


def explain_study(
    prediction: StudyPrediction,
    tensors: StudyTensors,
    study: DeidentifiedStudy,
    objects: Objects,
    drawing: Drawing,
) -> StudyHeatmaps:
    """Maps for the top findings, and an overlay picture of each; one that is not reliable is drawn without its heat."""
    from medai_pipeline.dicom.render import display
    from medai_pipeline.explain.overlay import overlay
    from medai_pipeline.explain.study import caption, explain
    from medai_pipeline.results.report import overlay_name

    if not prediction.labels:
        return StudyHeatmaps(prediction.study_key, prediction.revision, ())
    maps = explain(prediction, tensors, method=drawing.method)
    by_uid = {i.sop_instance_uid: i for i in study.instances}
    overlays: dict[str, bytes] = {}
    for number, heatmap in enumerate(maps.heatmaps):
        source = objects.get(by_uid[heatmap.item.sop_instance_uid].object_key)
        overlays[overlay_name(number, heatmap)] = overlay(
            display(source, heatmap.item.frame),
            heatmap.values,
            heatmap.item.placement,
            (tensors.pixels.shape[2], tensors.pixels.shape[3]),
            colormap=drawing.colormap,
            alpha=drawing.alpha,
            title=caption(prediction, heatmap),
            regions=heatmap.regions,
            spacing_mm=heatmap.item.spacing_mm,
            reliable=heatmap.reliable,
        )
    return replace(maps, overlays=overlays)


# triage_reports ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """What made a report: the Dagster run ("" without one) and when."""

    run_id: str
    at: datetime


def report_study(
    study: DeidentifiedStudy,
    tensors: StudyTensors,
    prediction: StudyPrediction,
    heatmaps: StudyHeatmaps,
    run: Run,
) -> Report:
    """Priority with reasons, and the report as JSON and HTML."""
    from medai_pipeline.results.report import build_report
    from medai_pipeline.triage.decide import triage
    from medai_pipeline.triage.findings import codes_of
    from medai_pipeline.triage.rules import default_rules

    quality = all_checks(study, tensors, prediction)
    decision = triage(
        prediction.labels,
        prediction.probabilities.tolist(),
        prediction.thresholds.tolist(),
        prediction.uncertainty.tolist(),
        quality=quality,
        heatmaps=heatmaps,
        problems=tensors.problems,
        no_model_reason=tensors.no_model_reason,
        assumed_body_part=tensors.body_part_assumed,
        rules=default_rules(),
    )
    return build_report(
        tensors,
        prediction if prediction.labels else None,
        heatmaps,
        decision,
        instances=study.instances,
        quality=quality,
        overlays=heatmaps.overlays,
        codes=codes_of(prediction.labels),
        run_id=run.run_id,
        profile=study.profile,
        code_version=__version__,
        generated_at=run.at.isoformat(timespec="seconds"),
    )


def all_checks(*stages: DeidentifiedStudy | StudyTensors | StudyPrediction) -> tuple[QualityResult, ...]:
    return tuple(check for stage in stages for check in stage.checks)


def refuse_blocked(checks: Iterable[QualityResult]) -> None:
    """Raises StudyError when a blocking check failed."""
    failed = [f"{c.name} ({c.detail})" if c.detail else c.name for c in checks if c.blocking and not c.passed]
    if failed:
        raise StudyError(f"quality check failed: {'; '.join(failed)}")


# small helpers -----------------------------------------------------------------------------------------------


def _counted(reasons: Iterable[str]) -> str:
    """'decoder missing (x3); a localizer': the most frequent first, at most three."""
    counts = Counter(reason for reason in reasons if reason)
    return (
        "; ".join(f"{reason} (x{n})" if n > 1 else reason for reason, n in counts.most_common(3)) or "no reason known"
    )


def _most_common(pairs: Iterable[tuple[str, str]]) -> tuple[str, str]:
    counts = Counter(pairs)
    return max(counts, key=lambda pair: (counts[pair], bool(pair[1]), pair))


def batches(keys: Sequence[str], images: Callable[[str], int]) -> list[list[str]]:
    """Studies that are worked on together: enough to share the cost of a check and to fill inference batches, few
    enough for memory: at most STUDIES_AT_ONCE, and IMAGES_AT_ONCE of them unless one study alone has more."""
    made: list[list[str]] = []
    room = 0
    for key in keys:
        if not made or len(made[-1]) >= STUDIES_AT_ONCE or images(key) > room:
            made.append([])
            room = IMAGES_AT_ONCE
        made[-1].append(key)
        room -= images(key)
    return made


def _evenly(values: Sequence, most: int) -> list:
    if len(values) <= most:
        return list(values)
    return [values[int(i)] for i in np.linspace(0, len(values) - 1, most)]
