"""The worklist page in a real Chromium: in the order of reading, by keys, and up to date without losing the reader's place."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, expect

from medai_pipeline.reading_list import reading_list
from medai_pipeline.records import StudyState
from medai_pipeline.storage.opinions import NONE
from medai_pipeline.storage.tables import audit_log, deliveries, identities, studies
from medai_pipeline_tests.browser import NewPage, complaints, forget_refusals
from medai_pipeline_tests.many_studies import add_studies
from medai_pipeline_tests.reading_room import ReadingRoom


def keys_shown(page: Page) -> list[str]:
    return page.eval_on_selector_all("#rows tr", "rows => rows.map((row) => row.id.slice(2))")


@pytest.fixture
def page(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page())
    page.goto(reading_room.url)
    page.wait_for_selector("html[data-ready]")
    yield page
    assert complaints(page) == []


def test_studies_stand_in_the_order_of_reading_and_failed_ones_first(page: Page, reading_room: ReadingRoom):
    services = reading_room.services
    waiting = [one.row.study_key for one in reading_list(services, services.now()) if not one.is_read]
    assert keys_shown(page) == [reading_room.keys["failed"], *waiting]
    failed = page.locator(f"#s-{reading_room.keys['failed']}")
    expect(failed).to_contain_text("failed at normalized_tensors")
    expect(failed).to_contain_text("no image could be decoded")
    expect(failed.get_by_role("button", name="Try study")).to_be_visible()


def test_keys_go_through_the_list_and_open_a_study(page: Page):
    shown = keys_shown(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.textContent") == shown[1]
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(f"/studies/{shown[1]}$"))


def test_slash_searches_by_study_key_and_question_mark_shows_the_keys(page: Page, reading_room: ReadingRoom):
    key = reading_room.keys["consolidation"]
    page.keyboard.press("/")
    page.keyboard.type(key[:9].lower())
    expect(page.locator("#rows tr")).to_have_count(1)
    assert keys_shown(page) == [key]
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


def test_filters_narrow_the_list_and_stand_in_the_address(page: Page, reading_room: ReadingRoom):
    page.select_option("#by-modality", "CT")
    expect(page.locator("#rows tr")).to_have_count(1)
    assert keys_shown(page) == [reading_room.keys["consolidation"]]
    assert "modality=CT" in page.url
    page.reload()
    assert keys_shown(page) == [reading_room.keys["consolidation"]]
    page.select_option("#by-modality", "")
    page.select_option("#by-show", "failed")
    expect(page.locator(f"#s-{reading_room.keys['failed']}")).to_be_visible()
    expect(page.locator(f"#s-{reading_room.keys['consolidation']}")).to_have_count(0)
    expect(page.locator("#rows tr")).to_have_count(1)
    assert keys_shown(page) == [reading_room.keys["failed"]]


def test_what_is_new_appears_by_itself_and_focus_and_scroll_stay(page: Page, reading_room: ReadingRoom):
    services = reading_room.services
    page.set_viewport_size({"width": 900, "height": 420})
    key = reading_room.keys["consolidation"]
    page.locator(f"#s-{key} a.open").focus()
    page.evaluate(
        "() => { document.querySelector('#by-q').dataset.kept = 'yes'; document.querySelector('#rows tr:last-child').dataset.kept = 'yes'; }"
    )
    top = page.locator(f"#s-{key}").bounding_box()
    added = add_studies(services, 1, content=reading_room.content("pneumothorax"), priority="critical")
    try:
        page.wait_for_selector(f"#s-{added[0]}", state="attached")
        assert page.evaluate("document.activeElement.textContent") == key
        after = page.locator(f"#s-{key}").bounding_box()
        assert top and after
        assert abs(after["y"] - top["y"]) < 2, "the row under the reader's eye stays where it is"
        assert page.evaluate("document.querySelector('#rows tr:last-child').dataset.kept") == "yes", (
            "it is the same element"
        )
        assert "come to the list" in page.locator("#news").inner_text()
    finally:
        remove(services, added)
    page.wait_for_selector(f"#s-{added[0]}", state="detached")


def remove(services, keys: list[str]) -> None:
    """Takes made-up studies out of the list again: as if their reports did not count."""
    with services.engine.begin() as connection:
        connection.execute(sa.update(studies).where(studies.c.study_key.in_(keys)).values(report_id=None))


def test_an_unchanged_list_is_answered_in_a_few_bytes(page: Page, reading_room: ReadingRoom):
    first = page.request.get(f"{reading_room.url}/worklist/rows", headers={"Accept": "text/html"})
    again = page.request.get(
        f"{reading_room.url}/worklist/rows", headers={"Accept": "text/html", "If-None-Match": first.headers["etag"]}
    )
    assert (first.status, again.status, again.body()) == (200, 304, b"")


def test_a_failed_study_is_tried_again_by_its_button(page: Page, reading_room: ReadingRoom):
    services, key = reading_room.services, reading_room.keys["failed"]
    before = services.lifecycle.study(key)
    assert before is not None
    try:
        with page.expect_response(lambda r: r.url.endswith("/retry")) as answered:
            page.locator(f"#s-{key} button").click()
        assert answered.value.ok
        now = services.lifecycle.study(key)
        assert now is not None and now.state is StudyState.READY
        expect(page.locator(f"#s-{key}")).to_contain_text("waits for a run")
    finally:
        with services.engine.begin() as connection:
            connection.execute(
                sa.update(studies)
                .where(studies.c.study_key == key)
                .values(state="failed", stage=before.stage, reason=before.reason)
            )


def test_a_person_is_found_by_patient_id_and_the_asking_is_recorded(page: Page, reading_room: ReadingRoom):
    patient = str(reading_room.studies["pneumothorax"].datasets[0].PatientID)
    page.fill("#by-person", patient)
    page.get_by_role("button", name="Find").click()
    found = page.locator("#found a")
    expect(found).to_have_count(2)
    assert set(found.all_inner_texts()) == {reading_room.keys["pneumothorax"], reading_room.keys["prior"]}
    assert patient not in page.url
    with reading_room.services.engine.connect() as connection:
        records = connection.execute(sa.select(audit_log).where(audit_log.c.action == "identity.find")).all()
    assert records[-1].actor == "user:rita"
    assert patient not in json.dumps([str(value) for value in records[-1]])


def test_a_damaged_identity_is_said_and_the_search_goes_on(page: Page, reading_room: ReadingRoom):
    services, key = reading_room.services, reading_room.keys["consolidation"]
    name = str(reading_room.studies["pneumothorax"].datasets[0].PatientName).partition("^")[0]
    mine = identities.c.study_key == key
    with services.engine.begin() as connection:
        sealed = connection.scalar(sa.select(identities.c.sealed).where(mine))
        assert sealed
        connection.execute(sa.update(identities).where(mine).values(sealed=sealed[:-1] + bytes([sealed[-1] ^ 1])))
    try:
        page.fill("#by-person", name)
        page.get_by_role("button", name="Find").click()
        expect(page.locator("#found")).to_contain_text("One identity could not be read")
        assert reading_room.keys["pneumothorax"] in page.locator("#found a").all_inner_texts()
    finally:
        with services.engine.begin() as connection:
            connection.execute(sa.update(identities).where(mine).values(sealed=sealed))


def test_a_persons_priority_changes_the_order(page: Page, reading_room: ReadingRoom):
    services = reading_room.services
    first, *_, last = keys_shown(page)[1:]
    expect(page.locator(f"#s-{first}")).to_contain_text("critical")
    try:
        for key, priority in ((last, "critical"), (first, "routine")):
            services.opinions.prioritize(key, priority, "seen by a person", "user:rita", NONE, services.now())
        page.wait_for_function(
            "([one, other]) => { const keys = [...document.querySelectorAll('#rows tr')].map((row) => row.id);"
            " return keys.indexOf(`s-${one}`) < keys.indexOf(`s-${other}`); }",
            arg=[last, first],
        )
        expect(page.locator(f"#s-{last} .priority")).to_have_text("critical")
        expect(page.locator(f"#s-{last}")).to_contain_text("priority by rita")
        expect(page.locator(f"#s-{first} .priority")).to_have_text("routine")
        assert keys_shown(page)[1] == last
    finally:
        reading_room.forget_opinions()


def test_a_failed_delivery_is_said_in_the_list_and_on_the_study_page(page: Page, reading_room: ReadingRoom):
    services, key, now = reading_room.services, reading_room.keys["prior"], reading_room.services.now()
    row = {
        "id": uuid4(), "report_id": services.history.counting(key), "destination": "ARCHIVE", "sop_instance_uids": [],
        "state": "failed", "reason": "it refuses the SOP class (0122H)", "attempts": 10, "created_at": now, "updated_at": now,
    }  # fmt: skip
    with services.engine.begin() as connection:
        connection.execute(sa.insert(deliveries).values(**row))
    try:
        expect(page.locator(f"#s-{key}")).to_contain_text("not delivered to ARCHIVE: it refuses the SOP class")
        page.goto(f"{reading_room.url}/?show=undelivered")
        assert keys_shown(page) == [key]
        reading_room.open(page, "prior")
        expect(page.locator(".panel")).to_contain_text(
            "Not delivered to ARCHIVE. it refuses the SOP class (0122H) (10 tries)"
        )
    finally:
        with services.engine.begin() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.id == row["id"]))


def test_who_may_not_know_names_is_not_asked_for_any(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page(), "eva")
    page.goto(reading_room.url)
    expect(page.locator("#person")).to_have_count(0)
    expect(page.get_by_role("button", name="Try study")).to_have_count(1)
    refused = page.request.post(f"{reading_room.url}/worklist/person", data={"person": "whoever"})
    assert refused.status == 403


def test_a_login_that_has_ended_is_said_and_the_list_stays(page: Page, reading_room: ReadingRoom):
    rows = keys_shown(page)
    page.context.clear_cookies()
    expect(page.locator("#trouble")).to_contain_text("session has ended", timeout=15_000)
    assert keys_shown(page) == rows


def test_a_server_that_does_not_answer_is_said(page: Page):
    page.route("**/worklist/rows**", lambda route: route.abort())
    expect(page.locator("#trouble")).to_contain_text("does not answer")
    page.unroute("**/worklist/rows**")
    expect(page.locator("#trouble")).to_be_hidden()
    forget_refusals(page)


def test_a_study_over_its_limit_is_marked(page: Page, reading_room: ReadingRoom):
    services, key = reading_room.services, reading_room.keys["consolidation"]
    with services.engine.begin() as connection:
        before = connection.scalar(sa.select(studies.c.first_seen_at).where(studies.c.study_key == key))
        connection.execute(
            sa.update(studies).where(studies.c.study_key == key).values(first_seen_at=before - timedelta(hours=9))
        )
    try:
        expect(page.locator(f"#s-{key}")).to_contain_text("over the limit")
        expect(page.locator(f"#s-{key} time")).to_contain_text("9 h")
        expect(page.locator("#counts")).to_contain_text("Over the limit 1")
    finally:
        with services.engine.begin() as connection:
            connection.execute(sa.update(studies).where(studies.c.study_key == key).values(first_seen_at=before))
