"""The report of one study as data: report.json by `report_schema.json`, and the records other results are made from.

Deterministic: the same inputs give the same bytes; time comes in from outside. How it looks to a person is `html`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from medai_pipeline.records import (
    Finding,
    Heatmap,
    ImagePlace,
    Instance,
    ModelRef,
    Problem,
    QualityResult,
    Region,
    Report,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
    Triage,
)
from medai_pipeline.results.html import render_html

SCHEMA_VERSION = "2.0"
DISCLAIMER = (
    "Research use only. Decision support, not a diagnosis: not validated for clinical use. "
    "A qualified person must read the images."
)
DEMO_NOTICE = "Demo model trained on synthetic phantoms: no clinical value."
_MOST_IMAGES = 5


@cache
def report_schema() -> Mapping[str, Any]:
    """The JSON Schema (2020-12) of report.json."""
    return json.loads((files("medai_pipeline.results") / "report_schema.json").read_text(encoding="utf-8"))


def overlay_name(number: int, heatmap: Heatmap) -> str:
    """File name of the picture of heatmap `number` (its place in StudyHeatmaps, from 0): "1-pneumothorax.png"."""
    word = re.sub(r"[^a-z0-9]+", "-", heatmap.label.casefold()).strip("-") or "finding"
    return f"{number + 1}-{word}.png"


def finding_rows(prediction: StudyPrediction, heatmaps: StudyHeatmaps, codes: Mapping[str, str]) -> tuple[Finding, ...]:
    """One row for each label in `codes` (label -> "scheme:value" or ""): present ones first, then by margin.

    `images` are the new SOP Instance UIDs of the key images, best first, at most 5; `regions` those of reliable maps.
    """
    rows = [_finding(prediction, heatmaps, index, codes[label]) for index, label in _coded(prediction, codes)]
    return tuple(sorted(rows, key=lambda row: (not row.present, row.threshold - row.probability, row.label)))


def build_report(
    tensors: StudyTensors,
    prediction: StudyPrediction | None,
    heatmaps: StudyHeatmaps,
    triage: Triage,
    *,
    instances: Sequence[Instance],
    quality: Sequence[QualityResult],
    overlays: Mapping[str, bytes],
    codes: Mapping[str, str],
    run_id: str,
    profile: str,
    code_version: str,
    problems: Sequence[Problem] = (),
    generated_at: str = "",
    run_page: str = "",
) -> Report:
    """The whole report. `prediction` is None when no model covers the study.

    `instances` are all de-identified ones, `problems` what could not be read before there were instances; those of
    `tensors` are added here. `overlays` maps `overlay_name(i, heatmap)` to PNG bytes; a map without a picture is listed
    all the same. `generated_at` is ISO 8601 with zone, and left out when empty. `run_page`: where the run is shown.
    """
    all_problems = (*problems, *tensors.problems)
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "study_key": tensors.study_key,
        "revision": tensors.revision,
        "modality": tensors.modality,
        "body_part": tensors.body_part,
        "priority": triage.priority.value,
        "acr_category": triage.acr_category,
        "reasons": list(triage.reasons),
        "review_required": triage.review_required,
        "rules_version": triage.rules_version,
        "findings": _findings_content(prediction, heatmaps, codes),
        "models": [_model(model) for model in (prediction.model, *prediction.members)] if prediction else [],
        "demo_model": bool(prediction and prediction.demo),
        "novelty": _novelty(prediction),
        "images": _images(instances, all_problems),
        "quality": {
            "checks": [_check(check) for check in quality],
            "heatmaps": [_heatmap(number, found, overlays) for number, found in enumerate(heatmaps.heatmaps)],
        },
        "lineage": {
            "run_id": run_id,
            "source_sha256": sorted({instance.source_sha256 for instance in instances if instance.source_sha256}),
            "profile": profile,
            "code_version": code_version,
            "tensor": _tensor(tensors),
        },
        "disclaimer": _disclaimer(prediction),
    }
    if generated_at:
        content["generated_at"] = generated_at
    return Report(
        study_key=tensors.study_key,
        revision=tensors.revision,
        content=content,
        html=render_html(content, overlays, heatmaps.parts, run_page),
        overlays=dict(overlays),
    )


def report_json(report: Report) -> bytes:
    """report.json as bytes: UTF-8, indented, keys in the order of the schema."""
    return (json.dumps(report.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _tensor(tensors: StudyTensors) -> dict[str, Any] | None:
    """What the model was given, None when none was asked. The digest is of its values as float32, little-endian."""
    if tensors.contract is None:
        return None
    values = np.ascontiguousarray(tensors.pixels, dtype="<f4")
    return {
        "sha256": hashlib.sha256(values.data if values.size else b"").hexdigest(),
        "shape": list(values.shape),
        "scaling": tensors.contract.scaling,
    }


def _coded(prediction: StudyPrediction, codes: Mapping[str, str]) -> list[tuple[int, str]]:
    return [(index, label) for index, label in enumerate(prediction.labels) if label in codes]


def _number(value: Any) -> float:
    """Four digits: what lies behind is noise of float32, and differs between machines."""
    return round(float(value), 4)


def _finding(prediction: StudyPrediction, heatmaps: StudyHeatmaps, index: int, code: str) -> Finding:
    probability, threshold = float(prediction.probabilities[index]), float(prediction.thresholds[index])
    images = [prediction.items[row].sop_instance_uid for row in prediction.key_images[index]]
    label = prediction.labels[index]
    return Finding(
        label=label,
        code=code,
        probability=_number(probability),
        uncertainty=None if prediction.uncertainty is None else _number(prediction.uncertainty[index]),
        threshold=_number(threshold),
        present=probability >= threshold,
        images=tuple(dict.fromkeys(images))[:_MOST_IMAGES],
        regions=tuple(region for found in _reliable(heatmaps, label) for region in found.regions),
    )


def _reliable(heatmaps: StudyHeatmaps, label: str) -> list[Heatmap]:
    return [found for found in heatmaps.heatmaps if found.label == label and found.reliable]


def _findings_content(
    prediction: StudyPrediction | None, heatmaps: StudyHeatmaps, codes: Mapping[str, str]
) -> list[dict[str, Any]]:
    if prediction is None:
        return []
    return [
        {
            "label": row.label,
            "code": row.code,
            "probability": row.probability,
            "uncertainty": row.uncertainty,
            "threshold": row.threshold,
            "present": row.present,
            "images": list(row.images),
            "regions": [_region(region, found) for found in _reliable(heatmaps, row.label) for region in found.regions],
        }
        for row in finding_rows(prediction, heatmaps, codes)
    ]


def _region(region: Region, found: Heatmap) -> dict[str, Any]:
    return {
        "box": list(region.box),
        "score": _number(region.score),
        "area_mm2": region.area_mm2,
        "image": found.item.sop_instance_uid,
        "frame": found.item.frame,
    }


def _model(model: ModelRef) -> dict[str, str]:
    return {
        "name": model.name,
        "version": model.version,
        "weights_sha256": model.weights_sha256,
        "role": model.role,
    }


def _novelty(prediction: StudyPrediction | None) -> float | None:
    known = prediction.novelty if prediction else None
    return _number(known) if known is not None and np.isfinite(known) else None


def _check(check: QualityResult) -> dict[str, Any]:
    return {"name": check.name, "passed": check.passed, "blocking": check.blocking, "detail": check.detail}


def _heatmap(number: int, found: Heatmap, overlays: Mapping[str, bytes]) -> dict[str, Any]:
    name = overlay_name(number, found)
    return {
        "label": found.label,
        "method": found.method,
        "image": found.item.sop_instance_uid,
        "frame": found.item.frame,
        "view_position": found.item.view_position,
        "place": _place(found),
        "extent": _extent(found),
        "layers": list(found.layers),
        "drawn": not found.withheld,
        "reliable": found.reliable,
        "reason": found.reason,
        "scores": {key: _number(value) for key, value in sorted(found.quality.items())},
        "overlay": name if name in overlays else "",
    }


def _place(found: Heatmap) -> dict[str, Any]:
    """Which image the map lies on, in numbers and in words."""
    place = found.place or ImagePlace(frame=found.item.frame)
    return {
        "text": place.text,
        "series_number": place.series_number,
        "instance_number": place.instance_number,
        "images_in_series": place.images,
        "axis": place.axis,
        "position_mm": None if place.position_mm is None else round(place.position_mm, 2),
        "edges": list(place.edges),
    }


def _extent(found: Heatmap) -> dict[str, Any] | None:
    """The slices that show the finding: with the box of a region, its box in three dimensions."""
    if found.extent is None:
        return None
    return {
        "text": found.extent.text,
        "images": list(found.extent.images),
        "numbers": list(found.extent.numbers),
        "span_mm": found.extent.span_mm,
        "box": list(found.extent.box) if found.extent.box else None,
        "size_mm": list(found.extent.size_mm) if found.extent.size_mm else None,
    }


def _images(instances: Sequence[Instance], problems: Sequence[Problem]) -> dict[str, Any]:
    """How many objects arrived, how many a model could see, and why the others not."""
    unusable = [
        Problem("unsupported", instance.reason, instance.sop_instance_uid)
        for instance in instances
        if not instance.usable
    ]
    told = {problem.subject for problem in problems if problem.subject}
    excluded = [*problems, *(problem for problem in unusable if problem.subject not in told)]
    known = {instance.sop_instance_uid for instance in instances}
    lost = {problem.subject for problem in excluded} & known
    return {
        "received": len(known) + sum(problem.subject not in known for problem in problems),
        "usable": len(known - lost),
        "excluded": [
            {"subject": problem.subject, "code": problem.code, "reason": problem.reason} for problem in excluded
        ],
    }


def _disclaimer(prediction: StudyPrediction | None) -> str:
    return f"{DISCLAIMER} {DEMO_NOTICE}" if prediction and prediction.demo else DISCLAIMER
