"""STOW-RS where Orthanc has its DICOMweb plug-in: stored as sent, once, and what the server refuses is named.

The plug-in itself is asked where it is installed (Debian: orthanc-dicomweb, or MEDAI_TEST_DICOMWEB names its library); beside
it a gateway that speaks PS3.18 10.5 in front of the real Orthanc, and can refuse.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study

PLUGIN = Path(os.environ.get("MEDAI_TEST_DICOMWEB", "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"))


class WithPlugin(LocalOrthanc):
    def configuration(self) -> dict[str, object]:
        return {
            **super().configuration(),
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }


class Gateway(ThreadingHTTPServer):
    """`/web/studies` takes one object a request; what is in `refused` (bytes) gets failure reason 0xA900."""

    daemon_threads = True

    def __init__(self, upstream: RunningOrthanc) -> None:
        super().__init__(("127.0.0.1", 0), _Stow)
        self.upstream = upstream
        self.stowed = 0
        self.refused: set[bytes] = set()


class _Stow(BaseHTTPRequestHandler):
    server: Gateway

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _upstream(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", int(self.server.upstream.url.rpartition(":")[2]))
        connection.request(method, path, body, {"Authorization": self.headers["Authorization"]})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/plugins/dicom-web":
            self._answer(200, json.dumps({"ID": "dicom-web", "RootUri": "../web/app/client/index.html"}).encode())
        elif self.path == "/web/studies":
            self._stow(body)
        else:
            self._answer(*self._upstream(self.command, self.path, body))

    def _stow(self, body: bytes) -> None:
        kind = re.fullmatch(
            r'multipart/related; type="application/dicom"; boundary=(\w+)', self.headers["Content-Type"]
        )
        assert kind and self.headers["Accept"] == "application/dicom+json"
        start, end = f"--{kind[1]}\r\n".encode(), f"\r\n--{kind[1]}--\r\n".encode()
        assert body.startswith(start) and body.endswith(end)
        head, _, data = body[len(start) : -len(end)].partition(b"\r\n\r\n")
        assert head == b"Content-Type: application/dicom"
        self.server.stowed += 1
        if data in self.server.refused:
            failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA900]}}]}}
            return self._answer(202, json.dumps(failed).encode())
        status, _ = self._upstream("POST", "/instances", data)
        return self._answer(409 if status == 400 else status, b"{}")

    do_GET = do_POST = _pass


@pytest.fixture(scope="module", params=["gateway", *(["plug-in"] if PLUGIN.is_file() else [])])
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if request.param == "gateway":
        running: RunningOrthanc = request.getfixturevalue("orthanc")
        with Gateway(running) as gateway:
            Thread(target=gateway.serve_forever, daemon=True).start()
            client = Orthanc(f"http://127.0.0.1:{gateway.server_port}", running.username, running.password)
            client.gateway = gateway  # type: ignore[attr-defined]
            with client:
                yield client
            gateway.shutdown()
        return
    local = WithPlugin(Home(tmp_path_factory.mktemp("web")).make(), free_port(), free_port(), "medai")
    supervisor = Supervisor(local.home, echo=print)
    try:
        supervisor.start(local.service(dict(os.environ)))
        with Orthanc(local.url, local.username, local.password) as client:
            yield client
    finally:
        supervisor.stop()


def test_what_is_stowed_lies_there_as_it_was_sent_and_a_second_time_changes_nothing(web: Orthanc) -> None:
    datasets = made_study(3)
    files = [file_bytes(dataset) for dataset in datasets]
    for _ in range(2):
        assert [result.status for result in web.return_many(files)] == ["Success"] * 3
        (study,) = web.find_studies(str(datasets[0].StudyInstanceUID))
        found = web.instances(study.orthanc_id)
        assert {one.sop_instance_uid for one in found} == {str(dataset.SOPInstanceUID) for dataset in datasets}
    assert sorted(data for _, data in web.fetch(found)) == sorted(files)
    if gateway := getattr(web, "gateway", None):
        assert gateway.stowed == 6


def test_what_is_no_dicom_is_refused_and_the_rest_goes(web: Orthanc) -> None:
    (dataset,) = made_study(1)
    junk, good = web.return_many([b"junk" * 100, file_bytes(dataset)])
    assert (junk.status, good.status) == ("Refused", "Success") and junk.reason


def test_a_reason_for_failure_is_named(web: Orthanc) -> None:
    if (gateway := getattr(web, "gateway", None)) is None:
        return  # the plug-in cannot be told to refuse
    data = file_bytes(made_study(1)[0])
    gateway.refused.add(data)
    (result,) = web.return_many([data])
    assert result.status == "Refused" and "0xA900" in result.reason


def test_without_the_plug_in_the_same_goes_by_rest(pacs: Orthanc) -> None:
    data = file_bytes(made_study(1)[0])
    assert [pacs.return_many([data])[0].status for _ in range(2)] == ["Success", "AlreadyStored"]
