"""A radiologist reads in a real Chromium: real values on the canvas, window, slices, heat, drawing, deciding."""

from __future__ import annotations

import base64
import json
from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from playwright.sync_api import Page, Route, expect
from pydicom.pixels import apply_windowing

from medai_pipeline.storage.tables import annotations, audit_log, inference_results, reviews, studies
from medai_pipeline.storage.web_tables import priority_overrides
from medai_pipeline_tests.browser import NewPage, complaints, forget_refusals
from medai_pipeline_tests.dicom_objects import image
from medai_pipeline_tests.reading_room import PASSWORD, ReadingRoom

# the grey under an image point, as the screen shows it
_GREY = """([x, y]) => {
  const { view, canvas } = medaiViewer;
  const [px, py] = view.toScreen([x + 0.5, y + 0.5]).map((value) => Math.floor(value * devicePixelRatio));
  return [...canvas.getContext('2d').getImageData(px, py, 1, 1).data].slice(0, 3);
}"""
_DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def drawn(page: Page) -> None:
    page.evaluate(_DRAWN)


def shown_uid(page: Page) -> str:
    return page.evaluate("medaiViewer.image.uid")


def canvas_pixels(page: Page) -> np.ndarray:
    """The whole canvas as it is, (rows, columns, 3)."""
    drawn(page)
    address = page.evaluate("medaiViewer.canvas.toDataURL('image/png')")
    png = np.frombuffer(base64.b64decode(address.partition(",")[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """An image point in the page's coordinates."""
    box = page.locator("#canvas").bounding_box()
    assert box
    px, py = page.evaluate("([x, y]) => medaiViewer.view.toScreen([x, y])", [x, y])
    return box["x"] + px, box["y"] + py


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()
    drawn(page)


def rows_of(room: ReadingRoom, table: sa.Table, **where: Any) -> list[Any]:
    conditions = [table.c[name] == value for name, value in where.items()]
    with room.services.engine.connect() as connection:
        return list(connection.execute(sa.select(table).where(*conditions)))


@pytest.fixture
def page(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page())
    yield page
    reading_room.forget_opinions()
    assert complaints(page) == []


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
            red, green, blue = page.evaluate(_GREY, [x + dx, y + dy])
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
    grey = page.evaluate(_GREY, [5, 5])[0]
    page.keyboard.press("i")
    drawn(page)
    assert page.evaluate(_GREY, [5, 5])[0] == 255 - grey
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
    (row,) = rows_of(room, annotations, study_key=key)
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
    (row,) = rows_of(room, annotations, study_key=key)
    np.testing.assert_allclose(row.geometry["box"], [60, 70, 150, 160], atol=1.5)
    assert (row.label, row.deleted) == ("Consolidation", False)
    page.reload()
    page.wait_for_selector("#drawn li")
    expect(page.locator("#drawn li input")).to_have_value("Consolidation")
    with page.expect_response(lambda r: r.request.method == "DELETE"):
        page.locator("#drawn li button").click()
    (row,) = rows_of(room, annotations, study_key=key)
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
    by_kind = {row.kind: row for row in rows_of(room, annotations, study_key=key)}
    np.testing.assert_allclose(by_kind["polygon"].geometry["points"], [[200, 200], [300, 210], [260, 320]], atol=1.5)
    spacing = page.evaluate("medaiViewer.frame.spacing_mm")
    assert by_kind["measurement"].geometry["length_mm"] == pytest.approx(100 * spacing[1], abs=2)


def test_somebody_elses_change_is_not_overwritten(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    room.open(page, "pneumothorax")
    page.keyboard.press("b")
    drag(page, on_screen(page, 50, 60), on_screen(page, 150, 160))
    page.wait_for_selector("#drawn li")
    (row,) = [r for r in rows_of(room, annotations, study_key=key) if not r.deleted]
    room.services.annotations.change(
        row.id, "box", "somebody else's", row.geometry, "user:other", str(row.version), room.services.now()
    )
    page.locator("#drawn li input").fill("mine")
    page.keyboard.press("Enter")
    expect(page.locator("#panel-trouble")).to_contain_text("Somebody has changed this annotation")
    expect(page.locator("#drawn li input")).to_have_value("somebody else's")
    (row,) = [r for r in rows_of(room, annotations, study_key=key) if not r.deleted]
    assert row.label == "somebody else's"
    forget_refusals(page)


def test_a_decision_by_keys_alone_is_kept_and_audited_and_the_next_study_comes(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["prior"]
    room.open(page, "prior")
    page.keyboard.press("d")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#panel-trouble")).to_contain_text("the note is empty")
    assert rows_of(room, reviews) == []
    page.keyboard.type("A nipple, no nodule")
    with page.expect_response(lambda r: r.url.endswith("/review")):
        page.keyboard.press("Control+Enter")
    expect(page.locator("#decided")).to_contain_text("rejected")
    (row,) = rows_of(room, reviews)
    assert (row.decision, row.note, row.reviewer) == ("rejected", "A nipple, no nodule", "user:rita")
    (record,) = [r for r in rows_of(room, audit_log, action="report.reviewed") if r.subject == key]
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
    (row,) = rows_of(room, reviews)
    assert (row.decision, row.note, row.report_id) == ("accepted", "", room.services.history.counting(key))
    page.reload()
    expect(page.locator("#decided")).to_contain_text("accepted by rita")


def test_an_older_model_version_stands_beside_the_newer_one(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["consolidation"]
    (now,) = rows_of(room, inference_results, study_key=key)
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


def coloured(page: Page) -> int:
    """How many pixels of the canvas are no grey: heat, letters, the scale."""
    return int((np.ptp(canvas_pixels(page).astype(int), axis=2) > 25).sum())


class Late:
    """Answers that are kept back: `open` lets later ones pass, `let_go` those that wait, too."""

    def __init__(self, page: Page, addresses: str) -> None:
        self.waiting: list[Route] = []
        self.open = False
        page.route(addresses, self._answer)

    def _answer(self, route: Route) -> None:
        if self.open:
            route.continue_()
        else:
            self.waiting.append(route)

    def let_go(self) -> None:
        self.open = True
        for route in self.waiting:
            route.continue_()
        self.waiting.clear()


def forget_frames(page: Page) -> None:
    """The page fetches every image anew."""
    page.evaluate("medaiViewer.frames = new medaiViewer.frames.constructor(medaiViewer.frames.address)")


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
    (row,) = rows_of(room, priority_overrides, study_key=key)
    assert (row.priority, row.reason, row.actor) == ("urgent", "seen on the ward already", "user:rita")


def test_who_it_is_is_told_on_a_click_that_is_recorded(page: Page, reading_room: ReadingRoom):
    room, key = reading_room, reading_room.keys["pneumothorax"]
    name = str(room.studies["pneumothorax"].datasets[0].PatientName).replace("^", " ")
    room.open(page, "pneumothorax")
    assert name not in page.content()
    before = len(rows_of(room, audit_log, action="identity.read", subject=key))
    page.locator("#whois").click()
    expect(page.locator("#who")).to_contain_text(name)
    records = rows_of(room, audit_log, action="identity.read", subject=key)
    assert len(records) == before + 1
    assert records[-1].actor == "user:rita"


def test_the_same_patients_studies_are_linked_without_opening_an_identity(page: Page, reading_room: ReadingRoom):
    room = reading_room
    before = len(rows_of(room, audit_log, action="identity.read"))
    room.open(page, "pneumothorax")
    linked = page.eval_on_selector_all("details a[href^='/studies/']", "all => all.map((a) => a.getAttribute('href'))")
    assert [link for link in linked if "reports" not in link] == [f"/studies/{room.keys['prior']}"]
    assert len(rows_of(room, audit_log, action="identity.read")) == before


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
