"""One secret a study: what its identity and its objects are sealed under, kept in one place that can be destroyed.

A row of `study_secrets` is AES-256-GCM over 32 random bytes, bound to study key and site secret: version 1 | nonce 12 |
ciphertext and tag. A new site secret therefore means these rows anew and nothing else; a row that is destroyed takes all
of its study with it, in every copy that was ever made of the objects (docs/adr/0008). Objects of no study have one secret
together.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import ObjectCorrupt, StudyForgotten
from medai_pipeline.storage.keyring import KeySource
from medai_pipeline.storage.keys import STUDY_KEY_LENGTH, SiteKeys, key_id, subkey
from medai_pipeline.storage.tables import forgotten, site_keys, study_secrets

NO_STUDY = "site"
CURRENT, PAST, DESTROYED = "current", "past", "destroyed"
_VERSION = b"\x01"
_KEPT = 512
_KEPT_S = 30.0  # how long a process may go on with a secret that another has destroyed
FORGET_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('medai forget ' || :key, 0))")
FORGET_LOCK_SHARED = sa.text("SELECT pg_advisory_xact_lock_shared(hashtextextended('medai forget ' || :key, 0))")
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


@dataclass(frozen=True, slots=True, repr=False)
class StudyKeys:
    """The subkeys of a study's secret."""

    objects: bytes
    identity: bytes

    def __repr__(self) -> str:
        return "StudyKeys(<hidden>)"


class StudySecrets:
    """Secrets by study key, opened and made when they are needed. Safe for many threads and processes."""

    def __init__(self, engine: Engine, source: KeySource) -> None:
        self._engine = engine
        self._source = source
        self._guard = threading.Lock()
        self._opened: OrderedDict[str, tuple[float, StudyKeys]] = OrderedDict()

    def __repr__(self) -> str:
        return "StudySecrets(<hidden>)"

    # what the object store asks

    def sealing(self, name: str) -> bytes:
        """The key that an object of this name is sealed under from now on."""
        return self.of(study_of(name)).objects

    def opening(self, name: str, sealed_under: bytes) -> bytes:
        """The key an object was sealed under, by the id in its header. Raises StudyForgotten when it is destroyed."""
        for site in self._source.sites:
            if key_id(site.objects) == sealed_under:
                return site.objects
        return self.known(study_of(name)).objects

    # what the vault asks

    def of(self, study_key: str) -> StudyKeys:
        """A study's keys; a new study gets some. Raises StudyForgotten."""
        return self._remembered(study_key) or self._keep(study_key, self._made(study_key))

    def known(self, study_key: str) -> StudyKeys:
        """A study's keys. Raises StudyForgotten when they were destroyed, ObjectCorrupt when there never were any."""
        found = self._remembered(study_key)
        if found is None:
            with self._engine.connect() as connection:
                found = self._read(connection, study_key)
                gone = found is None and is_forgotten(connection, study_key)
            if gone:
                raise StudyForgotten(f"study {study_key} was forgotten: nothing of it can be read any more")
            if found is None:
                raise ObjectCorrupt(
                    f"study {study_key} has no key here: restore medai.study_secrets, or fetch it again"
                )
        return self._keep(study_key, found)

    def _made(self, study_key: str) -> StudyKeys:
        with self._engine.begin() as connection:
            # the row's trigger takes this lock, too, but later: who holds the site's secret must not wait for a forgetting,
            # which may itself wait for a rotation that waits for the site's secret
            connection.execute(FORGET_LOCK_SHARED, {"key": study_key})
            found = self._read(connection, study_key)
            if found:
                return found
            if is_forgotten(connection, study_key):
                raise StudyForgotten(f"study {study_key} was forgotten: it is left alone until a person lifts that")
            site = site_in_force(connection, self._source)
            row = {"study_key": study_key, "wrapped": wrapped(site, study_key, os.urandom(32)), "key_id": site.id}
            connection.execute(insert(study_secrets).values(**row).on_conflict_do_nothing())
            made = self._read(connection, study_key)
        assert made is not None
        return made

    def _read(self, connection: Connection, study_key: str) -> StudyKeys | None:
        row = connection.execute(sa.select(study_secrets).where(study_secrets.c.study_key == study_key)).first()
        if row is None:
            return None
        secret = unwrapped(self._source.site(row.key_id), study_key, row.wrapped)
        return StudyKeys(subkey(secret, "study-objects"), subkey(secret, "study-identity"))

    def _remembered(self, study_key: str) -> StudyKeys | None:
        with self._guard:
            since, keys = self._opened.get(study_key, (0.0, None))
            return keys if time.monotonic() - since < _KEPT_S else None

    def _keep(self, study_key: str, keys: StudyKeys) -> StudyKeys:
        with self._guard:
            if study_key not in self._opened or time.monotonic() - self._opened[study_key][0] >= _KEPT_S:
                self._opened[study_key] = (time.monotonic(), keys)
                self._opened.move_to_end(study_key)
            while len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        return keys

    def drop(self, study_key: str) -> None:
        """This process no longer remembers the study's keys."""
        with self._guard:
            self._opened.pop(study_key, None)


def study_of(name: str) -> str:
    """Whose an object is: the study key in its name, as a part or before a part's first dot; else that of no study."""
    parts = (part.partition(".")[0] for part in name.split("/"))
    return next((p for p in parts if len(p) == STUDY_KEY_LENGTH and _ALPHABET.issuperset(p)), NO_STUDY)


def site_in_force(connection: Connection, source: KeySource, held: bool = True) -> SiteKeys:
    """The secret that seals now, `held` so until the transaction ends; at a site's very beginning, its newest one."""
    query = sa.select(site_keys.c.key_id).where(site_keys.c.state == CURRENT)
    query = query.with_for_update(read=True) if held else query
    secret_id = connection.scalar(query)
    if secret_id is None:
        first = {"key_id": source.newest.id, "state": CURRENT}
        connection.execute(insert(site_keys).values(**first).on_conflict_do_nothing())
        secret_id = connection.scalar(query)
    assert secret_id is not None
    return source.site(secret_id)


def is_forgotten(connection: Connection, study_key: str) -> bool:
    return bool(connection.scalar(sa.select(sa.exists().where(forgotten.c.study_key == study_key))))


def wrapped(site: SiteKeys, study_key: str, secret: bytes) -> bytes:
    nonce = os.urandom(12)
    return _VERSION + nonce + AESGCM(site.wrapping).encrypt(nonce, secret, _aad(site, study_key))


def unwrapped(site: SiteKeys, study_key: str, sealed: bytes) -> bytes:
    """Raises ObjectCorrupt when the row was changed or belongs to another study."""
    try:
        return AESGCM(site.wrapping).decrypt(sealed[1:13], sealed[13:], _aad(site, study_key))
    except (InvalidTag, ValueError) as error:
        raise ObjectCorrupt(f"the key of study {study_key} was changed: restore medai.study_secrets") from error


def _aad(site: SiteKeys, study_key: str) -> bytes:
    return _VERSION + b"medai study secret " + bytes.fromhex(site.id) + study_key.encode()
