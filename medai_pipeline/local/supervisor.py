"""Keeps services running: starts each as its own session, restarts what dies, ends all of them without a rest.

What the services are stands in `services`; this module knows only commands, logs and process identities.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from medai_pipeline.errors import StackError
from medai_pipeline.local import process
from medai_pipeline.local.paths import Home, write_private

DEATHS = 5
DEATHS_WITHIN_S = 60.0
BACKOFF_S = (0.1, 1.0, 2.0, 4.0)
LOG_BYTES = 10 * 2**20
LOG_CHECK_S = 30.0
POLL_S = 0.05


@dataclass(frozen=True)
class Service:
    """One child. `ready` says whether it serves by now; `shown` is what the person sees when it does.

    `stop_signal` asks it to end, with `leader_only` its first process alone, which ends the others. `user` runs it as another account (only root can). `keep_orphans`: what its killed
    process leaves running is left to finish; at the stop of the stack it is ended like everything else. `once`: it does its
    work and ends; however it ends it is not started again, and the last line of its log is shown.
    """

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    environment: Mapping[str, str]
    shown: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
    start_timeout_s: float = 60.0
    grace_s: float = 10.0
    keep_orphans: bool = False
    leader_only: bool = False
    once: bool = False
    start_attempts: int = 2  # before it was ready for the first time
    deaths: int = DEATHS  # within a minute: then it is given up


class Supervisor:
    """Starts services in the order they are given, heals them, stops them in reverse.

    Each incarnation is recorded in `run/<name>.json`, so that a later start can end what a killed one left behind.
    """

    def __init__(self, home: Home, echo: Callable[[str], None], interrupted: threading.Event | None = None) -> None:
        self._home = home
        self._echo = echo
        self._interrupted = interrupted or threading.Event()
        self._groups: list[list[Keeper]] = []  # as they were started
        self.failed = threading.Event()

    def start(self, *services: Service) -> None:
        """Starts the given services at once and returns when each is ready.

        Raises StackError when one cannot be started, or when `interrupted` is set meanwhile.
        """
        began = time.monotonic()
        keepers = [Keeper(service, self._home, self._echo, self.failed) for service in services]
        self._groups.append(keepers)
        for keeper in keepers:
            keeper.start()
        for keeper in keepers:
            keeper.wait_ready(self._interrupted)
            service = keeper.service
            if service.once:
                self._echo(f"{service.name:<10} {service.shown}")
                continue
            self._echo(f"{service.name:<10} {service.shown:<36} ready in {time.monotonic() - began:.1f} s")

    @property
    def failure(self) -> StackError | None:
        """Why one service was given up, if one was."""
        return next((keeper.failure for keeper in self._keepers() if keeper.failure), None)

    def pids(self) -> dict[str, int]:
        """The services' present pids."""
        return {keeper.service.name: keeper.pid for keeper in self._keepers() if keeper.pid}

    def stop(self) -> None:
        """Ends the groups in reverse order, those of a group at once, and says so of each."""
        while self._groups:
            group = self._groups.pop()
            ending = [threading.Thread(target=self._stop_one, args=(keeper,), daemon=True) for keeper in group]
            for thread in ending:
                thread.start()
            for thread in ending:
                thread.join()

    def _stop_one(self, keeper: Keeper) -> None:
        began = time.monotonic()
        keeper.stop()
        if keeper.finished:
            return
        self._echo(f"{keeper.service.name:<10} stopped in {time.monotonic() - began:.1f} s")

    def _keepers(self) -> list[Keeper]:
        return [keeper for group in self._groups for keeper in group]


class Keeper(threading.Thread):
    """The thread that keeps one service running."""

    def __init__(self, service: Service, home: Home, echo: Callable[[str], None], failed: threading.Event) -> None:
        super().__init__(name=f"keeper-{service.name}", daemon=True)
        self.service = service
        self.failure: StackError | None = None
        self.finished = False  # of a service that runs once
        self._record_path = home.run / f"{service.name}.json"
        self._log_path = home.logs / f"{service.name}.log"
        self._echo = echo
        self._failed = failed
        self._stopping = threading.Event()
        self._was_ready = False
        self._launching = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._identities: list[process.Identity] = []

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child and self._child.poll() is None else None

    def run(self) -> None:
        deaths: deque[float] = deque(maxlen=self.service.deaths)
        while self._launch():
            assert self._child is not None
            code = self._wait()
            if self._stopping.is_set():
                return
            if not self.service.keep_orphans:
                process.end(self._identities, signal.SIGTERM, grace_s=2)
            if self.service.once:
                return self._finished(code)
            deaths.append(time.monotonic())
            if not self._was_ready and len(deaths) >= self.service.start_attempts:
                return self._give_up(f"{self.service.name} does not start ({_how(code)})")
            if len(deaths) == self.service.deaths and deaths[-1] - deaths[0] < DEATHS_WITHIN_S:
                return self._give_up(
                    f"{self.service.name} ended {self.service.deaths} times within a minute ({_how(code)})"
                )
            self._echo(f"{self.service.name:<10} ended ({_how(code)}), starts again")
            self._stopping.wait(BACKOFF_S[min(len(deaths), len(BACKOFF_S)) - 1])

    def _wait(self) -> int:
        """Until the child ends; meanwhile its log is kept from growing without bound."""
        assert self._child is not None
        while True:
            try:
                return self._child.wait(timeout=LOG_CHECK_S)
            except subprocess.TimeoutExpired:
                rotate(self._log_path)

    def wait_ready(self, interrupted: threading.Event) -> None:
        deadline = time.monotonic() + self.service.start_timeout_s
        while not (self.pid and self.service.ready()) and not self.finished:
            if self.failure:
                raise self.failure
            if interrupted.wait(POLL_S):
                raise StackError("stopped before everything had started")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.service.name} is not ready after {self.service.start_timeout_s:.0f} s: see {self._log_path}"
                )
        self._was_ready = True

    def stop(self) -> None:
        with self._launching:
            self._stopping.set()
        process.end(self._identities, self.service.stop_signal, self.service.grace_s, self.service.leader_only)
        if self.is_alive():
            self.join(timeout=10)
        self._record_path.unlink(missing_ok=True)

    def _launch(self) -> bool:
        """Starts the process and records it; False when the service is to stop or its program cannot be run."""
        with self._launching:
            if self._stopping.is_set():
                return False
            try:
                with _open_log(self._log_path) as log:
                    self._child = subprocess.Popen(
                        self.service.command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=dict(self.service.environment),
                        user=self.service.user,
                        start_new_session=True,
                        umask=0o077,  # what a service writes is for its own account
                    )
            except OSError as error:
                self._give_up(f"{self.service.name} cannot be started ({error.strerror})")
                return False
            self._record(self._child.pid)
            return True

    def _record(self, pid: int) -> None:
        self._identities = [identity for identity in self._identities if identity.living()]
        try:
            self._identities.append(process.Identity.of(pid))
        except psutil.NoSuchProcess:
            return  # ended already; the wait that follows sees it
        write_private(self._record_path, json.dumps([[entry.pid, entry.create_time] for entry in self._identities]))

    def _finished(self, code: int) -> None:
        """What came of it: nothing depends on it, so that the stack goes on either way."""
        last = log_tail(self._log_path, 1) if code >= 0 else []
        words = last[0] if last else f"ended ({_how(code)})"
        self._echo(f"{self.service.name:<10} {words}" + (f": see {self._log_path}" if code else ""))
        self._record_path.unlink(missing_ok=True)
        self.finished = True

    def _give_up(self, what: str) -> None:
        for line in log_tail(self._log_path):
            self._echo(f"  {self.service.name}: {line}")
        self.failure = StackError(f"{what}: see {self._log_path}")
        self._failed.set()


def end_leftovers(home: Home) -> int:
    """Ends what a killed stack left running, by its records; returns how many services were found alive."""
    found = 0
    for path in sorted(home.run.glob("*.json")):
        try:
            identities = [process.Identity(int(pid), float(started)) for pid, started in json.loads(path.read_text())]
        except (ValueError, TypeError) as error:
            raise StackError(
                f"{path} is damaged ({error}): end the stack's processes by hand, then delete it"
            ) from error
        if any(identity.living() for identity in identities):
            found += 1
            # SIGINT is a fast shutdown to Postgres, and a stop to everything else here
            process.end(identities, signal.SIGINT if path.stem == "postgres" else signal.SIGTERM, grace_s=10)
        path.unlink()
    return found


def log_tail(path: Path, lines: int = 8) -> list[str]:
    """The last lines of a log, for a person."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def rotate(path: Path) -> None:
    """Puts a big log aside (one older log is kept), also while its service writes on: it appends, so it goes on at 0."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        shutil.copyfile(path, older := path.with_suffix(".log.1"))
        older.chmod(0o600)
        os.truncate(path, 0)


def _open_log(path: Path) -> IO[bytes]:
    rotate(path)
    path.touch(mode=0o600)
    return path.open("ab")


def _how(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    except ValueError:
        return f"signal {-code}"
