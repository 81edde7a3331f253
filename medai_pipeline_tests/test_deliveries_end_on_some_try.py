"""Whatever hinders a delivery, and wherever it is killed: the next tries end it, nothing lies there twice, the study stays."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.phantoms.studies import to_bytes
from medai_pipeline.stages import Edition
from medai_pipeline.storage.forgetting import Forgetting
from medai_pipeline_tests.conftest import ROOT
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.result_samples import Sample
from medai_pipeline_tests.returning_desk import (
    KEY,
    NOW,
    Counter,
    Gate,
    again,
    answering,
    delete,
    results_in,
    storescp,
)  # fmt: skip

pytest_plugins = ["medai_pipeline_tests.returning_desk"]


def test_a_node_that_does_not_answer_is_tried_until_it_does(counter: Counter, tmp_path: Path) -> None:
    port = free_port()
    desk = counter.desk(f"dicom://NODE@127.0.0.1:{port}")
    (row,) = counter.go(desk)
    for attempt in range(1, 6):
        assert (row.state, row.attempts) == ("pending", attempt) and "does not answer" in row.reason
        assert desk.due(10) == []  # not before its time
        assert row.next_attempt_at is not None
        counter.now = row.next_attempt_at
        (row,) = counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}"))
    assert row.next_attempt_at is not None and row.next_attempt_at - counter.now > timedelta(seconds=30 * 16)
    counter.now = row.next_attempt_at
    with storescp(tmp_path / "node", port, "+xa"):
        (row,) = counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}"))
    assert (row.state, row.reason) == ("sent", "")
    received = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "node").iterdir()}
    assert received == {one["sop_instance_uid"] for one in row.objects}


def test_a_weekend_without_an_answer_uses_up_no_attempt(counter: Counter) -> None:
    """Away for longer than a refusal is tried, then answering with one: that is the first, and as many are left as was set."""
    to, states = f"dicom://NODE@127.0.0.1:{(port := free_port())}", []
    for attempt in range(1, 7):
        (row,) = counter.go(counter.desk(to, attempts=2))
        assert (row.state, row.attempts) == ("pending", attempt) and row.next_attempt_at
        counter.now = row.next_attempt_at
    with answering(0x0122, port=port):
        for _ in range(2):
            (row,) = counter.go(counter.desk(to, attempts=2))
            states.append(row.state)
            counter.now = row.next_attempt_at or counter.now
    assert states == ["pending", "failed"] and "0122" in row.reason


@pytest.mark.parametrize(("status", "kept"), [(0xA700, "pending"), (0x0122, "failed")])
def test_a_node_that_has_no_room_is_tried_for_ever_and_one_that_refuses_is_not(
    counter: Counter, status: int, kept: str
) -> None:
    with answering(status) as port:
        for _ in range(3):
            (row,) = counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}", attempts=2))
            counter.now = row.next_attempt_at or counter.now
    assert row.state == kept and f"{status:04X}" in row.reason


def test_a_node_that_takes_no_association_for_now_is_tried_for_ever(counter: Counter) -> None:
    """Full, as PACS say when they are about to stop (PS3.8 9.3.4: rejected transient)."""
    with answering(0x0122, at_most=0) as port:
        for _ in range(3):
            (row,) = counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}", attempts=2))
            assert row.state == "pending" and row.next_attempt_at and "takes no association now" in row.reason
            counter.now = row.next_attempt_at
    with answering(0x0000, port=port):
        assert counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}"))[0].state == "sent"


def test_forgetting_counts_everything_of_which_something_may_have_arrived(counter: Counter, sample: Sample) -> None:
    to = f"dicom://NODE@127.0.0.1:{(port := free_port())}"
    with answering(0x0000, port=port):
        counter.go(counter.desk(to))
    for version in ("2", "3"):  # on their way, and then away: one is dropped for the other
        counter.now += timedelta(hours=1)
        counter.report(again(sample, version=version))
        counter.go(counter.desk(to))
    rows = counter.deliveries.of_study(KEY)
    assert [row.state for row in rows] == ["sent", "dropped", "pending"] and all(row.objects for row in rows)
    forgotten = Forgetting(counter.engine, counter.audit).forget(KEY, "user:test", "asked", counter.now)
    assert forgotten == {to: sum(len(row.objects) for row in rows)}


def test_one_destination_in_trouble_does_not_hinder_the_other(
    counter: Counter, pacs: Orthanc, film: list[Dataset]
) -> None:
    rows = counter.go(counter.desk(f"orthanc, dicom://NODE@127.0.0.1:{free_port()}"))
    assert {row.destination: row.state for row in rows}.pop("orthanc") == "sent"
    assert sorted(row.state for row in rows) == ["pending", "sent"]
    assert results_in(pacs, film)


def test_a_node_that_takes_no_maps_gets_the_rest_and_what_is_missing_is_said(counter: Counter, tmp_path: Path) -> None:
    config = tmp_path / "storescp.cfg"
    config.write_text(
        "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LocalEndianExplicit\n[[PresentationContexts]]\n[Some]\n"
        "PresentationContext1 = ComprehensiveSRStorage\\Plain\nPresentationContext2 = KeyObjectSelectionDocumentStorage\\Plain\n"
        "[[Profiles]]\n[Default]\nPresentationContexts = Some\n"
    )
    with storescp(tmp_path / "node", None, "-xf", str(config), "Default") as port:
        (row,) = counter.go(counter.desk(f"dicom://NODE@127.0.0.1:{port}"))
    assert row.state == "sent" and "does not accept Parametric Map Storage" in row.reason
    assert {one["kind"] for one in row.objects} == {"report", "key-objects"}
    assert len(list((tmp_path / "node").iterdir())) == 2


def test_what_is_refused_waits_for_a_person_after_the_last_try(
    counter: Counter, pacs: Orthanc, orthanc: RunningOrthanc, film: list[Dataset]
) -> None:
    (study,) = pacs.find_studies(str(film[0].StudyInstanceUID))
    delete(orthanc, f"/studies/{study.orthanc_id}")
    for attempt in range(1, 4):
        (row,) = counter.go(counter.desk("orthanc"))
        assert row.attempts == attempt and "holds no image of this study" in row.reason
        counter.now = row.next_attempt_at or counter.now
    assert row.state == "failed" and not row.open and row.troubled
    assert pacs.find_studies(str(film[0].StudyInstanceUID)) == ()  # nothing was put where the study is gone
    pacs.upload(to_bytes(film[0]))
    assert counter.go(counter.desk("orthanc"))[0].state == "failed"
    assert counter.deliveries.retry("user:engineer", counter.now, [KEY]) == [KEY]
    (row,) = counter.go(counter.desk("orthanc"))
    assert row.state == "sent" and len(results_in(pacs, film)) == len(row.objects)
    assert counter.actions().count("delivery.failed") == 3
    assert counter.actions()[-3:] == ["delivery.retry", "identity.read", "delivery.sent"]


class Overwriting(LocalOrthanc):
    def configuration(self) -> dict[str, object]:
        return {**super().configuration(), "OverwriteInstances": True}


@pytest.fixture(scope="module")
def overwriting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningOrthanc]:
    local = Overwriting(Home(tmp_path_factory.mktemp("overwriting")).make(), free_port(), free_port(), "medai")
    supervisor = Supervisor(local.home, echo=print)
    try:
        supervisor.start(local.service(dict(os.environ)))
        yield RunningOrthanc(local.url, local.username, local.password, local.dicom_port)
    finally:
        supervisor.stop()


@pytest.mark.parametrize(
    ("kind", "hold_at", "stored"),
    [("keeps", 1, False), ("keeps", 3, True), ("overwrites", 3, False), ("overwrites", 99, True)],
)
def test_killed_in_the_middle_it_is_ended_by_the_next_try_and_nothing_lies_there_twice(
    counter: Counter,
    orthanc: RunningOrthanc,
    overwriting: RunningOrthanc,
    film: list[Dataset],
    tmp_path: Path,
    kind: str,
    hold_at: int,
    stored: bool,
) -> None:
    running = overwriting if kind == "overwrites" else orthanc
    counter.pacs = pacs = Orthanc(running.url, running.username, running.password)
    for study in pacs.find_studies(str(film[0].StudyInstanceUID)):
        delete(running, f"/studies/{study.orthanc_id}")
    pacs.upload(to_bytes(film[0]))
    identity = counter.sample.identity
    made = counter.make(Edition(reported_at=NOW), identity)
    (tmp_path / "results").write_bytes(pickle.dumps((identity, made)))
    counter.desk("orthanc").want()
    with Gate(int(running.url.rpartition(":")[2]), min(hold_at, len(made)), stored) as gate:
        database = counter.engine.url.render_as_string(hide_password=False)
        killed = subprocess.Popen(
            [sys.executable, "-m", "medai_pipeline_tests.delivering_process", database, gate.url, tmp_path / "results"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PACS_USER": "medai", "PACS_PASSWORD": running.password},
        )
        assert gate.holding.wait(60)
        killed.kill()
        killed.wait()
    (row,) = counter.deliveries.of_study(KEY)
    assert (row.state, row.run_id) == ("pending", "killed-run")
    assert counter.deliveries.uids_of(KEY) == {result.sop_instance_uid for result in made}
    assert {d.SOPInstanceUID for d in results_in(pacs, film)} <= counter.deliveries.uids_of(KEY)
    (row,) = counter.go(counter.desk("orthanc"))
    assert row.state == "sent"
    there = results_in(pacs, film)
    assert sorted(d.SOPInstanceUID for d in there) == sorted(result.sop_instance_uid for result in made)
    pacs.close()
