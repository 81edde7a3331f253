"""What the study page shows of one study, gathered: the report that counts, its images in order, heat, boxes, versions, priors.

Markup is the template's. Nothing here identifies: study keys, new UIDs, numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from medai_pipeline.dicom.bodypart import named_in
from medai_pipeline.dicom.series import sort_slices
from medai_pipeline.errors import NotFound, ObjectMissing
from medai_pipeline.keeping import object_name
from medai_pipeline.records import DeidentifiedStudy, Instance, StudyState
from medai_pipeline.services import Services
from medai_pipeline.storage.codec import decode
from medai_pipeline.storage.history import Answer, Decision, DeliveryTrouble, PatientStudy, StoredImage, StoredReport
from medai_pipeline.storage.opinions import NONE, Override
from medai_pipeline.storage.rows import StudyRow

_CHANGED = 0.005  # of a probability: less is not worth an arrow


@dataclass(frozen=True, slots=True)
class Version:
    """One model version's answer beside the report's: findings with probability, and the difference to what counts now."""

    model: str
    role: str
    revision: int
    at: str
    findings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class StudyView:
    """`state`: of the latest revision, which may be newer than the report. `series`: see `series_of`."""

    study_key: str
    state: StudyRow
    report: StoredReport | None
    older_reports: tuple[StoredReport, ...]
    series: tuple[dict[str, Any], ...]
    not_images: tuple[str, ...]
    versions: tuple[Version, ...]
    decisions: tuple[Decision, ...]
    priors: tuple[PatientStudy, ...]
    undelivered: tuple[DeliveryTrouble, ...]
    override: Override | None  # a person's word on urgency, which counts before the report's

    @property
    def priority(self) -> str:
        said = self.override.priority if self.override else None
        return said or (self.report.priority if self.report else "")

    @property
    def content(self) -> Mapping[str, Any] | None:
        return self.report.content if self.report else None

    @property
    def revision(self) -> int:
        """The revision whose images are shown."""
        return self.report.revision if self.report else self.state.revision

    @property
    def decision(self) -> Decision | None:
        """What was last decided about the report that counts."""
        return next((one for one in self.decisions if self.report and one.report_id == self.report.id), None)

    @property
    def newer_on_its_way(self) -> bool:
        return self.report is not None and self.state.state is not StudyState.REPORTED


def study_view(services: Services, study_key: str) -> StudyView:
    """Raises NotFound when the study is not known, or its first images still arrive."""
    state = services.lifecycle.study(study_key)
    if state is None:
        raise NotFound("no study with this key is known here (yet): the worklist shows what has arrived")
    history = services.history
    reports = history.reports(study_key)
    report = max((one for one in reports if one.counts), key=lambda one: one.revision, default=None)
    revision = report.revision if report else state.revision
    series, others = series_of(_in_order(services, study_key, revision, history.images(study_key, revision)))
    return StudyView(
        study_key,
        state,
        report,
        tuple(one for one in reports if report is None or one.id != report.id),
        series,
        others,
        versions_of(history.answers(study_key), report),
        tuple(history.decisions(study_key)),
        tuple(history.same_patient(study_key)),
        tuple(history.undelivered([study_key])),
        next(iter(services.opinions.overrides(study_key)), None),
    )


def _in_order(services: Services, study_key: str, revision: int, stored: Sequence[StoredImage]) -> list[Any]:
    """Images as a person scrolls through them: by geometry where the de-identified study is kept, else by number."""
    try:
        study = decode(services.objects.get(object_name("anonymized_instances", study_key)))
    except ObjectMissing:
        return list(stored)
    if not isinstance(study, DeidentifiedStudy) or study.revision != revision:
        return list(stored)
    known = {image.sop_instance_uid for image in stored}
    instances = [one for one in study.instances if one.sop_instance_uid in known]
    return instances if len(instances) == len(known) else list(stored)


def series_of(images: Iterable[Any]) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """({words, modality, images: [{uid, number, frames, usable, reason}]} a series, the largest usable first; what is no image)."""
    ordered = sorted(images, key=lambda one: one.series_instance_uid)
    found: list[dict[str, Any]] = []
    others: list[str] = []
    for uid, group in groupby(ordered, key=lambda one: one.series_instance_uid):
        members = list(group)
        others += [f"{one.modality or 'object'}: {one.reason or 'no image'}" for one in members if not one.rows]
        pictures = [one for one in members if one.rows and one.object_key]
        if pictures:
            found.append(_series(uid, pictures))
    found.sort(key=lambda one: (not any(i["usable"] for i in one["images"]), one["number"], one["uid"]))
    return tuple(found), tuple(others)


def _series(uid: str, pictures: list[Any]) -> dict[str, Any]:
    ordered: Sequence[Any] = pictures
    if all(isinstance(one, Instance) for one in pictures):
        ordered = sort_slices(tuple(pictures))
    first = ordered[0]
    words = [first.modality, first.view_position, {"L": "left", "R": "right"}.get(first.laterality, "")]
    return {
        "uid": uid,
        "words": " ".join(filter(None, words)),
        "modality": first.modality,
        "part": named_in(first.body_part) if first.body_part else "",
        "number": min(one.instance_number for one in ordered),
        "images": [
            {
                "uid": one.sop_instance_uid,
                "number": one.instance_number,
                "frames": max(1, one.frames),
                "usable": one.usable,
                "reason": one.reason,
            }
            for one in ordered
        ],
    }


def versions_of(answers: Sequence[Answer], report: StoredReport | None) -> tuple[Version, ...]:
    """Every other version's answer about the revision that counts, with the difference to what the report says."""
    if report is None:
        return ()
    now = {row["label"]: row["probability"] for row in report.content["findings"]}
    counts = {f"{model['name']}@{model['version']}" for model in report.content["models"]}
    return tuple(
        Version(
            answer.model,
            "in the report" if answer.model in counts else answer.role,
            answer.revision,
            answer.created_at.date().isoformat(),
            tuple(_compared(row, now) for row in answer.findings),
        )
        for answer in answers
        if answer.revision == report.revision
    )


def _compared(row: Mapping[str, Any], now: Mapping[str, float]) -> dict[str, Any]:
    other = now.get(row["label"])
    difference = None if other is None else other - row["probability"]
    return {
        "label": row["label"],
        "probability": row["probability"],
        "present": row["probability"] >= row["threshold"],
        "in_report": other is not None,
        "difference": None if difference is None or abs(difference) < _CHANGED else round(difference, 3),
    }


def told(state: StudyRow, report_id: object) -> dict[str, Any]:
    """What is new when it differs: the report that counts, and how far the latest revision has come."""
    return {"report": str(report_id or ""), "state": state.state.value, "revision": state.revision}


def for_viewer(view: StudyView, may_annotate: bool) -> dict[str, Any]:
    """What the page's script needs, as JSON."""
    content = view.content
    return {
        "studyKey": view.study_key,
        "revision": view.revision,
        "reportId": str(view.report.id) if view.report else "",
        "news": told(view.state, view.report.id if view.report else None),
        "lastDecision": str(view.decision.id) if view.decision else NONE,
        "lastPriority": str(view.override.id) if view.override else NONE,
        "part": named_in(content["body_part"]) if content and content["body_part"] else "",
        "series": view.series,
        "heatmaps": [_heatmap(number, row) for number, row in enumerate(content["quality"]["heatmaps"])]
        if content
        else [],
        "boxes": [
            {"label": row["label"].replace("_", " "), **region}
            for row in content["findings"]
            for region in row["regions"]
        ]
        if content
        else [],
        "labels": sorted({row["label"] for row in content["findings"]}) if content else [],
        "mayAnnotate": may_annotate,
    }


def _heatmap(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "label": row["label"],
        "image": row["image"],
        "frame": row["frame"],
        "drawn": row["drawn"],
        "reason": row["reason"] or ("" if row["drawn"] else "below the threshold"),
        "place": row["place"]["text"],
        "extent": (row["extent"] or {}).get("images", []),
    }
