"""The second way in: acknowledged is durable, nothing lies in clear, all of it ends in the PACS, or in quarantine with a reason."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medai_pipeline.errors import ObjectMissing, PacsBusy, PacsUnreachable, StorageFull
from medai_pipeline.incoming.forward import Forwarder
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.services import Context, all_services
from medai_pipeline.pacs.dicom_pacs import DicomPacs
from medai_pipeline.pacs.dimse import store
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.records import UploadResult
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, instances_in, made_study


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(ObjectStore(tmp_path / "objects", os.urandom(32)))


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_what_is_kept_goes_to_the_pacs_and_leaves_the_spool(spool: Spool, pacs: Orthanc) -> None:
    datasets = made_study(3)
    for dataset in datasets:
        spool.keep(file_bytes(dataset))
    spool.keep(file_bytes(datasets[0]))  # sent twice: one file
    assert len(spool.waiting()) == 3
    assert Forwarder(spool, pacs).forward() == 3
    assert spool.waiting() == [] and spool.quarantine() == []
    assert instances_in(pacs, datasets[0].StudyInstanceUID) == 3


def test_what_the_pacs_refuses_is_in_quarantine_with_its_reason_and_the_rest_goes_on(
    spool: Spool, pacs: Orthanc
) -> None:
    (good,) = made_study(1)
    spool.keep(b"no DICOM at all")
    spool.keep(file_bytes(good))
    assert Forwarder(spool, pacs).forward() == 1
    (aside,) = spool.quarantine()
    assert "Bad file format" in aside.reason and aside.since
    assert spool.quarantined(aside.digest) == b"no DICOM at all"
    spool.try_again(aside.digest)
    assert (len(spool.waiting()), spool.quarantine()) == (1, [])
    assert Forwarder(spool, pacs).forward() == 0
    (aside,) = spool.quarantine()
    spool.forget(aside.digest)
    with pytest.raises(ObjectMissing):
        spool.quarantined(aside.digest)


def test_a_pacs_that_does_not_answer_loses_nothing_and_is_tried_again(spool: Spool, pacs: Orthanc, caplog) -> None:
    class Awakening:
        """A PACS that is down at first."""

        asked = 0

        def upload_many(self, items, concurrency: int = 8) -> list[UploadResult]:
            self.asked += 1
            if self.asked < 3:
                raise PacsUnreachable("the PACS does not answer")
            return pacs.upload_many(items)

    datasets = made_study(2)
    for dataset in datasets:
        spool.keep(file_bytes(dataset))
    stop = threading.Event()
    running = threading.Thread(target=Forwarder(spool, Awakening()).run, args=(stop,))
    running.start()
    until(lambda: instances_in(pacs, datasets[0].StudyInstanceUID) == 2 and not spool.waiting())
    stop.set()
    running.join()
    assert "does not answer" in caplog.text


def test_what_is_refused_for_now_alone_is_not_set_aside(spool: Spool) -> None:
    """A node without room (A700H), and then with it again."""
    rooms = iter((False, True, True))
    kept: list[bytes] = []

    def keep(data: bytes) -> None:
        if not next(rooms):
            raise StorageFull("no space left for objects")
        kept.append(data)

    for dataset in made_study(2):
        spool.keep(file_bytes(dataset))
    with Receiver(Listening(0), keep) as receiver:
        forwarder = Forwarder(spool, DicomPacs(Node("127.0.0.1", receiver.port, "MEDAI")))
        with pytest.raises(PacsBusy, match="A700"):
            forwarder.forward()
        assert (len(spool.waiting()), len(kept), spool.quarantine()) == (1, 1, [])
        assert forwarder.forward() == 1
    assert (spool.waiting(), len(kept)) == ([], 2)


def test_an_orthanc_in_trouble_refuses_for_now_and_a_bad_file_for_good() -> None:
    class Trouble(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self.send_response(507 if self.rfile.read(length) == b"full" else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Trouble) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Orthanc(f"http://127.0.0.1:{server.server_port}") as pacs:
            full, bad = pacs.upload_many([b"full", b"bad"])
        server.shutdown()
    assert (full.stored, full.retryable, bad.stored, bad.retryable) == (False, True, False, False)


def test_an_entry_that_cannot_be_opened_holds_up_nobody(spool: Spool, pacs: Orthanc, tmp_path: Path) -> None:
    bad, good = made_study(2)
    spool.keep(file_bytes(bad))
    (damaged,) = (tmp_path / "objects" / "incoming" / "waiting").iterdir()
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    spool.keep(file_bytes(good))
    forwarder = Forwarder(spool, pacs)
    assert [forwarder.forward(), forwarder.forward()] == [1, 0]
    assert spool.waiting() == [damaged.name]


# the service -------------------------------------------------------------------------------------------------


class Service:
    """`python -m medai_pipeline.local.receiving`, as the stack starts it."""

    def __init__(self, orthanc: RunningOrthanc, database_url: str, folder: Path) -> None:
        self.port, self.inbox, self.home = free_port(), folder / "inbox", folder / "home"
        SiteKeys.load(None, self.home / "keys" / "site.key", create=True)
        self.log = folder / "log"
        self.environment = {
            **os.environ,
            "MEDAI_HOME": str(self.home),
            "DATABASE_URL": database_url,  # which of the site's secrets seals now
            "ORTHANC_URL": orthanc.url,
            "ORTHANC_USERNAME": orthanc.username,
            "ORTHANC_PASSWORD": orthanc.password,
            "MEDAI_SCP_PORT": str(self.port),
            "MEDAI_INBOX": str(self.inbox),
            "MEDAI_LOG_LEVEL": "DEBUG",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **changed: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medai_pipeline.local.receiving"],
                env={**self.environment, **changed},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
            )
        until(self._answers)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def _answers(self) -> bool:
        assert self.process and self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def service(orthanc: RunningOrthanc, database_url: str, tmp_path: Path) -> Iterator[Service]:
    service = Service(orthanc, database_url, tmp_path)
    yield service
    if service.process and service.process.poll() is None:
        service.end(signal.SIGKILL)


def test_killed_in_the_middle_every_acknowledged_file_reaches_the_pacs(
    service: Service, pacs: Orthanc, tmp_path: Path
) -> None:
    datasets = made_study(60)
    paths = [tmp_path / f"{number}.dcm" for number in range(60)]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(file_bytes(dataset))
    dead = f"http://127.0.0.1:{free_port()}"  # so that all that is acknowledged is still in the spool at the kill
    service.start(ORTHANC_URL=dead)
    acknowledged: list[UploadResult] = []

    def progress(result: UploadResult) -> None:
        acknowledged.append(result)
        if len(acknowledged) == 20:
            service.end(signal.SIGKILL)

    with pytest.raises(PacsUnreachable):
        store(paths, "127.0.0.1", service.port, "MEDAI", progress=progress)
    assert 20 <= len(acknowledged) < 60 and all(result.stored for result in acknowledged)
    service.start()
    until(lambda: instances_in(pacs, datasets[0].StudyInstanceUID) >= len(acknowledged))
    assert all(result.stored for result in store(paths, "127.0.0.1", service.port, "MEDAI"))
    until(lambda: instances_in(pacs, datasets[0].StudyInstanceUID) == 60)
    assert service.end() == 0


def test_the_inbox_of_the_service_is_emptied_and_nothing_lies_in_clear(service: Service, pacs: Orthanc) -> None:
    (dataset,) = made_study(1)
    marker = str(dataset.PatientID).encode()
    service.start(ORTHANC_URL=f"http://127.0.0.1:{free_port()}")
    until(service.inbox.is_dir)
    (service.inbox / "IM0").write_bytes(file_bytes(dataset))
    until(lambda: not list(service.inbox.iterdir()))
    spooled = [path for path in service.home.rglob("*") if path.is_file()]
    assert any("waiting" in path.parts for path in spooled)
    for path in (*spooled, service.log):
        assert (marker not in path.read_bytes() and not path.stat().st_mode & 0o077) or path == service.log
        assert str(dataset.StudyInstanceUID) not in path.name
    service.end()
    service.start()
    until(lambda: instances_in(pacs, dataset.StudyInstanceUID) == 1)


def test_nothing_to_receive_is_one_line_that_says_what_to_set(service: Service) -> None:
    environment = {**service.environment, "MEDAI_SCP_PORT": "", "MEDAI_INBOX": ""}
    asked = [sys.executable, "-m", "medai_pipeline.local.receiving"]
    result = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, cwd=service.home)
    assert result.returncode == 1 and "MEDAI_SCP_PORT" in result.stderr and "Traceback" not in result.stderr


def test_the_stack_runs_the_service_only_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    def names(**settings: object) -> list[str]:
        context = Context(read_settings({}, home=str(tmp_path), **settings), Home(tmp_path), {})
        return [service.name for group in all_services(context) for service in group]

    assert "receive" not in names()
    assert "receive" in names(scp_port=11112) and "receive" in names(inbox="in")
