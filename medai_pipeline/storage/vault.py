"""The vault: who a study is about, sealed. The only table with identities, readable with the site's key alone.

A row is AES-256-GCM under the study's own key over the identity as JSON, bound to its study key: version 2 | nonce 12 |
ciphertext and tag; version 1 was sealed under the site's key itself. Every read writes an audit record before the
identity is given out. The studies of a patient are found by an HMAC of the Patient ID.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import ObjectCorrupt, SettingsError, StorageError, StudyForgotten
from medai_pipeline.records import Identity
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.keyring import KeySource
from medai_pipeline.storage.keys import key_id
from medai_pipeline.storage.secrets import StudySecrets
from medai_pipeline.storage.tables import identities

MOST_OPENED = 2000  # by one search for a name: some seconds
_BY_SITE, _BY_STUDY = b"\x01", b"\x02"


@dataclass(frozen=True, slots=True)
class FoundByName:
    """Study keys: `found`, and `damaged` ones that nobody can be found in. `others` were not looked at: they are too many."""

    found: list[str]
    damaged: list[str]
    others: int


class Vault:
    """Identities by study key."""

    def __init__(self, engine: Engine, secrets: StudySecrets, source: KeySource, audit: Audit) -> None:
        self._engine = engine
        self._secrets = secrets
        self._source = source
        self._audit = audit

    def __repr__(self) -> str:
        return "Vault(<hidden>)"

    def store(self, study_key: str, identity: Identity) -> None:
        """Keeps what is known: blank fields never replace known ones, and UIDs are added to those that are there.

        Another Patient ID is another patient (the PACS was corrected): nothing of the one before is kept beside it.
        """
        key = self._secrets.of(study_key).identity
        with self._engine.begin() as connection:
            # the row may not exist yet: a lock on its name, so that two writers do not lose each other's UIDs
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"vault {study_key}"}
            )
            known = self._open(connection, study_key)
            values = self._row(study_key, key, _merged(known, identity) if known else identity)
            statement = insert(identities).values(study_key=study_key, **values)
            connection.execute(statement.on_conflict_do_update(constraint=identities.primary_key, set_=values))

    def read(self, study_key: str, actor: str, purpose: str) -> Identity:
        """The identity, after the reading was recorded. `purpose` is kept for the privacy officer.

        Raises StorageError when nothing is known, ObjectCorrupt when it cannot be opened.
        """
        with self._engine.begin() as connection:
            identity = self._open(connection, study_key)
            if identity is None:
                raise StorageError(f"the vault knows no identity for study {study_key}: fetch the study again")
            self._audit.append_in(connection, actor, "identity.read", study_key, {"purpose": purpose})
        return identity

    def of_name(
        self, name: str, first: Iterable[str], actor: str, purpose: str, most: int = MOST_OPENED
    ) -> FoundByName:
        """Studies whose patient's name has a word that begins with each word of `name`, in any case.

        Every identity is opened for that, those of `first` first, then the newest; at most `most`. One record says how many,
        which were found, and which could not be opened: those are passed over.
        """
        wanted, found, opened, damaged = _words(name), [], 0, []
        with self._engine.begin() as connection:
            chosen, others = _to_search(connection, first, most) if wanted else ([], 0)
            for key in chosen:
                try:
                    identity = self._open(connection, key)
                except StudyForgotten:
                    continue
                except (StorageError, SettingsError):
                    damaged.append(key)
                    continue
                opened += identity is not None
                if identity and _is_called(identity.patient_name, wanted):
                    found.append(key)
            detail = {"purpose": purpose, "opened": opened, "found": found, "damaged": damaged}
            self._audit.append_in(connection, actor, "identity.search", "vault", detail)
        return FoundByName(found, damaged, others)

    def known(self, study_keys: Iterable[str]) -> set[str]:
        """Those of `study_keys` that have an identity. Nothing is opened, so nothing is recorded."""
        query = sa.select(identities.c.study_key).where(identities.c.study_key.in_(list(study_keys)))
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def of_patient(self, patient_id: str, actor: str, purpose: str) -> list[str]:
        """The study keys of a patient, by Patient ID exactly. The asking is recorded, by an HMAC of what was asked for."""
        token = self._source.newest.patient_token(patient_id)
        query = (
            sa.select(identities.c.study_key)
            .where(identities.c.patient_token == token)
            .order_by(identities.c.study_key)
        )
        with self._engine.begin() as connection:
            keys = list(connection.scalars(query)) if token else []
            detail = {"purpose": purpose, "studies": len(keys)}
            self._audit.append_in(connection, actor, "identity.find", f"patient:{token}", detail)
        return keys

    def reseal(self, study_key: str) -> None:
        """Brings a row of an earlier version to its study's own key. Nothing is given out, so nothing is recorded."""
        key = self._secrets.of(study_key).identity
        with self._engine.begin() as connection:
            known = self._open(connection, study_key, lock=True)
            if known is not None:
                row = self._row(study_key, key, known)
                connection.execute(sa.update(identities).where(identities.c.study_key == study_key).values(**row))

    def outdated(self, limit: int) -> list[str]:
        """Study keys of rows that are sealed as an earlier version did."""
        query = sa.select(identities.c.study_key).where(sa.func.substring(identities.c.sealed, 1, 1) == _BY_SITE)
        with self._engine.connect() as connection:
            return list(connection.scalars(query.order_by(identities.c.study_key).limit(limit)))

    def _row(self, study_key: str, key: bytes, identity: Identity) -> dict[str, Any]:
        nonce = os.urandom(12)
        named = {f.name: getattr(identity, f.name) for f in fields(Identity)}
        # surrogates stand for bytes that the file's character set did not explain: they must come back as they were
        text = json.dumps({**named, "uids": dict(identity.uids)}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return {
            "sealed": _BY_STUDY + nonce + AESGCM(key).encrypt(nonce, text, _aad(_BY_STUDY, study_key)),
            "key_id": key_id(key).hex(),
            "updated_at": sa.func.now(),
            "patient_token": self._source.newest.patient_token(identity.patient_id),
        }

    def _open(self, connection: Connection, study_key: str, lock: bool = False) -> Identity | None:
        query = sa.select(identities).where(identities.c.study_key == study_key)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            return None
        key = self._key(row)
        try:
            text = AESGCM(key).decrypt(row.sealed[1:13], row.sealed[13:], _aad(bytes(row.sealed[:1]), study_key))
        except (InvalidTag, ValueError) as error:
            raise ObjectCorrupt(f"the identity of study {study_key} was changed: restore it from a backup") from error
        return Identity(**json.loads(text.decode("utf-8", "surrogatepass")))

    def _key(self, row: Row[Any]) -> bytes:
        by_site = [site.vault for site in self._source.sites] if row.sealed[:1] == _BY_SITE else []
        for key in by_site or [self._secrets.known(row.study_key).identity]:
            if key_id(key).hex() == row.key_id:
                return key
        raise ObjectCorrupt(f"the identity of study {row.study_key} is sealed with another key: restore that key")


def _to_search(connection: Connection, first: Iterable[str], most: int) -> tuple[list[str], int]:
    """(study keys that have an identity: of `first`, then the newest; how many are left out)."""
    query = sa.select(identities.c.study_key).order_by(identities.c.updated_at.desc(), identities.c.study_key)
    known = list(connection.scalars(query))
    early = set(first)
    ordered = sorted(known, key=lambda key: key not in early)  # stable: the newest first among equals
    return ordered[:most], max(0, len(ordered) - most)


def _is_called(name: str, wanted: Iterable[str]) -> bool:
    given = _words(name)
    return all(any(word.startswith(part) for word in given) for part in wanted)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.casefold()) if word]


def _aad(version: bytes, study_key: str) -> bytes:
    return version + b"medai identity " + study_key.encode()


def _merged(known: Identity, new: Identity) -> Identity:
    if known.patient_id and new.patient_id and known.patient_id != new.patient_id:
        known = Identity(known.study_instance_uid, orthanc_id=known.orthanc_id, uids=known.uids)
    texts = {f.name: getattr(new, f.name) for f in fields(Identity) if f.name != "uids" and getattr(new, f.name)}
    return replace(known, **texts, uids={**known.uids, **new.uids})
