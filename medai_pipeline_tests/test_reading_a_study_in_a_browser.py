"""A radiologist reads in a real Chromium: real values on the canvas, window, slices, heat, drawing."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from pydicom.pixels import apply_windowing

from medai_pipeline.storage.tables import annotations
from medai_pipeline_tests.browser import NewPage, complaints, forget_refusals
from medai_pipeline_tests.dicom_objects import image
from medai_pipeline_tests.reading_room import PASSWORD, ReadingRoom
from medai_pipeline_tests.viewer import (
    GREY,
    canvas_pixels,
    drag,
    drawn,
    on_screen,
    shown_uid,
)


def test_a_radiologist_logs_in_and_opens_the_most_urgent_study(new_page: NewPage, reading_room: ReadingRoom):
    page = new_page()
    page.goto(reading_room.url)
    page.fill("[name=name]", "rita")
    page.fill("[name=password]", PASSWORD)
    page.press("[name=password]", "Enter")
    first = page.locator("#rows tr.waits").first
    expect(first).to_contain_text("critical")
    first.locator("a.open").click()
    page.wait_for_selector("canvas[data-state=shown]")
    expect(page.locator("h1")).to_contain_text("chest")
    expect(page.locator("#priority")).to_have_text("critical")
    expect(page.get_by_role("note")).to_contain_text("Research use only")
    assert reading_room.keys["pneumothorax"] in page.url
    assert complaints(page) == []


def test_the_canvas_shows_the_stored_values_through_the_window(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.keyboard.press("h")
    page.keyboard.press("x")
    while page.evaluate("medaiViewer.view.scale") < 6.5:
        page.keyboard.press("+")
    identity = reading_room.services.vault.read(reading_room.keys["consolidation"], "test", "test")
    original = {new: old for old, new in identity.uids.items()}[shown_uid(page)]
    dataset = next(d for d in reading_room.studies["consolidation"].datasets if str(d.SOPInstanceUID) == original)
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    x, y = (round(v) for v in page.evaluate("medaiViewer.view.toImage([medaiViewer.canvas.clientWidth / 2, 200])"))
    seen = set()
    for preset, (centre, width) in {"1": (-600, 1500), "2": (40, 400), "3": (400, 1800)}.items():
        page.keyboard.press(preset)
        drawn(page)
        for dx, dy in ((0, 0), (5, 3), (-9, 4), (20, 11)):
            expected = np.clip(((values[y + dy, x + dx] - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
            red, green, blue = page.evaluate(GREY, [x + dx, y + dy])
            assert red == green == blue
            assert abs(red - expected) <= 1
            seen.add(red)
    assert len(seen) > 3


def test_dragging_changes_window_and_level_and_reset_brings_them_back(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    before, window = canvas_pixels(page), page.evaluate("medaiViewer.window")
    middle = on_screen(page, 20, 20)
    drag(page, middle, (middle[0] + 120, middle[1] + 60))
    after = page.evaluate("medaiViewer.window")
    assert after["width"] > window["width"] * 1.2
    assert after["centre"] > window["centre"]
    assert (canvas_pixels(page) != before).mean() > 0.1
    expect(page.locator("#note-window")).to_contain_text(f"level {round(after['centre'])}")
    page.keyboard.press("r")
    np.testing.assert_array_equal(canvas_pixels(page), before)


def test_inverting_turns_grey_and_leaves_the_surroundings_black(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.keyboard.press("h")
    page.keyboard.press("x")
    grey = page.evaluate(GREY, [5, 5])[0]
    page.keyboard.press("i")
    drawn(page)
    assert page.evaluate(GREY, [5, 5])[0] == 255 - grey
    assert canvas_pixels(page)[300, 3].tolist() == [0, 0, 0]
    expect(page.locator("[data-does=invert]")).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_every_voi_function_is_drawn_as_the_standard_says(page: Page, reading_room: ReadingRoom, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3: the page's own module, against pydicom."""
    page.goto(f"{reading_room.url}/")
    stored = np.arange(-200, 1720, dtype="<i2").reshape(40, 48)
    for centre, width in ((700.0, 900.0), (10.0, 1.5), (-50.0, 5000.0)):
        dataset = image(
            PixelData=stored.tobytes(), WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, RescaleIntercept=0,
        )  # fmt: skip
        full = apply_windowing(stored, dataset)
        expected = (full + 2**15) / (2**16 - 1) * 255
        drawn_words = page.evaluate(
            """async ([values, window]) => {
              const { paint } = await import('/static/window.js');
              const words = new Uint32Array(values.length);
              const frame = { kind: 'int16', values: Int16Array.from(values), slope: 1, intercept: 0, padding: null, inverted: false };
              paint(frame, window, false, words);
              return [...words].map((word) => word & 255);
            }""",
            [stored.reshape(-1).tolist(), {"centre": centre, "width": width, "function": function}],
        )
        np.testing.assert_allclose(np.array(drawn_words), expected.reshape(-1), atol=0.51)


def test_slices_scroll_by_wheel_keys_and_slider_in_the_order_of_the_body(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#where').textContent.startsWith('1 of')")
    seen = []
    for _ in range(6):
        page.wait_for_selector("canvas[data-state=shown]")
        seen.append(page.evaluate("[medaiViewer.image.uid, medaiViewer.frame.position_mm]"))
        page.locator("#canvas").hover()
        page.mouse.wheel(0, 100)
        drawn(page)
    assert len({uid for uid, _ in seen}) == 6
    places = [place for _, place in seen]
    assert places == sorted(places)
    expect(page.locator("#where")).to_have_text("6 of 6")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#where")).to_have_text("5 of 6")
    page.locator("#slice").fill("2")
    expect(page.locator("#where")).to_have_text("2 of 6")
    page.wait_for_function(f"medaiViewer.image.uid === '{seen[1][0]}'")


def test_the_window_stays_from_slice_to_slice(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "consolidation")
    page.keyboard.press("3")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("canvas[data-state=shown]")
    assert page.evaluate("[medaiViewer.window.centre, medaiViewer.window.width]") == [400, 1800]


def test_heat_lies_on_the_finding_and_can_be_taken_away(page: Page, reading_room: ReadingRoom):
    reading_room.open(page, "pneumothorax")
    page.wait_for_function("medaiViewer.heat !== null")
    with_heat = canvas_pixels(page)
    coloured = np.ptp(with_heat.astype(int), axis=2) > 25
    page.keyboard.press("h")
    page.keyboard.press("x")
    plain = canvas_pixels(page)
    inside = np.zeros(coloured.shape, bool)
    identity = reading_room.services.vault.read(reading_room.keys["pneumothorax"], "test", "test")
    original = {new: old for old, new in identity.uids.items()}[shown_uid(page)]
    (truth,) = reading_room.studies["pneumothorax"].boxes[original]
    x0, y0 = page.evaluate("([x, y]) => medaiViewer.view.toScreen([x, y])", list(truth.box[:2]))
    x1, y1 = page.evaluate("([x, y]) => medaiViewer.view.toScreen([x, y])", list(truth.box[2:]))
    inside[int(y0) : int(y1), int(x0) : int(x1)] = True
    letters = np.ptp(plain.astype(int), axis=2) > 25
    heat = coloured & ~letters
    assert heat.sum() > 2000
    assert (heat & inside).sum() / heat.sum() > 0.5, "most of the heat is on the finding"
    page.keyboard.press("h")
    page.locator("#opacity").fill("10")
    weak = canvas_pixels(page)
    changes = [np.abs(one.astype(int) - plain).sum() for one in (weak, with_heat)]
    assert 0 < changes[0] < changes[1]


def test_a_box_that_is_drawn_is_kept_changed_and_deleted(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["consolidation"]
    room.open(page, "consolidation")
    page.keyboard.press("b")
    start, end = on_screen(page, 60, 70), on_screen(page, 120, 130)
    drag(page, start, end)
    page.wait_for_selector("#drawn li")
    (row,) = room.rows(annotations, study_key=key)
    assert (row.kind, row.sop_instance_uid, row.author, row.version) == ("box", shown_uid(page), "user:rita", 1)
    np.testing.assert_allclose(row.geometry["box"], [60, 70, 120, 130], atol=1.5)
    with page.expect_response(lambda r: "/annotations/" in r.url and r.request.method == "PUT"):
        page.locator("#drawn li input").fill("Consolidation")
        page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'canvas'")
    page.keyboard.press("w")
    corner = on_screen(page, row.geometry["box"][2], row.geometry["box"][3])
    with page.expect_response(lambda r: "/annotations/" in r.url and r.request.method == "PUT"):
        drag(page, corner, on_screen(page, 150, 160))
    (row,) = room.rows(annotations, study_key=key)
    np.testing.assert_allclose(row.geometry["box"], [60, 70, 150, 160], atol=1.5)
    assert (row.label, row.deleted) == ("Consolidation", False)
    page.reload()
    page.wait_for_selector("#drawn li")
    expect(page.locator("#drawn li input")).to_have_value("Consolidation")
    with page.expect_response(lambda r: r.request.method == "DELETE"):
        page.locator("#drawn li button").click()
    (row,) = room.rows(annotations, study_key=key)
    assert row.deleted
    expect(page.locator("#drawn li")).to_have_count(0)


def test_a_polygon_and_a_length_are_drawn_with_millimetres(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["prior"]
    room.open(page, "prior")
    page.keyboard.press("g")
    for x, y in ((200, 200), (300, 210), (260, 320)):
        page.mouse.click(*on_screen(page, x, y))
    page.keyboard.press("Enter")
    page.wait_for_selector("#drawn li")
    page.keyboard.press("Escape")
    page.locator("#canvas").focus()
    page.keyboard.press("m")
    drag(page, on_screen(page, 100, 400), on_screen(page, 200, 400))
    expect(page.locator("#drawn li")).to_have_count(2)
    by_kind = {row.kind: row for row in room.rows(annotations, study_key=key)}
    np.testing.assert_allclose(by_kind["polygon"].geometry["points"], [[200, 200], [300, 210], [260, 320]], atol=1.5)
    spacing = page.evaluate("medaiViewer.frame.spacing_mm")
    assert by_kind["measurement"].geometry["length_mm"] == pytest.approx(100 * spacing[1], abs=2)


def test_somebody_elses_change_is_not_overwritten(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    room.open(page, "pneumothorax")
    page.keyboard.press("b")
    drag(page, on_screen(page, 50, 60), on_screen(page, 150, 160))
    page.wait_for_selector("#drawn li")
    (row,) = [r for r in room.rows(annotations, study_key=key) if not r.deleted]
    room.services.annotations.change(
        row.id, "box", "somebody else's", row.geometry, "user:other", str(row.version), room.services.now()
    )
    page.locator("#drawn li input").fill("mine")
    page.keyboard.press("Enter")
    expect(page.locator("#panel-trouble")).to_contain_text("Somebody has changed this annotation")
    expect(page.locator("#drawn li input")).to_have_value("somebody else's")
    (row,) = [r for r in room.rows(annotations, study_key=key) if not r.deleted]
    assert row.label == "somebody else's"
    forget_refusals(page)


def test_a_failed_study_says_where_and_why(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["failed"]
    page.goto(f"{room.url}/studies/{key}")
    expect(page.locator(".panel")).to_contain_text("Stopped at normalized_tensors")
    expect(page.locator(".panel")).to_contain_text("no image could be decoded")
    expect(page.locator("#image-trouble")).to_contain_text("This image cannot be shown")
    forget_refusals(page)


def test_an_image_that_cannot_be_decoded_says_what_to_do(page: Page, reading_room: ReadingRoom):
    room = reading_room
    room.open(page, "consolidation")
    (report,) = room.services.history.reports(room.keys["consolidation"])
    stored = room.services.history.images(room.keys["consolidation"], report.revision)
    target = next(i for i in stored if i.sop_instance_uid != shown_uid(page))
    kept = room.services.objects.get(target.object_key)
    room.services.objects.put(target.object_key, kept[: len(kept) // 2])
    try:
        page.reload()
        page.wait_for_selector("canvas[data-state=shown]")
        index = page.evaluate(
            "(uid) => JSON.parse(document.querySelector('#study-data').textContent).series[0].images.findIndex((i) => i.uid === uid)",
            target.sop_instance_uid,
        )
        page.locator("#slice").fill(str(index + 1))
        expect(page.locator("#image-trouble")).to_contain_text("This image cannot be shown")
        expect(page.locator("#image-trouble")).to_contain_text("send it again")
    finally:
        room.services.objects.put(target.object_key, kept)
    page.locator("#image-trouble button").click()
    page.wait_for_selector("canvas[data-state=shown]")
    expect(page.locator("#image-trouble")).to_be_hidden()
    forget_refusals(page)
