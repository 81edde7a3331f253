"""Retention: each kind of data goes at its age, never before, is said first by a dry run, and is audited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.errors import SettingsError
from medai_pipeline.orchestration.ageing import apply, retention
from medai_pipeline.orchestration.event_log import delete_old_events, old_events
from medai_pipeline.records import ModelRef, Priority, StudyState
from medai_pipeline.retention import KINDS, parse_retention
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.audit_trail import AuditFilter
from medai_pipeline.storage.database import dagster_url
from medai_pipeline_tests.fresh_services import fresh_services

OLD, NEW, BUSY = "A" * 26, "B" * 26, "C" * 26
OBJECTS = (
    "raw/{}/1",
    "anonymized/{}/2.25.1-x.dcm",
    "assets/raw_dicom/{}",
    "assets/normalized_tensors/{}",
    "reports/{}/1/x/report.json",
)
RULES = "raw=10,tensors=20,deidentified=30,reports=100"


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path, database_url, retention=RULES) as made:
        yield made


def study(services: Services, key: str, days_ago: float, done: bool = True) -> None:
    at = services.now() - timedelta(days=days_ago)
    services.lifecycle.touch(key, "f", 1, at)
    services.lifecycle.settle(key, "f", f"d-{key}", 1, at)
    for name in OBJECTS:
        services.objects.put(name.format(key), b"x" * 100)
    assert services.lifecycle.claim(key, f"run-{key}", at)
    if done:
        services.results.save_inference(key, 1, {}, ModelRef("m", "1", "0"), "i", f"run-{key}", at)
        content = {"modality": "DX", "models": [{"name": "m", "version": "1", "weights_sha256": "0"}]}
        assert services.results.save_report(
            key, 1, f"run-{key}", "r", content, Priority.NORMAL, False, f"reports/{key}", at
        )


def left(services: Services, key: str) -> set[str]:
    return {name.split("/")[0] if name.count("/") > 2 or not name.startswith("assets") else name.split("/")[1]
            for name in services.objects.names() if key in name}  # fmt: skip


def test_each_kind_goes_at_its_age_and_what_is_newer_or_not_done_stays(services: Services) -> None:
    study(services, OLD, 25)
    study(services, NEW, 5)
    study(services, BUSY, 500, done=False)
    found = {aged.kind: (aged.studies, aged.objects) for aged in apply(services, dry_run=True)}
    assert found == {"raw": (1, 2), "tensors": (1, 1), "deidentified": (0, 0), "reports": (0, 0), "quarantine": (0, 0)}
    everything = {"raw", "raw_dicom", "normalized_tensors", "anonymized", "reports"}
    assert left(services, OLD) == everything
    assert {a.kind: (a.studies, a.objects) for a in apply(services)} == found
    assert left(services, OLD) == {"anonymized", "reports"}
    assert left(services, NEW) == left(services, BUSY) == everything
    assert all(aged.studies == 0 for aged in apply(services))  # what is gone is not looked at again
    records = services.audit_trail.newest(AuditFilter(action="retention.delete", limit=9))
    assert [(r.subject, r.detail["studies"]) for r in records] == [("kind:raw", 1), ("kind:tensors", 1)]
    assert set(services.ages.gone(OLD)) == {"raw", "tensors"}


def test_a_study_without_its_tensors_is_not_asked_to_be_read_again_by_another_version(services: Services) -> None:
    study(services, OLD, 25)
    study(services, NEW, 5)
    assert {read.study_key for read in services.changes.read_studies()} == {OLD, NEW}
    apply(services)
    assert {read.study_key for read in services.changes.read_studies()} == {NEW}


def test_at_the_end_of_the_reports_age_the_whole_study_is_forgotten(services: Services) -> None:
    study(services, OLD, 101)
    apply(services)
    row = services.lifecycle.study(OLD)
    assert row is not None and row.state is StudyState.FORGOTTEN
    assert left(services, OLD) == set()
    (record,) = services.audit_trail.newest(AuditFilter(action="study.forget", limit=9))
    assert (record.actor, record.subject, record.detail["reason"]) == ("system:retention", OLD, "older than 100 days")
    assert services.audit.verify().ok


def test_a_file_that_a_worker_wrote_while_its_study_was_forgotten_is_swept(services: Services) -> None:
    study(services, OLD, 1)
    from medai_pipeline.orchestration.forgetting import forget

    services.secrets.of(OLD)  # the worker remembers the secret
    path = services.settings.objects_path / "raw" / OLD / "late"
    sealed = (services.settings.objects_path / "raw" / OLD / "1").read_bytes()
    forget(services, OLD, "", "user:test")
    path.parent.mkdir(parents=True)
    path.write_bytes(sealed)
    sensor = retention(services)
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
        assert isinstance(sensor(context), dg.SkipReason)
        assert not path.exists()
        second = sensor(context)
    assert isinstance(second, dg.SkipReason) and "within the last hour" in (second.skip_message or "")


def test_the_command_says_what_would_go_and_then_does_it(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    study(services, OLD, 15)
    for name, value in {"MEDAI_HOME": services.settings.home, "DATABASE_URL": services.settings.database_url or "",
                        "MEDAI_RETENTION": RULES}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(main, ["retention", "--dry-run"])
    assert "nothing was deleted" in told.output and "10 days" in told.output and "for ever" in told.output
    assert "raw" in left(services, OLD)
    assert CliRunner().invoke(main, ["retention"]).exit_code == 0
    assert "raw" not in left(services, OLD)


def test_logs_are_put_aside_and_go_so_that_no_line_grows_older_than_the_rule(
    services: Services, tmp_path: Path
) -> None:
    by_logs = Services(
        read_settings({}, home=str(tmp_path), database_url=services.settings.database_url, retention="logs=10")
    )
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "web.log").write_text("a line of today\n")
    (folder / "web.log.1").write_text("an old line\n")
    apply(by_logs)
    assert (folder / "web.log.1").exists()
    six_days_ago = (services.now() - timedelta(days=6)).timestamp()
    os.utime(folder / "web.log.1", (six_days_ago, six_days_ago))
    apply(by_logs)
    assert (folder / "web.log.1").read_text() == "a line of today\n" and (folder / "web.log").read_text() == ""
    by_logs.engine.dispose()


def test_dagsters_old_log_lines_go_and_its_assets_and_running_runs_stay(new_database) -> None:
    url = new_database()

    @dg.asset
    def one(context) -> None:
        context.log.info("a line")

    with dg.instance_for_test(overrides={"storage": {"postgres": {"postgres_url": dagster_url(url)}}}) as instance:
        run = dg.materialize([one], instance=instance).run_id
        from medai_pipeline.storage.database import engine_for

        engine = engine_for(url)
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE event_logs SET timestamp = timestamp - interval '40 days'"))
        dg.materialize([one], instance=instance)
        from datetime import UTC, datetime

        until = datetime.now(UTC) - timedelta(days=30)
        count = old_events(engine, until)
        assert count > 5 and delete_old_events(engine, until) == count
        assert old_events(engine, until) == 0
        assert len(instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.ASSET_MATERIALIZATION))) == 2
        assert instance.get_run_by_id(run) is not None
        engine.dispose()


@pytest.mark.parametrize("text", ["raw", "raw=0", "raw=-1", "raw=x", "films=3", "audit=10", "raw=1e9", "raw=nan"])
def test_a_rule_that_makes_no_sense_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="MEDAI_RETENTION"):
        read_settings({"MEDAI_RETENTION": text})


def test_rules_are_read_in_the_order_in_which_they_are_carried_out() -> None:
    told = parse_retention(" reports=10, raw = 2.5, quarantine=never ")
    assert list(told.items()) == [("raw", 2.5), ("reports", 10.0)]
    assert parse_retention("") == {"quarantine": 90.0} and "audit" not in KINDS
