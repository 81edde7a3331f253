"""What a caller asks of a model about one image: from the report where it says that, else computed beside it, truly."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from medai_pipeline.answering import _was_read
from medai_pipeline.phantoms.studies import make_study
from medai_pipeline.storage.requests import MOST_ATTEMPTS, UNCLAIMED
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.web import API, Site


@pytest.fixture
def reader(site: Site) -> TestClient:
    return site.caller(Role.RADIOLOGIST, name="ann")


def asked(site: Site, reader: TestClient, what: str, image: str, **params: Any) -> dict[str, Any]:
    """The answer, once whoever must has worked."""
    first = reader.post(f"{API}/inference/{image}/{what}", params={"wait": 0, **params})
    assert first.status_code in (200, 202), first.text
    site.answer_requests()
    found = reader.get(first.headers["location"])
    assert found.status_code == 200, found.text
    return found.json()


def test_what_the_report_says_is_answered_at_once(site: Site, reader: TestClient) -> None:
    row = site.services.catalogue.counting_report(site.key(site.film))
    assert row
    image = row["content"]["quality"]["heatmaps"][0]["image"]
    answer = reader.post(f"{API}/inference/{image}/analyze", params={"wait": 0})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["result"]["source"], told["report_id"]) == ("report", str(row["id"]))
    assert told["result"]["findings"] == row["content"]["findings"]
    assert {m["method"] for m in told["result"]["heatmaps"]} == {"gradcam"}
    picture = reader.get(told["result"]["heatmaps"][0]["picture"])
    assert picture.status_code == 200 and picture.content.startswith(b"\x89PNG")


def test_an_image_that_the_report_did_not_read_is_not_answered_by_it(site: Site, reader: TestClient) -> None:
    study = make_study("chest-xray", 861, findings=("Pneumothorax",))
    study.datasets[1].Modality, study.datasets[1].BodyPartExamined = "MG", "BREAST"
    site.report(study)
    row = site.services.catalogue.counting_report(site.key(study))
    assert row and [one["code"] for one in row["content"]["images"]["excluded"]] == ["other-modality"]
    read, unread = site.images(study)
    for what in ("analyze", "uncertainty"):
        params = {"generate_gradcam": False} if what == "analyze" else {}
        assert asked(site, reader, what, read, **params)["result"]["source"] == "report"
        told = asked(site, reader, what, unread, **params)
        assert (told["state"], told["result"]) == ("failed", None) and "MG" in told["reason"]


def test_of_sampled_images_only_those_that_a_report_names_are_known_to_be_read(site: Site) -> None:
    row = site.services.catalogue.counting_report(site.key(site.volume))
    assert row
    content = row["content"]
    sampled = {"subject": "", "code": "sampled", "reason": "of 6 images 3 were looked at, evenly spaced"}
    content = {**content, "images": {**content["images"], "excluded": [sampled]}}
    named = {uid for finding in content["findings"] for uid in finding["images"]}
    assert named and all(_was_read(content, uid) for uid in named)
    assert not _was_read(content, "2.25.1") and _was_read(row["content"], "2.25.1")


def test_another_method_is_computed_and_recorded_and_the_report_stays(site: Site, reader: TestClient) -> None:
    image, key = site.images(site.film)[0], site.key(site.film)
    before = site.services.catalogue.reports(key)
    pictures = {}
    for method in ("layercam", "gradcam++"):
        told = asked(site, reader, "analyze", image, gradcam_method=method)
        result = told["result"]
        assert (result["source"], result["gradcam_method"], result["scope"]) == ("computed", method, "image")
        assert {m["method"] for m in result["heatmaps"]} == {method}
        assert {m["image"] for m in result["heatmaps"]} == {image}
        assert result["lineage"]["run_id"] == told["run_id"] and result["model"]["weights_sha256"]
        drawn = [m for m in result["heatmaps"] if m["drawn"]]
        pictures[method] = reader.get((drawn or result["heatmaps"])[0]["picture"]).content
    assert len(set(pictures.values())) == 2
    assert site.services.catalogue.reports(key) == before


def test_without_heatmaps_none_are_made(site: Site, reader: TestClient) -> None:
    told = asked(
        site, reader, "analyze", site.images(site.volume)[0], generate_gradcam=False, model_name="demo-chest-ct@1"
    )
    assert told["result"]["heatmaps"] == [] and told["result"]["gradcam_method"] is None
    assert told["result"]["model"]["name"] == "demo-chest-ct"


def test_a_model_that_does_not_read_such_images_is_refused_before_anything_runs(site: Site, reader: TestClient) -> None:
    image = site.images(site.film)[0]

    def status(**params: Any) -> tuple[int, str]:
        answer = reader.post(f"{API}/inference/{image}/analyze", params=params)
        return answer.status_code, answer.json()["detail"]

    code, words = status(model_name="demo-chest-ct")
    assert code == 422 and "made for CT" in words
    assert status(model_name="no-such-model")[0] == 422
    code, words = status(gradcam_method="telepathy")
    assert code == 422 and "layercam" in words


def test_a_model_without_weights_here_fails_with_its_reason(site: Site, reader: TestClient) -> None:
    told = asked(site, reader, "analyze", site.images(site.film)[0], model_name="chest-xray-resnet50")
    assert told["state"] == "failed" and "weights" in told["reason"] and told["result"] is None


def test_kept_uncertainty_and_samples_drawn_now_say_which_they_are(site: Site, reader: TestClient) -> None:
    image = site.images(site.film)[0]
    kept = asked(site, reader, "uncertainty", image)["result"]
    assert kept["source"] == "report" and kept["samples"] is None
    assert all(0 <= row["uncertainty"] <= 0.5 and row["entropy"] is not None for row in kept["findings"])
    few, many = (asked(site, reader, "uncertainty", image, samples=n)["result"] for n in (5, 200))
    for drawn, samples in ((few, 5), (many, 200)):
        assert (drawn["source"], drawn["samples"]) == ("computed", samples)
        for row in drawn["findings"]:
            assert 0 <= row["p05"] <= row["p50"] <= row["p95"] <= 1 and 0 <= row["deviation"] <= 0.5
    assert few["findings"] != many["findings"]
    (present,) = [row for row in many["findings"] if row["label"] == "Pneumothorax"]
    assert present["p05"] < present["p95"]


def test_all_that_was_said_of_an_image_is_listed(site: Site, reader: TestClient) -> None:
    image = site.images(site.film)[0]
    asked(site, reader, "uncertainty", image, samples=3)
    items = reader.get(f"{API}/inference/image/{image}/results").json()["items"]
    assert {"uncertainty", "pipeline"} <= {item["kind"] for item in items}
    (pipeline,) = [item for item in items if item["kind"] == "pipeline"]
    assert pipeline["role"] == "primary" and pipeline["report_id"]
    one = reader.get(f"{API}/inference/{pipeline['id']}").json()
    assert one == pipeline == reader.get(f"{API}/inference/{pipeline['report_id']}").json()


def test_the_models_that_may_be_named_are_told(site: Site, reader: TestClient) -> None:
    told = reader.get(f"{API}/inference/models/available").json()
    assert "demo-chest-xray" in {m["name"] for m in told["models"] if m["active"] and m["weights_here"]}
    assert not next(m for m in told["models"] if m["name"] == "chest-xray-resnet50")["weights_here"]
    assert "scorecam" in told["gradcam_methods"]


def test_a_request_whose_run_died_is_taken_up_again_and_not_for_ever(site: Site, reader: TestClient) -> None:
    image = site.images(site.film)[0]
    requests, now = site.services.requests, site.services.now()
    where = reader.post(f"{API}/inference/{image}/uncertainty", params={"samples": 7, "wait": 0}).headers["location"]
    from uuid import UUID

    name = UUID(where.rpartition("/")[2])
    for attempt in range(1, MOST_ATTEMPTS + 1):
        requests.mark_requested([name], now)
        assert [lost.id for lost in requests.lost(now + UNCLAIMED * 2)] == [name]
        dead = requests.claim(f"a-run-that-died-{attempt}", now)
        assert dead and dead.id == name and requests.claim("another", now) is None
        requests.put_back(dead, now)
        assert not requests.finish(dead, {}, now, revision=1)  # it has it no more
    found = requests.find(name)
    assert found and found.state == "failed" and "its run ended" in found.reason


def test_an_analysis_needs_an_image_that_is_known(reader: TestClient) -> None:
    for image in ("2.25.1", "x", "../../etc/passwd", "%00", "1' OR '1'='1"):
        assert reader.post(f"{API}/inference/{image}/analyze").status_code == 404
    assert reader.get(f"{API}/inference/7777777").status_code == 404
    assert reader.get(f"{API}/inference/7777777/heatmaps/1-x.png").status_code == 404
