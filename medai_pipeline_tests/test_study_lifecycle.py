"""A study from its first image to its report: which state follows from which event, and which run may work on it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from medai_pipeline.records import StudyState
from medai_pipeline.storage.repository import Repository
from medai_pipeline_tests.lifecycle_steps import KEY, POLICY, arrive, at, report, state


@pytest.fixture
def repository(engine: Engine) -> Repository:
    return Repository(engine)


def test_a_study_settles_only_after_the_quiet_period_since_its_last_change(repository: Repository) -> None:
    assert repository.touch(KEY, "one image", 1, at(0))
    assert repository.touch(KEY, "two images", 2, at(8))
    assert not repository.touch(KEY, "two images", 2, at(9))
    assert repository.settling(at(17), quiet_s=10) == []
    (arrival,) = repository.settling(at(18), quiet_s=10)
    assert (arrival.study_key, arrival.fingerprint, arrival.instance_count) == (KEY, "two images", 2)
    assert arrival.first_seen_at == at(0)


def test_a_study_that_never_settles_stays_visible(repository: Repository) -> None:
    for n in range(5):
        repository.touch(KEY, f"{n} images", n, at(n * 9))
    assert [a.study_key for a in repository.unsettled()] == [KEY]
    (row,) = repository.in_progress()
    assert (row.state, row.revision, row.instance_count) == (StudyState.RECEIVING, 0, 4)
    assert repository.counts_by_state()[StudyState.RECEIVING] == 1
    assert repository.unfinished_keys() == [KEY]


def test_settling_with_an_outdated_fingerprint_changes_nothing(repository: Repository) -> None:
    repository.touch(KEY, "old", 1, at(0))
    repository.touch(KEY, "new", 2, at(1))
    assert repository.settle(KEY, "old", "d1", 1, at(2)) is None
    assert repository.study(KEY) is None
    assert len(repository.unsettled()) == 1


def test_the_same_digest_is_done_already_and_a_new_one_is_a_new_revision(repository: Repository) -> None:
    assert arrive(repository, digest="d1") == 1
    assert arrive(repository, digest="d1", when=5) is None
    repository.touch(KEY, "metadata changed", 2, at(6))
    assert repository.settle(KEY, "metadata changed", "d1", 2, at(7)) is None
    assert arrive(repository, digest="d2", when=8, count=3) == 2
    assert [(s.revision, s.source_digest, s.instance_count) for s in repository.revisions(KEY)] == [
        (1, "d1", 2),
        (2, "d2", 3),
    ]
    assert repository.unsettled() == []


def test_an_empty_study_makes_no_revision_and_is_not_shown_as_waiting(repository: Repository) -> None:
    assert arrive(repository, count=0) is None
    assert repository.unsettled() == []
    assert repository.in_progress() == []
    assert sum(repository.counts_by_state().values()) == 0


def test_the_clock_of_late_images_starts_with_them(repository: Repository) -> None:
    arrive(repository, digest="d1", when=0)
    arrive(repository, digest="d2", when=9000)
    assert [s.first_seen_at for s in repository.revisions(KEY)] == [at(0), at(9000)]


def test_a_study_deleted_before_its_report_is_shown_as_vanished(repository: Repository) -> None:
    arrive(repository)
    repository.vanish(KEY, at(5))
    (row,) = repository.in_progress()
    assert row.state == StudyState.VANISHED
    assert "deleted in the PACS" in row.reason
    assert repository.requestable(at(6), 10) == []
    assert repository.unfinished_keys() == []


def test_a_study_deleted_while_its_images_arrive_is_shown_as_vanished(repository: Repository) -> None:
    repository.touch(KEY, "one", 1, at(0))
    repository.vanish(KEY, at(5))
    assert repository.settling(at(99), 1) == []
    (row,) = repository.in_progress()
    assert (row.state, row.revision) == (StudyState.VANISHED, 0)
    assert repository.settle(KEY, "one", "d1", 1, at(6)) is None


def test_a_vanished_study_that_comes_back_unchanged_is_ready_again(repository: Repository) -> None:
    arrive(repository)
    repository.vanish(KEY, at(5))
    assert repository.touch(KEY, "fp-d1", 2, at(10))
    assert repository.settle(KEY, "fp-d1", "d1", 2, at(20)) == 1
    assert [s.revision for s in repository.requestable(at(21), 10)] == [1]


def test_deleting_a_reported_study_leaves_its_report(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    report(repository, KEY, 1, "run-1", 2)
    repository.vanish(KEY, at(3))
    assert state(repository) == StudyState.REPORTED
    assert len(repository.worklist()) == 1


def test_vanishing_stops_the_run_that_works_on_the_study(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    repository.vanish(KEY, at(2))
    assert not repository.advance(KEY, 1, "run-1", "predictions", at(3))
    assert not report(repository, KEY, 1, "run-1", 4)


# claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "taken"),
    [("ready", True), ("queued", True), ("failed", True), ("reported", True), ("vanished", True), ("running", False)],
)
def test_a_run_takes_a_study_in_any_state_but_running_under_another(
    repository: Repository, before: str, taken: bool
) -> None:
    arrive(repository)
    bring_to(repository, before)
    row = repository.claim(KEY, "run-2", at(50))
    assert (row is not None) == taken
    if row:
        assert (row.state, row.run_id, row.reason) == (StudyState.RUNNING, "run-2", "")


def bring_to(repository: Repository, wanted: str) -> None:
    if wanted == "queued":
        assert repository.mark_queued([(KEY, 1)], at(1)) == [(KEY, 1)]
    elif wanted in {"running", "failed", "reported"}:
        repository.claim(KEY, "run-1", at(1))
    if wanted == "failed":
        repository.fail(KEY, 1, "run-1", "predictions", "no model", retry=False, now=at(2), **POLICY)
    if wanted == "reported":
        assert report(repository, KEY, 1, "run-1", 2)
    if wanted == "vanished":
        repository.vanish(KEY, at(2))
    assert state(repository) == wanted


def test_claiming_again_by_the_same_run_is_no_further_attempt(repository: Repository) -> None:
    arrive(repository)
    first = repository.claim(KEY, "run-1", at(1))
    repository.advance(KEY, 1, "run-1", "raw_dicom", at(2))
    again = repository.claim(KEY, "run-1", at(3))
    assert first is not None and again is not None
    assert (first.attempts, again.attempts, again.stage) == (1, 1, "raw_dicom")


def test_a_run_keeps_its_revision_when_a_newer_one_becomes_ready(repository: Repository) -> None:
    arrive(repository, digest="d1")
    repository.claim(KEY, "run-1", at(1))
    arrive(repository, digest="d2", when=2)
    held = repository.claim(KEY, "run-1", at(3))
    assert held is not None and held.revision == 1
    assert repository.claim(KEY, "run-2", at(3)) is None
    assert repository.requestable(at(4), 10) == []
    assert report(repository, KEY, 1, "run-1", 5)
    assert [s.revision for s in repository.requestable(at(6), 10)] == [2]


def test_claiming_the_newest_revision_takes_the_older_one_out_of_the_queue(repository: Repository) -> None:
    arrive(repository, digest="d1")
    repository.mark_queued([(KEY, 1)], at(1))
    arrive(repository, digest="d2", when=2)
    row = repository.claim(KEY, "run-1", at(3))
    assert row is not None and row.revision == 2
    assert [(s.study_key, s.revision) for s in repository.active()] == [(KEY, 2)]


def test_an_unknown_study_cannot_be_claimed(repository: Repository) -> None:
    assert repository.claim("B" * 26, "run-1", at(0)) is None


def test_of_many_runs_that_claim_at_once_one_wins(repository: Repository) -> None:
    arrive(repository)
    gate = threading.Barrier(6)

    def claim(n: int) -> bool:
        gate.wait()
        return repository.claim(KEY, f"run-{n}", at(1)) is not None

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(claim, range(6))) == 1
    study = repository.study(KEY)
    assert study is not None and study.attempts == 1


def test_of_many_sensors_that_settle_at_once_one_makes_the_revision(repository: Repository) -> None:
    repository.touch(KEY, "fp", 2, at(0))
    gate = threading.Barrier(6)

    def settle(_: int) -> int | None:
        gate.wait()
        return repository.settle(KEY, "fp", "d1", 2, at(1))

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(settle, range(6)), key=str) == [1, None, None, None, None, None]


# requests ----------------------------------------------------------------------------------------------------


def test_studies_never_tried_come_before_those_tried_and_then_the_oldest(repository: Repository) -> None:
    for n, key in enumerate("CAB"):
        arrive(repository, key=key, when=n)
    repository.claim("C", "run-1", at(10))
    repository.fail("C", 1, "run-1", "raw_dicom", "no answer", retry=True, now=at(11), **POLICY)
    assert [s.study_key for s in repository.requestable(at(40), 10)] == ["A", "B"]
    assert [s.study_key for s in repository.requestable(at(41), 10)] == ["A", "B", "C"]
    assert [s.study_key for s in repository.requestable(at(41), 1)] == ["A"]


def test_a_queued_study_is_not_requested_twice_and_a_lost_request_is_taken_back(repository: Repository) -> None:
    arrive(repository)
    assert repository.mark_queued([(KEY, 1)], at(1)) == [(KEY, 1)]
    assert repository.mark_queued([(KEY, 1)], at(2)) == []
    assert repository.requestable(at(3), 10) == []
    (row,) = repository.active()
    assert row.run_requested_at == at(1)
    assert repository.unqueue([(KEY, 1)], at(4)) == [(KEY, 1)]
    assert repository.unqueue([(KEY, 1)], at(5)) == []
    assert len(repository.requestable(at(6), 10)) == 1
    assert repository.mark_queued([], at(7)) == []


# failing and trying again ------------------------------------------------------------------------------------


def test_a_retried_study_waits_twice_as_long_each_time_and_then_for_a_person(repository: Repository) -> None:
    arrive(repository)
    waits = []
    now = 0.0
    for n in range(3):
        (row,) = repository.requestable(at(now), 1)
        run = f"run-{n}"
        assert repository.claim(KEY, run, at(now))
        outcome = repository.fail(KEY, row.revision, run, "predictions", "no GPU", retry=True, now=at(now), **POLICY)
        study = repository.study(KEY)
        assert study is not None
        assert (study.stage, study.reason) == ("predictions", "no GPU")
        if study.next_attempt_at and outcome == StudyState.READY:
            waits.append((study.next_attempt_at - at(now)).total_seconds())
            assert repository.requestable(at(now + waits[-1] - 1), 1) == []
            now += waits[-1]
    assert waits == [30.0, 60.0]
    assert state(repository) == StudyState.FAILED
    assert repository.requestable(at(1e6), 1) == []
    assert repository.retry(KEY, at(1e6))
    (row,) = repository.requestable(at(1e6), 1)
    assert row.attempts == 0
    assert not repository.retry(KEY, at(1e6))


def test_an_error_that_a_retry_cannot_help_fails_at_once_and_is_shown(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    repository.fail(KEY, 1, "run-1", "normalized_tensors", "no usable image", retry=False, now=at(2), **POLICY)
    (row,) = repository.in_progress()
    assert (row.state, row.stage, row.reason, row.attempts) == (
        StudyState.FAILED,
        "normalized_tensors",
        "no usable image",
        1,
    )


def test_a_run_that_lost_its_study_can_write_nothing_more(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    assert repository.steal(KEY, "run-1", "its run died", at(2))
    assert not repository.steal(KEY, "run-1", "its run died", at(2))
    repository.claim(KEY, "run-2", at(3))
    assert not repository.advance(KEY, 1, "run-1", "predictions", at(4))
    assert repository.fail(KEY, 1, "run-1", "predictions", "late", retry=False, now=at(4), **POLICY) is None
    assert not report(repository, KEY, 1, "run-1", 5)
    assert repository.worklist() == []
    assert report(repository, KEY, 1, "run-2", 6)


def test_releasing_a_dead_run_frees_its_studies_and_leaves_other_runs_alone(repository: Repository) -> None:
    for key in "ABC":
        arrive(repository, key=key)
    repository.claim("A", "dead", at(1))
    repository.claim("B", "dead", at(1))
    report(repository, "B", 1, "dead", 2)
    repository.claim("C", "alive", at(1))
    assert repository.release("dead", "its run died", at(3), max_attempts=3) == [("A", 1)]
    assert (state(repository, "A"), state(repository, "B"), state(repository, "C")) == ("ready", "reported", "running")
    study = repository.study("A")
    assert study is not None and (study.attempts, study.reason, study.run_id) == (1, "its run died", None)


def test_a_study_that_kills_its_run_each_time_ends_as_failed(repository: Repository) -> None:
    arrive(repository)
    for n in range(3):
        assert state(repository) == StudyState.READY
        repository.claim(KEY, f"run-{n}", at(n))
        repository.release(f"run-{n}", "its run died", at(n), max_attempts=3)
    assert state(repository) == StudyState.FAILED
    assert repository.requestable(at(1e6), 10) == []


def test_a_reported_study_run_again_counts_its_attempts_anew(repository: Repository) -> None:
    arrive(repository)
    repository.claim(KEY, "run-1", at(1))
    repository.release("run-1", "died", at(2), max_attempts=9)
    repository.claim(KEY, "run-2", at(3))
    report(repository, KEY, 1, "run-2", 4)
    row = repository.claim(KEY, "run-3", at(5))
    assert row is not None and row.attempts == 1
