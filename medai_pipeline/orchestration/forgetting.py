"""Forgetting a study in the database, in Dagster and in the store: for `medai forget` and for retention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from medai_pipeline.orchestration.event_log import wipe
from medai_pipeline.storage.forgetting import Forgetting
from medai_pipeline.storage.secrets import study_of

if TYPE_CHECKING:
    from medai_pipeline.services import Services

LATE_WRITERS = timedelta(days=2)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SWEPT = "late-files"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of a study: objects deleted in the store, files among them that had come in and were not in the PACS,
    and objects that may lie elsewhere, by destination."""

    study_key: str
    objects: int
    delivered: Counter[str]
    incoming: int = 0


def studies_of_patient(services: Services, patient_id: str, actor: str) -> list[str]:
    """Every study of the patient that is known here. The asking is kept in the audit chain, without the Patient ID."""
    while keys := services.vault.outdated(500):  # rows of earlier versions are in no index
        for key in keys:
            services.vault.reseal(key)
    return sorted(
        {*services.vault.of_patient(patient_id, actor, "medai forget"), *_incoming(services, patient_id, actor)}
    )


def _incoming(services: Services, patient_id: str, actor: str) -> set[str]:
    """Studies of the patient that have a file in the spool or in quarantine, which no index knows: all are opened."""
    services.spool.sort()
    found, opened = services.spool.of_patient(patient_id)
    token = services.keys.patient_token(patient_id)
    detail = {"purpose": "medai forget", "opened": opened, "studies": len(found)}
    if opened:
        services.audit.append(actor, "identity.search", f"patient:{token}", detail)
    return found


def forget_incoming(services: Services, study_keys: Sequence[str], patient_id: str, reason: str, actor: str) -> int:
    """Files in the spool or in quarantine that are under no study's own secret: of studies that were forgotten before they
    came, or of the patient and no study. How many were deleted."""
    found = services.spool.shared_of(study_keys, patient_id)
    if found:
        token = services.keys.patient_token(patient_id)
        subject = f"patient:{token}" if token else "incoming"
        services.audit.append(actor, "incoming.forget", subject, {"files": len(found), "reason": reason})
        services.spool.remove(found)
    return len(found)


def forget(services: Services, study_key: str, reason: str, actor: str) -> Forgotten:
    """After the first step nothing of the study can be read; a second call finishes what was cut off.

    Raises StorageError for a study that was never known here.
    """
    key = study_key.strip().upper()
    delivered = forgetting(services).forget(key, actor, reason, services.now())
    services.secrets.drop(key)
    incoming = services.spool.of_study(key)
    count, _ = services.objects.delete_study(key) if study_of(key) == key else (0, 0)
    return Forgotten(key, count, delivered, incoming)


def lift(services: Services, study_keys: Sequence[str], reason: str, actor: str) -> list[str]:
    """Those of the studies that were forgotten: they may come again, as if they had never been here."""
    keys = [key.strip().upper() for key in study_keys]
    return [key for key in keys if forgetting(services).lift(key, actor, reason, services.now())]


def forgetting(services: Services) -> Forgetting:
    return Forgetting(services.engine, services.audit, wipe)


def sweep_late_files(services: Services) -> int:
    """What a worker wrote for a study while it was being forgotten, and what a forgetting that was cut off had not deleted
    yet: sealed under a destroyed key, or by an earlier version under the site's. However long nothing ran meanwhile."""
    now = services.now()
    since = min(now, services.marks.last(SWEPT) or LONG_AGO)
    keys = services.ages.forgotten_since(since - LATE_WRITERS)
    count = sum(services.objects.delete_study(key)[0] for key in keys)
    services.marks.note(SWEPT, now)
    return count
