"""C-FIND, C-GET and C-MOVE against a real Orthanc and dcmtk's archive: what was stored is found and comes back the same."""

from __future__ import annotations

import copy
import io
import time
from dataclasses import replace

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from medai_pipeline.errors import PacsError, PacsUnauthorized, PacsUnreachable, SettingsError, StorageFull
from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs.delivering import is_own
from medai_pipeline.pacs.dicom_pacs import DicomPacs
from medai_pipeline.pacs.dimse import store_many
from medai_pipeline.pacs.find import find, find_worklist
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.retrieve import get, move
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.results.dicom import objects
from medai_pipeline_tests.dcmtk import Archive
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study
from medai_pipeline_tests.result_samples import Sample


@pytest.fixture(scope="module")
def move_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def by_dicom(orthanc: RunningOrthanc, move_port: int) -> Node:
    """The session's Orthanc, which allows all that a client without a name may ask, and sends to us."""
    allowed = {"AllowFind": True, "AllowGet": True, "AllowMove": True, "AllowStore": True, "AllowEcho": True}
    with httpx.Client(base_url=orthanc.url, auth=(orthanc.username, orthanc.password)) as client:
        we = {"AET": "MEDAI", "Host": "127.0.0.1", "Port": move_port, **allowed}
        client.put("/modalities/medai", json=we).raise_for_status()
    return Node("127.0.0.1", orthanc.dicom_port, "ORTHANC")


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def node(request: pytest.FixtureRequest, by_dicom: Node, dcmqrscp: Archive) -> Node:
    return by_dicom if request.param == "orthanc" else dcmqrscp.node


@pytest.fixture
def receiving_port(node: Node, by_dicom: Node, move_port: int, dcmqrscp: Archive) -> int:
    return move_port if node is by_dicom else dcmqrscp.move_port


def stored(node: Node, datasets: list[Dataset]) -> str:
    results = store_many(node, [file_bytes(dataset) for dataset in datasets])
    assert [result.status for result in results] == ["Success"] * len(datasets)
    return str(datasets[0].StudyInstanceUID)


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def test_our_own_results_are_told_from_images_where_the_pacs_describes_its_series(by_dicom: Node) -> None:
    """Also where no database knows what was sent: they are no other images of the study."""
    films = list(make_study("chest-xray", 31, rows=96, columns=80).datasets[:1])
    pacs, uid = DicomPacs(by_dicom), stored(by_dicom, films)
    results = objects(Sample(films).evidence())
    before = pacs.source_digest(uid, ignore=is_own)
    assert {result.status for result in pacs.upload_many([result.data for result in results])} == {"Success"}
    assert len(pacs.instances(uid)) == 1 + len(results) > 4
    assert pacs.source_digest(uid, ignore=is_own).digest == before.digest
    alike, maker = copy.deepcopy(films[0]), copy.deepcopy(films[0])
    alike.SeriesDescription = f"{read(results[0].data).SeriesDescription}, discussed"
    maker.SeriesDescription = read(results[0].data).SeriesDescription  # an X-ray is none of the objects that we make
    for number, image in enumerate((alike, maker)):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{films[0].SOPInstanceUID}{number}"
        image.SeriesInstanceUID = f"{films[0].SeriesInstanceUID}{number}"
    stored(by_dicom, [alike, maker])
    assert pacs.source_digest(uid, ignore=is_own).instance_count == 3


def by_uid(datasets: list[Dataset]) -> dict[str, Dataset]:
    return {str(dataset.SOPInstanceUID): dataset for dataset in datasets}


def test_a_study_is_found_at_every_level_with_its_identity_and_its_repr_hides_it(node: Node) -> None:
    datasets = made_study(3)
    uid = stored(node, datasets)
    (study,) = find(node, "STUDY", {"StudyInstanceUID": uid})
    assert study.text("PatientID") == datasets[0].PatientID
    assert (study.text("PatientName"), study.text("StudyDate")) == ("Mårkér^Tëst", "20200102")
    assert study.text("StudyDescription") == "" and study.text("NotAKeyword") == ""
    (series,) = find(node, "SERIES", {"StudyInstanceUID": uid})
    assert series.text("Modality") == "CT"
    keys = {"StudyInstanceUID": uid, "SeriesInstanceUID": series.text("SeriesInstanceUID")}
    images = list(find(node, "IMAGE", keys))
    assert {image.text("SOPInstanceUID") for image in images} == set(by_uid(datasets))
    assert uid not in repr((study, series, images)) and "Mår" not in repr(study)


def test_patients_are_found_from_the_patient_root(node: Node) -> None:
    datasets = made_study(1)
    uid = stored(node, datasets)
    (patient,) = find(node, "PATIENT", {"PatientID": datasets[0].PatientID}, root="patient")
    assert patient.text("PatientBirthDate") == "19010203"
    keys = {"PatientID": datasets[0].PatientID}
    assert [match.text("StudyInstanceUID") for match in find(node, "STUDY", keys, root="patient")] == [uid]


def test_wildcards_and_ranges_of_dates_are_the_nodes_to_match_and_no_match_is_none(node: Node) -> None:
    datasets = made_study(1)
    for dataset in datasets:
        dataset.StudyDate = "19870615"
    uid = stored(node, datasets)
    keys = {"PatientID": datasets[0].PatientID[:-2] + "*"}
    for dates, found in (("19870601-19870630", [uid]), ("19870616-19870630", []), ("-19870615", [uid])):
        matches = find(node, "STUDY", {**keys, "StudyDate": dates})
        assert [match.text("StudyInstanceUID") for match in matches] == found
    assert list(find(node, "STUDY", {"PatientID": "nobody*"})) == []


def test_a_query_that_is_cancelled_gives_no_more_than_was_asked_for(node: Node) -> None:
    for _ in range(4):
        stored(node, made_study(1))
    assert len(list(find(node, "STUDY", limit=3))) == 3


def test_an_iteration_that_is_left_leaves_no_association_behind(node: Node) -> None:
    for _ in range(3):
        stored(node, made_study(1))
    for _ in range(3):
        assert next(find(node, "STUDY")).text("StudyInstanceUID")


def test_what_comes_by_c_get_is_what_was_stored(node: Node) -> None:
    datasets = made_study(5)
    uid, kept = stored(node, datasets), []
    result = get(node, "STUDY", {"StudyInstanceUID": uid}, kept.append)
    assert (result.completed, result.failed) == (5, 0)
    assert {str(read(data).SOPInstanceUID): read(data) for data in kept} == by_uid(datasets)


def test_one_image_can_be_fetched_alone(node: Node) -> None:
    datasets = made_study(3)
    stored(node, datasets)
    keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    kept: list[bytes] = []
    get(node, "IMAGE", {key: str(datasets[1][key].value) for key in keys}, kept.append)
    assert [read(data) for data in kept] == [datasets[1]]


def test_compressed_images_come_as_they_are_stored_where_their_class_is_known(node: Node, by_dicom: Node) -> None:
    (dataset,) = made_study(1)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    uid, kept = stored(node, [dataset]), []
    syntax = None if node is by_dicom else JPEGBaseline8Bit  # dcmtk takes the first context of a class, or fails
    get(node, "STUDY", {"StudyInstanceUID": uid}, kept.append, [SecondaryCaptureImageStorage], syntax)
    (received,) = map(read, kept)
    assert received.file_meta.TransferSyntaxUID == JPEGBaseline8Bit and received.PixelData == dataset.PixelData


def test_what_cannot_be_kept_is_not_acknowledged_and_the_reason_is_raised(node: Node) -> None:
    uid = stored(node, made_study(2))

    def full(data: bytes) -> None:
        raise StorageFull("no space left for objects")

    with pytest.raises(StorageFull):
        get(node, "STUDY", {"StudyInstanceUID": uid}, full)


def test_c_move_brings_a_study_to_our_own_receiver(node: Node, receiving_port: int) -> None:
    datasets = made_study(4)
    uid = stored(node, datasets)
    kept: list[bytes] = []
    seen: list[int] = []
    with Receiver(Listening(receiving_port), kept.append):
        result = move(node, "MEDAI", "STUDY", {"StudyInstanceUID": uid}, progress=seen.append)
    assert (result.completed, result.failed) == (4, 0) and seen[-1] == 4
    assert {str(read(data).SOPInstanceUID): read(data) for data in kept} == by_uid(datasets)


def test_a_move_to_somebody_unknown_says_whom_to_register(node: Node) -> None:
    uid = stored(node, made_study(1))
    with pytest.raises(PacsError) as caught:
        move(node, "NOBODY", "STUDY", {"StudyInstanceUID": uid})
    assert "\n" not in str(caught.value) and uid not in str(caught.value)


def test_a_node_without_a_worklist_says_so(node: Node) -> None:
    with pytest.raises(PacsError, match="does not offer"):
        list(find_worklist(node))


def test_a_node_that_is_not_there_or_rejects_us_is_told_apart(dcmqrscp: Archive) -> None:
    with pytest.raises(PacsUnreachable, match="does not answer"):
        list(find(Node("127.0.0.1", free_port()), "STUDY"))
    with pytest.raises(PacsUnreachable, match="no host"):
        list(find(Node("pacs.invalid", 104), "STUDY"))
    with pytest.raises(PacsUnauthorized, match="MEDAI to WRONG"):
        _asked_until_it_answers(replace(dcmqrscp.node, called_ae="WRONG"))
    with pytest.raises(SettingsError, match="AE title"):
        Node("127.0.0.1", 104, "SEVENTEEN-LETTERS")


def _asked_until_it_answers(node: Node) -> None:
    """On a busy machine the archive lets the time for an association pass: that is no rejection."""
    deadline = time.monotonic() + 120
    while True:
        try:
            list(find(node, "STUDY"))
            return
        except PacsUnreachable:
            assert time.monotonic() < deadline


def test_a_keyword_that_is_none_is_named(dcmqrscp: Archive) -> None:
    with pytest.raises(PacsError, match="'PatientNmae'"):
        list(find(dcmqrscp.node, "STUDY", {"PatientNmae": "x"}))
