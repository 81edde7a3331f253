"""One film's way by the API alone: uploaded, reported, analyzed with another method, doubted, reviewed, annotated."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from medai_pipeline import answering
from medai_pipeline.orchestration.requests import REQUEST_JOB, request_run
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.web.app import create_app
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.web import caller

FILM = make_study("chest-xray", 811, findings=("Pneumothorax",))
API = "/api/v1"


@dataclass
class Site:
    pipeline: Pipeline
    app: FastAPI
    reader: TestClient

    def answer_requests(self) -> bool:
        """What the sensor and its run do; whether a run was needed."""
        if request_run(self.pipeline.services) is None:
            return False
        job = self.pipeline.definitions.resolve_job_def(REQUEST_JOB)
        assert job.execute_in_process(instance=self.pipeline.instance).success
        return True


@pytest.fixture
def site(pipeline: Pipeline) -> Site:
    app = create_app(pipeline.services)
    return Site(pipeline, app, caller(app, Role.RADIOLOGIST, name="ann"))


def test_the_whole_way(site: Site) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for number, dataset in enumerate(FILM.datasets):
            archive.writestr(f"../../Doe^Jane/{number}.dcm", to_bytes(dataset))
    answer = site.reader.post(f"{API}/images/upload", files={"file": ("Doe^Jane.zip", zipped.getvalue())})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told["complete"] and len(told["studies"]) == 1
    image, key = told["images"][0]["image_id"], told["studies"][0]
    assert site.reader.get(f"{API}/images/{image}").json() == {"id": image, "study_key": key, "state": "receiving"}

    early = site.reader.post(f"{API}/inference/{image}/analyze", params={"wait": 0})
    assert early.status_code == 202
    site.pipeline.work()
    assert site.answer_requests() is False  # the report says it
    found = site.reader.get(early.headers["location"]).json()
    assert found["state"] == "done" and found["result"]["source"] == "report", found
    assert found["result"]["heatmaps"][0]["method"] == "gradcam"
    picture = site.reader.get(found["result"]["heatmaps"][0]["picture"])
    assert picture.status_code == 200 and picture.content.startswith(b"\x89PNG")

    again = site.reader.post(f"{API}/inference/{image}/analyze", params={"wait": 0, "gradcam_method": "layercam"})
    assert again.status_code == 202
    assert site.answer_requests()
    computed = site.reader.get(again.headers["location"]).json()
    assert computed["result"]["source"] == "computed", computed
    assert {m["method"] for m in computed["result"]["heatmaps"]} == {"layercam"}
    assert site.reader.get(computed["result"]["heatmaps"][0]["picture"]).content != picture.content
    assert computed["kind"] == answering.ANALYSIS


def test_probe(site: Site) -> None:
    site.pipeline.send(FILM)
    site.pipeline.work()
    key = site.pipeline.key_of(FILM)
    for path in (
        "studies",
        f"studies/{key}",
        f"studies/{key}/images",
        f"studies/{key}/report",
        f"studies/{key}/identity",
        f"studies/{key}/fhir",
        f"lineage/{key}",
        "orthanc/status",
        "orthanc/studies/search?modality=DX",
        f"orthanc/studies/{key}",
        f"orthanc/studies/{key}/download",
        "models",
        "deliveries",
        "me",
        "inference/models/available",
        "annotations",
    ):
        a = site.reader.get(f"{API}/{path}")
        print(
            path,
            a.status_code,
            a.headers.get("etag"),
            a.text[:700] if "zip" not in a.headers["content-type"] else len(a.content),
        )
    print(site.reader.get("/ready").text)
