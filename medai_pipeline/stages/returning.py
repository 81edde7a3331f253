"""What goes back to a PACS and to other systems, gathered from all stages: `results.dicom` and `results.fhir` write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import ModelChanged, StudyError
from medai_pipeline.records import (
    DeidentifiedStudy,
    Heatmap,
    Identity,
    Report,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
)
from medai_pipeline.stages.objects import Objects

if TYPE_CHECKING:
    from medai_pipeline.results.evidence import Concept, Drawn, Evidence, Reference
    from medai_pipeline.results.written import DicomResult

_LONGEST_FILM = 1024  # of a film's heat, which comes from a coarse grid: its own size would be 30 MB


@dataclass(frozen=True, slots=True)
class Edition:
    """Which of a study's results are returned: `number` counts whenever something else counts than what was sent last.

    `previous`: kind and UIDs of every object sent before. `decision` ("" without a review), `reviewer`, `reviewed_at`, and
    `content`: report.json as a review edited it. `withdrawal`: nothing counts any more.
    """

    number: int = 1
    revision: int = 1
    reported_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    previous: Sequence[Mapping[str, str]] = ()
    decision: str = ""
    reviewer: str = ""
    reviewed_at: datetime | None = None
    content: Mapping[str, Any] | None = None
    withdrawal: bool = False


FIRST = Edition()


def evidence_of(
    report: Report,
    study: DeidentifiedStudy,
    tensors: StudyTensors | None,
    prediction: StudyPrediction,
    heatmaps: StudyHeatmaps,
    objects: Objects,
    identity: Identity,
    at: datetime,
    previous: Sequence[Reference] = (),
    edition: Edition = FIRST,
) -> Evidence:
    """What `results.dicom.objects` and `results.fhir.bundle` are made of.

    `identity`: the vault's for the PACS, or `identity_in` for results about the de-identified study. `previous`: the
    objects of an earlier revision or model version that lie in the PACS, and whose place these take. `edition`: what a
    review made of the report.
    """
    from medai_pipeline.dicom.read import parse
    from medai_pipeline.results.evidence import Evidence, Origin, Review

    content = edition.content or report.content
    present = {row["label"] for row in content["findings"] if row["present"]}
    maps = enumerate(heatmaps.heatmaps if tensors else ())  # without the tensors, which go by age, no place is known
    shown = [
        found for found in maps if not found[1].withheld and found[1].label in present
    ]  # a place for what a person says is not there would contradict it
    by_uid = {instance.sop_instance_uid: instance for instance in study.instances}
    needed = dict.fromkeys(heatmap.item.sop_instance_uid for _, heatmap in shown)
    return Evidence(
        content=content,
        drawn=tuple(_drawn(number, heatmap, tensors, heatmaps) for number, heatmap in shown if tensors),
        instances=study.instances,
        headers={uid: parse(objects.get(by_uid[uid].object_key), pixels=False) for uid in needed},
        concepts=_concepts([*prediction.labels, *(row["label"] for row in content["findings"])]),
        origin=Origin(identity),
        at=at,
        previous=tuple(previous),
        edition=edition.number,
        review=Review(edition.decision, edition.reviewer, edition.reviewed_at or at) if edition.decision else None,
        changed=_changed(report.content, content),
    )


def results_of(
    report: Report,
    study: DeidentifiedStudy,
    tensors: StudyTensors | None,
    prediction: StudyPrediction,
    heatmaps: StudyHeatmaps,
    objects: Objects,
    identity: Identity,
    edition: Edition,
) -> list[DicomResult]:
    """Every DICOM object of one edition of a study's results, for the PACS; of a withdrawal what takes them back.

    Raises StudyError when the values are not those that the report was made of, or a review says what cannot be sent.
    """
    from medai_pipeline.results.dicom import objects as made_of
    from medai_pipeline.results.dicom import withdrawal
    from medai_pipeline.results.evidence import Reference

    edition = replace(edition, content=_whole(report.content, edition.content))
    _require_fitting(report, study, prediction, edition)
    previous = [
        Reference(*(one[name] for name in _REFERENCE)) for one in edition.previous if one["kind"] != "superseded"
    ]
    at = edition.reviewed_at or edition.reported_at
    evidence = evidence_of(report, study, tensors, prediction, heatmaps, objects, identity, at, previous, edition)
    if edition.withdrawal:
        return withdrawal(evidence)
    return made_of(evidence)


_REFERENCE = ("sop_class_uid", "sop_instance_uid", "series_instance_uid")
_ROW = frozenset({"label", "present", "probability", "uncertainty", "threshold", "images"})


def _whole(said: Mapping[str, Any], now: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """report.json as a review left it. The worklist and the API say what was changed alone: which findings are present.

    Anything else is given back as it is, and judged by `_require_fitting`.
    """
    if not now or set(now) != {"findings"} or not isinstance(now["findings"], list):
        return now
    given = {row.get("label"): row.get("present") for row in now["findings"] if isinstance(row, Mapping)}
    known = {row["label"] for row in said["findings"]}
    if not set(given) <= known or not all(isinstance(present, bool) for present in given.values()):
        return now
    rows = [
        {**row, "present": given[row["label"]], "regions": []}
        if given.get(row["label"], row["present"]) != row["present"]
        else row
        for row in said["findings"]
    ]
    return {**said, "findings": rows}


def _require_fitting(report: Report, study: DeidentifiedStudy, prediction: StudyPrediction, edition: Edition) -> None:
    made_by = next(iter(report.content["models"]), {"weights_sha256": ""})["weights_sha256"]
    revisions = {report.revision, study.revision, prediction.revision, edition.revision}
    if report.study_key != prediction.study_key or len(revisions) > 1 or (made_by != prediction.model.weights_sha256):
        raise ModelChanged("what the report was made of is being computed again; the new report is returned instead")
    if edition.decision == "edited" and edition.content is None:
        raise StudyError("the review says that it edited the report, and holds no report: review it again")
    content = edition.content or report.content
    if (content.get("study_key"), content.get("revision")) != (report.study_key, report.revision):
        raise StudyError("the edited report is about another study or revision: review it again")
    known = {instance.sop_instance_uid for instance in study.instances}
    complete = set(report.content) - {"generated_at"} <= set(content)
    if not complete or not all(set(row) >= _ROW and set(row["images"]) <= known for row in content["findings"]):
        raise StudyError("the edited report is no report as report.json is one: review it again")


def _changed(said: Mapping[str, Any], now: Mapping[str, Any]) -> frozenset[str]:
    """Labels about whose presence `now` says something else, or that only it has."""
    before = {row["label"]: row["present"] for row in said["findings"]}
    return frozenset(row["label"] for row in now["findings"] if before.get(row["label"]) != row["present"])


def _concepts(labels: Iterable[str]) -> dict[str, list[Concept]]:
    from medai_pipeline.results.evidence import Concept
    from medai_pipeline.triage.findings import lookup

    return {label: [Concept(*code) for code in lookup(label).codes] for label in dict.fromkeys(labels)}


def _drawn(number: int, heatmap: Heatmap, tensors: StudyTensors, heatmaps: StudyHeatmaps) -> Drawn:
    from medai_pipeline.explain.geometry import heat_on_image
    from medai_pipeline.explain.regions import region_mask
    from medai_pipeline.results.evidence import Drawn
    from medai_pipeline.results.report import overlay_name

    tensor_size = (tensors.pixels.shape[2], tensors.pixels.shape[3])
    placement = heatmap.item.placement
    rows, columns = placement.source_rows, placement.source_columns
    shrink = max(1.0, max(rows, columns) / _LONGEST_FILM)
    size = (max(1, round(rows / shrink)), max(1, round(columns / shrink)))
    return Drawn(
        heatmap=heatmap,
        heat=heat_on_image(heatmap.values, placement, tensor_size, size).astype(np.float32),
        region=region_mask(heatmap.values, placement, tensor_size),
        overlay=heatmaps.overlays[overlay_name(number, heatmap)],
    )


def bundle_of(
    report: Report, study: DeidentifiedStudy, prediction: StudyPrediction, objects: Objects, at: datetime
) -> bytes:
    """The FHIR bundle about the de-identified study, as the bytes of fhir.json: it names nobody."""
    from medai_pipeline.results.evidence import Evidence, Origin
    from medai_pipeline.results.fhir import bundle_json

    origin = Origin(identity_in(study, objects))
    return bundle_json(Evidence(report.content, (), study.instances, {}, _concepts(prediction.labels), origin, at))


def identity_in(study: DeidentifiedStudy, objects: Objects) -> Identity:
    """What the de-identified files themselves say: results about it name nobody."""
    from medai_pipeline.dicom.read import identity_of, parse

    return identity_of(parse(objects.get(study.instances[0].object_key), pixels=False))
