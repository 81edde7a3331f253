"""What happens to a study, as steps of a test: images arrive, a run reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from medai_pipeline.records import Priority, StudyState
from medai_pipeline.storage.repository import Repository

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
KEY = "A" * 26
POLICY = {"max_attempts": 3, "retry_seconds": 30.0}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def arrive(repository: Repository, key: str = KEY, digest: str = "d1", when: float = 0, count: int = 2) -> int | None:
    """A study seen and settled at once."""
    repository.touch(key, f"fp-{digest}", count, at(when))
    return repository.settle(key, f"fp-{digest}", digest, count, at(when))


def report(repository: Repository, key: str, revision: int, run_id: str, when: float, inputs: str = "i1") -> bool:
    content = {
        "modality": "DX",
        "reasons": ["pneumothorax 0.91"],
        "findings": [
            {"label": "effusion", "probability": 0.7, "present": True},
            {"label": "pneumothorax", "probability": 0.91, "present": True},
            {"label": "mass", "probability": 0.95, "present": False},
        ],
    }
    return repository.save_report(
        key, revision, run_id, inputs, content, Priority.CRITICAL, True, f"reports/{key}/{revision}", at(when)
    )


def state(repository: Repository, key: str = KEY) -> StudyState:
    study = repository.study(key)
    assert study is not None
    return study.state
