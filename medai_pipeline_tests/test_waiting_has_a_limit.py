"""The order of reading: urgent studies first, as long as everybody's promise is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.triage.waiting import Waiting, reading_order

studies = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.integers(0, 60)), max_size=12).map(
    lambda rows: [Waiting(str(n), rank, arrived, arrived + limit) for n, (rank, arrived, limit) in enumerate(rows)]
)
paces = st.integers(1, 20)


def begins(count: int, pace: int, now: int = 100) -> list[float]:
    return [float(now + pace * place) for place in range(count)]


def lateness(order: list[Waiting], times: list[float]) -> list[float]:
    return [time - study.promise for study, time in zip(order, times, strict=True)]


@given(studies, paces)
def test_everybody_is_read_once(queue, pace) -> None:
    order = reading_order(queue, begins(len(queue), pace))
    assert sorted(study.key for study in order) == sorted(study.key for study in queue)


@given(studies, paces)
def test_no_promise_is_broken_that_could_be_kept_and_the_worst_is_never_worse_than_without_urgency(queue, pace) -> None:
    times = begins(len(queue), pace)
    in_turn = sorted(queue, key=lambda study: (study.promise, study.arrived, study.key))
    worst = max([0.0, *lateness(in_turn, times)])
    assert max([0.0, *lateness(reading_order(queue, times), times)]) <= worst


@given(studies, paces)
def test_with_time_enough_it_is_the_order_of_urgency(queue, pace) -> None:
    patient = [Waiting(s.key, s.rank, s.arrived, 1e6) for s in queue]
    order = reading_order(patient, begins(len(queue), pace))
    assert order == sorted(patient, key=lambda study: (study.rank, study.arrived, study.key))


def test_an_urgent_study_passes_by_exactly_those_that_can_wait() -> None:
    old, middle = Waiting("old", 3, 0, 100), Waiting("middle", 3, 10, 130)
    urgent = Waiting("urgent", 0, 90, 400)
    assert [s.key for s in reading_order([old, middle, urgent], begins(3, 10))] == ["old", "urgent", "middle"]
    assert [s.key for s in reading_order([old, middle, urgent], begins(3, 40))] == ["old", "middle", "urgent"]


def test_where_the_queue_is_too_long_it_is_first_come() -> None:
    queue = [Waiting(str(n), 0 if n == 9 else 3, n, n + 10.0) for n in range(10)]
    assert [s.key for s in reading_order(queue, begins(10, 30))] == [str(n) for n in range(10)]
