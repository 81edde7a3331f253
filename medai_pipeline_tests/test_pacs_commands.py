"""`medai pacs ...` as a person types it: against a real Orthanc by REST, and dcmtk's archive by DICOM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner, Result

from medai_pipeline.cli import main
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.pacs.dimse import store_many
from medai_pipeline.pacs.find import find
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.dcmtk import Archive
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study

Medai = Callable[..., Result]


@pytest.fixture
def medai(orthanc: RunningOrthanc, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Medai:
    """Runs a command with the session's Orthanc and a database of its own."""
    SiteKeys.load(None, tmp_path / "home" / "keys" / "site.key", create=True)
    monkeypatch.chdir(tmp_path)
    environment = {
        "MEDAI_HOME": str(tmp_path / "home"),
        "DATABASE_URL": database_url,
        "ORTHANC_URL": orthanc.url,
        "ORTHANC_USERNAME": orthanc.username,
        "ORTHANC_PASSWORD": orthanc.password,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object, **changed: str) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], env=changed)

    return run


def services() -> Services:
    return Services(read_settings())


def audited() -> list[str]:
    from sqlalchemy import select

    from medai_pipeline.storage.tables import audit_log

    with services().engine.connect() as connection:
        rows = connection.execute(select(audit_log.c.action, audit_log.c.detail).order_by(audit_log.c.seq)).all()
    return [f"{action} {json.dumps(detail)}" for action, detail in rows]


@pytest.mark.parametrize("by", ["REST", "DICOM"])
def test_a_study_is_found_and_fetched_and_both_are_audited(
    by: str, medai: Medai, pacs: Orthanc, dcmqrscp: Archive, tmp_path: Path
) -> None:
    datasets = made_study(3)
    node = ["--node", f"dicom://ARCHIVE@127.0.0.1:{dcmqrscp.port}"] if by == "DICOM" else []
    if node:
        store_many(dcmqrscp.node, [file_bytes(dataset) for dataset in datasets])
    else:
        pacs.upload_many([file_bytes(dataset) for dataset in datasets])
    patient, uid = str(datasets[0].PatientID), str(datasets[0].StudyInstanceUID)
    told = medai("pacs", "find", *node, f"PatientID={patient}", "--json")
    (answer,) = json.loads(told.stdout)
    assert (answer["StudyInstanceUID"], answer["PatientName"]) == (uid, "Mårkér^Tëst")
    assert patient in medai("pacs", "find", *node, f"PatientID={patient}").stdout
    got = medai("pacs", "get", *node, uid, "--out", tmp_path / "out")
    assert got.exit_code == 0 and "3 files" in got.stdout
    files = list((tmp_path / "out").iterdir())
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in files} == {str(d.SOPInstanceUID) for d in datasets}
    assert all(path.stat().st_mode & 0o777 == 0o600 and uid not in path.name for path in files)
    records = audited()
    assert [record.split(" {")[0] for record in records] == ["pacs find", "pacs find", "pacs get"]
    assert not any(patient in record or uid in record for record in records)


def test_a_node_answers_an_echo_or_says_in_one_line_why_not(medai: Medai, dcmqrscp: Archive) -> None:
    told = medai("pacs", "echo", "--node", f"dicom://ARCHIVE@127.0.0.1:{dcmqrscp.port}")
    assert told.exit_code == 0 and "ARCHIVE" in told.stdout
    wrong = medai("pacs", "echo", "--node", f"dicom://WRONG@127.0.0.1:{dcmqrscp.port}")
    assert wrong.exit_code == 1 and "rejects the association" in wrong.stderr
    assert "--node dicom://AET@HOST:PORT" in medai("pacs", "echo").stderr
    assert medai("pacs", "find", "PatientID").exit_code == 2


def test_a_node_moves_a_study_to_another_and_a_study_that_is_not_there_is_said(
    medai: Medai, dcmqrscp: Archive, tmp_path: Path
) -> None:
    from medai_pipeline.pacs.receiver import Listening, Receiver

    datasets = made_study(2)
    store_many(dcmqrscp.node, [file_bytes(dataset) for dataset in datasets])
    node, kept = f"dicom://ARCHIVE@127.0.0.1:{dcmqrscp.port}", list[bytes]()
    with Receiver(Listening(dcmqrscp.move_port), kept.append):
        told = medai("pacs", "move", "--node", node, "--to", "MEDAI", datasets[0].StudyInstanceUID)
    assert "2 instances" in told.stdout and len(kept) == 2
    missing = medai("pacs", "get", "--node", node, "2.25.1", "--out", tmp_path / "out")
    assert missing.exit_code == 1 and "no study" in missing.stderr


def test_what_was_not_taken_is_listed_and_offered_again_or_looked_at_or_forgotten(medai: Medai, tmp_path: Path) -> None:
    spool = Spool(services().objects)
    spool.set_aside(b"first", "the PACS refused it: Bad file format", "DOE.dcm")
    spool.set_aside(b"second", "the file ends early")
    spool.keep(b"waits")
    told = json.loads(medai("pacs", "status", "--json").stdout)
    assert (told["waiting_to_be_passed_on"], told["in_quarantine"], told["version"][:2]) == (1, 2, "1.")
    listed = medai("pacs", "quarantine").stdout
    assert "Bad file format  (DOE.dcm)" in listed and "2 in quarantine" in listed
    first, second = (next(e.digest for e in spool.quarantine() if word in e.reason) for word in ("Bad", "early"))
    assert medai("pacs", "quarantine", first[:8], "--out", tmp_path / "look").exit_code == 0
    (looked,) = (tmp_path / "look").iterdir()
    assert looked.read_bytes() == b"first" and looked.stat().st_mode & 0o777 == 0o600
    assert medai("pacs", "quarantine", "--forget").exit_code == 2
    assert medai("pacs", "quarantine", second[:8], "--forget").exit_code == 0
    assert medai("pacs", "quarantine", first[:8], "--again").exit_code == 0
    assert (len(spool.waiting()), spool.quarantine()) == (2, [])
    assert medai("pacs", "quarantine", "ffff").exit_code == 1


def test_files_go_to_a_pacs_without_orthanc_by_c_store(medai: Medai, dcmqrscp: Archive, tmp_path: Path) -> None:
    datasets = made_study(2)
    for number, dataset in enumerate(datasets):
        (tmp_path / f"{number}.dcm").write_bytes(file_bytes(dataset))
    files = sorted(tmp_path.glob("*.dcm"))
    told = medai("send", *files, MEDAI_PACS=f"dicom://ARCHIVE@127.0.0.1:{dcmqrscp.port}", ORTHANC_URL="")
    assert told.exit_code == 0 and "2 of 2 files stored" in told.stdout
    assert len(list(find(dcmqrscp.node, "STUDY", {"StudyInstanceUID": str(datasets[0].StudyInstanceUID)}))) == 1
    assert medai("send", *files, "--tls").exit_code == 2


def test_two_pacs_at_once_are_refused(medai: Medai) -> None:
    told = medai("pacs", "status", MEDAI_PACS="dicom://ARCHIVE@127.0.0.1:104")
    assert told.exit_code == 1 and "set one of them" in told.stderr
