"""Both pages with a screen reader's rules, by keys alone, on a narrow screen, for each role; and hostile text stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from medai_pipeline.errors import NotFound
from medai_pipeline.keeping import object_name
from medai_pipeline.records import StudyHeatmaps
from medai_pipeline.storage.codec import decode, encode
from medai_pipeline.storage.tables import studies
from medai_pipeline.web.pages.heat import packed_heat
from medai_pipeline_tests.browser import NewPage, complaints, forget_refusals
from medai_pipeline_tests.many_studies import add_studies
from medai_pipeline_tests.reading_room import ReadingRoom

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def serious(page: Page) -> list[str]:
    """Serious and critical problems that axe finds, each in a line."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("which", ["", "pneumothorax", "consolidation", "failed"])
def test_axe_finds_no_serious_problem(new_page: NewPage, reading_room: ReadingRoom, which: str, width: int):
    page = reading_room.sign_in(new_page(width=width))
    if which in ("", "failed"):
        page.goto(f"{reading_room.url}/{f'studies/{reading_room.keys[which]}' if which else ''}")
        page.wait_for_load_state("networkidle")
    else:
        reading_room.open(page, which)
    assert serious(page) == []
    if which == "failed":
        forget_refusals(page)  # its images cannot be decoded, which the page says in words
    assert complaints(page) == []


@pytest.mark.parametrize("which", ["", "pneumothorax"])
def test_a_narrow_screen_needs_no_sideways_scrolling(new_page: NewPage, reading_room: ReadingRoom, which: str):
    page = reading_room.sign_in(new_page(width=390, height=844, has_touch=True, is_mobile=True))
    page.goto(f"{reading_room.url}/{f'studies/{reading_room.keys[which]}' if which else ''}")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if which:
        canvas = page.locator("#canvas").bounding_box()
        assert canvas and canvas["width"] >= 380 and canvas["height"] >= 300


def test_everything_of_the_study_page_is_reached_by_tab(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.open(reading_room.sign_in(new_page()), "pneumothorax")
    wanted = {"whois", "next", "canvas", "opacity", "heat", "note"}
    seen: set[str] = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert wanted <= seen


def test_the_canvas_tells_a_screen_reader_what_it_shows(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.open(reading_room.sign_in(new_page()), "consolidation")
    page.wait_for_function("medaiViewer.heat !== null")
    canvas = page.get_by_role("img", name="CT, image")
    expect(canvas).to_have_attribute(
        "aria-label", _matching("of 6. level -600 HU, width 1500 HU. Heat of Consolidation.")
    )
    page.keyboard.press("2")
    expect(canvas).to_have_attribute("aria-label", _matching("level 40 HU, width 400 HU"))


def _matching(words: str) -> re.Pattern[str]:
    return re.compile(re.escape(words))


@pytest.mark.parametrize(
    ("name", "sees", "sees_not"),
    [
        ("rita", ["#whois", "#review", "#prioritize", "[data-tool=box]", "#ohif"], []),
        ("vic", [], ["#whois", "#review", "#prioritize", "[data-tool=box]", "#ohif"]),
        ("eva", [], ["#whois", "#review", "#ohif"]),
        ("paul", ["#whois"], ["#review", "#prioritize", "[data-tool=box]", "#ohif"]),
    ],
)
def test_each_role_sees_what_it_may_do(new_page: NewPage, reading_room: ReadingRoom, name, sees, sees_not):
    page = reading_room.open(reading_room.sign_in(new_page(), name), "pneumothorax")
    for selector in sees:
        assert page.locator(selector).count(), selector
    for selector in sees_not:
        assert not page.locator(selector).count(), selector
    assert complaints(page) == []


def test_who_may_not_know_names_is_refused_also_without_the_button(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.open(reading_room.sign_in(new_page(), "vic"), "pneumothorax")
    token = page.get_attribute('meta[name="csrf-token"]', "content")
    for what in ("identity", "ohif"):
        answer = page.request.post(
            f"{reading_room.url}/studies/{reading_room.keys['pneumothorax']}/{what}",
            headers={"X-CSRF-Token": token or ""},
        )
        assert answer.status == 403


def test_no_page_names_anybody(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page())
    key = reading_room.keys["pneumothorax"]
    for path in ("", f"studies/{key}", f"studies/{key}/lineage", "worklist/rows?show=all"):
        answer = page.request.get(f"{reading_room.url}/{path}")
        assert answer.ok
        text = answer.text()
        for study in reading_room.studies.values():
            assert not [marker for marker in study.markers if marker in text]


def test_hostile_text_is_shown_and_runs_nothing(new_page: NewPage, reading_room: ReadingRoom):
    services = reading_room.services
    (key,) = add_studies(
        services,
        1,
        content=reading_room.content("pneumothorax"),
        priority="critical",
        reasons=(HOSTILE,),
        label=HOSTILE,
    )
    try:
        page = reading_room.sign_in(new_page())
        page.goto(reading_room.url)
        expect(page.locator(f"#s-{key} .why")).to_contain_text(HOSTILE)
        page.goto(f"{reading_room.url}/studies/{key}")
        expect(page.locator(".panel ul.why")).to_contain_text(HOSTILE)
        expect(page.locator("#findings")).to_contain_text("<img src=x")
        page.wait_for_load_state("networkidle")
        assert "taken" not in page.title()
        assert complaints(page) == []
    finally:
        with services.engine.begin() as connection:
            connection.execute(sa.update(studies).where(studies.c.study_key == key).values(report_id=None))


def test_heat_that_is_withheld_is_not_sent(reading_room: ReadingRoom):
    """Whether the report says so, or the map itself."""
    services, key = reading_room.services, reading_room.keys["pneumothorax"]
    (report,) = services.history.reports(key)
    assert len(packed_heat(services, key, report, 0)) > 1000
    said = json.loads(json.dumps(report.content))
    said["quality"]["heatmaps"][0] |= {"drawn": False, "reason": "it lies outside of the body"}
    with pytest.raises(NotFound, match="outside of the body"):
        packed_heat(services, key, replace(report, content=said), 0)
    name = object_name("gradcam_maps", key)
    kept = services.objects.get(name)
    maps = decode(kept)
    assert isinstance(maps, StudyHeatmaps)
    bad = replace(maps, heatmaps=tuple(replace(one, reliable=False) for one in maps.heatmaps))
    services.objects.put(name, encode(bad))
    try:
        with pytest.raises(NotFound):
            packed_heat(services, key, report, 0)
        services.objects.put(name, encode(replace(maps, revision=report.revision + 1)))
        with pytest.raises(NotFound, match="newer one"):
            packed_heat(services, key, report, 0)
    finally:
        services.objects.put(name, kept)


def test_another_studys_image_is_not_given_out_under_this_one(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page())
    one, other = reading_room.keys["pneumothorax"], reading_room.keys["consolidation"]
    uid = reading_room.services.history.images(other, 1)[0].sop_instance_uid
    assert page.request.get(f"{reading_room.url}/studies/{other}/1/frames/{uid}/1").status == 200
    assert page.request.get(f"{reading_room.url}/studies/{one}/1/frames/{uid}/1").status == 404
    (report,) = reading_room.services.history.reports(other)
    assert page.request.get(f"{reading_room.url}/studies/{one}/reports/{report.id}").status == 404


def test_the_published_report_is_a_page_without_scripts(new_page: NewPage, reading_room: ReadingRoom):
    key = reading_room.keys["pneumothorax"]
    (report,) = reading_room.services.history.reports(key)
    page = reading_room.sign_in(new_page())
    answer = page.goto(f"{reading_room.url}/studies/{key}/reports/{report.id}")
    assert answer is not None
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    expect(page.locator("h1")).to_have_text("critical")
    assert page.evaluate("getComputedStyle(document.querySelector('header')).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_lineage_tells_what_made_the_report(new_page: NewPage, reading_room: ReadingRoom):
    key = reading_room.keys["pneumothorax"]
    content = reading_room.content("pneumothorax")
    page = reading_room.sign_in(new_page())
    page.goto(f"{reading_room.url}/studies/{key}/lineage")
    main = page.locator("main")
    for told in (
        content["models"][0]["weights_sha256"],
        content["rules_version"],
        *content["lineage"]["source_sha256"],
    ):
        assert told in main.inner_html()
    assert serious(page) == []
    assert complaints(page) == []


def test_what_is_not_known_is_a_page_that_says_so(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.sign_in(new_page())
    answer = page.goto(f"{reading_room.url}/studies/{'A' * 26}")
    assert answer is not None and answer.status == 404
    expect(page.get_by_role("alert")).to_contain_text("no study with this key")


def test_links_lead_to_the_run_and_to_the_viewer_of_the_originals(new_page: NewPage, reading_room: ReadingRoom):
    page = reading_room.open(reading_room.sign_in(new_page()), "pneumothorax")
    (report,) = reading_room.services.history.reports(reading_room.keys["pneumothorax"])
    expect(page.get_by_role("link", name="Dagster run")).to_have_attribute(
        "href", f"https://dagster.example/runs/{report.run_id}"
    )
    original = str(reading_room.studies["pneumothorax"].datasets[0].StudyInstanceUID)
    assert original not in page.content()
    page.context.route("https://ohif.example/**", lambda route: route.fulfill(body="ohif"))
    with page.context.expect_page() as opened:
        page.locator("#ohif").click()
    opened.value.wait_for_load_state()
    assert opened.value.url == f"https://ohif.example/viewer?StudyInstanceUIDs={original}"
