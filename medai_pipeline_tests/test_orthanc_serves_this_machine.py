"""The local Orthanc and other machines: what it does not keep fails at its sender, who may name itself on purpose."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.dimse import store
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.settings import read_settings
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.dcmtk import program
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study


@pytest.fixture(scope="module")
def outside() -> str:
    """An address of this machine that is not loopback: what comes to it comes from it, as from another machine."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    missing("a network address beside loopback")
    raise AssertionError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one.dcm"
    path.write_bytes(file_bytes(made_study(1)[0]))
    return path


def instances(pacs: Orthanc, file: Path) -> int:
    import pydicom

    study = pacs.find_study(pydicom.dcmread(file).StudyInstanceUID)
    return 0 if study is None else study.instance_count or 0


def test_a_sender_elsewhere_sees_its_c_store_fail_and_nothing_is_kept(
    orthanc: RunningOrthanc, pacs: Orthanc, outside: str, file: Path
) -> None:
    sent = subprocess.run(
        [program("storescu"), "-v", outside, str(orthanc.dicom_port), str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert sent.returncode != 0
    assert "Received Store Response (Refused" in sent.stdout + sent.stderr
    assert [result.stored for result in store([file], outside, orthanc.dicom_port)] == [False]
    assert instances(pacs, file) == 0


def test_this_machine_stores_by_c_store_and_by_rest(orthanc: RunningOrthanc, pacs: Orthanc, file: Path) -> None:
    assert [result.stored for result in store([file], "127.0.0.1", orthanc.dicom_port)] == [True]
    assert pacs.upload(file.read_bytes()).stored
    assert instances(pacs, file) == 1


@pytest.fixture
def open_to(outside: str, tmp_path: Path) -> Iterator[LocalOrthanc]:
    home = Home(tmp_path / "home").make()
    local = LocalOrthanc(home, free_port(), free_port(), "medai", senders=("192.0.2.77", outside))
    supervisor = Supervisor(home, echo=print)
    try:
        supervisor.start(local.service(dict(os.environ)))
        yield local
    finally:
        supervisor.stop()


def test_a_sender_that_the_site_names_is_served(open_to: LocalOrthanc, outside: str, file: Path) -> None:
    with Orthanc(open_to.url, open_to.username, open_to.password) as pacs:
        assert [result.stored for result in store([file], outside, open_to.dicom_port)] == [True]
        assert instances(pacs, file) == 1


def test_senders_are_addresses_and_nothing_else_reaches_the_script() -> None:
    assert read_settings({"MEDAI_DICOM_SENDERS": " 10.0.0.5 ,10.0.0.6"}).dicom_senders == "10.0.0.5,10.0.0.6"
    with pytest.raises(SettingsError, match="MEDAI_DICOM_SENDERS"):
        read_settings({"MEDAI_DICOM_SENDERS": "10.0.0.5'] = true}; os.execute('x')"})
