"""The audit chain: many writers, one order; any change, deletion or exchange is found, and named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.tables import audit_log

KEY = b"a" * 32


@pytest.fixture
def audit(engine: Engine) -> Audit:
    return Audit(engine, KEY)


def fill(audit: Audit, count: int = 5) -> None:
    for n in range(count):
        assert audit.append(f"user-{n}", "report.read", "S" * 26, {"n": n}) == n + 1


def tamper(engine: Engine, *statements: str) -> None:
    """As a database administrator could: triggers rest while these run."""
    with engine.begin() as connection:
        for statement in ("SET LOCAL session_replication_role = replica", *statements):
            connection.execute(sa.text(statement))


def test_an_untouched_chain_verifies_and_an_empty_one_too(audit: Audit) -> None:
    assert audit.verify().ok
    fill(audit)
    check = audit.verify()
    assert (check.ok, check.records, check.first_bad_seq, check.reason) == (True, 5, None, "")
    assert len(check.head) == 64


def test_writers_at_once_make_one_chain_without_gaps(audit: Audit) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda n: audit.append("user", "x", str(n)), range(30)))
    assert sorted(numbers) == list(range(1, 31))
    assert audit.verify().ok


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcö\"\\", max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(detail=st.dictionaries(st.text("abc", max_size=4), JSON, max_size=4))
def test_any_detail_verifies_after_postgres_wrote_its_numbers_in_its_own_way(
    audit: Audit, detail: dict[str, Any]
) -> None:
    audit.append("user", "x", "S", detail)
    check = audit.verify()
    assert check.ok, check.reason


TAMPERING = {
    "a changed actor": (["UPDATE medai.audit_log SET actor = 'nobody' WHERE seq = 3"], 3, "content was changed"),
    "a changed detail": (["UPDATE medai.audit_log SET detail = '{}' WHERE seq = 3"], 3, "content was changed"),
    "a changed time": (["UPDATE medai.audit_log SET at = at + interval '1 microsecond' WHERE seq = 2"], 2, "content"),
    "a changed hash": (["UPDATE medai.audit_log SET hash = repeat('0', 64) WHERE seq = 4"], 4, "content was changed"),
    "a deleted record": (["DELETE FROM medai.audit_log WHERE seq = 3"], 4, "record 3 is missing"),
    "a deleted start": (["DELETE FROM medai.audit_log WHERE seq <= 2"], 3, "record 1 is missing"),
    "a deleted end": (["DELETE FROM medai.audit_log WHERE seq >= 4"], 4, "missing at the end"),
    "everything deleted": (["DELETE FROM medai.audit_log"], 1, "missing at the end"),
    "head and end deleted": (["DELETE FROM medai.audit_log WHERE seq = 5", "DELETE FROM medai.audit_head"], 5, "head"),
    "a closed gap": (
        ["DELETE FROM medai.audit_log WHERE seq = 3", "UPDATE medai.audit_log SET seq = seq - 1 WHERE seq > 3"],
        3,
        "does not follow",
    ),
    "two exchanged": (
        [
            "UPDATE medai.audit_log SET seq = 99 WHERE seq = 2",
            "UPDATE medai.audit_log SET seq = 2 WHERE seq = 3",
            "UPDATE medai.audit_log SET seq = 3 WHERE seq = 99",
        ],
        2,
        "does not follow",
    ),
    "one added": (
        [
            "INSERT INTO medai.audit_log SELECT 6, at, actor, action, subject, detail, key_id, hash, hash"
            " FROM medai.audit_log WHERE seq = 5"
        ],
        6,
        "content was changed",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found(audit: Audit, engine: Engine, what: str) -> None:
    statements, seq, reason = TAMPERING[what]
    fill(audit)
    tamper(engine, *statements)
    check = audit.verify()
    assert not check.ok
    assert check.first_bad_seq == seq
    assert reason in check.reason


def test_a_chain_made_anew_without_the_sites_key_does_not_verify(audit: Audit, engine: Engine) -> None:
    fill(audit)
    tamper(engine, "DELETE FROM medai.audit_log", "DELETE FROM medai.audit_head")
    fill(Audit(engine, b"f" * 32))
    assert audit.verify().first_bad_seq == 1


@pytest.mark.parametrize("table", ["audit_log", "inference_results", "reports"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = DEFAULT", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_append_only_tables_refuse_change(engine: Engine, table: str, statement: str) -> None:
    column = {"audit_log": "detail", "inference_results": "result", "reports": "content"}[table]
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text(statement.format(f"medai.{table}", column)))


def test_a_record_of_a_deed_that_was_rolled_back_is_not_there(audit: Audit, engine: Engine) -> None:
    fill(audit, 1)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        audit.append_in(connection, "user", "x", "S")
        raise ZeroDivisionError
    assert audit.append("user", "y", "S") == 2
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(audit_log)) == 2
    assert audit.verify().ok
