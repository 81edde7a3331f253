"""Forgetting a study in the database, in Dagster and in the store: for `medai forget` and for retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from medai_pipeline.orchestration.event_log import wipe
from medai_pipeline.storage.forgetting import Forgetting
from medai_pipeline.storage.secrets import study_of

if TYPE_CHECKING:
    from medai_pipeline.services import Services

LATE_WRITERS = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What became of a study: objects deleted in the store, and objects that were delivered and are elsewhere."""

    study_key: str
    objects: int
    delivered: int


def studies_of_patient(services: Services, patient_id: str, actor: str) -> list[str]:
    """Every study of the patient that is known here. The asking is kept in the audit chain, without the Patient ID."""
    while keys := services.vault.outdated(500):  # rows of earlier versions are in no index
        for key in keys:
            services.vault.reseal(key)
    return services.vault.of_patient(patient_id, actor, "medai forget")


def forget(services: Services, study_key: str, reason: str, actor: str) -> Forgotten:
    """After the first step nothing of the study can be read; a second call finishes what was cut off.

    Raises StorageError for a study that was never known here.
    """
    key = study_key.strip().upper()
    delivered = forgetting(services).forget(key, actor, reason, services.now())
    services.secrets.drop(key)
    count, _ = services.objects.delete_study(key) if study_of(key) == key else (0, 0)
    return Forgotten(key, count, delivered)


def lift(services: Services, study_keys: Sequence[str], reason: str, actor: str) -> list[str]:
    """Those of the studies that were forgotten: they may come again, as if they had never been here."""
    keys = [key.strip().upper() for key in study_keys]
    return [key for key in keys if forgetting(services).lift(key, actor, reason, services.now())]


def forgetting(services: Services) -> Forgetting:
    return Forgetting(services.engine, services.audit, wipe)


def sweep_late_files(services: Services) -> int:
    """What a worker wrote for a study while it was being forgotten: sealed under a destroyed key, so only dead weight."""
    keys = services.ages.forgotten_since(services.now() - LATE_WRITERS)
    return sum(services.objects.delete_study(key)[0] for key in keys)
