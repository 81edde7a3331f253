"""Reviews, priorities and annotations: kept beside the report, one after the other, and nobody overwrites another unseen."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from medai_pipeline.web.roles import Role
from medai_pipeline_tests.test_logging_in import audited
from medai_pipeline_tests.web import API, Site


@pytest.fixture
def ann(site: Site) -> TestClient:
    return site.caller(Role.RADIOLOGIST, name="ann")


@pytest.fixture
def bob(site: Site) -> TestClient:
    return site.caller(Role.RADIOLOGIST, name="bob")


def test_two_readers_do_not_overwrite_each_other(site: Site, ann: TestClient, bob: TestClient) -> None:
    key = site.key(site.film)
    report = ann.get(f"{API}/studies/{key}/report")
    seen, name = report.headers["etag"], report.json()["id"]
    first = ann.post(
        f"{API}/inference/{name}/review", json={"decision": "accepted", "note": "as told"}, headers={"If-Match": seen}
    )
    assert first.status_code == 201, first.text
    stale = bob.post(f"{API}/inference/{name}/review", json={"decision": "rejected"}, headers={"If-Match": seen})
    assert stale.status_code == 412
    assert bob.post(f"{API}/inference/{name}/review", json={"decision": "rejected"}).status_code == 428
    after = bob.get(f"{API}/studies/{key}/report")
    assert after.headers["etag"] == first.headers["etag"] != seen
    edit = {"decision": "edited", "content": {"findings": [{"label": "Pneumothorax", "present": False}]}}
    assert (
        bob.post(f"{API}/inference/{name}/review", json={"decision": "edited"}, headers={"If-Match": "*"}).status_code
        == 422
    )
    second = bob.post(f"{API}/inference/{name}/review", json=edit, headers={"If-Match": after.headers["etag"]})
    assert second.status_code == 201
    told = ann.get(f"{API}/studies/{key}/report").json()
    assert [(r["reviewer"], r["decision"]) for r in told["reviewed"]] == [
        ("user:bob", "edited"),
        ("user:ann", "accepted"),
    ]
    assert told["content"] == report.json()["content"]
    assert ann.get(f"{API}/studies/{key}").json()["review"] == "edited"
    assert ("user:ann", "report.reviewed", key) in audited(site.services)


def test_an_answer_beside_the_report_is_not_reviewed(site: Site, ann: TestClient) -> None:
    image = site.images(site.volume)[0]
    where = ann.post(f"{API}/inference/{image}/uncertainty", params={"samples": 4, "wait": 0}).headers["location"]
    site.answer_requests()
    assert ann.post(f"{where}/review", json={"decision": "accepted"}).status_code == 409


def test_a_persons_priority_counts_is_shown_as_such_and_leaves_the_report(
    site: Site, ann: TestClient, bob: TestClient
) -> None:
    key = site.key(site.volume)
    before = ann.get(f"{API}/studies/{key}")
    seen, own = before.headers["etag"], before.json()["priority"]
    wanted = "urgent" if own != "urgent" else "routine"
    change = {"priority": wanted, "reason": "the ward called"}
    told = ann.put(f"{API}/studies/{key}/priority", json=change, headers={"If-Match": seen})
    assert told.status_code == 200, told.text
    assert (told.json()["priority"], told.json()["report_priority"]) == (wanted, own)
    assert (
        told.json()["priority_override"]["by"] == "user:ann"
        and told.json()["priority_override"]["reason"] == "the ward called"
    )
    assert ann.get(f"{API}/studies/{key}/report").json()["content"]["priority"] == own
    listed = ann.get(f"{API}/studies", params={"priority": wanted, "limit": 500}).json()["items"]
    assert key in {row["study_key"] for row in listed}
    stale = bob.put(
        f"{API}/studies/{key}/priority", json={"priority": "critical", "reason": "me too"}, headers={"If-Match": seen}
    )
    assert stale.status_code == 412
    taken_back = bob.put(f"{API}/studies/{key}/priority", json={"priority": None, "reason": "mistaken"})
    assert taken_back.json()["priority"] == own and taken_back.json()["priority_override"] is None
    history = ann.get(f"{API}/studies/{key}").json()["priority_history"]
    assert [(h["actor"], h["priority"]) for h in history] == [("user:bob", None), ("user:ann", wanted)]
    for wrong in (
        {"priority": "soon", "reason": "because"},
        {"priority": "urgent"},
        {"priority": "urgent", "reason": ""},
    ):
        assert ann.put(f"{API}/studies/{key}/priority", json=wrong).status_code == 422


SHAPES: dict[str, dict[str, Any]] = {
    "label": {"kind": "label", "label": "rotated"},
    "box": {"kind": "box", "label": "nodule", "geometry": {"box": [10, 12.5, 40, 50]}},
    "polygon": {"kind": "polygon", "geometry": {"points": [[1, 1], [9, 1], [9, 9]]}},
    "measurement": {"kind": "measurement", "geometry": {"points": [[0, 0], [30, 40]]}},
    "note": {"kind": "note", "geometry": {"note": "compare with the last one"}},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_an_annotation_is_drawn_changed_and_deleted_and_every_version_is_kept(
    site: Site, ann: TestClient, bob: TestClient, kind: str
) -> None:
    image = site.images(site.film)[0]
    made = ann.post(f"{API}/annotations", json={"image_id": image, **SHAPES[kind]})
    assert made.status_code == 201, made.text
    where, told = made.headers["location"], made.json()
    assert told["author"] == "user:ann" and told["version"] == 1
    if kind == "measurement":
        row = site.services.catalogue.image(image)
        assert row and told["geometry"]["length_mm"] == pytest.approx(50 * row["row_spacing_mm"], abs=0.01)
    assert told["id"] in {
        a["id"] for a in ann.get(f"{API}/annotations", params={"image": image, "kind": kind}).json()["items"]
    }
    change = {**SHAPES[kind], "label": "changed"}
    assert bob.put(where, json=change).status_code == 428
    changed = bob.put(where, json=change, headers={"If-Match": made.headers["etag"]})
    assert changed.status_code == 200 and changed.headers["etag"] == '"2"'
    assert ann.put(where, json=change, headers={"If-Match": made.headers["etag"]}).status_code == 412
    assert ann.delete(where, headers={"If-Match": '"1"'}).status_code == 412
    assert ann.delete(where, headers={"If-Match": '"2"'}).json()["deleted"]
    assert told["id"] not in {a["id"] for a in ann.get(f"{API}/annotations", params={"image": image}).json()["items"]}
    assert ann.get(where).json()["deleted"]
    versions = ann.get(f"{where}/versions").json()["items"]
    assert [(v["version"], v["author"], v["deleted"]) for v in versions] == [
        (3, "user:ann", True), (2, "user:bob", False), (1, "user:ann", False)
    ]  # fmt: skip
    assert ann.put(where, json=change, headers={"If-Match": '"3"'}).status_code == 404


def test_a_mask_covers_its_image(site: Site, ann: TestClient) -> None:
    image = site.images(site.film)[0]
    row = site.services.catalogue.image(image)
    assert row
    size = row["rows"] * row["columns"]
    mask = {"image_id": image, "kind": "mask", "geometry": {"runs": [100, 50, size - 150]}}
    assert ann.post(f"{API}/annotations", json=mask).status_code == 201
    assert ann.post(f"{API}/annotations", json={**mask, "geometry": {"runs": [100, 50]}}).status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "box", "geometry": {"box": [40, 12, 10, 50]}},
        {"kind": "box", "geometry": {"box": [0, 0, 99999, 5]}},
        {"kind": "box", "geometry": {"box": [0, 0, 60000, 5]}},
        {"kind": "polygon", "geometry": {"points": [[1, 1], [2, 2]]}},
        {"kind": "measurement", "geometry": {"points": [[1, 1], [2, 2], [3, 3]]}},
        {"kind": "label"},
        {"kind": "note"},
        {"kind": "drawing"},
        {"kind": "label", "label": "x", "author": "somebody else"},
        {"kind": "label", "label": "x", "frame": 2},
        {"kind": "label", "label": "nul \x00 byte"},
    ],
)
def test_a_shape_that_is_none_is_refused(site: Site, ann: TestClient, wrong: dict[str, Any]) -> None:
    answer = ann.post(f"{API}/annotations", json={"image_id": site.images(site.film)[0], **wrong})
    assert answer.status_code == 422, answer.text


def test_the_same_key_writes_once(site: Site, ann: TestClient, bob: TestClient) -> None:
    image = site.images(site.volume)[1]
    body = {"image_id": image, "kind": "label", "label": "once"}
    headers = {"Idempotency-Key": "annotation-1"}
    first, second = (ann.post(f"{API}/annotations", json=body, headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 201 and first.json() == second.json()
    assert first.headers["etag"] == second.headers["etag"] and "idempotency-replayed" in second.headers
    assert ann.post(f"{API}/annotations", json={**body, "label": "other"}, headers=headers).status_code == 422
    assert (
        bob.post(f"{API}/annotations", json=body, headers=headers).json()["id"] != first.json()["id"]
    )  # each their own
    wrong = {**body, "kind": "drawing"}
    refused = {"Idempotency-Key": "annotation-2"}
    assert ann.post(f"{API}/annotations", json=wrong, headers=refused).status_code == 422
    assert (
        ann.post(f"{API}/annotations", json=body, headers=refused).status_code == 201
    )  # nothing was written: free again
    total = ann.get(f"{API}/annotations", params={"image": image, "label": "once"}).json()["total"]
    assert total == 3
