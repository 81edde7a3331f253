"""A worklist of a thousand open studies: the page stays small, the rest comes when it is asked for. Timings: benchmarks/."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from medai_pipeline.storage.tables import studies
from medai_pipeline_tests.browser import NewPage, complaints
from medai_pipeline_tests.many_studies import add_studies
from medai_pipeline_tests.reading_room import ReadingRoom

THOUSAND = 1000


@pytest.fixture(scope="module")
def full_room(reading_room: ReadingRoom) -> Iterator[ReadingRoom]:
    keys = add_studies(reading_room.services, THOUSAND, content=reading_room.content("pneumothorax"), spread_minutes=80)
    yield reading_room
    with reading_room.services.engine.begin() as connection:
        connection.execute(sa.update(studies).where(studies.c.study_key.in_(keys)).values(report_id=None))


def test_the_first_look_is_one_small_answer_and_more_comes_on_demand(new_page: NewPage, full_room: ReadingRoom):
    page = full_room.sign_in(new_page())
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(len(r.body())) if r.request.resource_type == "document" else None)
    page.goto(full_room.url)
    page.wait_for_selector("html[data-ready]")
    expect(page.locator("#counts")).to_contain_text("To read 10")
    expect(page.locator("#rows tr")).to_have_count(60)
    assert len(sizes) == 1
    assert sizes[0] < 120_000
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#rows tr")).to_have_count(120, timeout=30_000)
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('tr') === document.querySelectorAll('#rows tr')[1]")
    assert complaints(page) == []


def test_an_unchanged_list_of_a_thousand_costs_no_body_and_no_question_more(new_page: NewPage, full_room: ReadingRoom):
    """Several who look within a moment share one reading of the database."""
    page = full_room.sign_in(new_page())
    asked: list[str] = []

    def count(connection, cursor, statement, *rest) -> None:
        if "newest" in statement:
            asked.append(statement)

    first = page.request.get(f"{full_room.url}/worklist/rows", headers={"Accept": "text/html"})
    sa.event.listen(full_room.services.engine, "before_cursor_execute", count)
    try:
        headers = {"Accept": "text/html", "If-None-Match": first.headers["etag"]}
        answers = [page.request.get(f"{full_room.url}/worklist/rows", headers=headers) for _ in range(4)]
    finally:
        sa.event.remove(full_room.services.engine, "before_cursor_execute", count)
    assert {(a.status, len(a.body())) for a in answers} == {(304, 0)}
    assert len(asked) <= 2 * 2, "four answers came out of one or two readings of the list"
