"""A finished report to where it is read: its files, and the row that makes it count. How it is made stands in `stages`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from medai_pipeline import __version__
from medai_pipeline.errors import StudyError
from medai_pipeline.records import DeidentifiedStudy, Priority, Report, StudyPrediction


class Files(Protocol):
    """Where the files go: `storage.objects`."""

    def put(self, name: str, data: bytes) -> None: ...


class Reports(Protocol):
    """Where a finished report is recorded: `storage.results`. False when the study is no longer this run's."""

    def save_report(
        self,
        study_key: str,
        revision: int,
        run_id: str,
        inputs_digest: str,
        content: Mapping[str, Any],
        priority: Priority,
        review_required: bool,
        object_prefix: str,
        now: datetime,
    ) -> bool: ...


def report_files(report: Report, fhir: bytes | None = None) -> dict[str, bytes]:
    """File name -> bytes: report.json, report.html, overlays/*.png, and fhir.json where there is one."""
    from medai_pipeline.results.report import report_json

    files = {"report.json": report_json(report), "report.html": report.html.encode()}
    files |= {"fhir.json": fhir} if fhir else {}
    return files | {f"overlays/{name}": png for name, png in report.overlays.items()}


def publish_report(
    report: Report,
    inputs: str,
    objects: Files,
    reports: Reports,
    run_id: str,
    now: datetime,
    fhir: bytes | None = None,
) -> Report:
    """The files, then the row that makes them count: a crash between the two leaves nothing half published."""
    prefix = f"reports/{report.study_key}/{report.revision}/{inputs[:16]}"
    for name, data in report_files(report, fhir).items():
        objects.put(f"{prefix}/{name}", data)
    content = report.content
    kept = reports.save_report(
        report.study_key, report.revision, run_id, inputs, content,
        Priority(content["priority"]), content["review_required"], prefix, now,
    )  # fmt: skip
    if not kept:
        raise StudyError("the study was taken over by another run; its report is the one that counts")
    return report


def inputs_digest(study: DeidentifiedStudy, prediction: StudyPrediction, rules_version: str = "") -> str:
    """SHA-256 over all that decides a result: the source bytes, the profile, the weights, the rules and this code."""
    parts = [study.profile, prediction.model.name, prediction.model.version, prediction.model.weights_sha256]
    parts += [rules_version, __version__, *sorted(i.source_sha256 for i in study.instances)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
