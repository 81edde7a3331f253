"""Whoever takes a lock in Postgres waits for the same work alone: a rotation of keys must not stop what returns to the PACS."""

from __future__ import annotations

from medai_pipeline.storage import audit, database, editions, registry, rotation


def test_no_two_kinds_of_work_share_an_advisory_lock() -> None:
    locks = [audit._CHAIN_LOCK, database._MIGRATION_LOCK, editions._LOCK, registry._LOCK, rotation._LOCK]
    assert len(set(locks)) == len(locks)
