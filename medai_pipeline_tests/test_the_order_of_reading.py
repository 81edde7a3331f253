"""The worklist as it is read: urgent studies first as long as promises can be kept, read ones last, and what makes one read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.local.worklist import as_json, as_table, terminal
from medai_pipeline.reading_list import ListedStudy, reading_list
from medai_pipeline.records import Priority
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.deliveries import Deliveries
from medai_pipeline.storage.repository import Repository
from medai_pipeline.storage.tables import reviews

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
A, B, C, D = (letter * 26 for letter in "ABCD")


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


class Room:
    """A reading room over real tables: studies arrive and are reported, somebody decides, and the list is looked at."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.repository = Repository(engine)
        self.clock = START
        self.settings: dict[str, Any] = {"reading_limit_hours": 1.0, "reading_minutes": 5.0}

    def reported(
        self, key: str, priority: Priority, arrived: float, digest: str = "one", model: str = "1", done: float = 0
    ) -> None:
        """Study `key` arrives at minute `arrived` (nothing happens where it has that digest) and is reported by `model`."""
        self.repository.touch(key, digest, 1, at(arrived))
        self.repository.settle(key, digest, digest, 1, at(arrived))
        study = self.repository.study(key)
        run = f"run {uuid4()}"
        assert study is not None and self.repository.claim(key, run, at(arrived))
        assert self.repository.save_report(
            key, study.revision, run, model, {"findings": []}, priority, False, "reports/x", at(done or arrived)
        )

    def decided(self, key: str, when: float, decision: str = "accepted") -> None:
        """About the report that counts."""
        (row,) = [row for row in self.repository.worklist() if row.study_key == key]
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(reviews).values(
                    id=uuid4(), report_id=row.report_id, reviewer="user:reader", decision=decision, created_at=at(when)
                )
            )

    def services(self, minutes: float) -> Any:
        settings = read_settings({}, **self.settings)
        return SimpleNamespace(
            worklist=self.repository,
            deliveries=Deliveries(self.engine, Audit(self.engine, b"k" * 32)),
            settings=settings,
            now=lambda: at(minutes),
        )

    def list(self, minutes: float) -> list[ListedStudy]:
        return reading_list(self.services(minutes), at(minutes))

    def keys(self, minutes: float) -> str:
        return "".join(study.row.study_key[0] for study in self.list(minutes))


@pytest.fixture
def room(engine: Engine) -> Room:
    return Room(engine)


def test_the_urgent_one_is_next_while_all_promises_can_be_kept_and_the_older_one_when_not(room: Room) -> None:
    room.reported(A, Priority.NORMAL, 0)
    room.reported(B, Priority.CRITICAL, 30)
    assert room.keys(31) == "BA"
    assert room.keys(56) == "AB"  # the reading of A is promised for 60, and B takes five minutes
    room.settings["reading_minutes"] = 3.0
    assert room.keys(56) == "BA"
    room.settings["reading_limit_hours"] = 0.9
    assert room.keys(56) == "AB"
    assert [study.place for study in room.list(56)] == [1, 2]


def test_each_study_tells_how_long_it_waits_by_when_it_is_read_and_whether_that_is_past(room: Room) -> None:
    room.reported(A, Priority.NORMAL, 0)
    (study,) = room.list(60)
    assert (study.waited, study.reads_by, study.over_limit) == (timedelta(hours=1), at(60), False)
    (study,) = room.list(60.1)
    assert study.over_limit


@pytest.mark.parametrize("decision", ["accepted", "edited", "rejected"])
def test_what_was_decided_about_is_read_and_stands_behind_the_open_ones(room: Room, decision: str) -> None:
    room.reported(A, Priority.CRITICAL, 0)
    room.reported(B, Priority.NORMAL, 10)
    room.reported(C, Priority.CRITICAL, 5)
    room.decided(A, 20, decision)
    room.decided(C, 25, decision)
    assert room.keys(30) == "BCA"
    _, last, first = room.list(300)
    assert (first.place, first.reads_by, first.over_limit, first.waited) == (None, None, False, timedelta(minutes=20))
    assert first.row.review is not None and first.row.review.decision == decision
    assert [s.row.study_key for s in reading_list(room.services(30), at(30), read=1)] == [B, C]


def test_late_images_open_a_study_again_and_it_waits_since_they_came(room: Room) -> None:
    room.reported(A, Priority.NORMAL, 0)
    room.decided(A, 20)
    room.reported(A, Priority.NORMAL, 100, digest="more")
    (study,) = room.list(110)
    assert (study.is_read, study.waited) == (False, timedelta(minutes=10))


def test_late_images_do_not_make_an_open_study_wait_anew(room: Room) -> None:
    room.reported(A, Priority.NORMAL, 0)
    room.reported(A, Priority.NORMAL, 50, digest="more")
    (study,) = room.list(61)
    assert (study.waited, study.over_limit) == (timedelta(minutes=61), True)


def test_another_model_version_opens_a_study_again_only_where_it_is_more_urgent_than_what_was_read(room: Room) -> None:
    for key in (A, B, C):
        room.reported(key, Priority.ROUTINE, 0)
    room.decided(A, 20)
    room.decided(B, 21)
    for key, priority in ((A, Priority.CRITICAL), (B, Priority.NORMAL), (C, Priority.ROUTINE)):
        room.reported(key, priority, 0, model="2", done=500)
    by_key = {study.row.study_key: study for study in room.list(510)}
    assert (by_key[A].is_read, by_key[A].waited) == (False, timedelta(minutes=10))
    assert by_key[B].is_read
    assert (by_key[C].is_read, by_key[C].waited) == (False, timedelta(minutes=510))
    room.decided(A, 515)
    assert room.keys(516) == "CAB"


def test_the_command_prints_the_order_the_waiting_time_and_the_promise(room: Room) -> None:
    room.reported(A, Priority.NORMAL, 0)
    room.reported(B, Priority.CRITICAL, 65)
    room.reported(C, Priority.URGENT, 1)
    room.decided(C, 9)
    listed = as_json(room.services(70))["studies"]
    assert [(s["study_key"], s["place"], s["over_limit"]) for s in listed] == [
        (A, 1, True),
        (B, 2, False),
        (C, None, False),
    ]
    assert (listed[0]["waited_seconds"], listed[0]["reads_by"]) == (4200.0, at(60).isoformat())
    assert (listed[2]["decision"], listed[2]["read_at"]) == ("accepted", at(9).isoformat())
    console = terminal()
    with console.capture() as capture:
        console.print(as_table(room.services(70)))
    first, second, third = [
        line for line in capture.get().splitlines() if "A" * 26 in line or "B" * 26 in line or "C" * 26 in line
    ]
    assert "1 h 10" in first and f"{at(60).astimezone():%H:%M}, over" in first
    assert "5 min" in second and "over" not in second
    assert "8 min" in third and "accepted" in third
