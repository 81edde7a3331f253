"""Another site secret while workers read and write: killed in the middle it goes on; names stay; the old one opens nothing."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine

from medai_pipeline.cli import main
from medai_pipeline.errors import SettingsError, StorageError
from medai_pipeline.records import Identity
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.envelope import seal, sealed_under
from medai_pipeline.storage.keyring import KeyRing, read_ring, write_ring
from medai_pipeline.storage.keys import SiteKeys, key_id
from medai_pipeline.storage.secrets import wrapped
from medai_pipeline.storage.tables import identities, marks, site_keys, study_secrets
from medai_pipeline_tests.conftest import ROOT

UID = "1.2.840.113619.2.1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    SiteKeys.load(None, tmp_path / "keys" / "site.key", create=True)
    return tmp_path


@pytest.fixture
def opened(database_url: str, home: Path) -> Iterator[Callable[[], Services]]:
    made: list[Services] = []

    def open_services() -> Services:
        made.append(Services(read_settings({}, home=str(home), database_url=database_url)))
        return made[-1]

    yield open_services
    for services in made:
        services.engine.dispose()


@pytest.fixture
def rotate(database_url: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDAI_HOME", str(home))
    monkeypatch.setenv("DATABASE_URL", database_url)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["keys", "rotate", "--yes", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    return run


def study_keys(count: int) -> list[str]:
    return [base64.b32encode(secrets.token_bytes(17)).decode()[:26] for _ in range(count)]


def fill(services: Services, keys: list[str]) -> None:
    for key in keys:
        services.vault.store(key, Identity(f"1.2.{key}", patient_id=f"P{key}"))
        services.objects.put(f"raw/{key}/1", key.encode())


def all_readable(services: Services, keys: list[str]) -> None:
    for key in keys:
        assert services.vault.read(key, "user:test", "rotation").study_instance_uid == f"1.2.{key}"
        assert services.objects.get(f"raw/{key}/1") == key.encode()


def test_the_names_stay_and_all_is_readable_under_the_new_secret_alone(opened, rotate, home: Path) -> None:
    services, keys = opened(), study_keys(5)
    before = services.keys
    old = read_ring(None, home / "keys" / "site.key", create=False)
    fill(services, keys)
    bodies = {path: path.read_bytes() for path in (home / "objects").rglob("1")}
    assert "destroyed" in rotate()
    after = opened()
    assert after.keys.study_key(UID) == before.study_key(UID)
    assert after.keys.deidentification == before.deidentification
    assert after.keys.patient_token("P1") == before.patient_token("P1")
    all_readable(after, keys)
    all_readable(services, keys)  # a process that was running reads the key file again
    assert {path: path.read_bytes() for path in bodies} == bodies  # no object was touched
    ring = read_ring(None, home / "keys" / "site.key", create=False)
    assert len(ring.secrets) == 1 and ring.secrets != old.secrets
    with after.engine.connect() as connection:
        assert set(connection.scalars(sa.select(study_secrets.c.key_id))) == {ring.newest.id}
        states = dict(connection.execute(sa.select(site_keys.c.key_id, site_keys.c.state)).all())
    assert states == {old.newest.id: "destroyed", ring.newest.id: "current"}
    assert after.audit.verify().ok


def test_whoever_has_the_old_secret_reads_nothing_from_a_database_of_after(opened, rotate, home: Path) -> None:
    services, (key,) = opened(), study_keys(1)
    fill(services, [key])
    stolen = home / "stolen.key"
    write_ring(stolen, read_ring(None, home / "keys" / "site.key", create=False))
    rotate()
    thief = Services(
        read_settings({}, home=str(home), database_url=services.settings.database_url, key_file=str(stolen))
    )
    for use in (
        lambda: thief.vault.read(key, "user:thief", "x"),
        lambda: thief.objects.get(f"raw/{key}/1"),
        lambda: thief.audit.append("user:thief", "x", "y"),
    ):
        with pytest.raises(SettingsError, match="not among the keys"):
            use()
    thief.engine.dispose()


WORKER = """
    import sys
    from pathlib import Path
    from medai_pipeline.records import Identity
    from medai_pipeline.services import Services
    from medai_pipeline.settings import read_settings
    from medai_pipeline_tests.test_secrets_are_rotated_while_everything_runs import all_readable, fill, study_keys

    services, mine = Services(read_settings()), []
    while not (Path(sys.argv[1]) / "stop").exists():
        mine += study_keys(1)
        fill(services, mine[-1:])
        all_readable(services, mine[-5:])
        services.audit.append("pipeline:worker", "study.retried", mine[-1])
        (Path(sys.argv[1]) / sys.argv[2]).write_text(str(len(mine)))
    all_readable(services, mine)
    print("read", len(mine))
"""


def test_workers_go_on_while_the_rotation_is_killed_with_9_and_run_again(
    opened, rotate, home: Path, database_url: str, tmp_path: Path
) -> None:
    services = opened()
    fill(services, few := study_keys(20))
    site, many = services.key_source.newest, study_keys(10_000)
    rows = [{"study_key": k, "wrapped": wrapped(site, k, secrets.token_bytes(32)), "key_id": site.id} for k in many]
    with services.engine.begin() as connection:
        connection.execute(sa.insert(study_secrets), rows)
    old = site.id
    environment = {**os.environ, "MEDAI_HOME": str(home), "DATABASE_URL": database_url}
    program = textwrap.dedent(WORKER)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), f"w{n}"], env=environment, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) for n in range(2)
    ]  # fmt: skip
    try:
        wait_for(lambda: all(_count(tmp_path / f"w{n}") >= 2 for n in range(2)), "the workers began")
        command = [sys.executable, "-m", "medai_pipeline.cli", "keys", "rotate", "--yes"]
        rotating = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(lambda: 0 < _under(services.engine, old) < len(many), "some are sealed anew", pause=0.0)
        rotating.send_signal(signal.SIGKILL)
        assert rotating.wait() == -signal.SIGKILL
        left = _under(services.engine, old)
        assert 0 < left < len(many)
        all_readable(opened(), few)
        counts = [_count(tmp_path / f"w{n}") for n in range(2)]
        wait_for(lambda: all(_count(tmp_path / f"w{n}") > counts[n] + 1 for n in range(2)), "they work between")
        assert "destroyed" in rotate()
        counts = [_count(tmp_path / f"w{n}") for n in range(2)]
        wait_for(lambda: all(_count(tmp_path / f"w{n}") > counts[n] + 1 for n in range(2)), "they work after")
    finally:
        (tmp_path / "stop").touch()
        told = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    fresh = opened()
    assert _under(fresh.engine, old) == 0
    assert len(fresh.key_source.ring.secrets) == 1
    all_readable(fresh, few)
    check = fresh.audit.verify()
    assert check.ok, check.reason


@pytest.mark.parametrize("step", ["added", "in force", "sealed", "taken out of the file"])
def test_a_rotation_cut_off_after_any_step_goes_on_where_it_was(opened, rotate, home: Path, step: str) -> None:
    services, keys = opened(), study_keys(3)
    fill(services, keys)
    rotation, steps = services.rotation, ["added", "in force", "sealed", "taken out of the file"]
    doing = {
        "added": lambda: services.key_source.write(rotation.prepared()),
        "in force": lambda: rotation.put_in_force("user:test"),
        "sealed": lambda: list(rotation.reseal()),
        "taken out of the file": lambda: services.key_source.write(rotation.destroyed()),
    }
    for name in steps[: steps.index(step) + 1]:
        doing[name]()
    new = services.key_source.newest.id
    all_readable(opened(), keys)
    rotate()
    fresh = opened()
    assert fresh.key_source.newest.id == new and len(fresh.key_source.sites) == 1
    assert [row.state for row in fresh.rotation.rows()] == ["destroyed", "current"]
    all_readable(fresh, keys)
    assert fresh.audit.verify().ok


def test_what_an_earlier_version_sealed_is_read_and_comes_to_the_studys_secret(
    opened, rotate, home: Path, engine: Engine
) -> None:
    services, (key,) = opened(), study_keys(1)
    site = services.key_source.newest
    name = f"raw/{key}/old"
    (home / "objects" / "raw" / key).mkdir(parents=True)
    path = home / "objects" / "raw" / key / "old"
    path.write_bytes(b"".join(seal(site.objects, name, b"sealed by the site")))
    services.vault.store(key, Identity("1.2.3", patient_id="P"))
    _seal_as_before(services, engine, key)
    with engine.begin() as connection:
        connection.execute(sa.delete(marks))  # as the migration leaves a database that had studies
    assert services.objects.get(name) == b"sealed by the site"
    assert services.vault.read(key, "user:test", "x").patient_id == "P"
    rotate()
    fresh = opened()
    assert sealed_under(name, path.read_bytes()) == key_id(fresh.secrets.known(key).objects)
    assert fresh.objects.get(name) == b"sealed by the site"
    assert fresh.vault.read(key, "user:test", "x").patient_id == "P"
    assert fresh.vault.outdated(5) == [] and len(fresh.key_source.sites) == 1
    assert fresh.vault.of_patient("P", "user:test", "x") == [key]


def _seal_as_before(services: Services, engine: Engine, key: str) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    vault_key = services.key_source.newest.vault
    text = b'{"study_instance_uid": "1.2.3", "patient_id": "P", "uids": {}}'
    sealed = b"\x01" + bytes(12) + AESGCM(vault_key).encrypt(bytes(12), text, b"\x01medai identity " + key.encode())
    values = {"sealed": sealed, "key_id": key_id(vault_key).hex(), "patient_token": ""}
    with engine.begin() as connection:
        connection.execute(sa.update(identities).where(identities.c.study_key == key).values(**values))


def test_keys_from_the_environment_are_rotated_by_setting_what_the_command_writes(
    opened, rotate, home: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = read_ring(None, home / "keys" / "site.key", create=False)
    fill(opened(), keys := study_keys(2))
    (home / "keys" / "site.key").unlink()
    monkeypatch.setenv("MEDAI_KEY", base64.b64encode(ring.secrets[0]).decode())
    assert "--out FILE" in rotate(code=1)
    out = tmp_path / "new.keys"
    rotate("--out", str(out))
    monkeypatch.setenv("MEDAI_KEY", ";".join(out.read_text().splitlines()))
    rotate("--out", str(out))
    monkeypatch.setenv("MEDAI_KEY", ";".join(out.read_text().splitlines()))
    assert "destroyed" in rotate("--out", str(out))
    fresh = Services(read_settings({"MEDAI_KEY": out.read_text()}, home=str(home), database_url=database_url))
    all_readable(fresh, keys)
    assert len(fresh.key_source.sites) == 1 and oct(out.stat().st_mode)[-3:] == "600"
    fresh.engine.dispose()


def test_prepared_the_new_secret_waits_until_every_machine_has_it(opened, rotate, home: Path) -> None:
    services = opened()
    old = services.key_source.newest.id
    rotate("--prepare")
    fill(opened(), study_keys(2))
    assert [(row.key_id == old, row.state) for row in opened().rotation.rows()] == [(True, "current"), (False, "next")]
    rotate("--prepare")
    assert len(read_ring(None, home / "keys" / "site.key", create=False).secrets) == 2
    rotate()
    assert len(read_ring(None, home / "keys" / "site.key", create=False).secrets) == 1


def test_two_rotations_at_once_are_refused(opened, rotate) -> None:
    with opened().rotation.alone():
        assert "another rotation" in rotate(code=1)
    with pytest.raises(StorageError), opened().rotation.alone(), opened().rotation.alone():
        pass


def test_a_key_file_of_several_lines_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    ring = KeyRing((b"a" * 32, b"b" * 32), SiteKeys.from_secret(b"c" * 32).names, (b"d" * 32,))
    write_ring(path, ring)
    assert read_ring(None, path, create=False) == ring
    assert ring.newest.study_keys == SiteKeys.from_secret(b"c" * 32).study_keys
    assert ring.newest.audit == SiteKeys.from_secret(b"b" * 32).audit
    path.write_text(path.read_text().replace("audit ", "odit "))
    with pytest.raises(SettingsError, match="kind that is not known"):
        read_ring(None, path, create=False)
    assert repr(ring) == "KeyRing(<hidden>)"


def _under(engine: Engine, key: str) -> int:
    with engine.connect() as connection:
        query = sa.select(sa.func.count()).select_from(study_secrets).where(study_secrets.c.key_id == key)
        return connection.scalar(query) or 0


def _count(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def wait_for(what: Callable[[], bool], words: str, pause: float = 0.05) -> None:
    deadline, event = time.monotonic() + 120, threading.Event()
    while not what():
        assert time.monotonic() < deadline, words
        event.wait(pause)
