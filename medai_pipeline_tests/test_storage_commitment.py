"""Storage commitment: asked of a real Orthanc, which calls back, and of an independent peer that answers on the same wire."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel

from medai_pipeline.errors import PacsError, PacsUnreachable
from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.commitment import WELL_KNOWN_INSTANCE, ask_commitment
from medai_pipeline.pacs.dimse import Node, store_many
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.returning_desk import Counter, answering, delete

pytest_plugins = ["medai_pipeline_tests.returning_desk"]


class KnowsUs(LocalOrthanc):
    """An Orthanc that answers requests for storage commitment from MEDAI at `listen`."""

    listen: tuple[str, int]

    def configuration(self) -> dict[str, object]:
        host, port = self.listen
        us = {"AET": "MEDAI", "Host": host, "Port": port, "AllowStorageCommitment": True, "AllowStore": True}
        return {**super().configuration(), "DicomModalities": {"medai": us}}


@pytest.fixture(scope="module")
def committing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalOrthanc, tuple[str, int]]]:
    home = Home(tmp_path_factory.mktemp("committing")).make()
    listen = ("127.0.0.1", free_port())
    KnowsUs.listen = listen
    local = KnowsUs(home, free_port(), free_port(), "medai")
    supervisor = Supervisor(home, echo=print)
    try:
        supervisor.start(local.service(dict(os.environ)))
        yield local, listen
    finally:
        supervisor.stop()


def node(port: int) -> Node:
    return Node("127.0.0.1", port)


def references(datasets: list[Dataset]) -> list[tuple[str, str]]:
    return [(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)) for dataset in datasets]


def test_orthanc_commits_to_what_it_holds_and_names_what_it_does_not(committing) -> None:
    local, listen = committing
    datasets = made_study(2)
    results = store_many(node(local.dicom_port), [file_bytes(dataset) for dataset in datasets])
    assert [result.status for result in results] == ["Success"] * 2
    answer = ask_commitment(node(local.dicom_port), references(datasets), listen)
    assert answer is not None and answer.complete
    unknown = made_study(1)
    answer = ask_commitment(node(local.dicom_port), references([*datasets, *unknown]), listen)
    assert answer is not None and set(answer.missing) == {str(unknown[0].SOPInstanceUID)}
    assert set(answer.missing.values()) == {0x0112}


@contextmanager
def peer(
    status: int = 0x0000,
    report: Callable[[Dataset], Dataset] | None = None,
    model: str = StorageCommitmentPushModel,
    asked: list[Dataset] | None = None,
    after_s: float = 0.0,
) -> Iterator[int]:
    """A node that answers N-ACTION with `status`, and `after_s` later reports on the same association."""
    seen: list[Dataset] = [] if asked is None else asked

    def on_action(event: Any) -> tuple[int, None]:
        seen.append(event.action_information)
        return status, None

    def on_sent(event: Any) -> None:
        if type(event.message).__name__ == "N_ACTION_RSP" and report is not None:
            threading.Timer(after_s, tell, args=(event.assoc, report(seen[-1]))).start()

    def tell(association: Any, told: Dataset) -> None:
        if association.is_established:
            association.send_n_event_report(told, 1, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE)

    ae = AE("PEER")
    ae.add_supported_context(model)
    handlers = [(evt.EVT_N_ACTION, on_action), (evt.EVT_DIMSE_SENT, on_sent)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def test_an_answer_on_the_same_association_counts() -> None:
    asked: list[Dataset] = []
    objects = references(made_study(3))
    with peer(report=lambda request: request, asked=asked) as port:
        committed = ask_commitment(node(port), objects, None)
    assert committed is not None and committed.complete
    assert [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in asked[0].ReferencedSOPSequence] == objects


def test_an_answer_on_the_same_association_counts_also_where_we_listen_and_it_takes_its_time() -> None:
    """MEDAI_COMMITMENT_LISTEN always has a value: a node that never calls back must not be left after a moment."""
    with peer(report=lambda request: request, after_s=2.5) as port:
        objects = references(made_study(1))
        committed = ask_commitment(node(port), objects, ("127.0.0.1", free_port()), wait_s=6.0)
    assert committed is not None and committed.complete


def test_an_answer_to_another_request_is_none() -> None:
    def another(request: Dataset) -> Dataset:
        request.TransactionUID = generate_uid()
        return request

    with peer(report=another) as port:
        assert ask_commitment(node(port), references(made_study(1)), None, wait_s=1.0) is None


def test_a_node_that_refuses_or_does_not_offer_it_says_so() -> None:
    with peer(status=0x0110) as port, pytest.raises(PacsError, match="refuses storage commitment"):
        ask_commitment(node(port), references(made_study(1)), None)
    with peer(model=CTImageStorage) as port, pytest.raises(PacsError, match="does not offer"):
        ask_commitment(node(port), references(made_study(1)), None)


def test_a_place_to_listen_that_is_taken_is_said() -> None:
    with peer() as port, pytest.raises(PacsUnreachable, match="MEDAI_COMMITMENT_LISTEN"):
        ask_commitment(node(port), references(made_study(1)), ("127.0.0.1", port))


def test_a_delivery_is_committed_and_what_the_node_lost_is_sent_again(counter: Counter, committing) -> None:
    local, listen = committing
    to = f"dicom://NODE@127.0.0.1:{local.dicom_port}?commitment"
    (row,) = counter.go(counter.desk(to, listen=("127.0.0.1", free_port())))  # where the node does not answer to
    assert row.state == "sent" and "has not answered" in row.reason and row.open and not row.troubled
    with Orthanc(local.url, local.username, local.password) as node_itself:
        (study,) = node_itself.find_studies(counter.sample.identity.study_instance_uid)
        lost, *_ = node_itself.instances(study.orthanc_id)
        running = RunningOrthanc(local.url, local.username, local.password, local.dicom_port)
        delete(running, f"/instances/{lost.orthanc_id}")
        counter.now = row.next_attempt_at
        (row,) = counter.go(counter.desk(to, listen=listen))
        assert row.state == "pending" and "does not answer for 1 of" in row.reason and "0x0112" in row.reason
        counter.now = row.next_attempt_at
        (row,) = counter.go(counter.desk(to, listen=listen))
        assert (row.state, row.reason, row.open) == ("committed", "", False)
        assert {one.sop_instance_uid for one in node_itself.instances(study.orthanc_id)} == {
            one["sop_instance_uid"] for one in row.objects
        }
    assert counter.actions()[-2:] == ["delivery.sent", "delivery.committed"]


def test_a_node_that_is_away_uses_up_no_asking(counter: Counter) -> None:
    to = f"dicom://NODE@127.0.0.1:{(port := free_port())}?commitment"
    with answering(0x0000, port=port):  # takes everything, and offers no commitment: an answer
        (row,) = counter.go(counter.desk(to, attempts=2))
    assert (row.state, row.asked) == ("sent", 1) and "does not offer" in row.reason
    for _ in range(4):
        counter.now = row.next_attempt_at
        (row,) = counter.go(counter.desk(to, attempts=2))
        assert (row.state, row.asked) == ("sent", 1) and row.open and "does not answer" in row.reason
    counter.now = row.next_attempt_at
    with answering(0x0000, port=port):
        (row,) = counter.go(counter.desk(to, attempts=2))
    assert (row.state, row.asked, row.open) == ("sent", 2, False)


def test_where_nobody_could_answer_it_is_asked_again_less_and_less_often(counter: Counter, committing) -> None:
    local, listen = committing
    to = f"dicom://NODE@127.0.0.1:{local.dicom_port}?commitment"
    with socket.socket() as taken:  # another delivery listens there
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(listen)
        taken.listen()
        (row,) = counter.go(counter.desk(to, listen=listen, attempts=2))
        for _ in range(4):
            assert row.state == "sent" and row.open and "nothing can listen" in row.reason
            counter.now = row.next_attempt_at
            (row,) = counter.go(counter.desk(to, listen=listen, attempts=2))
    assert row.next_attempt_at - counter.now > timedelta(minutes=5)
    counter.now = row.next_attempt_at
    (row,) = counter.go(counter.desk(to, listen=listen, attempts=2))
    assert row.state == "committed"


def test_results_that_the_node_sends_on_to_our_pacs_start_nothing(
    pipeline: Pipeline, orthanc: RunningOrthanc, committing
) -> None:
    local, _ = committing
    to = f"dicom://NODE@127.0.0.1:{local.dicom_port}"
    returning = pipeline.with_settings(return_when="at-once", return_to=to)
    study = make_study("chest-xray", 520, findings=("Pneumothorax",), rows=128, columns=128)
    (key,) = returning.send(study)
    returning.work()
    returning.deliver()
    with httpx.Client(base_url=local.url, auth=(local.username, local.password), timeout=60) as node_itself:
        (found,) = node_itself.post("/tools/lookup", content=str(study.datasets[0].StudyInstanceUID)).json()
        home = {"AET": "HOME", "Host": "127.0.0.1", "Port": orthanc.dicom_port}
        node_itself.put("/modalities/home", json=home).raise_for_status()
        node_itself.post("/modalities/home/store", json=[found["ID"]]).raise_for_status()
    (row,) = returning.services.deliveries.of_study(key)
    there = {one.SOPInstanceUID for one in returning.in_pacs(study)}
    assert there == {d.SOPInstanceUID for d in study.datasets} | {one["sop_instance_uid"] for one in row.objects}
    assert returning.requested() == [] and returning.services.worklist.in_progress() == []
