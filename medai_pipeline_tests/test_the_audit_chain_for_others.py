"""The audit chain as a privacy officer uses it: verified against a noted head, across keys, listed, exported as FHIR AuditEvent."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from medai_pipeline.cli import main
from medai_pipeline.results.audit_event import CODES, KINDS, kind_of
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.audit import Audit, Head
from medai_pipeline.storage.rotation import Rotation
from medai_pipeline_tests.conftest import ROOT
from medai_pipeline_tests.fresh_services import fresh_services
from medai_pipeline_tests.test_audit_chain_finds_tampering import fill

Medai = Callable[..., str]


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path, database_url) as made:
        yield made


@pytest.fixture
def medai(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Medai:
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", services.settings.database_url or "")

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, ["audit", *arguments])
        assert result.exit_code == code, result.output
        return result.output

    return run


def run_sql(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


AS_SUPERUSER = {
    "triggers disabled": ["ALTER TABLE medai.audit_log DISABLE TRIGGER ALL", "DELETE FROM medai.audit_log WHERE seq = 3",
                          "ALTER TABLE medai.audit_log ENABLE TRIGGER ALL"],
    "the trigger dropped": ["DROP TRIGGER audit_log_append_only ON medai.audit_log",
                            "UPDATE medai.audit_log SET actor = 'nobody' WHERE seq = 2"],
    "as if it were forgetting": ["SET LOCAL medai.forgetting = 'on'", "DELETE FROM medai.audit_log WHERE seq = 1"],
    "emptied with its head": ["SET LOCAL session_replication_role = replica", "TRUNCATE medai.audit_log",
                              "INSERT INTO medai.audit_log SELECT 1, now(), 'a', 'b', 'c', '{}', '', '', ''"],
    "every record moved by one": ["SET LOCAL session_replication_role = replica",
                                  "UPDATE medai.audit_log SET seq = -seq - 1", "UPDATE medai.audit_log SET seq = -seq"],
    "a key id exchanged": ["SET LOCAL session_replication_role = replica",
                           "UPDATE medai.audit_log SET key_id = repeat('0', 16) WHERE seq = 2"],
    "a column of another type": ["ALTER TABLE medai.audit_log ALTER COLUMN at TYPE timestamptz USING at + interval '1 s'"],
}  # fmt: skip


@pytest.mark.parametrize("how", AS_SUPERUSER)
def test_whatever_a_superuser_does_is_refused_or_found(
    new_database, services: Services, tmp_path: Path, how: str
) -> None:
    own = Services(read_settings({}, home=str(tmp_path), database_url=new_database()))  # its schema is changed
    fill(own.audit)
    try:
        run_sql(own.engine, *AS_SUPERUSER[how])
    except DBAPIError as error:
        assert "append-only" in str(error)
        assert how == "as if it were forgetting" and own.audit.verify().ok
    else:
        assert not own.audit.verify().ok
    own.engine.dispose()


def test_a_chain_that_was_set_back_with_its_head_is_found_by_a_noted_head(services: Services, medai: Medai) -> None:
    fill(services.audit)
    noted = medai("head").strip()
    assert Head.parse(noted) == services.audit.head() and noted.startswith("5:")
    row = "(SELECT hash FROM medai.audit_log WHERE seq = 2)"
    run_sql(
        services.engine, "SET LOCAL session_replication_role = replica",
        f"UPDATE medai.audit_head SET seq = 2, hash = {row}", "DELETE FROM medai.audit_log WHERE seq > 2",
    )  # fmt: skip
    assert "2 records, all as they were written" in medai("verify")
    assert "set back" in medai("verify", "--head", noted, code=1)
    fill_from = [services.audit.append("user:x", "report.read", "S") for _ in range(4)]
    assert fill_from == [3, 4, 5, 6]
    assert "not the record that was noted" in medai("verify", "--head", noted, code=1)
    assert "head" in medai("verify", "--head", "5:xyz", code=2)


def test_the_chain_verifies_across_a_rotation_and_refuses_to_go_back_to_the_earlier_key(services: Services) -> None:
    fill(services.audit)
    before = services.audit.verify()
    rotation: Rotation = services.rotation
    old = services.key_source.newest
    services.key_source.write(rotation.prepared())
    rotation.put_in_force("user:test")
    list(rotation.reseal())
    services.key_source.write(rotation.destroyed())
    rotation.note_destroyed("user:test")
    services.audit.append("user:x", "report.read", "S")
    after = services.audit.verify(Head(5, before.head))
    assert after.ok and after.records == 8
    # who kept the old secret appends a record that follows well, under its key
    Audit(services.engine, old.audit).append("user:thief", "report.read", "S")
    found = services.audit.verify()
    assert (found.ok, found.first_bad_seq) == (False, 9)
    assert "earlier key" in found.reason


def test_who_kept_the_old_secret_cannot_write_the_past_anew(services: Services) -> None:
    """A record of before the rotation, changed and hashed again under the old key, with all that follow it there."""
    old = services.key_source.newest
    fill(services.audit, 3)
    services.key_source.write(services.rotation.prepared())
    services.rotation.put_in_force("user:test")
    with services.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        kept = connection.execute(sa.text("SELECT * FROM medai.audit_log WHERE seq = 4")).mappings().one()
        connection.execute(sa.text("DELETE FROM medai.audit_log"))
        connection.execute(sa.text("DELETE FROM medai.audit_head"))
    forged = Audit(services.engine, old.audit)
    for n in range(3):
        forged.append(f"user-{n}", "nothing.happened", "S" * 26)
    with services.engine.begin() as connection:
        columns = ", ".join(kept)
        values = ", ".join(f"CAST(:{name} AS {'jsonb' if name == 'detail' else 'text'})" if name in
                           ("detail",) else f":{name}" for name in kept)  # fmt: skip
        connection.execute(
            sa.text(f"INSERT INTO medai.audit_log ({columns}) VALUES ({values})"),
            {**kept, "detail": json.dumps(kept["detail"])},
        )
        connection.execute(sa.text("UPDATE medai.audit_head SET seq = 4, hash = :hash"), {"hash": kept["hash"]})
    found = services.audit.verify()
    assert (found.ok, found.first_bad_seq) == (False, 4)


def test_records_are_listed_by_who_what_whom_and_when_and_the_looking_is_recorded(
    services: Services, medai: Medai
) -> None:
    fill(services.audit)
    services.audit.append("pipeline:sensor", "identity.read", "T" * 26, {"purpose": "is the study complete"})

    def listed(*arguments: str) -> list[str]:
        return [json.loads(line)["action"] for line in medai("list", "--json", *arguments).splitlines()]

    assert listed("--actor", "pipeline:*") == ["identity.read"]
    assert listed("--subject", "T" * 26) == ["identity.read"]
    assert listed("--action", "report.*", "--limit", "2") == ["report.read", "report.read"]
    assert listed("--until", "2020-01-01") == []
    assert set(listed("--since", "2020-01-01")) == {"report.read", "identity.read", "audit.read"}
    assert "is the study complete" in medai("list", "--action", "identity.read")
    looks = [r for r in services.audit_trail.newest(_wanted()) if r.action == "audit.read"]
    assert len(looks) == 6 and looks[0].detail["actor"] == "pipeline:*"


def _wanted():
    from medai_pipeline.storage.audit_trail import AuditFilter

    return AuditFilter(limit=100)


def test_the_export_is_read_by_another_model_of_fhir_r4b(services: Services, medai: Medai, tmp_path: Path) -> None:
    from fhir.resources.R4B.auditevent import AuditEvent
    from fhir.resources.R4B.bundle import Bundle

    for action in [start + "x" if start.endswith(".") else start for start in KINDS if start]:
        services.audit.append("user:anna", action, "S" * 26, {"purpose": "a test", "n": 3, "empty": ""})
    services.audit.append("pipeline:sensor", "login.failed", "model:m@1", {})
    out = tmp_path / "audit.json"
    medai("export", "--out", str(out))
    bundle = Bundle.model_validate_json(out.read_text())
    assert oct(out.stat().st_mode)[-3:] == "600"
    assert len(bundle.entry) == len(KINDS) + 1  # the export's own record is in it, too
    lines = medai("export", "--format", "ndjson", "--action", "identity.*").splitlines()
    event = AuditEvent.model_validate_json(lines[0])
    assert (event.type.code, event.action, event.outcome) == ("110110", "R", "0")
    assert event.agent[0].who.identifier.value == "user:anna" and event.agent[0].requestor is True
    assert event.entity[0].what.identifier.value == "S" * 26
    assert event.purposeOfEvent[0].text == "a test"
    failed = json.loads(medai("export", "--format", "ndjson", "--action", "login.failed").splitlines()[0])
    assert failed["outcome"] == "8" and failed["agent"][0]["type"]["coding"][0]["code"] == "110150"


def test_the_codes_are_dicoms_own() -> None:
    from pydicom.sr._concepts_dict import concepts

    known = {code: said for named in concepts["DCM"].values() for code, said in named.items()}
    assert {code: meaning for code, meaning in CODES.items() if known[code][0] != meaning} == {}
    for kind in KINDS.values():
        assert 400 in known[kind.event][1] and (not kind.subtype or 401 in known[kind.subtype][1])
    assert {kind.action for kind in KINDS.values()} <= set("CRUDE")


def test_every_action_that_the_code_writes_has_a_kind_of_its_own() -> None:
    written = set()
    for path in (ROOT / "medai_pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"append", "append_in"}:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                written |= {text for text in texts if len(node.args) >= 3 and "." in text and ":" not in text}
    assert len(written) > 8
    assert {action for action in written if kind_of(action) is KINDS[""]} == set()
