"""The vault: who a study is about, sealed. The only table with identities, readable with the site's key alone.

A row is AES-256-GCM over the identity as JSON, bound to its study key: version 1 | nonce 12 | ciphertext and tag.
Every read writes an audit record before the identity is given out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields, replace

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import ObjectCorrupt, StorageError
from medai_pipeline.records import Identity
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.keys import key_id
from medai_pipeline.storage.tables import identities

_VERSION = b"\x01"


class Vault:
    """Identities by study key. `key` has 32 bytes; `patient_token` hides a Patient ID (`SiteKeys.patient_token`)."""

    def __init__(
        self, engine: Engine, key: bytes, audit: Audit, patient_token: Callable[[str], str] = lambda _: ""
    ) -> None:
        self._engine = engine
        self._patient_token = patient_token
        self._key = key
        self._audit = audit

    def __repr__(self) -> str:
        return "Vault(<hidden>)"

    def store(self, study_key: str, identity: Identity) -> None:
        """Keeps what is known: blank fields never replace known ones, and UIDs are added to those that are there.

        Another Patient ID is another patient (the PACS was corrected): nothing of the one before is kept beside it.
        """
        with self._engine.begin() as connection:
            # the row may not exist yet: a lock on its name, so that two writers do not lose each other's UIDs
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"vault {study_key}"}
            )
            known = self._open(connection, study_key)
            kept = _merged(known, identity) if known else identity
            values = {
                "sealed": self._seal(study_key, kept),
                "key_id": key_id(self._key).hex(),
                "updated_at": sa.func.now(),
                "patient_token": self._patient_token(kept.patient_id),
            }
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

    def of_patient(self, patient_id: str, actor: str, purpose: str) -> list[str]:
        """The study keys of a patient, by Patient ID exactly. The asking is recorded, by an HMAC of what was asked for."""
        token = self._patient_token(patient_id)
        query = sa.select(identities.c.study_key).where(identities.c.patient_token == token).order_by("study_key")
        with self._engine.begin() as connection:
            found = list(connection.scalars(query)) if token else []
            detail = {"purpose": purpose, "studies": len(found)}
            self._audit.append_in(connection, actor, "identity.find", f"patient:{token}", detail)
        return found

    def known(self, study_keys: Iterable[str]) -> set[str]:
        """Those of `study_keys` that have an identity. Nothing is opened, so nothing is recorded."""
        query = sa.select(identities.c.study_key).where(identities.c.study_key.in_(list(study_keys)))
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def _seal(self, study_key: str, identity: Identity) -> bytes:
        nonce = os.urandom(12)
        named = {f.name: getattr(identity, f.name) for f in fields(Identity)}
        text = json.dumps({**named, "uids": dict(identity.uids)}, ensure_ascii=False)
        # surrogates stand for bytes that the file's character set did not explain: they must come back as they were
        return (
            _VERSION + nonce + AESGCM(self._key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), _aad(study_key))
        )

    def _open(self, connection: Connection, study_key: str) -> Identity | None:
        row = connection.execute(sa.select(identities).where(identities.c.study_key == study_key)).first()
        if row is None:
            return None
        if row.key_id != key_id(self._key).hex():
            raise ObjectCorrupt(f"the identity of study {study_key} is sealed with another site key: restore that key")
        try:
            text = AESGCM(self._key).decrypt(row.sealed[1:13], row.sealed[13:], _aad(study_key))
        except (InvalidTag, ValueError) as error:
            raise ObjectCorrupt(f"the identity of study {study_key} was changed: restore it from a backup") from error
        return Identity(**json.loads(text.decode("utf-8", "surrogatepass")))


def _aad(study_key: str) -> bytes:
    return _VERSION + b"medai identity " + study_key.encode()


def _merged(known: Identity, new: Identity) -> Identity:
    if known.patient_id and new.patient_id and known.patient_id != new.patient_id:
        known = Identity(known.study_instance_uid, orthanc_id=known.orthanc_id, uids=known.uids)
    texts = {f.name: getattr(new, f.name) for f in fields(Identity) if f.name != "uids" and getattr(new, f.name)}
    return replace(known, **texts, uids={**known.uids, **new.uids})
