"""A PACS that speaks DICOM alone (dcmtk's archive): noticed by C-FIND, fetched by C-GET or C-MOVE, reported. No REST at all."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from medai_pipeline.errors import PacsNotFound, PacsUnreachable
from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs.dicom_fetch import Way
from medai_pipeline.pacs.dicom_pacs import DicomPacs
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.records import PacsInstance
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.dcmtk import ARCHIVE, Archive, archive
from medai_pipeline_tests.orthanc import file_bytes, made_study
from medai_pipeline_tests.pipeline import Pipeline

EVER = 25_000  # days: phantoms are dated in the past


@pytest.fixture
def own_archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive that no other test stores to."""
    with archive(tmp_path) as running:
        yield running


@contextmanager
def pipeline_over(running: Archive, database_url: str, home: Path, move_port: int | None = None) -> Iterator[Pipeline]:
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    settings: dict[str, Any] = {
        "home": str(home),
        "database_url": database_url,
        "pacs": f"dicom://{ARCHIVE}@127.0.0.1:{running.port}",
        "pacs_days": EVER,
        "pacs_move_port": move_port,
        "stable_seconds": 0.0,
        "reconcile_seconds": 0.0,
        "retry_seconds": 0.0,
        "gpu_enabled": False,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(settings, instance)


@pytest.fixture
def pacs(dcmqrscp: Archive) -> DicomPacs:
    return DicomPacs(dcmqrscp.node, days=EVER)


def test_a_study_becomes_a_report_and_late_images_a_second_one(
    own_archive: Archive, database_url: str, tmp_path: Path
) -> None:
    whole = make_study("chest-ct", 701, slices=4)
    early = replace(whole, datasets=whole.datasets[:3])
    with pipeline_over(own_archive, database_url, tmp_path / "home") as pipeline:
        (key,) = pipeline.send(early)
        assert [result.success for result in pipeline.work()] == [True]
        (row,) = pipeline.reports(key)
        assert row.revision == 1
        assert pipeline.services.vault.read(key, "test", "check").patient_id == whole.datasets[0].PatientID
        pipeline.send(whole)
        assert [result.success for result in pipeline.work()] == [True]
        (row,) = pipeline.reports(key)
        assert row.revision == 2
        counts = [revision.instance_count for revision in pipeline.services.lifecycle.revisions(key)]
        assert sorted(counts) == [3, 4]
        assert pipeline.work() == []


def test_a_study_that_comes_by_c_move_becomes_a_report(own_archive: Archive, database_url: str, tmp_path: Path) -> None:
    with pipeline_over(own_archive, database_url, tmp_path / "home", own_archive.move_port) as pipeline:
        (key,) = pipeline.send(make_study("chest-xray", 702))
        assert [result.success for result in pipeline.work()] == [True]
        assert len(pipeline.reports(key)) == 1


def test_what_the_pacs_tells_of_a_study(pacs: DicomPacs) -> None:
    datasets = made_study(3)
    pacs.upload_many([file_bytes(dataset) for dataset in datasets[:2]])
    uid = str(datasets[0].StudyInstanceUID)
    before, digest = pacs.study(uid), pacs.source_digest(uid)
    assert (before.instance_count, digest.instance_count, before.patient_name) == (2, 2, "Mårkér^Tëst")
    assert [study for study in pacs.studies() if study.study_instance_uid == uid] == [before]
    assert pacs.upload(file_bytes(datasets[2])).stored
    after = pacs.find_study(uid)
    assert after is not None and pacs.fingerprint(after) != pacs.fingerprint(before)
    assert pacs.source_digest(uid).digest != digest.digest
    kept = pacs.source_digest(uid, ignore=lambda instance: instance.sop_instance_uid == datasets[2].SOPInstanceUID)
    assert kept.digest == digest.digest


def test_only_studies_of_the_last_days_are_listed_but_each_can_be_asked_for(dcmqrscp: Archive) -> None:
    pacs = DicomPacs(dcmqrscp.node, days=2)
    (dataset,) = made_study(1)  # of 2020
    pacs.upload(file_bytes(dataset))
    assert dataset.StudyInstanceUID not in {study.study_instance_uid for study in pacs.studies()}
    assert pacs.find_study(str(dataset.StudyInstanceUID)) is not None


def test_the_files_that_are_fetched_are_those_that_were_asked_for(pacs: DicomPacs) -> None:
    datasets = made_study(6)
    pacs.upload_many([file_bytes(dataset) for dataset in datasets])
    instances = pacs.instances(str(datasets[0].StudyInstanceUID))
    assert [instance.sop_instance_uid for instance in instances] == sorted(d.SOPInstanceUID for d in datasets)
    fetched = {instance.sop_instance_uid: data for instance, data in pacs.fetch(instances[:4], concurrency=1)}
    assert set(fetched) == {instance.sop_instance_uid for instance in instances[:4]}
    for dataset in datasets:
        if dataset.SOPInstanceUID in fetched:
            assert fetched[dataset.SOPInstanceUID].endswith(dataset.PixelData)


def test_a_taker_that_leaves_ends_the_retrieval(pacs: DicomPacs) -> None:
    datasets = made_study(8)
    pacs.upload_many([file_bytes(dataset) for dataset in datasets])
    files = pacs.fetch(pacs.instances(str(datasets[0].StudyInstanceUID)), concurrency=1)
    next(files)
    files.close()  # returns; the thread behind it has ended
    assert len(list(pacs.fetch(pacs.instances(str(datasets[0].StudyInstanceUID))))) == 8


def test_compressed_and_plain_images_of_one_series_both_come(tmp_path: Path) -> None:
    with archive(tmp_path, prefers="+xv") as running:
        pacs = DicomPacs(running.node)
        plain, compressed = made_study(2)
        compressed.file_meta.TransferSyntaxUID = JPEG2000Lossless
        compressed.PixelData = encapsulate([b"\xff\x4f\xff\xd9"])
        results = pacs.upload_many([file_bytes(plain), file_bytes(compressed)])
        assert [result.status for result in results] == ["Success", "Success"]
        fetched = list(pacs.fetch(pacs.instances(str(plain.StudyInstanceUID))))
        assert {instance.sop_instance_uid for instance, _ in fetched} == {
            plain.SOPInstanceUID,
            compressed.SOPInstanceUID,
        }


def test_what_is_gone_is_not_found_and_a_dead_pacs_is_unreachable(pacs: DicomPacs) -> None:
    assert pacs.find_studies("2.25.999") == ()
    for ask in (lambda: pacs.study("2.25.999"), lambda: pacs.instances("2.25.999")):
        with pytest.raises(PacsNotFound) as caught:
            ask()
        assert "2.25.999" not in str(caught.value)
    gone = PacsInstance("2.25.999/2.25.998/2.25.997", "2.25.997", 0, series_orthanc_id="2.25.998/CT")
    with pytest.raises(PacsNotFound):
        list(pacs.fetch([gone]))
    dead = DicomPacs(Node("127.0.0.1", free_port()))
    for ask in (dead.find_studies, dead.source_digest):
        with pytest.raises(PacsUnreachable):
            ask("2.25.999")
    with pytest.raises(PacsUnreachable):
        list(dead.studies())


def test_a_move_whose_destination_the_pacs_does_not_know_says_what_to_register(dcmqrscp: Archive) -> None:
    port = free_port()
    pacs = DicomPacs(Node("127.0.0.1", dcmqrscp.port, ARCHIVE, "STRANGER"), way=Way(move_port=port))
    (dataset,) = made_study(1)
    pacs.upload(file_bytes(dataset))
    with pytest.raises(Exception, match="register"):
        list(pacs.fetch(pacs.instances(str(dataset.StudyInstanceUID))))


def test_two_that_receive_at_one_port_take_turns(dcmqrscp: Archive) -> None:
    pacs = DicomPacs(dcmqrscp.node, way=Way(move_port=dcmqrscp.move_port))
    datasets = made_study(2)
    pacs.upload_many([file_bytes(dataset) for dataset in datasets])
    instances = pacs.instances(str(datasets[0].StudyInstanceUID))
    with ThreadPoolExecutor(1) as pool:
        with Receiver(Listening(dcmqrscp.move_port), print):
            waiting = pool.submit(lambda: list(pacs.fetch(instances)))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1.0)
        assert len(waiting.result(timeout=60)) == 2
