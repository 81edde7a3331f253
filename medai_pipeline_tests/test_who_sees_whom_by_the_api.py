"""Names are for who may know them: study keys and new UIDs for everybody else, and each reading is in the audit chain."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from medai_pipeline.pacs.store import store_many
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import StudyState
from medai_pipeline.web import app as application
from medai_pipeline.web.roles import PERMISSIONS, Permission, Role
from medai_pipeline_tests.dcmtk import archive
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.test_logging_in import audited, everything
from medai_pipeline_tests.web import API, Site

NAMELESS = [role for role in Role if Permission.IDENTITIES_READ not in PERMISSIONS[role]]


@pytest.fixture
def reader(site: Site) -> TestClient:
    return site.caller(Role.RADIOLOGIST, name="ann")


def places(site: Site) -> list[str]:
    """Every GET path of the API, with ids that are there in it."""
    row = site.services.catalogue.counting_report(site.key(site.film))
    study = site.services.catalogue.study(site.key(site.film))
    assert row and study
    known = {
        "study_uid": site.key(site.film), "image_id": site.images(site.film)[0], "patient_id": study["patient_token"],
        "id": site.key(site.film), "name": "demo-chest-xray", "version": "1", "annotation_id": str(row["id"]),
    }  # fmt: skip
    found = []
    for method, path, _ in application.permissions(site.app):
        if method == "GET" and path.startswith(API):
            ids = {**known, "id": str(row["id"])} if path.startswith(f"{API}/inference") else known
            found.append(path.format(**ids))
    return found


@pytest.mark.parametrize("role", NAMELESS)
def test_who_may_not_know_names_is_told_none_by_any_path(site: Site, role: Role) -> None:
    client = site.caller(role)
    answers = {path: client.get(path) for path in places(site)}
    assert sum(answer.status_code == 200 for answer in answers.values()) >= 12
    originals = [str(d.SOPInstanceUID) for d in site.film.datasets] + [str(site.film.datasets[0].StudyInstanceUID)]
    markers = [m.encode() for m in (*site.film.markers, *originals) if len(m) >= 6]
    assert len(markers) > 20
    leaks = [
        (path, m) for path, a in answers.items() for m in markers if m in a.content or m in str(a.headers).encode()
    ]
    assert leaks == []


def test_the_search_would_find_a_name(site: Site, reader: TestClient) -> None:
    told = reader.get(f"{API}/studies/{site.key(site.film)}/identity").text
    assert any(marker in told for marker in site.film.markers)


def test_who_may_know_is_told_and_it_is_written_down(site: Site, reader: TestClient) -> None:
    key, film = site.key(site.film), site.film.datasets[0]
    before = len(audited(site.services))
    told = reader.get(f"{API}/studies/{key}/identity").json()
    assert (told["patient_id"], told["study_instance_uid"]) == (film.PatientID, film.StudyInstanceUID)
    assert ("user:ann", "identity.read", key) in audited(site.services)[before:]
    assert site.caller(Role.PRIVACY_OFFICER).get(f"{API}/studies/{key}/identity").status_code == 200
    for role in NAMELESS:
        assert site.caller(role).get(f"{API}/studies/{key}/identity").status_code == 403
    with_name = reader.get(f"{API}/studies/{key}/fhir", params={"identified": True})
    assert str(film.PatientID) in with_name.text
    assert site.caller(Role.VIEWER).get(f"{API}/studies/{key}/fhir", params={"identified": True}).status_code == 403
    assert str(film.PatientID) not in reader.get(f"{API}/studies/{key}/fhir").text


def test_original_uids_and_patient_ids_serve_as_names_for_who_may_know_them(site: Site, reader: TestClient) -> None:
    film, key = site.film.datasets[0], site.key(site.film)
    viewer = site.caller(Role.VIEWER)
    for path in (
        f"studies/{film.StudyInstanceUID}", f"images/{film.SOPInstanceUID}", f"images/patient/{film.PatientID}",
        f"studies/patient/{film.PatientID}/studies",
    ):  # fmt: skip
        assert reader.get(f"{API}/{path}").status_code == 200, path
        assert viewer.get(f"{API}/{path}").status_code == 404, path
    known, unknown = (viewer.get(f"{API}/studies/{film.StudyInstanceUID}{more}").json()["detail"] for more in ("", "0"))
    assert known == unknown  # nothing tells that it is there
    new_uid = site.services.deidentifier.new_uid(str(film.StudyInstanceUID), 0x0020000D)
    token = viewer.get(f"{API}/studies/{new_uid}").json()["patient"]
    assert len(token) == 32
    listed = viewer.get(f"{API}/studies/patient/{token}/studies").json()["items"]
    assert [row["study_key"] for row in listed] == [key]
    assert {i["study_key"] for i in viewer.get(f"{API}/images/patient/{token}").json()["items"]} == {key}


def test_originals_leave_the_pacs_for_who_may_and_are_written_down(site: Site, reader: TestClient) -> None:
    key, film = site.key(site.film), site.film.datasets[0]
    found = reader.post(f"{API}/orthanc/studies/search", json={"patient_id": str(film.PatientID)}).json()["items"]
    assert [item["study_key"] for item in found] == [key] and found[0]["patient_name"] == str(film.PatientName)
    assert reader.get(f"{API}/orthanc/studies/{found[0]['id']}").json()["study_key"] == key
    answer = reader.get(f"{API}/orthanc/studies/{key}/download")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert len(archive.namelist()) == len(site.film.datasets)
    assert str(film.PatientName) not in str(answer.headers)
    actions = {action for actor, action, _ in audited(site.services) if actor == "user:ann"}
    assert {"pacs.searched", "original.read"} <= actions
    assert reader.get(f"{API}/orthanc/studies/00000000-00000000-00000000-00000000-00000000").status_code == 404
    for role in NAMELESS:
        assert site.caller(role).get(f"{API}/orthanc/studies/{key}/download").status_code == 403


def test_what_a_search_finds_is_not_kept_for_a_second_asking(site: Site, reader: TestClient) -> None:
    """An idempotency key keeps an answer: one that names patients would lie in the database in clear, and be told unaudited."""
    film, headers = site.film.datasets[0], {"Idempotency-Key": "search-1"}
    before = [action for _, action, _ in audited(site.services)].count("pacs.searched")
    for _ in range(2):
        body = {"patient_id": str(film.PatientID)}
        assert reader.post(f"{API}/orthanc/studies/search", json=body, headers=headers).json()["total"] == 1
    assert [action for _, action, _ in audited(site.services)].count("pacs.searched") == before + 2
    assert str(film.PatientName) not in everything(site.services)


def test_nothing_that_names_anybody_comes_into_the_logs_or_the_chain(
    site: Site, reader: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    film, key = site.film.datasets[0], site.key(site.film)
    name = str(film.PatientName)
    for path, params in (
        (f"studies/{film.StudyInstanceUID}", {}), (f"images/patient/{film.PatientID}", {}), (f"studies/{key}/identity", {}),
        ("orthanc/studies/search", {"patient_name": name}), (f"orthanc/studies/{key}", {}), (f"studies/{name}", {}),
        (f"studies/{key}/fhir", {"identified": True}), (f"annotations?image={film.SOPInstanceUID}", {}),
    ):  # fmt: skip
        reader.get(f"{API}/{path}", params=params)
    written = "\n".join(
        r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore", "asyncio"))
    )
    assert "GET /api/v1/studies/{study_uid}/identity 200" in written
    chain = json.dumps(audited(site.services), default=str) + str(details(site))
    markers = {*(m for m in site.film.markers if len(m) >= 6), str(film.StudyInstanceUID), str(film.SOPInstanceUID)}
    assert [m for m in markers if m in written or m in chain] == []


def details(site: Site) -> list[Any]:
    import sqlalchemy as sa

    with site.services.engine.connect() as connection:
        return list(connection.execute(sa.text("SELECT detail FROM medai.audit_log")))


def test_an_image_that_is_deleted_leaves_the_pacs_and_the_report_stays(site: Site) -> None:
    study = make_study("chest-xray", 831, rows=64, columns=64)
    site.report(study)
    engineer, key = site.caller(Role.ENGINEER, name="eng"), site.key(study)
    image = site.images(study)[0]
    assert engineer.delete(f"{API}/images/{image}").status_code == 204
    assert not site.services.orthanc.named("instance", str(study.datasets[0].SOPInstanceUID))
    assert engineer.delete(f"{API}/images/{image}").status_code == 404
    assert site.services.catalogue.counting_report(key)
    site.pipeline.work()
    row = site.pipeline.state(key)
    assert (row.revision, row.state) == (2, StudyState.REPORTED)
    assert ("user:eng", "image.deleted", key) in audited(site.services)


def test_a_study_left_alone_as_history_is_taken_up_when_a_person_asks(site: Site) -> None:
    study = make_study("chest-xray", 832, rows=64, columns=64)
    engineer, reader = site.caller(Role.ENGINEER, name="eng"), site.caller(Role.RADIOLOGIST, name="ann")
    site.services.pacs.upload_many([site_bytes(d) for d in study.datasets])
    key = site.key(study)
    assert engineer.post(f"{API}/orthanc/studies/{key}/retrieve").status_code == 404  # nobody has seen it yet
    (found,) = reader.post(
        f"{API}/orthanc/studies/search", json={"patient_id": str(study.datasets[0].PatientID)}
    ).json()["items"]
    taken = engineer.post(f"{API}/orthanc/studies/{found['id']}/retrieve")
    assert taken.status_code == 202 and taken.json() == {"study_key": key, "state": "receiving", "new": True}
    assert site.services.lifecycle.is_known(key)


def test_a_study_that_another_node_holds_is_fetched_by_c_move_and_taken_up(
    site: Site, orthanc: RunningOrthanc, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    study, services = make_study("chest-xray", 833, rows=64, columns=64), site.services
    uid, key = str(study.datasets[0].StudyInstanceUID), site.key(study)
    reader, engineer = site.caller(Role.RADIOLOGIST, name="ann"), site.caller(Role.ENGINEER, name="eng")
    title = services.orthanc.system()["DicomAet"]
    with archive(tmp_path, title, move_port=orthanc.dicom_port) as other:
        assert all(one.stored for one in store_many(other.node, [to_bytes(dataset) for dataset in study.datasets]))
        services.orthanc.add_modality("elsewhere", other.node)
        try:

            def retrieve(caller: TestClient, name: str, node: str) -> Any:
                return caller.post(f"{API}/orthanc/studies/{name}/retrieve", json={"modality": node})

            assert retrieve(reader, uid, "nowhere").status_code == 422
            assert retrieve(engineer, uid, "elsewhere").status_code == 422  # who may not know whom it is about
            assert retrieve(reader, key, "elsewhere").status_code == 422
            missing = retrieve(reader, "2.25.1", "elsewhere")
            assert missing.status_code == 404 and "no study of this UID" in missing.json()["detail"]
            assert not services.orthanc.find_studies(uid)
            taken = retrieve(reader, uid, "elsewhere")
        finally:
            services.orthanc.remove_modality("elsewhere")
    assert taken.status_code == 202 and taken.json() == {"study_key": key, "state": "receiving", "new": True}
    (held,) = services.orthanc.find_studies(uid)
    assert held.instance_count == len(study.datasets)
    assert services.lifecycle.is_known(key)  # also one so old that it would be left alone as history
    assert ("user:ann", "study.retrieved", key) in audited(services)
    ours_said = [
        record.getMessage() for record in caplog.records if not record.name.startswith("httpx")
    ]  # the caller's
    assert ours_said and uid not in " ".join(ours_said) + everything(services)


def site_bytes(dataset: Any) -> bytes:
    from medai_pipeline.phantoms.studies import to_bytes

    return to_bytes(dataset)


def test_the_listing_is_narrowed_paged_and_stable(site: Site, reader: TestClient) -> None:
    every = reader.get(f"{API}/studies", params={"limit": 500}).json()
    assert every["total"] == len(every["items"]) >= 2 and every["next"] is None
    pages, offset = [], 0
    while offset is not None:
        page = reader.get(f"{API}/studies", params={"limit": 1, "offset": offset}).json()
        pages += page["items"]
        offset = page["next"]
    assert [row["study_key"] for row in pages] == [row["study_key"] for row in every["items"]]

    def keys(**params: Any) -> set[str]:
        answer = reader.get(f"{API}/studies", params={"limit": 500, **params})
        assert answer.status_code == 200, answer.text
        return {row["study_key"] for row in answer.json()["items"]}

    film, volume = site.key(site.film), site.key(site.volume)
    assert {film} <= keys(finding="Pneumothorax", modality="dx") and volume not in keys(modality="DX")
    assert keys(state="reported") >= {film, volume} and not keys(state="vanished") & {film, volume}
    assert keys(since="2999-01-01T00:00:00Z") == set() and {film, volume} <= keys(until="2999-01-01T00:00:00Z")
    assert keys(reviewed=True) | keys(reviewed=False) >= {film, volume}
    assert keys(finding="'; DROP TABLE medai.studies; --") == set()
    for wrong in (
        {"limit": 0},
        {"limit": 501},
        {"offset": -1},
        {"state": "lost"},
        {"since": "yesterday"},
        {"sort": "x"},
    ):
        assert reader.get(f"{API}/studies", params=wrong).status_code == 422
