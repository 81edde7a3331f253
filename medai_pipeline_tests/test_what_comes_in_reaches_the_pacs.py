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
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from medai_pipeline.errors import ObjectMissing, PacsBusy, PacsUnreachable, StorageFull
from medai_pipeline.incoming.forward import Forwarder
from medai_pipeline.incoming.inbox import Inbox
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
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(ObjectStore(tmp_path / "objects", os.urandom(32)))


@pytest.fixture
def inbox(tmp_path: Path, spool: Spool) -> Inbox:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return Inbox(folder, spool, quiet_s=0.0, patience_s=60.0)


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def instances_in(pacs: Orthanc, study: str) -> int:
    found = pacs.find_study(study)
    return (found.instance_count or 0) if found else 0


# the spool and the PACS --------------------------------------------------------------------------------------


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


# the inbox ---------------------------------------------------------------------------------------------------


def test_dropped_files_are_taken_from_the_folder_and_its_folders(inbox: Inbox, spool: Spool, pacs: Orthanc) -> None:
    datasets = made_study(3)
    inside = inbox.folder / "DOE^JANE" / "series 1"
    inside.mkdir(parents=True)
    for number, dataset in enumerate(datasets):
        ((inside if number else inbox.folder) / f"IM{number}").write_bytes(file_bytes(dataset))
    looked = inbox.look(0.0)
    assert (looked.taken, looked.set_aside, looked.left) == (3, 0, 0)
    assert list(inbox.folder.iterdir()) == []
    assert Forwarder(spool, pacs).forward() == 3
    assert instances_in(pacs, datasets[0].StudyInstanceUID) == 3


def test_a_file_that_still_grows_is_waited_for(inbox: Inbox, spool: Spool) -> None:
    data = file_bytes(made_study(1)[0])
    path = inbox.folder / "IM0"
    inbox.quiet_s = 2.0
    path.write_bytes(data[:200])
    assert inbox.look(0.0).left == 1
    path.write_bytes(data)
    assert inbox.look(3.0).left == 1, "it changed since the last look"
    assert inbox.look(4.0).left == 1
    assert inbox.look(5.0).taken == 1 and not path.exists()
    assert spool.read(spool.waiting()[0]) == data


def test_a_file_that_is_not_whole_is_waited_for_and_at_last_set_aside_with_its_reason(
    inbox: Inbox, spool: Spool
) -> None:
    data = file_bytes(
        made_study(
            1,
        )[0]
    )
    path = inbox.folder / "DOE^JANE.dcm"
    path.write_bytes(data[:-10])
    assert [inbox.look(now).left for now in (0.0, 30.0)] == [1, 1] and path.exists()
    assert inbox.look(61.0).set_aside == 1 and not path.exists()
    (aside,) = spool.quarantine()
    assert aside.reason and aside.file_name == "DOE^JANE.dcm" and "DOE" not in repr(aside)
    assert spool.waiting() == []


def test_what_is_no_dicom_is_set_aside_at_once(inbox: Inbox, spool: Spool) -> None:
    (inbox.folder / "letter.pdf").write_bytes(b"%PDF-1.7 " + b"x" * 500)
    assert inbox.look(0.0).set_aside == 1
    assert [aside.file_name for aside in spool.quarantine()] == ["letter.pdf"]


def test_hidden_and_unfinished_names_links_and_pipes_are_left_alone(inbox: Inbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(file_bytes(made_study(1)[0]))
    (inbox.folder / "link.dcm").symlink_to(secret)
    (inbox.folder / "linked").symlink_to(tmp_path)
    os.mkfifo(inbox.folder / "pipe")
    for name in (".IM0", "IM1.part", "IM2.TMP"):
        (inbox.folder / name).write_bytes(secret.read_bytes())
    looked = inbox.look(0.0)
    assert (looked.taken, looked.set_aside, looked.left) == (0, 0, 0)
    assert len(list(inbox.folder.iterdir())) == 6 and secret.exists()


def test_a_full_disk_leaves_the_file_where_it_is(inbox: Inbox) -> None:
    class Full(Spool):
        def keep(self, data: bytes) -> None:
            raise StorageFull("no space left for objects")

    inbox.spool = Full(inbox.spool.objects)
    (inbox.folder / "IM0").write_bytes(file_bytes(made_study(1)[0]))
    with pytest.raises(StorageFull):
        inbox.look(0.0)
    assert (inbox.folder / "IM0").exists()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may remove a file of the folder, as on a read-only share: for root, too, who becomes another user meanwhile."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def anybodys(inbox: Inbox) -> Iterator[Inbox]:
    """An inbox in folders that every user of this machine may read, and a spool in which anybody may write."""
    with TemporaryDirectory(dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        inbox.folder = base / "inbox"
        inbox.folder.mkdir()
        inbox.spool = Spool(ObjectStore(base / "objects", os.urandom(32)))
        for folder in (base / "objects", base / "objects" / "incoming", base / "objects" / "incoming" / "waiting"):
            folder.mkdir(exist_ok=True)
        for folder in (base / "objects").rglob("*"):
            folder.chmod(0o777)
        (base / "objects").chmod(0o777)
        yield inbox


def test_what_cannot_be_removed_is_taken_once_and_said_once_with_what_to_do(
    anybodys: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, spool = anybodys, anybodys.spool
    path = inbox.folder / "DOE^JANE.dcm"
    path.write_bytes(file_bytes(made_study(1)[0]))
    path.chmod(0o644)
    with read_only(inbox.folder):
        assert inbox.look(0.0).taken == 1
        (digest,) = spool.waiting()
        spool.done(digest)  # the PACS has it
        for now in range(1, 4):
            assert inbox.look(float(now)).left == 1
            assert spool.waiting() == []
    (said,) = [record.getMessage() for record in caplog.records]
    assert "write access" in said and "DOE" not in caplog.text
    assert inbox.look(5.0).left == 1 and not path.exists()  # as soon as it may go, it goes
    path.write_bytes(file_bytes(made_study(1)[0]))  # another one under the same name
    assert inbox.look(6.0).taken == 1 and len(spool.waiting()) == 1


def test_what_cannot_be_read_is_said_once_while_the_inbox_runs_and_again_when_it_comes_back(
    anybodys: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    path = anybodys.folder / "IM0"
    path.write_bytes(file_bytes(made_study(1)[0]))
    path.chmod(0o000)
    with read_only(anybodys.folder):
        for now in range(3):
            assert anybodys.look(float(now)).left == 1
    assert caplog.text.count("cannot be read") == 1
    hidden = path.rename(anybodys.folder / ".IM0")
    anybodys.look(3.0)
    hidden.rename(path)
    with read_only(anybodys.folder):
        anybodys.look(4.0)
    assert caplog.text.count("cannot be read") == 2


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
