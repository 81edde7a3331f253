"""The vault: identities come back whole, to those with the key, with a record; nobody finds them in the database."""

from __future__ import annotations

import base64
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from medai_pipeline.errors import ObjectCorrupt, SettingsError, StorageError
from medai_pipeline.records import Identity
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.keyring import KeySource
from medai_pipeline.storage.secrets import StudySecrets
from medai_pipeline.storage.tables import audit_log, identities, metadata
from medai_pipeline.storage.vault import Vault

KEY = "S" * 26
FULL = Identity(
    study_instance_uid="1.2.3.MARKERUID",
    patient_id="MARKERID",
    patient_name="MARKERNAME^Zoë",
    birth_date="19010203",
    sex="F",
    accession_number="MARKERACC",
    study_id="MARKERSTUDY",
    study_date="19520304",
    study_time="040506.789",
    referring_physician="MARKERDOC",
    orthanc_id="MARKERORTHANC",
    uids={"1.2.3.MARKERUID": "2.25.1"},
)


@pytest.fixture
def audit(engine: Engine) -> Audit:
    return Audit(engine, b"a" * 32)


def vault_of(engine: Engine, audit: Audit, secret: bytes) -> Vault:
    source = KeySource(base64.b64encode(secret).decode(), Path())
    return Vault(engine, StudySecrets(engine, source), source, audit)


@pytest.fixture
def vault(engine: Engine, audit: Audit) -> Vault:
    return vault_of(engine, audit, b"v" * 32)


def read(vault: Vault, key: str = KEY) -> Identity:
    return vault.read(key, "user:anna", "send the result back")


TEXTS = st.text(st.characters(exclude_categories=[]), max_size=20)
IDENTITIES = st.builds(
    Identity,
    **{f.name: TEXTS for f in fields(Identity) if f.name != "uids"},
    uids=st.dictionaries(TEXTS, TEXTS, max_size=3),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(identity=IDENTITIES)
def test_an_identity_comes_back_as_it_was(vault: Vault, identity: Identity) -> None:
    key = secrets.token_hex(13)  # never seen before: the database outlives one example
    vault.store(key, identity)
    assert read(vault, key) == identity


def test_blank_fields_never_replace_known_ones_and_uids_add_up(vault: Vault) -> None:
    vault.store(KEY, FULL)
    vault.store(KEY, Identity("1.2.3.MARKERUID", accession_number="CORRECTED", uids={"1.2.4": "2.25.2"}))
    uids = {"1.2.3.MARKERUID": "2.25.1", "1.2.4": "2.25.2"}
    assert read(vault) == replace(FULL, accession_number="CORRECTED", uids=uids)


def test_another_patient_id_is_another_patient_of_whom_nothing_else_is_known_yet(vault: Vault) -> None:
    vault.store(KEY, FULL)
    vault.store(KEY, Identity("1.2.3.MARKERUID", patient_id="OTHER", sex="M"))
    expected = Identity(
        "1.2.3.MARKERUID", patient_id="OTHER", sex="M", orthanc_id=FULL.orthanc_id, uids={"1.2.3.MARKERUID": "2.25.1"}
    )
    assert read(vault) == expected


def test_writers_at_once_lose_none_of_their_uids(vault: Vault) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: vault.store(KEY, Identity("1.2.3", uids={str(n): "x"})), range(12)))
    assert set(read(vault).uids) == {str(n) for n in range(12)}


def test_known_says_which_studies_have_an_identity_without_opening_any(vault: Vault, audit: Audit) -> None:
    vault.store(KEY, FULL)
    assert vault.known([KEY, "other"]) == {KEY}
    assert vault.known([]) == set()
    assert audit.verify().records == 0


def test_every_reading_is_recorded_with_who_and_what_for(vault: Vault, engine: Engine, audit: Audit) -> None:
    vault.store(KEY, FULL)
    read(vault)
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(audit_log)).all()
    assert (row.actor, row.action, row.subject) == ("user:anna", "identity.read", KEY)
    assert row.detail == {"purpose": "send the result back"}
    assert audit.verify().ok


@pytest.mark.parametrize("asked", ["markername", "ZOË", "zo mark", "Markername, Zoë"])
def test_a_person_is_found_by_parts_of_the_name_in_any_case_with_one_record(
    vault: Vault, engine: Engine, asked: str
) -> None:
    other = "T" * 26
    vault.store(KEY, FULL)
    vault.store(other, replace(FULL, patient_id="OTHER", patient_name="MARK^Ann"))
    assert vault.of_name(asked, [KEY, "U" * 26], "user:anna", "whose studies are here?").found == [KEY]
    with engine.connect() as connection:
        (record,) = connection.execute(sa.select(audit_log).where(audit_log.c.action == "identity.search"))
    assert (record.actor, record.detail["opened"], record.detail["found"]) == ("user:anna", 2, [KEY])
    assert asked not in str(record.detail)


@pytest.mark.parametrize("asked", ["", " ^ ", "nobody", "markername ann"])
def test_a_name_that_nobody_has_finds_nothing_and_is_recorded_too(vault: Vault, engine: Engine, asked: str) -> None:
    vault.store(KEY, FULL)
    assert vault.of_name(asked, [KEY], "user:anna", "whose studies are here?").found == []
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(audit_log.c.action == "identity.search")) == 1


def test_a_search_goes_on_past_a_damaged_identity_and_says_which_it_was(vault: Vault, engine: Engine) -> None:
    damaged, later = "D" * 26, "Z" * 26
    for key in (damaged, KEY, later):
        vault.store(key, FULL)
    with engine.begin() as connection:
        row = sa.update(identities).where(identities.c.study_key == damaged)
        connection.execute(row.values(sealed=sa.func.set_byte(identities.c.sealed, 20, 0)))
        connection.execute(row.values(sealed=sa.func.set_byte(identities.c.sealed, 21, 0)))
    said = vault.of_name("zoë", [damaged], "user:anna", "whose studies are here?")
    assert (set(said.found), said.damaged, said.others) == ({KEY, later}, [damaged], 0)
    with engine.connect() as connection:
        (record,) = connection.execute(sa.select(audit_log).where(audit_log.c.action == "identity.search"))
    assert (record.detail["opened"], record.detail["damaged"]) == (2, [damaged])


def test_a_search_looks_beyond_the_list_and_says_where_it_stopped(vault: Vault) -> None:
    listed, newest = "A" * 26, "N" * 26
    for key in (listed, "M" * 26, newest):
        vault.store(key, FULL)
    said = vault.of_name("zoë", [listed], "user:anna", "whose studies are here?", most=2)
    assert (said.found, said.others) == ([listed, newest], 1)


def test_an_unknown_study_is_a_clear_error_and_no_reading(vault: Vault, audit: Audit) -> None:
    with pytest.raises(StorageError, match="no identity for study"):
        read(vault)
    assert audit.verify().records == 0


def test_another_sites_key_opens_no_identity(vault: Vault, engine: Engine, audit: Audit) -> None:
    vault.store(KEY, FULL)
    with pytest.raises(SettingsError, match="not among the keys here"):
        read(vault_of(engine, audit, b"w" * 32))


def test_a_changed_or_exchanged_row_does_not_open(vault: Vault, engine: Engine) -> None:
    vault.store(KEY, FULL)
    vault.store("T" * 26, replace(FULL, patient_name="Other"))
    swap = "UPDATE medai.identities a SET sealed = b.sealed FROM medai.identities b WHERE a.study_key <> b.study_key"
    with engine.begin() as connection:
        connection.execute(sa.text(swap))
    for key in (KEY, "T" * 26):
        with pytest.raises(ObjectCorrupt):
            read(vault, key)
    with engine.begin() as connection:
        connection.execute(sa.update(identities).values(sealed=b"\x01short"))
    with pytest.raises(ObjectCorrupt):
        read(vault)


def test_no_column_of_any_table_shows_an_identity(vault: Vault, engine: Engine) -> None:
    vault.store(KEY, FULL)
    read(vault)
    shown = everything(engine)
    assert KEY in shown
    for marker in ("MARKER", "19010203", "19520304", "Zoë"):
        assert marker not in shown
        assert marker.encode().hex() not in shown
    assert "MARKER" not in repr(vault) + repr(FULL)


def everything(engine: Engine) -> str:
    """Every row of every table as text, as a dump would show it."""
    with engine.connect() as connection:
        names = [f'"{t.schema}"."{t.name}"' for t in metadata.tables.values()]
        return "\n".join(
            str(row) for name in names for row in connection.scalars(sa.text(f"SELECT t::text FROM {name} t"))
        )
