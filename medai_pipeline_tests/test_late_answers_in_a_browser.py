"""Answers that come late never lie over what the radiologist looks at by then."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page, expect

from medai_pipeline_tests.reading_room import ReadingRoom
from medai_pipeline_tests.viewer import (
    Late,
    canvas_pixels,
    coloured,
    drawn,
    forget_frames,
    shown_uid,
)


def test_heat_that_comes_late_never_lies_on_another_image(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.wait_for_function("medaiViewer.heat !== null")
    page.keyboard.press("x")  # boxes are on their own image by themselves
    hot, warm = shown_uid(page), coloured(page)
    heat = Late(page, "**/heat/*")
    with page.expect_request("**/heat/*"):
        page.locator("#heat").dispatch_event("change")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("(uid) => medaiViewer.image.uid !== uid", arg=hot)
    page.wait_for_selector("canvas[data-state=shown]")
    other, plain = shown_uid(page), coloured(page)
    assert plain < warm / 2
    forget_frames(page)  # back to the image with heat: its values come late, too, and its heat before them
    frames = Late(page, "**/frames/**")
    with page.expect_request(f"**/frames/{hot}/*"):
        page.keyboard.press("ArrowDown")
    with page.expect_response("**/heat/*"):
        heat.let_go()
    drawn(page)
    assert (shown_uid(page), page.evaluate("medaiViewer.heat"), coloured(page)) == (other, None, plain)
    assert page.locator("#canvas").get_attribute("data-state") == "loading"
    frames.let_go()
    page.wait_for_function("(uid) => medaiViewer.image.uid === uid && medaiViewer.heat !== null", arg=hot)
    assert coloured(page) > plain * 2


def test_values_that_come_late_are_not_shown_over_what_is_looked_at_now(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.keyboard.press("Home")
    expect(page.locator("#where")).to_have_text("1 of 6")
    page.wait_for_selector("canvas[data-state=shown]")
    first, words = shown_uid(page), page.locator("#note-image").inner_text()
    forget_frames(page)
    frames = Late(page, "**/frames/**")
    with page.expect_request("**/frames/**"):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#where")).to_have_text("2 of 6")
    drawn(page)
    assert shown_uid(page) == first and page.locator("#note-image").inner_text() == words  # it names what is seen
    frames.open = True
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("canvas[data-state=shown]")
    third, picture = shown_uid(page), canvas_pixels(page)
    late = frames.waiting[0].request.url
    with page.expect_response(late):
        frames.let_go()
    drawn(page)
    assert shown_uid(page) == third != first and third not in late
    np.testing.assert_array_equal(canvas_pixels(page), picture)


def test_a_film_is_not_shown_through_the_window_of_the_film_before(page: Page, reading_room: ReadingRoom):
    """Two films of one series are exposed apart, each with a window of its own; slices of a volume are not."""
    reading_room.open(page, "pneumothorax")
    films = page.evaluate(
        "JSON.parse(document.querySelector('#study-data').textContent).series.map((one) => one.images[0].uid)"
    )
    shown = """async (uids) => {
      const { first } = await import('/static/window.js');
      const images = uids.map((uid) => ({ uid, frame: 1, frames: 1, number: 1 }));
      await medaiViewer.show(images[0], 'one series');
      medaiViewer.setWindow({ centre: 10, width: 20, function: 'LINEAR' });
      await medaiViewer.show(images[1], 'one series');
      return [medaiViewer.window, first(medaiViewer.frame, medaiViewer.part)];
    }"""
    window, own = page.evaluate(shown, films[:2])
    assert window == own
    reading_room.open(page, "consolidation")
    slices = page.evaluate(
        "JSON.parse(document.querySelector('#study-data').textContent).series[0].images.map((one) => one.uid)"
    )
    window, own = page.evaluate(shown, slices[:2])
    assert (window["centre"], window["width"]) == (10, 20) and window != own
