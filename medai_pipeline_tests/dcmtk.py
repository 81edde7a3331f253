"""dcmtk's programs for tests: its archive (dcmqrscp) as a PACS without Orthanc, and its clients. Ended by their own pid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from medai_pipeline.errors import PacsError
from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs.dimse import echo_node
from medai_pipeline.pacs.node import Node
from medai_pipeline_tests.conftest import missing

ARCHIVE = "ARCHIVE"
CONFIGURATION = """\
NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 32
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{title} {folder} RW (1000, 2048mb) ANY
AETable END
"""


def program(name: str) -> str:
    """The path of one of dcmtk's programs. pynetdicom installs some of the same name beside Python."""
    ours = Path(sys.executable).parent
    places = [place for place in os.get_exec_path() if Path(place) != ours]
    found = shutil.which(name, path=os.pathsep.join(places))
    if not found:
        missing(f"dcmtk's {name}")
    assert found
    return found


def dcmtk(name: str, *arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs a client to its end."""
    command = [program(name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)


@dataclass(frozen=True)
class Archive:
    """A running dcmqrscp. It sends by C-MOVE to `move_ae` at `move_port` of this machine."""

    port: int
    folder: Path
    move_ae: str
    move_port: int
    log: Path

    @property
    def node(self) -> Node:
        return Node("127.0.0.1", self.port, ARCHIVE)


@contextmanager
def archive(folder: Path, move_ae: str = "MEDAI", prefers: str = "+xy", move_port: int = 0) -> Iterator[Archive]:
    """`move_port`: of this machine, 0 for a free one. `prefers`: the compressed transfer syntax that it takes beside the plain ones (an option of dcmqrscp)."""
    storage = folder / "archive"
    storage.mkdir()
    running = Archive(free_port(), storage, move_ae, move_port or free_port(), folder / "dcmqrscp.log")
    host = f"ours = ({move_ae}, 127.0.0.1, {running.move_port})"
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(CONFIGURATION.format(port=running.port, hosts=host, title=ARCHIVE, folder=storage))
    with (
        running.log.open("wb") as log,
        served([program("dcmqrscp"), prefers, "-c", str(configuration)], log) as process,
    ):
        answering(running.node, process)
        yield running


@contextmanager
def served(command: list[str], log, **more: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a signal that was blocked when it was started never reaches it
            process.kill()
            process.wait(timeout=20)


def answering(node: Node, process: subprocess.Popen[bytes], within_s: float = 20) -> None:
    """Returns when `node` answers C-ECHO."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return echo_node(node)
        except PacsError:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """One a session; each test stores a study of its own."""
    with archive(tmp_path_factory.mktemp("dcmqrscp")) as running:
        yield running
