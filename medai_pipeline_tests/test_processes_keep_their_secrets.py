"""Who is told the site's key: our own processes alone; none of them leaves its memory on the disk, or says what it is given."""

# ruff: noqa: F811 - a fixture of another file is asked for by its name

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.services import SECRETS, Context, all_services
from medai_pipeline.logs import OURS
from medai_pipeline.settings import SETTINGS, read_settings
from medai_pipeline_tests.conftest import ROOT
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study
from medai_pipeline_tests.test_stack_lifecycle import home, running, some_ports  # noqa: F401 - fixtures
from medai_pipeline_tests.test_what_comes_in_reaches_the_pacs import Service, service, until  # noqa: F401 - fixtures

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def with_core_files() -> Iterator[None]:
    """What a distribution may have as default: a process that dies leaves its memory in a file."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def core_bytes(pid: int) -> list[str]:
    """The most that a process may write of its memory, soft and hard."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core file")
    ]
    return line.split()[4:6]


def test_postgres_and_orthanc_are_told_no_setting_and_leave_no_core_file(
    home: Path,
    some_ports: dict[str, str],
    with_core_files: None,
) -> None:
    with running(home, {**some_ports, "MEDAI_KEY": KEY, "MEDAI_HOME": str(home)}) as stack:
        own = psutil.Process(stack.process.pid)
        assert own.environ()["MEDAI_KEY"] == KEY
        for process in (psutil.Process(stack.pid_of(name)) for name in ("postgres", "orthanc")):
            assert not {setting.variable for setting in SETTINGS} & set(process.environ())
            assert process.environ()["PATH"] and core_bytes(process.pid) == ["0", "0"]
        # who administers the database can run a program there, but does not find our key with it
        with psycopg.connect(stack.told["database_url"]) as connection:
            connection.execute("CREATE TEMPORARY TABLE told (line text)")
            connection.execute("COPY told FROM PROGRAM 'env' WITH (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')")
            told = [line for (line,) in connection.execute("SELECT line FROM told")]
        assert any(line.startswith("PATH=") for line in told) and not any(KEY in line for line in told)


def test_dagsters_page_and_daemon_are_told_no_key_and_no_password(tmp_path: Path) -> None:
    told = {setting.variable: "told" for setting in SETTINGS}
    context = Context(read_settings({}, home=str(tmp_path), scp_port=11112), Home(tmp_path), told)
    services = {row.name: row.environment for group in all_services(context) for row in group}
    assert set(told) >= SECRETS
    for name, environment in services.items():
        kept = SECRETS & set(environment)
        assert kept == (set() if name in {"web", "daemon"} else SECRETS), name
        assert environment["DATABASE_URL"] == "told"


def test_a_command_leaves_no_core_file(with_core_files: None) -> None:
    program = (
        "import resource; from medai_pipeline.cli import main\n"
        "main(['users', '--help'], standalone_mode=False); print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.endswith("(0, 0)\n"), done.stderr


def test_what_receives_logs_as_the_other_services_do(
    service: Service,
    orthanc: RunningOrthanc,
    tmp_path: Path,
    with_core_files: None,
) -> None:
    (dataset,) = made_study(1)
    service.start(MEDAI_LOG_FORMAT="json", ORTHANC_URL=f"http://127.0.0.1:{free_port()}")
    assert service.process and core_bytes(service.process.pid) == ["0", "0"]
    until(service.inbox.is_dir)  # it answers on its port before that
    (service.inbox / "IM0").write_bytes(file_bytes(dataset))
    until(lambda: "tried again" in service.log.read_text())
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    echoed = [line for line in service.log.read_text().splitlines() if not line.startswith("{")]
    assert lines and all(line["logger"].startswith(OURS) for line in lines)
    assert [line.split()[0] for line in echoed] == ["inbox", "C-STORE"]
    assert os.fspath(tmp_path) not in json.dumps(lines) and str(dataset.PatientID) not in service.log.read_text()
