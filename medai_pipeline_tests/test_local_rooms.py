"""The parts of the local stack by themselves: lock, ports, processes, supervisor, Postgres, settings of a running one."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from medai_pipeline.errors import DatabaseUnreachable, StackError
from medai_pipeline.local import attached, orthanc, ports, process
from medai_pipeline.local.lock import HomeLock
from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.postgres import SOCKET_NAME, SOCKET_PATH_BYTES, EmbeddedPostgres, check
from medai_pipeline.local.supervisor import Service, Supervisor, end_leftovers
from medai_pipeline.settings import read_settings

# a leader that starts a grandchild which ignores SIGTERM, and says its pid
STUBBORN = """
import signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
grandchild.stdout.readline()
open(sys.argv[1], "w").write(str(grandchild.pid))
time.sleep(600)
"""


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    """Polls until the condition holds."""
    deadline, tick = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        tick.wait(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    supervisor = Supervisor(home, echo=print)
    yield supervisor
    supervisor.stop()


def sleeper(name: str = "sleeper", **more: object) -> Service:
    command = (sys.executable, "-c", "import time; time.sleep(600)")
    return Service(name, command, ready=lambda: True, environment=dict(os.environ), **more)  # type: ignore[arg-type]


def test_a_second_lock_is_refused_with_the_pid_of_the_first_and_free_again_after_release(tmp_path: Path) -> None:
    first, second = HomeLock(tmp_path / "lock"), HomeLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(StackError, match=f"pid {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_lock_that_a_killed_process_held_is_taken_over(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from medai_pipeline.local.lock import HomeLock\n"
    code += (
        "HomeLock.keep = lock = HomeLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    with pytest.raises(StackError, match=f"pid {holder.pid}"):
        HomeLock(tmp_path / "lock").acquire()
    holder.kill()
    holder.wait()
    lock = HomeLock(tmp_path / "lock")
    lock.acquire()
    lock.release()


def test_a_port_in_use_is_named_with_its_setting_and_the_pid_that_has_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            ports.require_free(port, "MEDAI_WEB_PORT")
    text = str(caught.value)
    assert f"port {port} (MEDAI_WEB_PORT)" in text and f"pid {os.getpid()}" in text and "\n" not in text
    ports.require_free(port, "MEDAI_WEB_PORT")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_named_with_its_setting(port: int) -> None:
    with pytest.raises(StackError, match="MEDAI_CODE_PORT"):
        ports.require_free(port, "MEDAI_CODE_PORT")


def test_two_settings_with_one_port_are_both_named() -> None:
    with pytest.raises(StackError, match="MEDAI_WEB_PORT and MEDAI_CODE_PORT"):
        ports.require_distinct({"MEDAI_WEB_PORT": 3000, "MEDAI_CODE_PORT": 3000})


def test_a_pid_that_was_given_to_another_process_is_never_ended() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        process.end([process.Identity(other.pid, psutil.Process(other.pid).create_time() - 100)], grace_s=0.1)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stopping_ends_grandchildren_that_ignore_sigterm(supervisor: Supervisor, home: Home, tmp_path: Path) -> None:
    told = tmp_path / "grandchild"
    command = (sys.executable, "-c", STUBBORN, str(told))
    supervisor.start(
        Service("stubborn", command, lambda: told.exists() and bool(told.read_text()), os.environ, grace_s=0.5)
    )
    grandchild, leader = int(told.read_text()), supervisor.pids()["stubborn"]
    supervisor.stop()
    assert not psutil.pid_exists(leader)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    assert not list(home.run.glob("*.json"))


def test_services_that_start_together_stop_together_and_each_is_told(home: Home) -> None:
    said: list[str] = []
    supervisor = Supervisor(home, echo=said.append)
    # each leaves only when all three were told to: one after the other nobody would
    patient = (
        "import os, signal, sys, threading\n"
        "own, *every = sys.argv[1:]\n"
        "def leave(*_):\n"
        "    open(own + '.told', 'w').close()\n"
        "    while not all(os.path.exists(one + '.told') for one in every): threading.Event().wait(0.02)\n"
        "    open(own + '.left', 'w').close(); os._exit(0)\n"
        "signal.signal(signal.SIGTERM, leave); open(own, 'w').close(); threading.Event().wait()"
    )
    names = ("one", "two", "three")

    def service(name: str) -> Service:
        told = home.run / name
        every = [str(home.run / each) for each in names]
        return Service(name, (sys.executable, "-c", patient, str(told), *every), told.exists, dict(os.environ))

    supervisor.start(sleeper("first"))
    supervisor.start(*map(service, names))
    said.clear()
    supervisor.stop()
    assert all((home.run / f"{name}.left").exists() for name in names), "they were told one after the other"
    assert sorted(line.split()[0] for line in said[:3]) == ["one", "three", "two"]
    assert said[3].startswith("first") and all("stopped in" in line for line in said)


def test_a_leader_that_ends_its_children_itself_is_signalled_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    told = tmp_path / "told"
    child = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1] + '.hit', 'w').close()); "
    child += "print('up', flush=True); sys.stdin.read()"
    leader = (
        "import signal, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}, sys.argv[1]], stdin=-1, stdout=-1)\n"
        "child.stdout.readline()\n"
        "def leave(*_): child.stdin.close(); child.wait(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, leave); open(sys.argv[1], 'w').close(); time.sleep(600)"
    )
    command = (sys.executable, "-c", leader, str(told))
    supervisor.start(Service("polite", command, told.exists, dict(os.environ), leader_only=True))
    supervisor.stop()
    assert not told.with_name("told.hit").exists()


def test_a_killed_service_is_started_again_and_its_orphans_are_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    told = tmp_path / "grandchild"
    command = (sys.executable, "-c", STUBBORN, str(told))
    supervisor.start(
        Service("stubborn", command, lambda: told.exists() and bool(told.read_text()), os.environ, grace_s=0.5)
    )
    leader, orphan = supervisor.pids()["stubborn"], psutil.Process(int(told.read_text()))
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: supervisor.pids().get("stubborn") not in {None, leader})
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_a_service_that_does_not_start_is_given_up_with_the_last_lines_of_its_log(home: Home) -> None:
    said: list[str] = []
    supervisor = Supervisor(home, echo=said.append)
    command = (sys.executable, "-c", "print('no such thing'); raise SystemExit(3)")
    with pytest.raises(StackError, match=r"broken does not start \(exit 3\): see .*broken.log"):
        supervisor.start(Service("broken", command, lambda: False, os.environ))
    supervisor.stop()
    assert any("no such thing" in line for line in said)


def test_a_service_that_keeps_dying_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medai_pipeline.local.supervisor.BACKOFF_S", (0.01,))
    supervisor = Supervisor(home, echo=lambda _: None)
    try:
        supervisor.start(sleeper())
        while not supervisor.failed.wait(0.05):
            for pid in supervisor.pids().values():
                os.kill(pid, signal.SIGKILL)
        assert "sleeper ended 5 times within a minute" in str(supervisor.failure)
    finally:
        supervisor.stop()


@pytest.mark.parametrize(("code", "said"), [(0, "once       all done"), (3, "once       all done: see ")])
def test_what_runs_once_says_its_last_line_and_is_not_started_again(home: Home, code: int, said: str) -> None:
    lines: list[str] = []
    supervisor = Supervisor(home, echo=lines.append)
    work = f"import sys; print('first'); print('all done'); sys.exit({code})"
    try:
        supervisor.start(
            Service("once", (sys.executable, "-c", work), lambda: True, dict(os.environ), shown="at work", once=True)
        )
        eventually(lambda: "once       at work" in lines and any(line.startswith(said) for line in lines))
        assert (supervisor.pids(), supervisor.failure) == ({}, None)
        assert not supervisor.failed.is_set()
    finally:
        supervisor.stop()
    assert (home.logs / "once.log").read_text().count("first") == 1
    assert not (home.run / "once.json").exists()
    assert not any("stopped" in line for line in lines)


def test_a_program_that_is_not_there_is_a_stack_error(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match="ghost cannot be started"):
        supervisor.start(Service("ghost", ("/no/such/program",), lambda: False, os.environ))


def test_leftovers_of_a_killed_supervisor_are_ended_by_their_records(supervisor: Supervisor, home: Home) -> None:
    supervisor.start(sleeper("left"))
    pid = supervisor.pids()["left"]
    deadline = time.monotonic() + 20
    while not (home.run / "left.json").is_file():  # it is written just after the process has begun
        assert time.monotonic() < deadline
    record = json.loads((home.run / "left.json").read_text())
    supervisor.stop()
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    identity = process.Identity.of(orphan.pid)
    (home.run / "left.json").write_text(json.dumps([*record, [identity.pid, identity.create_time]]))
    assert end_leftovers(home) == 1
    assert orphan.wait(timeout=5) is not None and not psutil.pid_exists(pid)
    assert not (home.run / "left.json").exists()


def test_a_big_log_is_put_aside_at_the_next_start(supervisor: Supervisor, home: Home) -> None:
    log = home.logs / "sleeper.log"
    log.write_bytes(b"x" * (10 * 2**20 + 1))
    supervisor.start(sleeper())
    assert log.stat().st_size == 0 and (home.logs / "sleeper.log.1").exists()


def test_a_log_that_grows_while_its_service_runs_is_put_aside(
    supervisor: Supervisor, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medai_pipeline.local.supervisor.LOG_CHECK_S", 0.05)
    monkeypatch.setattr("medai_pipeline.local.supervisor.LOG_BYTES", 10_000)
    chatty = "import itertools\nfor n in itertools.count(): print('line', n, flush=True)"
    supervisor.start(Service("chatty", (sys.executable, "-c", chatty), lambda: True, dict(os.environ)))
    older, log = home.logs / "chatty.log.1", home.logs / "chatty.log"
    deadline = time.monotonic() + 20
    while not (older.exists() and older.read_bytes().startswith(b"line ") and log.stat().st_size):
        assert time.monotonic() < deadline
    assert older.stat().st_mode & 0o777 == 0o600
    assert b"\0" not in log.read_bytes(), "the service goes on at the start of the emptied log"


def test_where_no_orthanc_is_installed_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(orthanc, "PLACES", ())
    with pytest.raises(StackError) as caught:
        orthanc.find_binary()
    assert "apt-get install orthanc" in str(caught.value) and "ORTHANC_URL" in str(caught.value)


def test_a_home_that_is_made_here_is_private_and_one_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    assert stat.S_IMODE(Home(tmp_path / "new").make().root.stat().st_mode) == 0o700
    (tmp_path / "there").mkdir(mode=0o750)
    assert stat.S_IMODE(Home(tmp_path / "there").make().root.stat().st_mode) == 0o750
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o700 for f in (tmp_path / "there").iterdir())


def test_the_orthanc_password_is_random_kept_and_private(home: Home, tmp_path: Path) -> None:
    first = LocalOrthanc(home, 1, 2, "medai")
    assert first.password == LocalOrthanc(home, 1, 2, "medai").password and len(first.password) >= 24
    assert stat.S_IMODE((home.run / "orthanc.password").stat().st_mode) == 0o600
    assert first.password != LocalOrthanc(Home(tmp_path / "other").make(), 1, 2, "medai").password
    assert LocalOrthanc(home, 1, 2, "medai", "given").password == "given"


def test_a_command_finds_the_running_stack_and_keeps_what_the_environment_names(home: Home) -> None:
    asked = read_settings({}, home=str(home.root))
    assert attached.attached_settings(asked) == asked
    attached.write(
        home, read_settings({}, home=str(home.root), database_url="postgresql://a/b", orthanc_url="http://c")
    )
    found = attached.attached_settings(asked)
    assert (found.database_url, found.orthanc_url) == ("postgresql://a/b", "http://c")
    own = read_settings({}, home=str(home.root), orthanc_url="http://own", orthanc_password="own")
    kept = attached.attached_settings(own)
    assert (kept.database_url, kept.orthanc_url, kept.orthanc_password) == ("postgresql://a/b", "http://own", "own")


def test_a_database_that_does_not_answer_is_one_line_without_the_password() -> None:
    port = ports.free_port()
    with pytest.raises(DatabaseUnreachable) as caught:
        check(f"postgresql+psycopg://user:secret@127.0.0.1:{port}/db")
    text = str(caught.value)
    assert "refused" in text and "DATABASE_URL" in text and "secret" not in text and "\n" not in text


def test_postgres_serves_from_a_home_too_deep_for_its_socket(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("deep-" * 12) / ("down-" * 12)).make()
    assert len(os.fsencode(deep.postgres / SOCKET_NAME)) > SOCKET_PATH_BYTES
    supervisor, postgres = Supervisor(deep, echo=print), EmbeddedPostgres(deep.postgres)
    try:
        postgres.prepare()
        supervisor.start(postgres.service(dict(os.environ)))
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("medai",)
        folder = Path(postgres.url.partition("host=")[2].replace("%2F", "/"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        supervisor.stop()
    folder.rmdir()
