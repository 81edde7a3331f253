"""Whether a run lives is seen from outside: its hold ends with its process, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.errors import DatabaseUnreachable
from medai_pipeline.storage.database import engine_for
from medai_pipeline.storage.repository import Repository

RUN = "0b7e2c1a-run"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def repository(engine: Engine) -> Repository:
    return Repository(engine)


def becomes(condition: Callable[[], bool], within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


def cut_holders(engine: Engine) -> None:
    """Ends the sessions that hold advisory locks, as a failing network or a restart of Postgres would."""
    with engine.connect() as connection:
        connection.execute(
            sa.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted")
        )


def test_a_hold_is_seen_until_it_is_released(repository: Repository) -> None:
    assert not repository.run_is_held(RUN)
    hold = repository.hold_run(RUN)
    assert repository.run_is_held(RUN)
    assert not repository.run_is_held("another-run")
    assert hold.ensure()
    hold.release()
    assert becomes(lambda: not repository.run_is_held(RUN))
    hold.release()


def test_two_processes_of_one_run_hold_it_until_the_last_lets_go(repository: Repository) -> None:
    with repository.hold_run(RUN):
        with repository.hold_run(RUN):
            pass
        assert repository.run_is_held(RUN)
    assert becomes(lambda: not repository.run_is_held(RUN))


def test_a_killed_process_lets_go(repository: Repository, database_url: str) -> None:
    program = (
        "import sys, signal\n"
        "from medai_pipeline.storage.database import engine_for\n"
        "from medai_pipeline.storage.repository import Repository\n"
        f"hold = Repository(engine_for(sys.argv[1])).hold_run({RUN!r})\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, database_url], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        assert repository.run_is_held(RUN)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert becomes(lambda: not repository.run_is_held(RUN))


def test_a_hold_whose_connection_was_cut_is_gone_and_is_taken_again_with_a_warning(
    repository: Repository, engine: Engine
) -> None:
    with repository.hold_run(RUN) as hold:
        cut_holders(engine)
        assert not repository.run_is_held(RUN)
        assert not hold.ensure()
        assert repository.run_is_held(RUN)
        assert hold.ensure()


def test_a_hold_that_cannot_be_taken_again_says_so_and_can_later(
    new_database: Callable[..., str], engine: Engine
) -> None:
    url = new_database()
    other = engine_for(url)
    hold = Repository(other).hold_run(RUN)
    name = other.url.database
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
        cut_holders(engine)
        for _ in range(2):
            with pytest.raises(DatabaseUnreachable):
                hold.ensure()
        connection.execute(sa.text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
    assert not hold.ensure()
    assert Repository(other).run_is_held(RUN)
    hold.release()
    other.dispose()


def test_holds_take_no_connection_from_the_pool(database_url: str) -> None:
    engine = engine_for(database_url, pool_size=1)
    repository = Repository(engine)
    holds = [repository.hold_run(f"run-{n}") for n in range(15)]
    assert all(repository.run_is_held(f"run-{n}") for n in range(15))
    for hold in holds:
        hold.release()
    engine.dispose()


def test_a_run_was_held_when_it_has_claimed_a_study(repository: Repository) -> None:
    repository.touch("A" * 26, "fp", 1, NOW)
    repository.settle("A" * 26, "fp", "d", 1, NOW)
    assert not repository.was_held(RUN)
    repository.claim("A" * 26, RUN, NOW)
    assert repository.was_held(RUN)
