"""The stack as a process: one a home, no rest after SIGTERM, recovery after kill -9 of anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from medai_pipeline.errors import StackError
from medai_pipeline.local.attached import attached_settings
from medai_pipeline.local.orthanc import find_binary
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import end_leftovers
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.settings import read_settings
from medai_pipeline_tests.conftest import ROOT, missing
from medai_pipeline_tests.orthanc import file_bytes, made_study
from medai_pipeline_tests.stack_process import folder_for_a_stack
from medai_pipeline_tests.test_local_rooms import eventually

PORTS = ("MEDAI_WEB_PORT", "MEDAI_API_PORT", "MEDAI_CODE_PORT", "MEDAI_ORTHANC_PORT", "MEDAI_DICOM_PORT")


@dataclass
class Running:
    """One stack process and what it told."""

    home: Path
    ports: dict[str, str]
    process: subprocess.Popen[str]
    told: dict[str, Any] = field(default_factory=dict)

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def orthanc(self) -> Orthanc:
        found = attached_settings(read_settings({}, home=str(self.home)))
        assert found.orthanc_url
        return Orthanc(found.orthanc_url, found.orthanc_username, found.orthanc_password)

    def pid_of(self, service: str) -> int:
        return json.loads((self.home / "run" / f"{service}.json").read_text())[-1][0]


@pytest.fixture
def home() -> Iterator[Path]:
    try:
        find_binary()
    except StackError as error:
        missing(error.reason)
    with folder_for_a_stack() as folder:
        yield folder / "home"
        end_leftovers(Home(folder / "home"))  # of a test that failed after kill -9


@pytest.fixture
def some_ports() -> dict[str, str]:
    return {name: str(free_port()) for name in PORTS}


def launch(home: Path, some_ports: dict[str, str], table: str = "nothing") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medai_pipeline_tests.stack_process", str(home), table],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **some_ports},
    )


@contextmanager
def running(home: Path, some_ports: dict[str, str], table: str = "nothing") -> Iterator[Running]:
    stack = Running(home, some_ports, launch(home, some_ports, table))
    everyone: list[psutil.Process] = []
    try:
        assert stack.process.stdout and stack.process.stderr
        line = stack.process.stdout.readline()
        assert line, stack.process.stderr.read()
        stack.told = json.loads(line)
        everyone = stack.tree()
        yield stack
        everyone += stack.tree() if psutil.pid_exists(stack.process.pid) else []
    finally:
        if stack.process.poll() is None:
            stack.process.send_signal(signal.SIGTERM)
        stack.process.communicate(timeout=60)
    stack.told["seen"] = everyone


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def store_study(stack: Running) -> tuple[str, str]:
    """A study in the stack's Orthanc: its id and digest."""
    with stack.orthanc() as pacs:
        results = pacs.upload_many([file_bytes(dataset) for dataset in made_study(3)])
        study = results[0].study_orthanc_id
        return study, pacs.source_digest(study).digest


def write_row(stack: Running, value: str) -> None:
    with psycopg.connect(stack.told["database_url"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (value,))


def rows(stack: Running) -> list[str]:
    with psycopg.connect(stack.told["database_url"]) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM kept")]


def database_answers(stack: Running) -> bool:
    try:
        psycopg.connect(stack.told["database_url"], connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def test_the_whole_stack_starts_heals_dagster_and_sigterm_leaves_no_process(
    home: Path, some_ports: dict[str, str]
) -> None:
    with running(home, some_ports, "trivial") as stack:
        page = f"http://127.0.0.1:{some_ports['MEDAI_WEB_PORT']}/graphql"

        def ask(query: str) -> Any:
            return httpx.post(page, json={"query": query}, timeout=30, trust_env=False).json()["data"]

        locations = "{workspaceOrError{... on Workspace{locationEntries{name loadStatus}}}}"
        entry = {"name": "medai", "loadStatus": "LOADED"}
        assert ask(locations)["workspaceOrError"]["locationEntries"] == [entry]
        before = {name: stack.pid_of(name) for name in ("code", "daemon")}
        seen = stack.tree()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: all(stack.pid_of(name) != pid for name, pid in before.items()))
        stack.process.send_signal(signal.SIGTERM)
        seen += stack.tree()
    assert stack.process.returncode == 0
    assert len({process.pid for process in seen}) >= 8
    assert not alive(seen) and not alive(stack.told["seen"])
    assert not list((home / "run").glob("*.json"))


def test_a_second_start_on_the_same_home_is_refused_with_the_pid_of_the_first(
    home: Path, some_ports: dict[str, str]
) -> None:
    with running(home, some_ports) as stack:
        second = launch(home, {name: str(free_port()) for name in PORTS})
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert said.strip().splitlines()[-1].count(f"pid {stack.process.pid}") == 1
        assert stack.process.poll() is None and database_answers(stack)


def test_a_taken_port_is_named_and_nothing_is_left_running(home: Path, some_ports: dict[str, str]) -> None:
    some_ports["MEDAI_DICOM_PORT"] = some_ports["MEDAI_ORTHANC_PORT"]
    refused = launch(home, some_ports)
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1 and "MEDAI_ORTHANC_PORT and MEDAI_DICOM_PORT" in said
    assert not list((home / "run").glob("*.json")) and "Traceback" not in said


def test_after_kill_9_of_the_stack_the_next_start_recovers_with_all_data(
    home: Path, some_ports: dict[str, str]
) -> None:
    with running(home, some_ports) as stack:
        study, digest = store_study(stack)
        write_row(stack, "before")
        left = stack.tree()[1:]
        stack.process.kill()
        stack.process.wait()
        assert alive(left), "kill -9 takes the stack only; its services go on"
    with running(home, some_ports) as again:
        assert not alive(left)
        assert rows(again) == ["before"]
        with again.orthanc() as pacs:
            assert pacs.source_digest(study).digest == digest


@pytest.mark.parametrize("service", ["orthanc", "postgres"])
def test_a_killed_service_is_healed_and_its_data_is_still_there(
    service: str, home: Path, some_ports: dict[str, str]
) -> None:
    with running(home, some_ports) as stack:
        study, digest = store_study(stack)
        write_row(stack, "kept")
        killed = stack.pid_of(service)
        assert killed == stack.told["services"][service]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: stack.pid_of(service) != killed)
        eventually(lambda: database_answers(stack))
        assert rows(stack) == ["kept"]
        with stack.orthanc() as pacs:  # the client bridges the restart itself
            assert pacs.source_digest(study).digest == digest
    assert stack.process.returncode == 0 and not alive(stack.told["seen"])


def test_sigint_while_starting_leaves_no_process(home: Path, some_ports: dict[str, str]) -> None:
    starting = launch(home, some_ports)
    eventually(lambda: (home / "run" / "postgres.json").exists(), 30)
    seen = psutil.Process(starting.pid).children(recursive=True)
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)
    assert not alive(seen) and "Traceback" not in said
    assert not list((home / "run").glob("*.json"))
