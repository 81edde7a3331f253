"""A reported study whose results are ready to be returned, without a run: rows in a real Postgres, real objects. No test.

A plug-in of the files that deliver: `counter` is the study's site, `film` its one image, which lies in the real Orthanc.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID, uuid4

import httpx
import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from sqlalchemy import Engine

from medai_pipeline import stages
from medai_pipeline.local.ports import answers, free_port
from medai_pipeline.pacs.destination import parse_destinations
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import Identity
from medai_pipeline.returning import Desk, Policy
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.deliveries import Deliveries
from medai_pipeline.storage.editions import Editions
from medai_pipeline.storage.keyring import KeySource
from medai_pipeline.storage.secrets import StudySecrets
from medai_pipeline.storage.tables import reports, reviews, studies
from medai_pipeline.storage.vault import Vault
from medai_pipeline_tests.dcmtk import program
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.result_samples import Sample

KEY = "SAMPLESTUDYKEYSAMPLESTUDYK"
NOW = datetime(2026, 3, 4, 6, 0, 0, tzinfo=UTC)


class Counter:
    """The desk of one site with one reported study; `now` stands still until it is moved."""

    def __init__(self, engine: Engine, sample: Sample, pacs: Orthanc | None = None) -> None:
        self.engine, self.sample, self.pacs = engine, sample, pacs
        self.audit = Audit(engine, b"k" * 32)
        source = KeySource(base64.b64encode(b"v" * 32).decode(), Path())
        self.vault = Vault(engine, StudySecrets(engine, source), source, self.audit)
        self.deliveries = Deliveries(engine, self.audit)
        self.now = NOW
        self.vault.store(KEY, sample.identity)

    def desk(self, to: str, when: str = "at-once", **changes: Any) -> Desk:
        known: dict[str, Any] = {"days": None, "attempts": 3, "retry_seconds": 30.0, **changes}
        policy = Policy(when, parse_destinations(to), **known)
        return Desk(policy, self.deliveries, Editions(self.engine), self.vault, lambda: self.pacs, lambda: self.now)

    def make(self, edition: stages.Edition, identity: Identity) -> Sequence[Any]:
        s = self.sample
        return stages.results_of(s.report, s.study, s.tensors, s.prediction, s.heatmaps, s, identity, edition)

    def go(self, desk: Desk) -> list[Any]:
        """What is missing is entered, and what is due tried once."""
        desk.want()
        return desk.deliver(KEY, self.make, "run") if desk.due(10) else self.deliveries.latest([KEY])

    def report(self, sample: Sample | None = None, revision: int = 1) -> UUID:
        """A report of the sample counts from now on."""
        self.sample = sample or self.sample
        made = uuid4()
        with self.engine.begin() as connection:
            known = sa.select(sa.exists().where(studies.c.study_key == KEY, studies.c.revision == revision))
            if not connection.scalar(known):
                connection.execute(
                    sa.insert(studies).values(
                        study_key=KEY, revision=revision, source_digest=str(revision), state="reported",
                        first_seen_at=self.now, ready_at=self.now, updated_at=self.now,
                    )
                )  # fmt: skip
            connection.execute(
                sa.insert(reports).values(
                    id=made, study_key=KEY, revision=revision, inputs_digest=str(made), run_id="r", priority="urgent",
                    priority_rank=1, review_required=False, content=self.sample.report.content, object_prefix="",
                    created_at=self.now,
                )
            )  # fmt: skip
        self.counts(made, revision)
        return made

    def counts(self, report_id: UUID, revision: int = 1) -> None:
        with self.engine.begin() as connection:
            one = (studies.c.study_key == KEY) & (studies.c.revision == revision)
            connection.execute(sa.update(studies).where(one).values(report_id=report_id, finished_at=self.now))

    def review(self, report_id: UUID, decision: str, content: Any = None) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(reviews).values(
                    id=uuid4(), report_id=report_id, reviewer="user:dr.reader", decision=decision, content=content,
                    created_at=self.now,
                )
            )  # fmt: skip

    def actions(self) -> list[str]:
        query = sa.text("SELECT action FROM medai.audit_log ORDER BY seq")
        with self.engine.connect() as connection:
            return list(connection.scalars(query))


@pytest.fixture(scope="module")
def film() -> list[Dataset]:
    return list(make_study("chest-xray", 7, monochrome1=False, rows=96, columns=80).datasets[:1])


@pytest.fixture(scope="module")
def sample(film: list[Dataset]) -> Sample:
    return Sample(film)


@pytest.fixture
def counter(engine: Engine, sample: Sample, pacs: Orthanc, orthanc: RunningOrthanc, film: list[Dataset]) -> Counter:
    """The study lies in the PACS, and is reported."""
    for study in pacs.find_studies(str(film[0].StudyInstanceUID)):
        delete(orthanc, f"/studies/{study.orthanc_id}")
    assert pacs.upload(to_bytes(film[0])).stored
    made = Counter(engine, sample, pacs)
    made.report()
    return made


def delete(running: RunningOrthanc, path: str) -> None:
    with httpx.Client(base_url=running.url, auth=(running.username, running.password)) as client:
        client.delete(path).raise_for_status()


def results_in(pacs: Orthanc, film: list[Dataset]) -> list[Dataset]:
    """Everything in the study but its one image."""
    (study,) = pacs.find_studies(str(film[0].StudyInstanceUID))
    files = [pydicom.dcmread(BytesIO(data)) for _, data in pacs.fetch(pacs.instances(study.orthanc_id))]
    return [dataset for dataset in files if dataset.SOPInstanceUID != film[0].SOPInstanceUID]


def again(sample: Sample, **changes: Any) -> Sample:
    """The same study read by another version: nothing is computed again."""
    made = object.__new__(Sample)
    made.__dict__.update(sample.__dict__)
    model = replace(sample.prediction.model, **changes)
    made.prediction = replace(sample.prediction, model=model)
    content = {**sample.report.content, "models": [{**sample.report.content["models"][0], **changes}]}
    made.report = replace(sample.report, content=content)
    return made


@contextmanager
def storescp(folder: Path, port: int | None = None, *options: str) -> Iterator[int]:
    """dcmtk's receiver, which writes what it gets to `folder` by SOP Instance UID."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [program("storescp"), "-od", str(folder), "-uf", *options, str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: answers(port))
        yield port
    finally:
        process.kill()
        process.wait()


@contextmanager
def answering(status: int, at_most: int = 10, port: int = 0) -> Iterator[int]:
    """A node that answers each C-STORE with `status` and has room for `at_most` associations."""
    ae = AE("NODE")
    ae.maximum_associations = max(at_most, 1)
    ae._maximum_associations = at_most
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: status)])
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def wait_for(holds: Callable[[], object], seconds: float = 30.0) -> None:
    pause = Event()
    for _ in range(int(seconds / 0.05)):
        if holds():
            return
        pause.wait(0.05)
    raise AssertionError("it did not come true in time")


class Gate(ThreadingHTTPServer):
    """A way to an Orthanc that stops working in the middle: the answer to upload `hold_at` is never given."""

    daemon_threads = True

    def __init__(self, upstream_port: int, hold_at: int, stored: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        self.upstream_port, self.hold_at, self.stored = upstream_port, hold_at, stored
        self.uploads = 0
        self.holding, self.closed = Event(), Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Gate:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()


class _Through(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        held = False
        if self.command == "POST" and self.path == "/instances":
            self.server.uploads += 1
            held = self.server.uploads >= self.server.hold_at
        if held and not self.server.stored:
            return self._hold()
        upstream = HTTPConnection("127.0.0.1", self.server.upstream_port)
        upstream.request(self.command, self.path, body, {"Authorization": self.headers.get("Authorization", "")})
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if held:
            return self._hold()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _hold(self) -> None:
        self.server.holding.set()
        self.server.closed.wait(60)

    do_GET = do_POST = _pass
