"""Which of a study's reports counts, and where it stands on the worklist."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from medai_pipeline.records import Priority, StudyState
from medai_pipeline.storage.repository import Repository
from medai_pipeline_tests.lifecycle_steps import KEY, arrive, at, report


@pytest.fixture
def repository(engine: Engine) -> Repository:
    return Repository(engine)


def test_the_report_that_counts_is_the_last_one_published_even_when_it_was_made_before(repository: Repository) -> None:
    arrive(repository)
    shown = []
    for n, inputs in enumerate(["model A", "model B", "model A"]):
        repository.claim(KEY, f"run-{n}", at(n))
        assert report(repository, KEY, 1, f"run-{n}", n, inputs)
        (row,) = repository.worklist()
        shown.append(row.report_id)
    assert shown[0] == shown[2] != shown[1]
    content = repository.report(shown[0])
    assert content is not None and content["modality"] == "DX"


def test_late_images_keep_the_old_report_on_the_worklist_until_the_new_one(repository: Repository) -> None:
    arrive(repository, digest="d1")
    repository.claim(KEY, "run-1", at(1))
    report(repository, KEY, 1, "run-1", 2)
    repository.touch(KEY, "late", 3, at(100))
    assert [r.state for r in repository.in_progress()] == [StudyState.RECEIVING]
    assert repository.settle(KEY, "late", "d2", 3, at(110)) == 2
    assert [(r.revision, r.state) for r in repository.in_progress()] == [(2, StudyState.READY)]
    assert [r.revision for r in repository.worklist()] == [1]
    repository.claim(KEY, "run-2", at(120))
    report(repository, KEY, 2, "run-2", 130)
    (row,) = repository.worklist()
    assert (row.revision, row.seconds_to_report) == (2, 30.0)
    assert repository.in_progress() == []


def test_the_worklist_is_sorted_by_urgency_and_then_by_waiting_time(repository: Repository) -> None:
    order = [
        ("A", Priority.NORMAL, 0),
        ("B", Priority.CRITICAL, 9),
        ("C", Priority.URGENT, 3),
        ("D", Priority.CRITICAL, 5),
    ]
    for key, priority, when in order:
        arrive(repository, key=key, when=when)
        repository.claim(key, "run", at(20))
        repository.save_report(key, 1, "run", "i", {"findings": []}, priority, False, "reports/x", at(30))
    assert [r.study_key for r in repository.worklist()] == ["D", "B", "C", "A"]
    assert [r.study_key for r in repository.worklist(limit=2)] == ["D", "B"]


def test_a_worklist_row_says_why(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    report(repository, KEY, 1, "run-1", 12)
    (row,) = repository.worklist()
    assert (row.modality, row.priority, row.review_required) == ("DX", Priority.CRITICAL, True)
    assert row.reasons == ("pneumothorax 0.91",)
    assert row.findings == ("pneumothorax", "effusion")
    assert row.seconds_to_report == 12.0


def test_every_study_counts_in_exactly_one_state(repository: Repository) -> None:
    for key in "ABCDE":
        arrive(repository, key=key)
    repository.touch("F", "one", 1, at(0))
    repository.mark_queued([("A", 1)], at(1))
    repository.claim("B", "run", at(1))
    repository.claim("C", "run", at(1))
    report(repository, "C", 1, "run", 2)
    repository.vanish("D", at(3))
    counts = repository.counts_by_state()
    assert {s.value: n for s, n in counts.items()} == {
        "receiving": 1, "ready": 1, "queued": 1, "running": 1, "reported": 1, "failed": 0, "vanished": 1,
            "forgotten": 0,
    }  # fmt: skip
    assert len(repository.in_progress()) + len(repository.worklist()) == 6
