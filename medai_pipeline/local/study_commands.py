"""`medai retry` and `medai whois`: acting on a row of the worklist."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medai_pipeline.errors import MedaiError
from medai_pipeline.local.terminal import printable
from medai_pipeline.records import StudyState

if TYPE_CHECKING:
    from medai_pipeline.services import Services


@dataclass(frozen=True, slots=True)
class Retried:
    """Which studies are ready again, and which cannot be: they are not failed, or not known."""

    again: tuple[str, ...]
    not_failed: tuple[str, ...]


def retry_studies(services: Services, study_keys: Sequence[str], all_failed: bool) -> Retried:
    """Failed studies become ready with all attempts before them; the running stack takes them up."""
    wanted = list(dict.fromkeys(key.strip().upper() for key in study_keys))
    if all_failed:
        rows = services.worklist.in_progress()
        wanted += [row.study_key for row in rows if row.state is StudyState.FAILED and row.study_key not in wanted]
    done = {key: services.lifecycle.retry(key, services.now()) for key in wanted}
    for key in (key for key, ready in done.items() if ready):
        services.audit.append(user(), "study.retried", key)
    return Retried(tuple(k for k, ready in done.items() if ready), tuple(k for k, ready in done.items() if not ready))


def whois(services: Services, study_key: str) -> list[tuple[str, str]]:
    """(what, value) of who a study is about. The reading is kept in the audit chain with the name of who asked.

    Raises MedaiError when the study is not known.
    """
    key = study_key.strip().upper()
    if key not in services.vault.known([key]):
        raise MedaiError(f"no study {printable(key)} is known here: `medai worklist` lists the study keys")
    identity = services.vault.read(key, user(), "medai whois")
    row = services.lifecycle.study(key)
    shown = [
        ("patient name", identity.patient_name),
        ("patient ID", identity.patient_id),
        ("birth date", identity.birth_date),
        ("accession", identity.accession_number),
        ("study date", identity.study_date),
        ("modality", row.modality if row else ""),
        ("state", row.state.value if row else StudyState.RECEIVING.value),
        ("reason", row.reason if row else ""),
    ]
    return [(what, printable(value)) for what, value in shown if value or what != "reason"]


def user() -> str:
    """Who asks, as the audit chain names a person at a terminal."""
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"user:{os.getuid()}"  # an account without a name
