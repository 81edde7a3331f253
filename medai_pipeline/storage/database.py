"""How Postgres is reached: URLs, the engine, migrations, and its errors as ours. No table is known here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from medai_pipeline.errors import (
    DatabaseUnreachable,
    MedaiError,
    SettingsError,
    StorageError,
    StorageFull,
    StudyForgotten,
)

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA = "medai"
_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x6D656461_69000001
_FORGOTTEN = "MEDF0"  # raised by the trigger refuse_forgotten

# a peer that vanished without a word (power, network) is noticed within about a minute, on both sides
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SESSION = "-c timezone=UTC -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


def engine_for(database_url: str, pool_size: int = 5) -> Engine:
    """An engine for our tables (psycopg 3). Nothing is connected yet.

    Every failed connection or statement is raised as DatabaseUnreachable, StorageFull or StorageError, in one line
    without password, statement or parameters; a violated constraint stays SQLAlchemy's IntegrityError.
    Raises SettingsError when the URL is not one of Postgres.
    """
    url = _parsed(database_url).set(drivername="postgresql+psycopg")
    options = " ".join(filter(None, (str(url.query.get("options", "")), _SESSION)))
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=10,
        pool_timeout=30,
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "application_name": "medai", "options": options, **_KEEPALIVE},
    )
    event.listen(engine, "handle_error", _translate)
    return engine


def dagster_url(database_url: str) -> str:
    """The same database for Dagster: psycopg 2, which its LISTEN/NOTIFY needs. Holds the password: not for logs."""
    return _parsed(database_url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def migrate(engine: Engine) -> None:
    """Brings schema `medai` to the newest version, all or nothing. Processes that start together wait for each other."""
    from alembic import command

    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        command.upgrade(migrations(connection), "head")


def migrations(connection: Connection) -> Config:
    """Alembic's view of the changes of the schema, over this connection."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _parsed(database_url: str) -> URL:
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        # neither the text nor the cause is repeated: a misread port can be part of a password
        raise SettingsError("DATABASE_URL cannot be read: it looks like postgresql://user:password@host/name") from None
    if url.drivername.partition("+")[0] not in {"postgresql", "postgres"}:
        raise SettingsError(f"DATABASE_URL names {url.drivername}: only Postgres serves (postgresql://...)")
    return url


def _translate(context: ExceptionContext) -> None:
    """SQLAlchemy's `handle_error`: raises our error in place of the driver's."""
    error = context.sqlalchemy_exception
    if context.is_pre_ping or not isinstance(error, DBAPIError):
        return  # a stale pooled connection is replaced by the pool itself
    url = context.engine.url if context.engine is not None else None
    translated = _our_error(error, url, context.is_disconnect)
    if translated is not None:
        raise translated from context.original_exception


def _our_error(error: DBAPIError, url: URL | None, is_disconnect: bool) -> MedaiError | None:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state == _FORGOTTEN:
        return StudyForgotten("the study was forgotten: it is left alone until a person lifts that")
    if state == "53100":  # disk_full
        return StorageFull("Postgres has no space left on its disk: make room there, then retry")
    if is_disconnect or state.startswith(("08", "57P", "53")) or (isinstance(error, OperationalError) and not state):
        return DatabaseUnreachable(
            f"Postgres at {_place(url)} does not answer ({_cause(error.orig, url)}): start it, or check DATABASE_URL"
        )
    if isinstance(error, (OperationalError, InterfaceError)) or state.startswith("42501"):
        return StorageError(f"Postgres at {_place(url)} refused ({_cause(error.orig, url)})")
    return None


def _place(url: URL | None) -> str:
    if url is None:
        return "DATABASE_URL"
    host = url.host or url.query.get("host") or "localhost"
    return f"{host}/{url.database}"


def _cause(error: Any, url: URL | None) -> str:
    """The driver's first line, shortened, and without the password should a driver ever repeat it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0][:200] if lines else type(error).__name__
    password = str(url.password) if url is not None and url.password else ""
    return line.replace(password, "***") if password else line
