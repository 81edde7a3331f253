"""What goes into Orthanc comes out the same, and what changed there is noticed: against a real Orthanc."""

from __future__ import annotations

import hashlib
import threading
import uuid
from pathlib import Path

import pytest

from medai_pipeline.errors import PacsError, PacsNotFound
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.pacs.parallel import ordered
from medai_pipeline.pacs.records import PacsInstance, PacsStudy
from medai_pipeline_tests.orthanc import file_bytes, made_study


def stored(pacs: Orthanc, files: list[bytes]) -> PacsStudy:
    results = pacs.upload_many(files)
    assert [result.status for result in results] == ["Success"] * len(files)
    return pacs.study(results[0].study_orthanc_id)


def test_fetched_files_are_byte_identical_to_the_uploaded_ones_and_in_order(pacs: Orthanc) -> None:
    datasets = made_study(7)
    files = {dataset.SOPInstanceUID: file_bytes(dataset) for dataset in datasets}
    study = stored(pacs, list(files.values()))
    instances = pacs.instances(study.orthanc_id)
    fetched = list(pacs.fetch(instances, concurrency=3))
    assert [instance for instance, _ in fetched] == list(instances)
    assert {instance.sop_instance_uid: data for instance, data in fetched} == files
    assert all(instance.size_bytes == len(data) for instance, data in fetched)
    assert {instance.sop_class_uid for instance in instances} == {datasets[0].SOPClassUID}


def test_a_study_is_told_with_its_identity_and_its_repr_hides_it(pacs: Orthanc) -> None:
    dataset = made_study(1)[0]
    study = stored(pacs, [file_bytes(dataset)])
    assert study.study_instance_uid == dataset.StudyInstanceUID
    assert (study.patient_id, study.patient_name) == (dataset.PatientID, "Mårkér^Tëst")
    assert (study.birth_date, study.sex, study.accession_number) == ("19010203", "O", dataset.AccessionNumber)
    assert (study.study_date, study.study_time, study.study_id) == ("20200102", "030405", "1")
    assert (study.referring_physician, study.instance_count) == ("Invented^Doctor", 1)
    shown = repr((study, pacs.instances(study.orthanc_id), pacs.changes(0)))
    shown += repr(pacs.source_digest(study.orthanc_id))
    assert not any(value in shown for value in (dataset.PatientID, study.study_instance_uid, study.orthanc_id, "Mår"))


def test_the_digest_changes_with_a_late_image_and_the_fingerprint_too(pacs: Orthanc) -> None:
    *early, late = [file_bytes(dataset) for dataset in made_study(4)]
    study = stored(pacs, early)
    before = pacs.source_digest(study.orthanc_id)
    pacs.upload(late)
    after = pacs.source_digest(study.orthanc_id)
    assert (before.instance_count, after.instance_count) == (3, 4)
    assert before.digest != after.digest
    assert pacs.fingerprint(study) != pacs.fingerprint(pacs.study(study.orthanc_id))


def test_the_digest_is_equal_after_the_same_files_are_sent_again_or_the_study_is_stored_anew(pacs: Orthanc) -> None:
    files = [file_bytes(dataset) for dataset in made_study(3)]
    study = stored(pacs, files)
    digest = pacs.source_digest(study.orthanc_id).digest
    assert [result.status for result in pacs.upload_many(files)] == ["AlreadyStored"] * 3
    assert pacs.source_digest(study.orthanc_id).digest == digest
    pacs._wire.request("DELETE", f"studies/{study.orthanc_id}")
    assert pacs.source_digest(stored(pacs, files[::-1]).orthanc_id).digest == digest


def test_the_digest_is_the_documented_one_and_leaves_out_what_is_ignored(pacs: Orthanc) -> None:
    datasets = made_study(3)
    study = stored(pacs, [file_bytes(dataset) for dataset in datasets])
    ours = datasets[1].SOPInstanceUID
    result = pacs.source_digest(study.orthanc_id, ignore=lambda instance: instance.sop_instance_uid == ours)
    kept = sorted((datasets[0], datasets[2]), key=lambda dataset: dataset.SOPInstanceUID)
    lines = (f"{dataset.SOPInstanceUID}\0{hashlib.md5(file_bytes(dataset)).hexdigest()}\n" for dataset in kept)
    assert result.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert result.instance_count == 2


def test_the_feed_and_the_sweep_agree_on_which_studies_are_there(pacs: Orthanc) -> None:
    cursor = pacs.last_change()
    sent = {stored(pacs, [file_bytes(made_study(1)[0])]).orthanc_id for _ in range(3)}
    told = set()
    while True:
        page = pacs.changes(cursor, limit=2)
        told |= {change.orthanc_id for change in page.items if change.kind == "NewStudy"}
        cursor = page.last
        if page.done:
            break
    assert told == sent
    swept = {study.orthanc_id: study for study in pacs.studies()}
    assert sent <= set(swept)
    assert all(swept[orthanc_id] == pacs.study(orthanc_id) for orthanc_id in sent)
    assert {study.orthanc_id for study in pacs.studies(counts=False)} == set(swept)


def test_the_sweep_goes_over_every_page(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medai_pipeline.pacs.orthanc.PAGE", 2)
    sent = {stored(pacs, [file_bytes(made_study(1)[0])]).orthanc_id for _ in range(5)}
    swept = [study.orthanc_id for study in pacs.studies()]
    assert sent <= set(swept) and len(swept) == len(set(swept))


def test_a_cursor_ahead_of_the_server_is_told_as_a_reset(pacs: Orthanc) -> None:
    stored(pacs, [file_bytes(made_study(1)[0])])
    page = pacs.changes(pacs.last_change() + 1000)
    assert (page.reset, page.last, page.items) == (True, 0, ())
    assert not pacs.changes(pacs.last_change()).reset


def test_what_is_not_there_is_not_found_and_says_so_in_one_line(pacs: Orthanc) -> None:
    gone = PacsInstance(str(uuid.uuid4()), "2.25.1", 10)
    asks = (lambda: pacs.study("none"), lambda: pacs.instances("none"), lambda: list(pacs.fetch([gone])))
    for ask in asks:
        with pytest.raises(PacsNotFound) as caught:
            ask()
        assert "\n" not in str(caught.value) and "none" not in str(caught.value)
    assert pacs.find_study("2.25.999") is None


def test_a_study_is_found_by_its_uid(pacs: Orthanc) -> None:
    study = stored(pacs, [file_bytes(dataset) for dataset in made_study(2)])
    assert pacs.find_study(study.study_instance_uid) == study


def test_what_orthanc_cannot_read_is_refused_and_the_rest_goes_on(pacs: Orthanc, tmp_path: Path) -> None:
    good = tmp_path / "good.dcm"
    good.write_bytes(file_bytes(made_study(1)[0]))
    seen: list[str] = []
    results = pacs.upload_many([b"not DICOM", good], progress=lambda result: seen.append(result.status))
    assert seen == [result.status for result in results] == ["Refused", "Success"]
    assert "Bad file format" in results[0].reason
    with pytest.raises(PacsError):
        pacs.upload(file_bytes(made_study(1)[0])[:300])


def test_a_server_without_bulk_content_is_served_without_the_sop_class(
    pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = stored(pacs, [file_bytes(dataset) for dataset in made_study(2)])
    full = pacs.instances(study.orthanc_id)
    monkeypatch.setattr(pacs, "_bulk", lambda _: None)
    plain = pacs.instances(study.orthanc_id)
    assert [(i.orthanc_id, i.sop_instance_uid, i.size_bytes) for i in plain] == [
        (i.orthanc_id, i.sop_instance_uid, i.size_bytes) for i in full
    ]
    assert {instance.sop_class_uid for instance in plain} == {""}


def test_never_more_than_the_window_is_begun_ahead_of_the_reader() -> None:
    begun, lock, most = [], threading.Lock(), 0

    def begin(item: int) -> int:
        with lock:
            begun.append(item)
        return item

    for taken, (item, result) in enumerate(ordered(begin, range(50), concurrency=4), start=1):
        assert item == result == taken - 1
        most = max(most, len(begun) - taken)
    assert most <= 4 and sorted(begun) == list(range(50))


def test_heavy_items_wait_until_there_is_room_and_the_heaviest_goes_alone() -> None:
    weights = [10, 60, 60, 500, 1, 1, 1]
    at_once, held, lock = [], [0], threading.Lock()

    def begin(weight: int) -> int:
        with lock:
            held[0] += weight
            at_once.append(held[0])
        return weight

    for weight, _ in ordered(begin, weights, 4, weight=lambda weight: weight, weight_limit=100):
        with lock:
            held[0] -= weight
    # what was just taken may still be held by the reader while the next is begun
    assert max(at_once) <= 500 + 60 and len(at_once) == len(weights)
