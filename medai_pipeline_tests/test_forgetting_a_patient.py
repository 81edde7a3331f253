"""A patient is forgotten: nothing can be read in the database, Dagster, the store or older copies; the key alone is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import make_url

from medai_pipeline.cli import main
from medai_pipeline.errors import MedaiError, StudyForgotten
from medai_pipeline.phantoms.studies import PhantomStudy, make_study
from medai_pipeline.records import Identity, Instance, StudyState
from medai_pipeline.settings import SETTINGS
from medai_pipeline.storage.database import dagster_url
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.pipeline import Pipeline, empty_pacs
from medai_pipeline_tests.postgres import NewDatabase
from medai_pipeline_tests.returning_desk import answering

# what may name a forgotten study, and by its key alone
LEFT = {
    "medai.arrivals", "medai.studies", "medai.forgotten", "medai.audit_log", "public.dynamic_partitions",
    "public.runs", "public.run_tags",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(new_database: NewDatabase, orthanc: RunningOrthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Two studies of one patient and one of another, reported; Dagster keeps its events in the same Postgres."""
    home = tmp_path_factory.mktemp("home")
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    url = new_database()
    empty_pacs(orthanc)
    settings = {
        "home": str(home),
        "database_url": url,
        "orthanc_url": orthanc.url,
        "orthanc_username": orthanc.username,
        "orthanc_password": orthanc.password,
        "stable_seconds": 0.0,
        "reconcile_seconds": 0.0,
        "gpu_enabled": False,
    }
    storage = {"storage": {"postgres": {"postgres_url": dagster_url(url)}}}
    with dg.instance_for_test(overrides=storage) as instance:
        world = Pipeline(settings, instance)
        yield world
        world.services.engine.dispose()


def of_patient(study: PhantomStudy, patient_id: str) -> PhantomStudy:
    for dataset in study.datasets:
        dataset.PatientID = patient_id
    return study


@pytest.fixture(scope="module")
def keys(world: Pipeline) -> tuple[str, str, str]:
    studies = [of_patient(make_study("chest-xray", seed), "ZZPAT1") for seed in (811, 812)]
    first, second = world.send(*studies)
    (other,) = world.send(make_study("chest-xray", 813))
    world.work()
    assert {world.state(key).state for key in (first, second, other)} == {StudyState.REPORTED}
    return first, second, other


@pytest.fixture
def medai(world: Pipeline, monkeypatch: pytest.MonkeyPatch):
    for setting in SETTINGS:
        if setting.attribute in world.settings:
            monkeypatch.setenv(setting.variable, str(world.settings[setting.attribute]))

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert "unexpected" not in result.output, result.output
        return result

    return run


def tables_with(url: str, text: str) -> set[str]:
    """Every table of every schema in which some row holds the text."""
    bare = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(bare) as connection:
        names = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        found = set()
        for schema, table in names:
            query = f'SELECT count(*) FROM "{schema}"."{table}" AS t WHERE strpos(t::text, %s) > 0'
            row = connection.execute(query, (text,)).fetchone()  # type: ignore[arg-type]
            if row and row[0]:
                found.add(f"{schema}.{table}")
        return found


def test_a_forgotten_patient_is_nowhere_and_the_other_one_is_as_before(
    world: Pipeline, keys: tuple[str, str, str], medai, tmp_path: Path
) -> None:
    first, second, other = keys
    services = world.services
    copy = tmp_path / "copy"
    shutil.copytree(services.settings.objects_path, copy)
    url = services.settings.database_url or ""
    before = tables_with(url, first)
    assert {"medai.reports", "medai.images", "medai.identities", "public.event_logs"} <= before
    with answering(0x0122) as port:  # refused, and perhaps kept all the same
        node = f"dicom://NODE@127.0.0.1:{port}"
        world.with_settings(return_when="at-once", return_to=node).deliver()
    on_their_way = sum(len(row.objects) for key in (first, second) for row in services.deliveries.of_study(key))
    result = medai("forget", "--patient", "ZZPAT1", "--reason", "request 17", "--yes")
    assert result.exit_code == 0 and "ZZPAT1" not in result.output, result.output
    assert on_their_way and f"{on_their_way} objects were sent to {node}, or were on their way" in result.output
    for key in (first, second):
        assert tables_with(url, key) <= LEFT
        assert [name for name in services.objects.names() if key in name] == []
        assert services.vault.known([key]) == set()
    # a copy of the store that was made before opens no longer; that of the other patient does
    services.secrets.drop(first)
    older = ObjectStore(copy, services.secrets)
    mine, theirs = ([name for name in older.names() if key in name] for key in (first, other))
    assert len(mine) > 5
    for name in mine:
        with pytest.raises(StudyForgotten):
            older.get(name)
    for name in theirs:
        older.get(name)
    assert services.vault.read(other, "user:test", "still here").study_instance_uid
    assert world.reports(other) and services.audit.verify().ok


def test_the_worklist_shows_it_as_forgotten_and_the_audit_chain_that_it_happened(
    world: Pipeline, keys: tuple[str, str, str], medai
) -> None:
    shown = json.loads(medai("worklist", "--json").stdout)
    assert {r["study_key"] for r in shown["in_progress"] if r["state"] == "forgotten"} == set(keys[:2])
    assert {r["study_key"] for r in shown["studies"]} == {keys[2]}
    told = [
        json.loads(line) for line in medai("audit", "list", "--action", "study.forget", "--json").stdout.splitlines()
    ]
    assert {record["subject"] for record in told} == set(keys[:2])
    assert all(record["detail"]["reason"] == "request 17" for record in told)
    assert "ZZPAT1" not in json.dumps(told)


def test_the_pacs_still_holds_it_and_sends_it_again_and_it_is_left_alone(
    world: Pipeline, keys: tuple[str, str, str], medai
) -> None:
    assert world.requested(3) == []
    world.send(of_patient(make_study("chest-xray", 811, slices=1), "ZZPAT1"))
    assert world.requested(3) == []
    assert world.state(keys[0]).state is StudyState.FORGOTTEN
    with pytest.raises(StudyForgotten):
        world.services.objects.put(f"raw/{keys[0]}/x", b"late")
    with pytest.raises(StudyForgotten):
        world.services.vault.store(keys[0], Identity("1.2.3"))
    with pytest.raises(StudyForgotten), world.services.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO medai.inference_results (study_key, revision, model_name, model_version, weights_sha256,"
                    " role, inputs_digest, run_id, result, created_at) VALUES (:k, 1, 'm', '1', '', '', '', '', '{}', now())"),
            {"k": keys[0]},
        )  # fmt: skip


def test_forgetting_again_changes_nothing_and_an_unknown_study_is_said(world: Pipeline, keys, medai) -> None:
    records = world.services.audit.verify().records
    assert medai("forget", keys[0], "--yes").exit_code == 0
    assert world.services.audit.verify().records == records
    unknown = medai("forget", "A" * 26, "--yes")
    assert unknown.exit_code == 1 and "not known" in unknown.output
    assert medai("forget", "--patient", "NOBODY", "--yes").exit_code == 1


def test_lifted_it_comes_again_as_one_that_was_never_here(world: Pipeline, keys, medai) -> None:
    too_soon = medai("forget", keys[0], "--lift", "--yes")
    assert too_soon.exit_code == 1 and "wait a minute" in too_soon.output
    with world.services.engine.begin() as connection:
        connection.execute(sa.text("UPDATE medai.forgotten SET at = at - interval '1 hour'"))
    assert medai("forget", keys[0], "--lift", "--reason", "consent", "--yes").exit_code == 0
    world.with_settings().work()  # a process that remembers no secret
    assert world.state(keys[0]).state is StudyState.REPORTED
    assert world.state(keys[0]).revision == 1
    assert world.state(keys[1]).state is StudyState.FORGOTTEN
    assert world.services.audit.verify().ok


def test_a_run_that_is_at_work_when_its_study_is_forgotten_leaves_no_rows(world: Pipeline, keys) -> None:
    """Its rows and the forgetting wait for each other: what was written is deleted, what comes later is refused."""
    from medai_pipeline.orchestration.forgetting import forget

    services, key = world.services, keys[2]
    row = services.lifecycle.claim(key, "run-1", world.now())
    assert row is not None
    forget(services, key, "while it runs", "user:test")
    assert services.lifecycle.advance(key, row.revision, "run-1", "predictions", world.now()) is False
    instance = Instance("2.25.1", "2.25.2", "2.25.3", "1.2", "1.2", "DX", "0" * 64)
    with pytest.raises(MedaiError):
        services.results.save_images(key, row.revision, [instance])
    assert services.lifecycle.claim(key, "run-2", world.now()) is None
    assert tables_with(services.settings.database_url or "", key) <= LEFT


def test_every_table_that_names_a_study_refuses_one_that_was_forgotten(engine: sa.Engine) -> None:
    """Also a table that a later migration adds: it needs the trigger `refuse_forgotten`."""
    with engine.connect() as connection:
        tables = connection.scalars(
            sa.text("SELECT table_name FROM information_schema.columns JOIN information_schema.tables"
                    " USING (table_schema, table_name) WHERE table_schema = 'medai' AND column_name = 'study_key'"
                    " AND table_type = 'BASE TABLE'")
        ).all()  # fmt: skip
        refusing = connection.scalars(
            sa.text("SELECT event_object_table FROM information_schema.triggers"
                    " WHERE action_statement LIKE '%refuse_forgotten%'")
        ).all()  # fmt: skip
    assert {"identities", "reports", "study_secrets"} <= set(tables)
    assert set(tables) - set(refusing) == {"arrivals", "studies", "forgotten"}  # those that say that it was there
