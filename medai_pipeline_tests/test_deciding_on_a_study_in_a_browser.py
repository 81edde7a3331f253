"""A radiologist decides in a real Chromium: by keys, with edits, beside other versions and earlier studies."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from playwright.sync_api import Page, expect

from medai_pipeline.storage.tables import audit_log, inference_results, reviews, studies
from medai_pipeline.storage.web_tables import priority_overrides
from medai_pipeline_tests.reading_room import ReadingRoom
from medai_pipeline_tests.viewer import (
    drag,
)


def test_a_decision_by_keys_alone_is_kept_and_audited_and_the_next_study_comes(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["prior"]
    room.open(page, "prior")
    page.keyboard.press("d")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#panel-trouble")).to_contain_text("the note is empty")
    assert room.rows(reviews) == []
    page.keyboard.type("A nipple, no nodule")
    with page.expect_response(lambda r: r.url.endswith("/review")):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#decided")).to_contain_text("rejected")
    (row,) = room.rows(reviews)
    assert (row.decision, row.note, row.reviewer) == ("rejected", "A nipple, no nodule", "user:rita")
    (record,) = [r for r in room.rows(audit_log, action="report.reviewed") if r.subject == key]
    assert record.actor == "user:rita"
    assert "nipple" not in json.dumps(record.detail)
    page.keyboard.press("n")
    page.wait_for_url(lambda url: key not in url and "/studies/" in url)
    assert key not in [row.study_key for row in room.services.worklist.unread()]


def test_a_report_is_accepted_by_two_keys(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    room.open(page, "pneumothorax")
    page.keyboard.press("a")
    with page.expect_response(lambda r: r.url.endswith("/review")):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#decided")).to_contain_text("accepted")
    (row,) = room.rows(reviews)
    assert (row.decision, row.note, row.report_id) == ("accepted", "", room.services.history.counting(key))
    page.reload()
    expect(page.locator("#decided")).to_contain_text("accepted by rita")


def test_an_older_model_version_stands_beside_the_newer_one(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["consolidation"]
    (now,) = room.rows(inference_results, study_key=key)
    said = [
        {**row, "probability": 0.25 if row["label"] == "Consolidation" else row["probability"]}
        for row in now.result["findings"]
    ]
    older = {name: getattr(now, name) for name in ("study_key", "revision", "inputs_digest", "run_id", "created_at")}
    more = {"model_name": now.model_name, "model_version": "0", "weights_sha256": "0" * 64, "role": "primary"}
    (present,) = [
        row["probability"] for row in room.content("consolidation")["findings"] if row["label"] == "Consolidation"
    ]
    try:
        with room.services.engine.begin() as connection:
            connection.execute(
                sa.insert(inference_results).values(**older, **more, result={**now.result, "findings": said})
            )
        room.open(page, "consolidation")
        versions = page.locator("details", has_text="Model versions (2)")
        versions.locator("summary").click()
        expect(versions).to_contain_text(f"{now.model_name}@{now.model_version} in the report")
        expect(versions).to_contain_text(f"{now.model_name}@0 primary")
        row = versions.get_by_role("row", name="Consolidation")
        expect(row).to_contain_text("25%")
        expect(row).to_contain_text(f"{(present - 0.25) * 100:+.0f} points")
    finally:
        with room.services.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))  # append-only triggers rest
            connection.execute(sa.delete(inference_results).where(inference_results.c.weights_sha256 == "0" * 64))


def test_a_newer_report_is_said_and_nothing_is_asked_while_the_page_is_hidden(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["consolidation"]
    page.add_init_script("const real = setInterval; setInterval = (deed, ms) => real(deed, ms === 15000 ? 50 : ms)")
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/news") else None)
    room.open(page, "consolidation")
    with page.expect_response("**/news"):
        pass
    assert asked[-1].headers["x-unattended"] == "1"
    with page.expect_request(lambda r: r.url.endswith("/news") and "x-unattended" not in r.headers):
        page.keyboard.press("ArrowDown")
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })")
    before = len(asked)
    page.evaluate("new Promise((done) => setTimeout(done, 500))")
    assert len(asked) - before <= 1  # one may have been on its way
    expect(page.locator("#news")).to_be_empty()
    mine, other = room.services.history.counting(key), room.services.history.counting(room.keys["prior"])
    turn = sa.update(studies).where(studies.c.study_key == key)
    try:
        with room.services.engine.begin() as connection:
            connection.execute(turn.values(report_id=other))
        page.evaluate("delete document.hidden")
        news = page.get_by_role("status").filter(has_text="A newer report of this study is there.")
        expect(news).to_have_attribute("aria-live", "polite")
        before = len(asked)
        page.evaluate("new Promise((done) => setTimeout(done, 300))")
        assert len(asked) - before <= 1  # it is said once
    finally:
        with room.services.engine.begin() as connection:
            connection.execute(turn.values(report_id=mine))
    news.get_by_role("link").click()
    page.wait_for_selector("canvas[data-state=shown]")
    expect(page.locator("#news")).to_be_empty()


def test_an_edit_says_what_is_really_there(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["consolidation"]
    room.open(page, "consolidation")
    page.keyboard.press("e")
    page.locator("#edit input[value=Effusion]").check()
    page.locator("#note").fill("a small effusion as well")
    with page.expect_response(lambda r: r.url.endswith("/review")):
        page.keyboard.press("Control+Enter")
    (report,) = room.services.history.reports(key)
    (decision,) = [d for d in room.services.history.decisions(key) if d.report_id == report.id]
    assert decision.decision == "edited"
    present = {row["label"] for row in decision.content["findings"] if row["present"]}
    assert present == {"Consolidation", "Effusion"}


def test_a_priority_is_changed_with_a_reason(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    room.open(page, "pneumothorax")
    page.locator("#decision summary").click()
    page.select_option("#new-priority", "urgent")
    page.fill("#why", "seen on the ward already")
    with page.expect_response(lambda r: r.url.endswith("/priority")):
        page.locator("#prioritize button").click()
    expect(page.locator("#priority")).to_have_text("urgent")
    (row,) = room.rows(priority_overrides, study_key=key)
    assert (row.priority, row.reason, row.actor) == ("urgent", "seen on the ward already", "user:rita")


def test_who_it_is_is_told_on_a_click_that_is_recorded(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    name = str(room.studies["pneumothorax"].datasets[0].PatientName).replace("^", " ")
    room.open(page, "pneumothorax")
    assert name not in page.content()
    before = len(room.rows(audit_log, action="identity.read", subject=key))
    page.locator("#whois").click()
    expect(page.locator("#who")).to_contain_text(name)
    records = room.rows(audit_log, action="identity.read", subject=key)
    assert len(records) == before + 1
    assert records[-1].actor == "user:rita"


def test_the_same_patients_studies_are_linked_without_opening_an_identity(page: Page, reading_room: ReadingRoom):
    room = reading_room
    before = len(room.rows(audit_log, action="identity.read"))
    room.open(page, "pneumothorax")
    linked = page.eval_on_selector_all("details a[href^='/studies/']", "all => all.map((a) => a.getAttribute('href'))")
    assert [link for link in linked if "reports" not in link] == [f"/studies/{room.keys['prior']}"]
    assert len(room.rows(audit_log, action="identity.read")) == before


def test_an_earlier_study_is_shown_beside_and_scrolls_and_windows_by_itself(page: Page, reading_room: ReadingRoom):
    room = reading_room
    room.open(page, "pneumothorax")
    window = page.evaluate("medaiViewer.window")
    page.locator(f"[data-compare='{room.keys['prior']}']").click()
    other = page.locator(".other canvas")
    expect(other).to_have_attribute("data-state", "shown")
    expect(other).to_have_attribute("aria-label", "Other study, DX PA, image 1 of 1")
    expect(page.locator(".otherbar a")).to_have_attribute("href", f"/studies/{room.keys['prior']}")
    before = other.evaluate("(canvas) => canvas.toDataURL()")
    box = other.bounding_box()
    assert box
    drag(page, (box["x"] + 50, box["y"] + 200), (box["x"] + 200, box["y"] + 260))
    assert other.evaluate("(canvas) => canvas.toDataURL()") != before
    assert page.evaluate("medaiViewer.window") == window
    page.locator(".otherbar button").click()
    expect(other).to_have_count(0)
