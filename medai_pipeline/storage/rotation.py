"""Another site secret in place of the one before, while everything runs: in steps that each may be cut off and done again.

1. The new secret is added to the keys (a file written whole). Nobody uses it yet.
2. One transaction makes it the one in force: from then on every new study secret is sealed, and every audit record
   written, under it. A process that has not met it reads the key file again.
3. Study secrets sealed under earlier ones are sealed anew, some hundreds a transaction; what versions before this one
   sealed under the site's secret itself comes to its study's secret.
4. When nothing is left under the old secret it is destroyed: taken out of the keys, but for its audit key.

The names (study keys, new UIDs, the patient index) are no part of this: they never change (docs/adr/0008).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, Row
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import ObjectCorrupt, StorageError, StudyForgotten
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.keyring import KeyRing, KeySource
from medai_pipeline.storage.keys import SECRET_BYTES, SiteKeys
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline.storage.secrets import CURRENT, DESTROYED, PAST, site_in_force, unwrapped, wrapped
from medai_pipeline.storage.tables import identities, marks, site_keys, study_secrets
from medai_pipeline.storage.vault import Vault

log = logging.getLogger(__name__)
STEP = 500
BY_STUDY = "objects.by-study"  # the mark of a store in which no object is sealed under the site's secret itself
_LOCK = 0x6D656461_69000004


_WRAP = sa.text(
    "UPDATE medai.study_secrets AS s SET wrapped = n.wrapped, key_id = :key_id"
    " FROM unnest(CAST(:study_keys AS text[]), CAST(:wrapped AS bytea[])) AS n (study_key, wrapped)"
    " WHERE s.study_key = n.study_key"
)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One secret of the site, by id. `studies`: how many study secrets are sealed under it; `here`: among our keys."""

    key_id: str
    state: str
    since: datetime | None
    studies: int
    here: bool


class Rotation:
    """The steps, for one site."""

    def __init__(self, engine: Engine, source: KeySource, audit: Audit, vault: Vault, objects: ObjectStore) -> None:
        self._engine = engine
        self._source = source
        self._audit = audit
        self._vault = vault
        self._objects = objects

    def rows(self) -> list[KeyRow]:
        """Every secret that the database or the keys know, the oldest first."""
        here = {site.id for site in self._source.sites}
        count = sa.select(sa.func.count()).where(study_secrets.c.key_id == site_keys.c.key_id).scalar_subquery()
        with self._engine.begin() as connection:
            site_in_force(connection, self._source)
            found = connection.execute(sa.select(site_keys, count.label("studies")).order_by(site_keys.c.since)).all()
        known = [KeyRow(row.key_id, row.state, row.since, row.studies, row.key_id in here) for row in found]
        ids = {row.key_id for row in known}
        return known + [KeyRow(s.id, "next", None, 0, True) for s in self._source.sites if s.id not in ids]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises StorageError while another rotation is at work."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
                raise StorageError("another rotation is at work: wait until it has ended")
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})

    def begun(self) -> bool:
        """Whether a rotation is to go on: a secret is to come into force, or one before it is not destroyed yet."""
        return any(row.state in ("next", PAST) for row in self.rows())

    def prepared(self) -> KeyRing:
        """The ring with a new secret."""
        return self._source.ring.with_secret(secrets.token_bytes(SECRET_BYTES))

    def put_in_force(self, actor: str) -> None:
        """Step 2: the newest secret seals from now on; it and its audit record come together."""
        new = self._source.newest
        with self._engine.begin() as connection:
            self._audit.lock(connection)  # first, as everybody else does who needs both
            site_in_force(connection, self._source, held=False)
            # waits for every transaction that seals under the old one
            old = connection.scalar(sa.select(site_keys.c.key_id).where(site_keys.c.state == CURRENT).with_for_update())
            if old == new.id:
                return
            connection.execute(sa.update(site_keys).where(site_keys.c.state == CURRENT).values(state=PAST))
            connection.execute(insert(site_keys).values(key_id=new.id, state=CURRENT))
            self._audit.append_in(connection, actor, "keys.rotate", f"key:{new.id}", {"before": old})

    def reseal(self) -> Iterator[int]:
        """Step 3, in pieces; yields how many things each piece has brought to the present secret."""
        while count := self._wrap_some():
            yield count
        while keys := self._vault.outdated(STEP):
            for study_key in keys:
                with suppress(StudyForgotten):  # since it was listed: its row is gone
                    self._vault.reseal(study_key)
            yield len(keys)
        if not self._is_by_study():
            yield sum(self._rewrapped(name) for name in self._objects.names())
            with self._engine.begin() as connection:
                connection.execute(insert(marks).values(name=BY_STUDY, at=sa.func.now()).on_conflict_do_nothing())

    def _rewrapped(self, name: str) -> bool:
        """False also for what nobody is to open, or can: it must not keep the old secret in force."""
        try:
            return self._objects.rewrap(name)
        except StudyForgotten:
            return False  # a late file of a forgotten study: the next sweep deletes it
        except ObjectCorrupt as error:
            log.warning("it stays as it is: %s", error.reason)
            return False

    def destroyable(self) -> list[str]:
        """Ids of secrets here, the oldest first, under which nothing is sealed any more."""
        with self._engine.connect() as connection:
            busy = set(connection.scalars(sa.select(study_secrets.c.key_id).distinct()))
            past = set(connection.scalars(sa.select(site_keys.c.key_id).where(site_keys.c.state != CURRENT)))
            old = connection.scalar(sa.select(sa.exists().where(_by_site())))
        done = not old and self._is_by_study()
        return [site.id for site in self._source.sites if done and site.id in past - busy]

    def destroyed(self) -> KeyRing:
        """The ring without the secrets that nothing needs any more."""
        ring, done = self._source.ring, self.destroyable()
        while ring.sites[0].id in done:  # one that is still in use keeps those after it, too: it goes first
            ring = ring.without(ring.sites[0].id)
        return ring

    def note_destroyed(self, actor: str) -> list[str]:
        """Step 4, after the keys were written: says in the database and the audit chain which secrets are gone."""
        here = {site.id for site in self._source.sites}
        with self._engine.begin() as connection:
            past = connection.scalars(sa.select(site_keys.c.key_id).where(site_keys.c.state == PAST)).all()
            gone = [secret_id for secret_id in past if secret_id not in here]
            for secret_id in gone:
                connection.execute(sa.update(site_keys).where(site_keys.c.key_id == secret_id).values(state=DESTROYED))
                self._audit.append_in(connection, actor, "keys.destroy", f"key:{secret_id}")
        return gone

    def _wrap_some(self) -> int:
        with self._engine.begin() as connection:
            new = site_in_force(connection, self._source)
            query = sa.select(study_secrets).where(study_secrets.c.key_id != new.id).limit(STEP)
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            if rows:
                connection.execute(_WRAP, {"key_id": new.id, **self._wrapped(rows, new)})
        return len(rows)

    def _wrapped(self, rows: Sequence[Row[Any]], new: SiteKeys) -> dict[str, list[Any]]:
        """The secrets of these rows, opened, and sealed under the new one."""
        secrets_of = {
            row.study_key: unwrapped(self._source.site(row.key_id), row.study_key, row.wrapped) for row in rows
        }
        sealed = [wrapped(new, study_key, secret) for study_key, secret in secrets_of.items()]
        return {"study_keys": list(secrets_of), "wrapped": sealed}

    def _is_by_study(self) -> bool:
        with self._engine.connect() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(marks.c.name == BY_STUDY))))


def _by_site() -> sa.ColumnElement[bool]:
    return sa.func.substring(identities.c.sealed, 1, 1) == b"\x01"
