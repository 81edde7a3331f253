"""Postgres as others find it: URLs, migrations that run at once, and errors a person can act on without a secret in them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import IntegrityError

from medai_pipeline.errors import DatabaseUnreachable, SettingsError, StorageError
from medai_pipeline.storage.database import dagster_url, engine_for, migrate, migrations
from medai_pipeline.storage.tables import arrivals, images, inference_results, metadata, models, studies

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "dagster"),
    [
        ("postgresql://u:p%40ss@db.site:5433/medai", "postgresql+psycopg2://u:p%40ss@db.site:5433/medai"),
        ("postgres://u@db/medai", "postgresql+psycopg2://u@db/medai"),
        ("postgresql+psycopg2://u@db/medai", "postgresql+psycopg2://u@db/medai"),
        ("postgresql+psycopg://u@db/medai", "postgresql+psycopg2://u@db/medai"),
        ("postgresql://u:@/medai?host=/run/pg", "postgresql+psycopg2://u:@/medai?host=%2Frun%2Fpg"),
    ],
)
def test_each_form_of_url_serves_both_our_driver_and_dagsters(given: str, dagster: str) -> None:
    assert make_url(dagster_url(given)) == make_url(dagster)
    assert engine_for(given).url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["mysql://u:s3cret@db/x", "s3cret", "", "postgresql://u:s3cret@db:port/x"])
def test_a_url_that_is_not_of_postgres_is_refused_without_repeating_it(url: str) -> None:
    for use in (engine_for, dagster_url):
        with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
            use(url)
        assert "s3cret" not in str(caught.value)


def test_the_tables_are_those_the_migrations_make(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_schemas": True,
        "version_table_schema": "medai",
    }
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_heads() == ("0010",)


def test_the_last_change_of_the_tables_can_be_taken_back(new_database: Callable[..., str]) -> None:
    from alembic import command

    engine = engine_for(new_database())
    with engine.begin() as connection:
        _a_study_of_two_kinds(connection)
        config = migrations(connection)
        command.downgrade(config, "-1")
        roles = connection.scalars(sa.text("SELECT role FROM medai.inference_results")).all()
        command.upgrade(config, "head")
        kinds = connection.scalar(sa.text("SELECT read_kinds FROM medai.studies"))
    engine.dispose()
    assert roles == ["shadow"]  # the first of the same answer
    assert kinds == [["CT", "CHEST"], ["DX", "HAND"]]  # known anew from the images


def _a_study_of_two_kinds(connection: sa.Connection) -> None:
    """Three CT images, one of which names no body part, and a film; what one version said of it as a shadow, then promoted."""
    whose = {"study_key": "k", "revision": 1}
    times = dict.fromkeys(("first_seen_at", "ready_at", "updated_at"), NOW)
    read = {"read_modality": "CT", "read_body_part": "CHEST"}
    connection.execute(sa.insert(studies).values(**whose, source_digest="", state="reported", **times, **read))
    for number, (modality, part) in enumerate([("CT", "CHEST"), ("CT", "CHEST"), ("CT", ""), ("DX", "HAND")]):
        uids = dict.fromkeys(("series_instance_uid", "study_instance_uid", "sop_class_uid", "source_sha256"), "1.2")
        image = {**whose, **uids, "sop_instance_uid": f"1.2.{number}", "modality": modality, "body_part": part}
        connection.execute(sa.insert(images).values(**image, usable=True))
    said = {"model_name": "m", "model_version": "1", "weights_sha256": "a", "inputs_digest": "b", "run_id": "r"}
    for role in ("shadow", "primary"):
        connection.execute(sa.insert(inference_results).values(**whose, **said, role=role, result={}, created_at=NOW))


def test_processes_that_migrate_at_once_wait_for_each_other(new_database: Callable[..., str]) -> None:
    url = new_database(migrated=False)

    def start(_: int) -> None:
        engine = engine_for(url)
        migrate(engine)
        engine.dispose()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(start, range(3)))
    engine = engine_for(url)
    migrate(engine)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM medai.alembic_version")) == 1
    engine.dispose()


@pytest.fixture
def unreachable() -> Iterator[Engine]:
    engine = engine_for("postgresql://medai:s3cret@127.0.0.1:1/medai")
    yield engine
    engine.dispose()


def test_a_postgres_that_does_not_answer_is_one_line_without_the_password(unreachable: Engine) -> None:
    with pytest.raises(DatabaseUnreachable) as caught, unreachable.connect():
        pass
    assert caught.value.retryable
    assert "127.0.0.1/medai does not answer" in str(caught.value)
    assert "\n" not in caught.value.reason
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_socket_and_a_missing_database_are_unreachable_too(postgres_url: str) -> None:
    for url in ("postgresql://u@/x?host=/nonexistent", str(make_url(postgres_url).set(database="nonexistent"))):
        with pytest.raises(DatabaseUnreachable), engine_for(url).connect():
            pass


def test_a_connection_cut_in_use_is_unreachable_and_the_next_use_gets_a_new_one(engine: Engine) -> None:
    with pytest.raises(DatabaseUnreachable), engine.connect() as connection:
        cut(engine, connection.scalar(sa.text("SELECT pg_backend_pid()")))
        connection.execute(sa.text("SELECT 1"))
    with engine.connect() as connection:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    other = engine_for(engine.url.render_as_string(hide_password=False))
    cut(other, pid)
    other.dispose()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def cut(engine: Engine, pid: int | None) -> None:
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_a_refused_statement_is_ours_and_a_violated_constraint_stays_sqlalchemys(engine: Engine) -> None:
    with pytest.raises(StorageError, match="refused") as caught, engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL statement_timeout = 1"))
        connection.execute(sa.text("SELECT pg_sleep(5)"))
    assert not isinstance(caught.value, DatabaseUnreachable)
    row = {"study_key": "A", "fingerprint": "f", "first_seen_at": NOW, "changed_at": NOW}
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(arrivals), [row, row])


def test_errors_never_show_the_values_of_a_statement(engine: Engine) -> None:
    row = {"name": "m", "version": "1", "architecture": "a", "weights_sha256": "MARKER", "state": "MARKER", "card": {}}
    with pytest.raises(IntegrityError) as caught, engine.begin() as connection:
        connection.execute(sa.insert(models).values(**row, registered_at=NOW))
    assert "parameters hidden" in str(caught.value)


def test_times_come_back_aware_and_in_utc(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.insert(arrivals).values(study_key="A", fingerprint="f", first_seen_at=NOW, changed_at=NOW)
        )
        stored = connection.scalar(sa.select(arrivals.c.changed_at))
    assert stored is not None
    assert stored == NOW and stored.utcoffset() == NOW.utcoffset()
