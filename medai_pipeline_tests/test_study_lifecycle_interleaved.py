"""However sensors, runs, crashes and late images interleave: no study is lost, none is worked on or reported twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from medai_pipeline.records import Priority, StudyState
from medai_pipeline.storage.repository import Repository
from medai_pipeline.storage.tables import arrivals, reports, studies

MAX_ATTEMPTS = 3
KEYS = st.sampled_from(["A", "B", "C"])


class Hospital(RuleBasedStateMachine):
    """A PACS with three studies, a sensor, and runs that may die between any two steps."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        with self.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            for table in (reports, studies, arrivals):
                connection.execute(sa.delete(table))
        self.repository = Repository(self.engine)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.pacs: dict[str, int] = {}  # study key -> its images; their number is the digest
        self.runs: dict[str, dict[str, int]] = {}  # living run -> what it believes to hold
        self.started = 0
        self.reported: Counter[tuple[str, int]] = Counter()  # (key, revision) -> reports that were accepted

    # the world -----------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for key in "AB":
            self.images_arrive_and_settle(key)

    @rule(key=KEYS, more=st.integers(1, 2))
    def images_arrive(self, key: str, more: int) -> None:
        self.pacs[key] = self.pacs.get(key, 0) + more

    @rule(key=KEYS)
    def somebody_deletes(self, key: str) -> None:
        self.pacs.pop(key, None)

    @rule(key=KEYS, back=st.booleans())
    def somebody_deletes_and_the_sweep_sees_it(self, key: str, back: bool) -> None:
        count = self.pacs.pop(key, 0)
        self.sweep()
        if back and count:
            self.pacs[key] = count

    @rule(seconds=st.sampled_from([1, 20, 200]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # the sensor ----------------------------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        for key, count in self.pacs.items():
            self.repository.touch(key, f"fp{count}", count, self.now)
        for key in self.repository.unfinished_keys():
            if key not in self.pacs:
                self.repository.vanish(key, self.now)

    @rule()
    def settle(self) -> None:
        for arrival in self.repository.settling(self.now, 10):
            count = self.pacs.get(arrival.study_key, 0)  # what the PACS holds at this moment, maybe not what was seen
            if f"fp{count}" == arrival.fingerprint:
                self.repository.settle(arrival.study_key, arrival.fingerprint, f"digest{count}", count, self.now)

    @rule(key=KEYS)
    def images_arrive_and_settle(self, key: str) -> None:
        """The usual way, in one step: random steps alone seldom go so far."""
        self.images_arrive(key, 1)
        self.sweep()
        self.time_passes(20)
        self.settle()

    @rule()
    def request(self) -> None:
        rows = self.repository.requestable(self.now, 2)
        busy = {s.study_key for s in self.repository.active()}
        assert not busy & {row.study_key for row in rows}
        for row in rows:
            latest = self.repository.study(row.study_key)
            assert latest is not None and latest.revision == row.revision
        self.repository.mark_queued([(row.study_key, row.revision) for row in rows], self.now)

    @rule()
    def take_lost_requests_back(self) -> None:
        lost = [(s.study_key, s.revision) for s in self.repository.active() if s.state == StudyState.QUEUED]
        self.repository.unqueue(lost, self.now)

    @rule()
    def release_dead_runs(self) -> None:
        for run in {s.run_id for s in self.repository.active() if s.run_id} - set(self.runs):
            self.repository.release(run, "its run died", self.now, MAX_ATTEMPTS)

    @precondition(lambda self: any(self.runs.values()))
    @rule(data=st.data())
    def a_living_run_is_taken_for_dead(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(r for r, held in self.runs.items() if held)))
        self.repository.release(run, "its run died", self.now, MAX_ATTEMPTS)
        for key, revision in self.runs[run].items():  # it goes on, unaware
            assert not self.report(key, revision, run)

    @rule(key=KEYS)
    def a_person_retries(self, key: str) -> None:
        self.repository.retry(key, self.now)

    # runs ----------------------------------------------------------------------------------------------------

    @rule(key=KEYS, fresh=st.booleans(), data=st.data())
    def claim(self, key: str, fresh: bool, data: st.DataObject) -> None:
        if fresh or not self.runs:
            self.started += 1
            self.runs[f"run-{self.started}"] = {}
        run = data.draw(st.sampled_from(sorted(self.runs)))
        holder = self.holder(key)
        row = self.repository.claim(key, run, self.now)
        assert (row is not None) == (holder in (None, run) and bool(self.repository.revisions(key)))
        if row is not None:
            assert row.state == StudyState.RUNNING and row.run_id == run
            self.runs[run][key] = row.revision

    @precondition(lambda self: any(self.runs.values()))
    @rule(data=st.data(), outcome=st.sampled_from(["report", "fail", "fail and retry", "advance"]))
    def work(self, data: st.DataObject, outcome: str) -> None:
        run = data.draw(st.sampled_from(sorted(r for r, held in self.runs.items() if held)))
        key, revision = data.draw(st.sampled_from(sorted(self.runs[run].items())))
        holds = self.holder(key, revision) == run
        if outcome == "advance":
            assert self.repository.advance(key, revision, run, "predictions", self.now) == holds
            return
        del self.runs[run][key]
        if outcome == "report":
            saved = self.report(key, revision, run)
            assert saved == holds
            self.reported[key, revision] += saved
        else:
            failed = self.repository.fail(
                key, revision, run, "predictions", "no", outcome == "fail and retry", self.now, MAX_ATTEMPTS, 30
            )
            assert (failed is not None) == holds

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def a_run_dies(self, data: st.DataObject) -> None:
        del self.runs[data.draw(st.sampled_from(sorted(self.runs)))]

    def report(self, key: str, revision: int, run: str) -> bool:
        return self.repository.save_report(
            key, revision, run, "inputs", {"findings": []}, Priority.NORMAL, False, "reports/x", self.now
        )

    def holder(self, key: str, revision: int | None = None) -> str | None:
        """The run that works on the study (or on this revision of it)."""
        running = [s for s in self.repository.revisions(key) if s.state == StudyState.RUNNING]
        return next((s.run_id for s in running if revision in (None, s.revision)), None)

    # what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_doubled_or_lost(self) -> None:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(studies).order_by(studies.c.revision)).all()
            written = Counter(connection.execute(sa.select(reports.c.study_key, reports.c.revision)).tuples())
        for key in "ABC":
            revisions = [row for row in rows if row.study_key == key]
            assert [row.revision for row in revisions] == list(range(1, len(revisions) + 1))
            assert all(one.source_digest != two.source_digest for one, two in pairwise(revisions))
            assert sum(row.state == StudyState.RUNNING for row in revisions) <= 1
        assert all(count == 1 for count in written.values())
        assert set(written) == {pair for pair, count in self.reported.items() if count}

    @rule()
    def somebody_looks(self) -> None:
        """Every study that was ever seen is shown: as in progress, on the worklist, or both while new images are due."""
        with self.engine.connect() as connection:
            seen = set(connection.scalars(sa.select(arrivals.c.study_key)))
        progress = [row.study_key for row in self.repository.in_progress()]
        assert len(progress) == len(set(progress))
        listed = {row.study_key for row in self.repository.worklist()}
        assert set(progress) | listed == seen
        assert listed == {key for (key, _), count in self.reported.items() if count}
        assert sum(self.repository.counts_by_state().values()) == len(seen)

    def teardown(self) -> None:
        """When nothing dies any more, every study that the PACS holds is reported for what it holds, or says why not."""
        self.runs.clear()
        for _ in range(40):
            self.sweep()
            self.now += timedelta(seconds=1000)
            self.settle()
            self.release_dead_runs()
            self.take_lost_requests_back()
            for key in "ABC":
                self.repository.retry(key, self.now)
            rows = self.repository.requestable(self.now, 10)
            if not rows and not self.repository.unsettled():
                break
            self.started += 1
            run = f"run-{self.started}"
            for row in rows:
                claimed = self.repository.claim(row.study_key, run, self.now)
                assert claimed is not None and claimed.revision == row.revision
                saved = self.repository.save_report(
                    row.study_key, row.revision, run, "inputs", {}, Priority.NORMAL, False, "reports/x", self.now
                )
                self.reported[row.study_key, row.revision] += saved
        for key, count in self.pacs.items():
            study = self.repository.study(key)
            assert study is not None
            assert (study.state, study.source_digest) == (StudyState.REPORTED, f"digest{count}")
        self.nothing_is_doubled_or_lost()
        self.somebody_looks()


@pytest.fixture
def hospital(engine: Engine) -> Iterator[type[Hospital]]:
    yield type("HospitalHere", (Hospital,), {"engine": engine})


def test_no_study_is_lost_or_doubled_in_any_order_of_events(hospital: type[Hospital]) -> None:
    run_state_machine_as_test(
        hospital,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate],  # shrinking would take minutes against a real database
        ),
    )
