"""What else Orthanc does for us by REST: search, archive, nodes, worklist, anonymize, modify, delete. Against a real one."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from medai_pipeline.errors import PacsError, PacsNotFound, PacsUnreachable
from medai_pipeline.local.ports import free_port
from medai_pipeline.pacs.find import find, find_worklist
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline_tests.dcmtk import Archive, answering, dcmtk, program, served
from medai_pipeline_tests.orthanc import RunningOrthanc, file_bytes, made_study

PLANNED = """\
(0008,0005) CS ISO_IR 100
(0008,0050) SH ACC777
(0010,0010) PN Planned^Person
(0010,0020) LO PLAN-1
(0010,0030) DA 19010203
(0010,0040) CS F
(0020,000d) UI 2.25.777
(0032,1060) LO CHEST
(0040,1001) SH RP1
(0040,0100) SQ
(fffe,e000) -
(0008,0060) CS CT
(0040,0001) AE CT1
(0040,0002) DA 20261127
(0040,0003) TM 080000
(0040,0006) PN
(0040,0007) LO CHEST CT
(0040,0009) SH SP1
(0040,0010) SH STN
(0040,0011) SH LOC
(0040,0012) LO PREMED
(fffe,e00d) -
(fffe,e0dd) -
"""


def stored(pacs: Orthanc, datasets: list[Dataset]) -> str:
    results = pacs.upload_many([file_bytes(dataset) for dataset in datasets])
    assert all(result.stored for result in results)
    return results[0].study_orthanc_id


@pytest.fixture
def known_archive(pacs: Orthanc, dcmqrscp: Archive) -> Iterator[str]:
    """dcmtk's archive as a node that Orthanc knows by this name."""
    pacs.add_modality("archive", dcmqrscp.node)
    yield "archive"
    pacs.remove_modality("archive")


# search ------------------------------------------------------------------------------------------------------


def test_every_level_is_searched_and_a_hit_hides_who_it_is(pacs: Orthanc) -> None:
    datasets = made_study(2)
    orthanc_id = stored(pacs, datasets)
    patient = {"PatientID": str(datasets[0].PatientID)}
    (study,) = pacs.search("study", patient)
    assert study.orthanc_id == orthanc_id and study.tags["PatientName"] == "Mårkér^Tëst"
    (found,) = pacs.search("patient", patient)
    assert found.tags["PatientBirthDate"] == "19010203" and study.parent_id == found.orthanc_id
    (series,) = pacs.search("series", {"SeriesInstanceUID": str(datasets[0].SeriesInstanceUID)})
    assert series.tags["Modality"] == "CT" and series.parent_id == orthanc_id
    uid = str(datasets[1].SOPInstanceUID)
    assert [hit.tags["SOPInstanceUID"] for hit in pacs.search("instance", {"SOPInstanceUID": uid})] == [uid]
    assert "Mår" not in repr((study, found, series)) and orthanc_id not in repr(study)


def test_wildcards_match_whatever_the_case_unless_it_is_asked_for(pacs: Orthanc) -> None:
    datasets = made_study(1)
    orthanc_id = stored(pacs, datasets)
    query = {"PatientID": "inv-" + str(datasets[0].PatientID)[4:-1] + "?"}
    assert [hit.orthanc_id for hit in pacs.search("study", query)] == [orthanc_id]
    assert list(pacs.search("study", query, case_sensitive=True)) == []
    assert list(pacs.search("study", {"PatientID": "nobody*"})) == []


def test_pages_cover_everything_once_and_a_limit_is_kept(pacs: Orthanc) -> None:
    description = f"PAGE {os.urandom(4).hex()}"
    sent = set()
    for _ in range(5):
        (dataset,) = made_study(1)
        dataset.StudyDescription = description
        sent.add(stored(pacs, [dataset]))
    query = {"StudyDescription": description}
    paged = [hit.orthanc_id for hit in pacs.search("study", query, page=2)]
    assert set(paged) == sent and len(paged) == 5
    assert len(list(pacs.search("study", query, limit=3, page=2))) == 3


def test_a_level_or_a_keyword_that_is_none_is_said_in_one_line(pacs: Orthanc) -> None:
    with pytest.raises(PacsError, match="instance"):
        list(pacs.search("image"))
    with pytest.raises(PacsError, match="Unknown DICOM tag"):
        list(pacs.search("study", {"NoSuchKeyword": "1"}))


def test_statistics_count_what_is_there(pacs: Orthanc) -> None:
    before = pacs.statistics()["CountInstances"]
    stored(pacs, made_study(2))
    assert pacs.statistics()["CountInstances"] == before + 2


# archive -----------------------------------------------------------------------------------------------------


def test_an_archive_is_streamed_to_a_private_file_with_bounded_memory(pacs: Orthanc, tmp_path: Path) -> None:
    datasets = made_study(16, edge=512)
    for dataset in datasets:
        dataset.PixelData = os.urandom(len(dataset.PixelData))  # 8 MB that no zip makes smaller
    orthanc_id = stored(pacs, datasets)
    path = tmp_path / "study.zip"
    tracemalloc.start()
    assert pacs.archive(orthanc_id, path) == 16
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 8e6 and peak < 4e6
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as archive:
        read = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()]
    assert {d.SOPInstanceUID: d for d in read} == {d.SOPInstanceUID: d for d in datasets}


def test_a_file_set_for_media_has_a_dicomdir(pacs: Orthanc, tmp_path: Path) -> None:
    orthanc_id = stored(pacs, made_study(2))
    assert pacs.archive(orthanc_id, tmp_path / "media.zip", kind="dicomdir") == 2
    with zipfile.ZipFile(tmp_path / "media.zip") as archive:
        assert "DICOMDIR" in archive.namelist()


def test_an_archive_of_nothing_leaves_no_file(pacs: Orthanc, tmp_path: Path) -> None:
    with pytest.raises(PacsNotFound):
        pacs.archive("none", tmp_path / "study.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("breaks", [1, 9])
def test_an_archive_that_breaks_off_is_asked_for_again_and_never_half_kept(breaks: int, tmp_path: Path) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("a.dcm", os.urandom(200_000))

    class Breaking(BaseHTTPRequestHandler):
        """Orthanc's way: no length; the end of the connection is the end of the archive."""

        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            self.send_response(200)
            self.end_headers()
            data = whole.getvalue()
            self.wfile.write(data[: len(data) // 2] if self.asked <= breaks else data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / "study.zip"
        with Orthanc(f"http://127.0.0.1:{server.server_port}") as pacs:
            if breaks == 1:
                assert pacs.archive("x", path) == 1 and path.read_bytes() == whole.getvalue()
            else:
                with pytest.raises(PacsUnreachable, match="archive"):
                    pacs.archive("x", path)
                assert list(tmp_path.iterdir()) == []
        server.shutdown()


# nodes -------------------------------------------------------------------------------------------------------


def test_nodes_are_named_listed_asked_and_removed(pacs: Orthanc, dcmqrscp: Archive, known_archive: str) -> None:
    assert pacs.modalities()[known_archive] == Node("127.0.0.1", dcmqrscp.port, "ARCHIVE")
    pacs.echo_modality(known_archive)
    pacs.add_modality("dead", Node("127.0.0.1", free_port(), "DEAD"))
    with pytest.raises(PacsError):
        pacs.echo_modality("dead", timeout_s=2)
    pacs.remove_modality("dead")
    for ask in (pacs.echo_modality, pacs.worklist, lambda name: pacs.store_to(name, [])):
        with pytest.raises(PacsNotFound):
            ask("dead")


def test_a_study_goes_to_a_node_is_found_there_and_comes_back(
    pacs: Orthanc, orthanc: RunningOrthanc, dcmqrscp: Archive, known_archive: str
) -> None:
    datasets = made_study(3)
    orthanc_id, uid = stored(pacs, datasets), str(datasets[0].StudyInstanceUID)
    assert pacs.store_to(known_archive, [orthanc_id]) == 3
    assert len(list(find(dcmqrscp.node, "STUDY", {"StudyInstanceUID": uid}))) == 1
    (answer,) = pacs.query(known_archive, "study", {"StudyInstanceUID": uid, "PatientID": ""})
    assert answer.tags["PatientID"] == datasets[0].PatientID
    assert pacs.query(known_archive, "study", {"StudyInstanceUID": "2.25.1"}) == []
    kept: list[bytes] = []
    with Receiver(Listening(dcmqrscp.move_port), kept.append):
        pacs.retrieve(known_archive, "study", {"StudyInstanceUID": uid}, target_ae="MEDAI")
    assert len(kept) == 3
    with pytest.raises(PacsNotFound):
        pacs.retrieve(known_archive, "study", {"StudyInstanceUID": "2.25.1"})


def test_the_worklist_of_a_node_is_read_through_orthanc_and_by_ourselves(pacs: Orthanc, tmp_path: Path) -> None:
    folder = tmp_path / "WL"
    folder.mkdir()
    (folder / "lockfile").touch()
    (tmp_path / "planned").write_text(PLANNED)
    assert dcmtk("dump2dcm", tmp_path / "planned", folder / "planned.wl").returncode == 0
    node = Node("127.0.0.1", free_port(), "WL")
    command = [program("wlmscpfs"), "-dfp", str(tmp_path), str(node.port)]
    with (tmp_path / "log").open("wb") as log, served(command, log) as process:
        answering(node, process)
        (match,) = find_worklist(node, {"PatientName": "Planned*"}, {"Modality": "CT"})
        assert (match.text("PatientID"), match.text("AccessionNumber")) == ("PLAN-1", "ACC777")
        (step,) = match.dataset.ScheduledProcedureStepSequence
        assert step.ScheduledStationAETitle == "CT1"
        assert list(find_worklist(node, step={"Modality": "MR"})) == []
        pacs.add_modality("planner", node)
        (found,) = pacs.worklist("planner")
        assert found.tags["PatientID"] == "PLAN-1" and "PLAN" not in repr(found)
        pacs.remove_modality("planner")


# what Orthanc changes ----------------------------------------------------------------------------------------


def test_anonymize_and_modify_make_other_studies_and_leave_the_first(pacs: Orthanc) -> None:
    datasets = made_study(2)
    orthanc_id = stored(pacs, datasets)
    for new in (
        pacs.anonymize(orthanc_id, replace={"StudyDescription": "Clean"}),
        pacs.modify(orthanc_id, replace={"StudyDescription": "Clean"}),
    ):
        made = pacs.study(new)
        assert made.study_description == "Clean" and made.instance_count == 2
        assert made.study_instance_uid != datasets[0].StudyInstanceUID
    assert pacs.study(orthanc_id).study_instance_uid == datasets[0].StudyInstanceUID
    with pytest.raises(PacsError) as caught:
        pacs.modify(orthanc_id, replace={"PatientID": "SOMEBODY"})
    assert "SOMEBODY" not in str(caught.value) and str(datasets[0].PatientID) not in str(caught.value)


def test_what_is_deleted_is_gone_and_cannot_be_deleted_again(pacs: Orthanc) -> None:
    orthanc_id = stored(pacs, made_study(1))
    pacs.delete(orthanc_id)
    for ask in (pacs.study, pacs.delete, pacs.anonymize):
        with pytest.raises(PacsNotFound):
            ask(orthanc_id)


def test_what_may_not_be_done_twice_is_not_sent_again(tmp_path: Path) -> None:
    class Dropping(BaseHTTPRequestHandler):
        """Takes a request and drops the connection."""

        asked = 0

        def do_POST(self) -> None:
            type(self).asked += 1
            self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Dropping) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Orthanc(f"http://127.0.0.1:{server.server_port}") as pacs, pytest.raises(PacsUnreachable):
            pacs.anonymize("x")
        assert Dropping.asked == 1
        with Orthanc(f"http://127.0.0.1:{server.server_port}") as pacs, pytest.raises(PacsUnreachable):
            list(pacs.search("study"))
        assert Dropping.asked > 2
        server.shutdown()
