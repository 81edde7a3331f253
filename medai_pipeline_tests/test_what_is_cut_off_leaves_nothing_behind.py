"""Killed between two steps: what goes has its record, no draft keeps a destroyed secret, a half-done forgetting is finished."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.keeping import kept_name, purge_kept
from medai_pipeline.orchestration.ageing import apply, retention
from medai_pipeline.orchestration.forgetting import forget, forget_incoming
from medai_pipeline.services import Services
from medai_pipeline.storage.audit_trail import AuditFilter
from medai_pipeline.storage.envelope import seal
from medai_pipeline.storage.keyring import KeyRing, read_ring
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline.storage.rotation import BY_STUDY
from medai_pipeline.storage.secrets import wrapped
from medai_pipeline.storage.tables import site_keys, study_secrets
from medai_pipeline_tests.fresh_services import fresh_services
from medai_pipeline_tests.orthanc import file_bytes, made_study
from medai_pipeline_tests.test_old_data_goes_by_its_rule import OLD, RULES, study


class Killed(BaseException):
    """Nothing after it happens, as after kill -9."""


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path, database_url, retention=RULES) as made:
        yield made


def records(services: Services, action: str) -> list[str]:
    return [record.subject for record in services.audit_trail.newest(AuditFilter(action=action, limit=9))]


def killed(*_: object, **__: object) -> None:
    raise Killed


def test_what_retention_was_about_to_delete_is_in_the_chain(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(services, OLD, 25)
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete_study", killed)
        with pytest.raises(Killed):
            apply(services)
    assert records(services, "retention.delete") == ["kind:raw"]
    apply(services)  # the next pass does it
    assert records(services, "retention.delete") == ["kind:raw", "kind:raw", "kind:tensors"]
    assert set(services.ages.gone(OLD)) == {"raw", "tensors"}


def test_kept_values_and_files_that_came_in_go_after_their_record(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.objects.put(kept_name("predictions", OLD, "1-m@1-0-0"), b"x")
    (dataset,) = made_study(1)
    Spool(services.objects).set_aside(file_bytes(dataset), "refused")
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete", killed)
        with pytest.raises(Killed):
            purge_kept(services.objects, services.audit, [], {}, services.now() + timedelta(days=2), 1)
        with pytest.raises(Killed):
            forget_incoming(services, [], str(dataset.PatientID), "request", "user:test")
    assert len(records(services, "objects.purge")) == len(records(services, "incoming.forget")) == 1


def test_identified_files_that_a_person_takes_out_are_recorded_before_the_first_is_written(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from medai_pipeline.local import pacs_commands

    services.spool.set_aside(b"no DICOM at all", "refused", "DOE^JANE.dcm")
    monkeypatch.setattr(pacs_commands, "write_private", killed)
    with pytest.raises(Killed):
        pacs_commands.act(services, pacs_commands.quarantined(services, []), "out", tmp_path / "out")
    # the list showed a name under which somebody had dropped a file
    assert records(services, "pacs quarantine list") == records(services, "pacs quarantine out") == ["pacs"]


def test_a_draft_that_a_killed_rotation_left_does_not_keep_the_destroyed_secret(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = services.settings.key_path
    old = read_ring(None, path, create=False).secrets[0]
    for _ in range(2):  # a draft, and the link that a first start had not taken away yet
        os.link(path, path.parent / f".{path.name}.{secrets.token_hex(8)}")
    (path.parent / "site.key.copy").write_bytes(path.read_bytes())  # a person's
    services.secrets.of(OLD)
    monkeypatch.setenv("MEDAI_HOME", services.settings.home)
    monkeypatch.setenv("DATABASE_URL", services.settings.database_url or "")
    assert CliRunner().invoke(main, ["keys", "rotate", "--yes"]).exit_code == 0
    assert sorted(found.name for found in path.parent.iterdir()) == ["site.key", "site.key.copy"]
    assert old not in read_ring(None, path, create=False).secrets


def test_an_earlier_secret_that_is_still_in_use_keeps_a_later_one_and_stops_nothing(services: Services) -> None:
    """Two rotations that were cut off, and one row that was locked when the others were sealed anew."""
    ring = services.key_source.ring
    ring = KeyRing((*ring.secrets, b"2" * 32, b"3" * 32), ring.names)
    services.secrets.of(OLD)
    first, second, third = (site.id for site in ring.sites)
    with services.engine.begin() as connection:
        connection.execute(sa.update(site_keys).values(state="past"))
        connection.execute(
            sa.insert(site_keys), [{"key_id": second, "state": "past"}, {"key_id": third, "state": "current"}]
        )
    services.key_source.write(ring)
    services.marks.note(BY_STUDY, services.now())
    assert services.rotation.destroyable() == [second]
    assert services.rotation.destroyed() == ring
    with services.engine.begin() as connection:
        again = {"key_id": third, "wrapped": wrapped(ring.newest, OLD, b"s" * 32)}
        connection.execute(sa.update(study_secrets).values(**again))
    assert services.rotation.destroyed().secrets == (b"3" * 32,)
    assert first not in services.rotation.destroyed().text()


def test_files_that_a_cut_off_forgetting_left_are_deleted_however_long_nothing_ran(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(services, OLD, 1)
    name = (
        f"raw/{OLD}/old"  # of an earlier version, under the site's secret itself: the destroyed key does not close it
    )
    path = services.settings.objects_path / name
    path.write_bytes(b"".join(seal(services.key_source.newest.objects, name, b"of an earlier version")))
    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete_study", killed)
        with pytest.raises(Killed):
            forget(services, OLD, "", "user:test")
    with services.engine.begin() as connection:
        connection.execute(sa.text("UPDATE medai.forgotten SET at = at - interval '30 days'"))
    assert path.exists()
    sensor = retention(services)
    with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
        sensor(context)
    assert not [name for name in services.objects.names() if OLD in name]
