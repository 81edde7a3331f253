"""Whether a run's process lives: a lock in Postgres that dies with the process, seen from every machine.

The lock is a shared advisory one on a connection of its own: Postgres frees it when the process ends in any way.
Children made by a bare fork inherit the connection and keep the hold while they live; those started anew do not.
"""

from __future__ import annotations

import hashlib
import threading
from types import TracebackType

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from medai_pipeline.errors import StorageError
from medai_pipeline.storage.tables import studies


class RunHold:
    """The hold of one run by this process. Taken at once; safe to use from several threads."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self._key = _lock_key(run_id)
        self._guard = threading.Lock()
        self._connection: Connection | None = None
        self._broken = False
        self.ensure()

    def ensure(self) -> bool:
        """The hold is there after the return. False when it was lost in between: others may have taken the studies.

        Raises DatabaseUnreachable when it can neither be confirmed nor taken again.
        """
        with self._guard:
            if self._connection is not None and self._alive(self._connection):
                return True
            first = self._connection is None and not self._broken
            self._drop()
            self._broken = True
            self._connection = _take(self._engine, self._key)
            self._broken = False
            return first

    def release(self) -> None:
        """Lets go; a second time is no error."""
        with self._guard:
            self._drop()

    def __enter__(self) -> RunHold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _alive(self, connection: Connection) -> bool:
        try:
            connection.execute(sa.select(1))
        except StorageError:
            return False
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Holds:
    """Taking and seeing the holds of runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hold_run(self, run_id: str) -> RunHold:
        """Shows that the run is alive until `release()` or the end of this process."""
        return RunHold(self._engine, run_id)

    def run_is_held(self, run_id: str) -> bool:
        """Whether some process, on any machine, holds the run. Looks only: takes no lock itself."""
        key = _lock_key(run_id)
        with self._engine.connect() as connection:
            return bool(connection.scalar(_IS_HELD, {"high": key >> 32 & 0xFFFFFFFF, "low": key & 0xFFFFFFFF}))

    def was_held(self, run_id: str) -> bool:
        """Whether the run has, or had at its end, claimed a study."""
        with self._engine.connect() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(studies.c.run_id == run_id))))


# a bigint advisory lock is shown by Postgres as its two halves, with objsubid 1
_IS_HELD = sa.text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND classid = CAST(CAST(:high AS bigint) AS oid) AND objid = CAST(CAST(:low AS bigint) AS oid))"
)


def _take(engine: Engine, key: int) -> Connection:
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.detach()  # its own, outside the pool: closing it ends the session, and with it the lock
        connection.execute(sa.text("SET idle_session_timeout = 0"))
        connection.execute(sa.text("SELECT pg_advisory_lock_shared(:key)"), {"key": key})
    except BaseException:
        connection.close()
        raise
    return connection


def _lock_key(run_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"medai run {run_id}".encode()).digest()[:8], "big", signed=True)
