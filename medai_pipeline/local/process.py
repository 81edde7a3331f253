"""Processes by pid and start time: is it still the same one, who descends from it, end them all."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that led its own session. A pid alone may have been given to another process since."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        return cls(pid, psutil.Process(pid).create_time())

    def leader(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.create_time and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None

    def living(self) -> list[psutil.Process]:
        """The leader, its descendants, and what is left of its session after the leader is gone."""
        leader = self.leader()
        if leader is None and psutil.pid_exists(self.pid) and not _is_zombie(self.pid):
            return []  # the pid is another process's now, so nothing of the session was left
        found = {process.pid: process for process in _session(self.pid)}
        if leader:
            found[leader.pid] = leader
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update({child.pid: child for child in leader.children(recursive=True)})
        return list(found.values())


def end(
    identities: Iterable[Identity],
    stop_signal: signal.Signals = signal.SIGTERM,
    grace_s: float = 10,
    leader_only: bool = False,
) -> None:
    """Signals each leader's process group, waits at most `grace_s`, then kills every straggler, grandchildren too.

    `leader_only`: the leader alone is signalled, and ends its children itself.
    """
    identities = list(identities)
    living = [process for identity in identities for process in identity.living()]
    for identity in identities:
        leader = identity.leader()
        if leader and leader_only:
            _signal_each([leader], stop_signal)
        elif leader:
            _signal_group(identity.pid, stop_signal)
        else:
            _signal_each(identity.living(), signal.SIGTERM)
    _, stragglers = psutil.wait_procs(living, timeout=grace_s)
    late = [process for identity in identities for process in identity.living()]
    stragglers = list({process.pid: process for process in (*stragglers, *late)}.values())
    _signal_each(stragglers, signal.SIGKILL)
    psutil.wait_procs(stragglers, timeout=5)


def _session(sid: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == sid and process.pid != sid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    return members


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _signal_each(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
