"""What waits for the PACS or was refused by it goes with its patient, or at its age; older copies of it do not open."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from medai_pipeline.cli import main
from medai_pipeline.errors import StudyForgotten
from medai_pipeline.incoming.forward import Forwarder
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.incoming.whose import whose
from medai_pipeline.orchestration.ageing import apply
from medai_pipeline.orchestration.forgetting import forget
from medai_pipeline.pacs.records import UploadResult
from medai_pipeline.services import Services
from medai_pipeline.storage.audit_trail import AuditFilter
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline_tests.fresh_services import fresh_services
from medai_pipeline_tests.orthanc import file_bytes, made_study

PATIENT, OTHER = "ZZPAT^17", "ZZPAT^18"
Medai = Callable[..., Result]


@pytest.fixture
def services(database_url: str, tmp_path: Path) -> Iterator[Services]:
    with fresh_services(tmp_path, database_url) as made:
        yield made


@pytest.fixture
def medai(services: Services, monkeypatch: pytest.MonkeyPatch) -> Medai:
    monkeypatch.setenv("MEDAI_HOME", services.settings.home)
    monkeypatch.setenv("DATABASE_URL", services.settings.database_url or "")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, arguments)
        assert "unexpected" not in result.output and PATIENT not in result.output, result.output
        return result

    return run


def of(patient_id: str, count: int = 1) -> list[Dataset]:
    datasets = made_study(count)
    for dataset in datasets:
        dataset.PatientID = patient_id
    return datasets


def key_of(services: Services, dataset: Dataset) -> str:
    return services.keys.study_key(str(dataset.StudyInstanceUID))


def files(services: Services) -> list[Path]:
    return sorted(path for path in (services.settings.objects_path / "incoming").rglob("*") if path.is_file())


class Refusing:
    """A PACS that refuses all for good; `meanwhile` is done while it is asked."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile

    def upload_many(self, items, concurrency: int = 8) -> list[UploadResult]:
        self.meanwhile()
        return [UploadResult("Refused", reason="Bad file format") for _ in items]


def test_a_patient_who_waits_or_was_refused_is_forgotten_and_another_one_stays(
    services: Services, medai: Medai, tmp_path: Path
) -> None:
    spool = services.spool
    waits, refused, theirs = of(PATIENT, 2), of(PATIENT), of(OTHER)
    for dataset in (*waits, *theirs):
        spool.keep(file_bytes(dataset))
    spool.set_aside(file_bytes(refused[0])[:-40], "the file ends early", "DOE^JANE.dcm")  # its study is in no table
    before = set(files(services))
    shutil.copytree(services.settings.objects_path, tmp_path / "copy")
    result = medai("forget", "--patient", PATIENT, "--reason", "request 17", "--yes")
    assert result.exit_code == 0 and "3 files that had come in" in result.output, result.output
    (left,) = spool.waiting()
    assert spool.quarantine() == [] and whose(spool.read(left)).patient_ids == {OTHER}
    copied = Spool(ObjectStore(tmp_path / "copy", Services(services.settings).secrets))
    gone = [path.name for path in before - set(files(services)) if path.suffix != ".json"]
    assert len(gone) == 3
    for name in gone:
        with pytest.raises(StudyForgotten):
            copied.read(name) if "waiting" in str(next((tmp_path / "copy").rglob(name))) else copied.quarantined(name)
    assert copied.quarantine() == []
    assert copied.read(left) == file_bytes(theirs[0])
    told = medai("audit", "list", "--json").stdout
    assert (
        json.loads(told.splitlines()[0])["seq"] == 1
        and PATIENT not in told
        and str(waits[0].StudyInstanceUID) not in told
    )
    assert {"study.forget", "identity.search"} <= {json.loads(line)["action"] for line in told.splitlines()}
    assert services.audit.verify().ok


def test_names_on_the_disk_tell_a_study_by_its_key_alone(services: Services) -> None:
    (dataset,) = of(PATIENT)
    services.spool.keep(file_bytes(dataset))
    services.spool.set_aside(file_bytes(dataset)[:-40], "the file ends early", PATIENT)
    assert len(files(services)) == 3
    for path in files(services):
        assert path.name.startswith(key_of(services, dataset) + ".")
        assert str(dataset.StudyInstanceUID) not in path.name and PATIENT.encode() not in path.read_bytes()


def test_what_an_earlier_version_kept_and_what_names_no_study_are_found_by_opening_them(
    services: Services, medai: Medai
) -> None:
    before = Spool(services.objects)  # all under the shared secret
    (mine,), (loose,), (theirs,) = of(PATIENT), of(PATIENT), of(OTHER)
    del loose.StudyInstanceUID
    before.keep(file_bytes(mine))
    before.set_aside(file_bytes(theirs), "refused", "theirs.dcm")
    before.set_aside(file_bytes(loose), "refused", "loose.dcm")
    before.set_aside(b"no DICOM at all", "not DICOM", "letter.pdf")
    assert all("." not in path.name.removesuffix(".json") for path in files(services))
    result = medai("forget", "--patient", PATIENT, "--yes")
    assert result.exit_code == 0 and "2 files that had come in" in result.output, result.output
    assert services.spool.waiting() == []
    left = {entry.file_name: entry for entry in services.spool.quarantine()}
    assert set(left) == {"theirs.dcm", "letter.pdf"}
    assert left["theirs.dcm"].entry.startswith(key_of(services, theirs))  # it can be forgotten for good now
    assert medai("forget", "--patient", PATIENT, "--yes").exit_code == 1  # nothing is left that is known


def test_a_patient_of_whom_only_files_without_a_study_came_is_forgotten(services: Services, medai: Medai) -> None:
    (loose,) = of(PATIENT)
    del loose.StudyInstanceUID
    services.spool.set_aside(file_bytes(loose), "refused")
    assert medai("forget", "--patient", OTHER, "--yes").exit_code == 1
    result = medai("forget", "--patient", PATIENT, "--yes")
    assert result.exit_code == 0 and "1 files that had come in" in result.output, result.output
    assert files(services) == []
    (record,) = services.audit_trail.newest(AuditFilter(action="incoming.forget", limit=9))
    assert record.detail["files"] == 1 and record.subject == f"patient:{services.keys.patient_token(PATIENT)}"


def test_a_forgotten_study_that_is_sent_anew_goes_to_the_pacs_and_can_be_forgotten_again(
    services: Services, medai: Medai
) -> None:
    (dataset,) = of(PATIENT)
    key = key_of(services, dataset)
    services.spool.keep(file_bytes(dataset))
    forget(services, key, "", "user:test")
    services.spool.keep(file_bytes(dataset))
    assert [services.spool.read(entry) for entry in services.spool.waiting()] == [file_bytes(dataset)]
    Forwarder(services.spool, Refusing()).forward()
    assert len(services.spool.quarantine()) == 1
    assert "1 files that had come in" in medai("forget", key, "--yes").output
    assert files(services) == []


def test_a_study_that_is_forgotten_while_its_file_is_on_its_way_does_not_come_back_into_quarantine(
    services: Services,
) -> None:
    (dataset,) = of(PATIENT)
    services.spool.keep(file_bytes(dataset))
    pacs = Refusing(lambda: forget(services, key_of(services, dataset), "", "user:test") and None)
    Forwarder(services.spool, pacs).forward()
    assert files(services) == []


def test_what_lies_under_a_destroyed_key_is_cleared_away_and_holds_up_nobody(services: Services) -> None:
    (dataset,), (other,) = of(PATIENT), of(OTHER)
    services.spool.keep(file_bytes(dataset))
    (path,) = files(services)
    sealed = path.read_bytes()
    forget(services, key_of(services, dataset), "", "user:test")
    path.write_bytes(sealed)  # by a process that remembered the key
    services.spool.keep(file_bytes(other))
    Forwarder(services.spool, Refusing()).forward()
    assert services.spool.waiting() == [] and len(services.spool.quarantine()) == 1


def test_a_note_that_is_missing_or_damaged_hides_no_entry(services: Services) -> None:
    for content in (b"one", b"two", b"three"):
        services.spool.set_aside(content, "refused")
    damaged, missing = (path for path in files(services) if path.suffix == ".json" and path != files(services)[-1])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    reasons = {entry.reason for entry in services.spool.quarantine()}
    assert len(reasons) == 3 and "refused" in reasons


def test_what_was_refused_goes_after_its_time_and_what_waits_stays(services: Services) -> None:
    spool = services.spool
    for dataset in (*of(PATIENT), *of(OTHER)):
        spool.set_aside(file_bytes(dataset), "refused")
    spool.set_aside(b"no DICOM at all", "not DICOM")
    spool.keep(file_bytes(of(PATIENT)[0]))
    old = (services.now() - timedelta(days=91)).timestamp()
    young = spool.quarantine()[0].entry
    for path in files(services):
        if not path.name.startswith(young):
            os.utime(path, (old, old))
    assert [(a.kind, a.objects) for a in apply(services, dry_run=True)] == [("quarantine", 2)]
    assert len(spool.quarantine()) == 3
    apply(services)
    assert [entry.entry for entry in spool.quarantine()] == [young] and len(spool.waiting()) == 1
    assert len(files(services)) == 3  # the young one with its note, and what waits
    (record,) = services.audit_trail.newest(AuditFilter(action="retention.delete", limit=9))
    assert (record.subject, record.detail["objects"], record.detail["older_than_days"]) == ("kind:quarantine", 2, 90.0)


@pytest.mark.parametrize(("charset", "patient_id"), [("", "A1"), ("ISO_IR 192", "Ä1"), ("ISO_IR 144", "Ж1")])
def test_a_patient_id_is_read_in_the_character_set_of_the_file(charset: str, patient_id: str) -> None:
    (dataset,) = made_study(1)
    dataset.SpecificCharacterSet, dataset.PatientID = charset, patient_id
    told = whose(file_bytes(dataset))
    assert patient_id in told.patient_ids and told.study_instance_uid == dataset.StudyInstanceUID
    assert patient_id not in repr(told)
    assert whose(b"no DICOM").patient_ids == set() == whose(b"").patient_ids
