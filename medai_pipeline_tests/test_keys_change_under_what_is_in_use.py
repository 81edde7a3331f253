"""A rotation meets writers, deleters and a forgetting: nothing is overwritten, comes back, stops it, or waits for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.errors import ObjectCorrupt, ObjectMissing
from medai_pipeline.orchestration.forgetting import forget
from medai_pipeline.services import Services
from medai_pipeline.storage.envelope import seal, sealed_under
from medai_pipeline.storage.forgetting import Forgetting
from medai_pipeline.storage.keys import key_id
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline.storage.tables import marks
from medai_pipeline_tests.fresh_services import fresh_services
from medai_pipeline_tests.test_secrets_are_rotated_while_everything_runs import study_keys, wait_for

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path, database_url) as made:
        yield made


class Interrupted:
    """Keys of a store that goes over to NEW; `meanwhile` is done between reading an object and writing it."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile

    def sealing(self, name: str) -> bytes:
        return NEW

    def opening(self, name: str, sealed_under: bytes) -> bytes:
        if sealed_under == key_id(OLD):
            self.meanwhile()
            return OLD
        return NEW


def test_an_object_that_is_replaced_while_its_key_changes_stays_the_new_one(tmp_path: Path) -> None:
    ObjectStore(tmp_path, OLD).put("a", b"before")
    ObjectStore(tmp_path, Interrupted(lambda: ObjectStore(tmp_path, NEW).put("a", b"after"))).rewrap("a")
    assert ObjectStore(tmp_path, NEW).get("a") == b"after"


def test_an_object_that_is_deleted_while_its_key_changes_does_not_come_back(tmp_path: Path) -> None:
    ObjectStore(tmp_path, OLD).put("a", b"before")
    store = ObjectStore(tmp_path, Interrupted(lambda: ObjectStore(tmp_path, OLD).delete("a")))
    store.rewrap("a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ObjectMissing):
        store.get("a")


def test_an_object_keeps_its_content_opens_under_the_new_key_and_is_copied_anew_by_a_backup(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path, Interrupted())
    ObjectStore(tmp_path, OLD).put("a", b"content" * 1000)
    os.utime(tmp_path / "a", (1e9, 1e9))
    assert (store.rewrap("a"), store.rewrap("a"), store.rewrap("gone")) == (True, False, False)
    assert ObjectStore(tmp_path, NEW).get("a") == b"content" * 1000
    assert store.facts("a").written_at > 1e9
    with pytest.raises(ObjectCorrupt):
        ObjectStore(tmp_path, OLD).get("a")


def test_readers_read_on_while_keys_change(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(200)]
    store, before = ObjectStore(tmp_path, Interrupted()), ObjectStore(tmp_path, OLD)
    for name in names:
        before.put(name, name.encode())
    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(lambda: [store.rewrap(name) for name in names])
        for _ in range(5):
            assert list(pool.map(store.get, names)) == [name.encode() for name in names]
        assert all(changing.result())


def test_a_late_file_of_a_forgotten_study_and_a_damaged_one_do_not_stop_a_rotation(services: Services) -> None:
    kept, forgotten = study_keys(2)
    for key in (kept, forgotten):
        services.vault.store(key, _identity(key))
    forget(services, forgotten, "", "user:test")
    site, root = services.key_source.newest, services.settings.objects_path
    for name in (f"raw/{forgotten}/late", f"raw/{kept}/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"".join(seal(site.objects, name, b"sealed by an earlier version")))
    (root / "raw" / kept / "cut").write_bytes(b"MEDAI")
    with services.engine.begin() as connection:
        connection.execute(sa.delete(marks))  # as in a store of an earlier version
    services.key_source.write(services.rotation.prepared())
    services.rotation.put_in_force("user:test")
    assert list(services.rotation.reseal())[-1] == 1
    own = key_id(services.secrets.known(kept).objects)
    assert sealed_under(kept, (root / "raw" / kept / "1").read_bytes()) == own
    assert services.rotation.destroyable() == [site.id]


def test_a_study_forgotten_between_being_listed_and_sealed_does_not_stop_a_rotation(
    services: Services, engine: Engine
) -> None:
    from medai_pipeline_tests.test_secrets_are_rotated_while_everything_runs import _seal_as_before

    keys = sorted(study_keys(2))
    for key in keys:
        services.vault.store(key, _identity(key))
        _seal_as_before(services, engine, key)
    listed, vault = services.vault.outdated, services.rotation._vault

    def outdated(limit: int) -> list[str]:
        found = listed(limit)
        if len(found) == 2:
            forget(services, keys[0], "", "user:test")
        return found

    vault.outdated = outdated  # type: ignore[method-assign]
    assert next(iter(services.rotation.reseal())) == 2
    assert vault.outdated(2) == [] and vault.known(keys) == {keys[1]}


def test_a_rotation_a_forgetting_and_a_writer_of_the_same_study_all_end(services: Services, engine: Engine) -> None:
    """The forgetting is held before its end; the writer comes, then the rotation, each waiting for the one before."""
    (key,) = study_keys(1)
    services.lifecycle.touch(key, "f", 1, services.now())
    services.secrets.of("A" * 26)  # a secret is in force
    services.key_source.write(services.rotation.prepared())
    go_on = threading.Event()
    forgetting = Forgetting(services.engine, services.audit, lambda connection, study_key: _wait(go_on))
    with ThreadPoolExecutor(3) as pool:
        try:
            forgotten = pool.submit(forgetting.forget, key, "user:test", "", services.now())
            wait_for(lambda: _locks(engine, granted=True) == 1, "the forgetting has begun")
            writer = pool.submit(services.secrets.of, key)
            wait_for(lambda: _locks(engine, granted=False) == 1, "the writer waits for it")
            rotated = pool.submit(services.rotation.put_in_force, "user:test")
            wait_for(lambda: rotated.done() or _waiting(engine) == 2, "the rotation waits, or has passed")
        finally:
            go_on.set()
        assert not forgotten.result(60)
        rotated.result(60)
        assert "forgotten" in str(writer.exception(60))
    assert services.audit.verify().ok


def _identity(key: str):
    from medai_pipeline.records import Identity

    return Identity(f"1.2.{key}", patient_id="P")


def _wait(event: threading.Event) -> None:
    assert event.wait(60)


def _locks(engine: Engine, granted: bool) -> int:
    """Advisory locks, but for our own with fixed numbers (the chain)."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted = :granted AND classid <> 1835361377"
    with engine.connect() as connection:
        return connection.scalar(sa.text(query), {"granted": granted}) or 0


def _waiting(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")) or 0
