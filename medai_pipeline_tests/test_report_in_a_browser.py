"""report.html in a real Chromium: the heat fades, with and without script, by mouse and keyboard; it prints on two pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from medai_pipeline.explain.overlay import overlay_parts
from medai_pipeline.explain.study import explain
from medai_pipeline.records import Heatmap, ImagePlace, Problem, QualityResult, Report
from medai_pipeline.results.report import overlay_name
from medai_pipeline_tests.browser import NewPage, complaints
from medai_pipeline_tests.report_samples import SIZE, SOURCE, instance, prediction, tensors
from medai_pipeline_tests.test_report_content import make

PLACE = ImagePlace(series_number=3, instance_number=12, images=24, axis="z", position_mm=-34.5, edges=tuple("RLHF"))
ALL = (0.93, 0.62, 0.91, 0.84, 0.77)
Opened = Callable[..., Page]


def report(
    probabilities: tuple[float, ...] = (0.93, 0.62, 0.05, 0.2, 0.11), spoil: bool = False, **more: Any
) -> Report:
    """With the parts of its pictures; `spoil`: the map of the first finding is not reliable."""
    answer = prediction(probabilities)
    maps = explain(answer, tensors())
    found = [replace(m, place=PLACE) for m in maps.heatmaps]
    if spoil:
        found[0] = replace(found[0], reliable=False, reason="It follows the image, not the finding.", regions=())
    parts = {overlay_name(number, heatmap): _parts(heatmap) for number, heatmap in enumerate(found)}
    return make(
        answer,
        heatmaps=replace(maps, heatmaps=tuple(found), parts=parts),
        run_page="http://127.0.0.1:3000/runs/run-1",
        **more,
    )


def _parts(heatmap: Heatmap) -> Any:
    image = np.full(SOURCE, 90, dtype=np.uint8)
    return overlay_parts(image, heatmap.values, heatmap.item.placement, (SIZE, SIZE), withheld=heatmap.withheld)


@pytest.fixture
def opened(new_page: NewPage, tmp_path: Path) -> Opened:
    """`opened(report, **of the context)`: the page of the file, as a person opens it from a folder."""

    def open_it(made: Report, **more: Any) -> Page:
        path = tmp_path / "report.html"
        path.write_text(made.html)
        page = new_page(**more)
        page.goto(path.as_uri())
        return page

    return open_it


def opacity(page: Page, number: int = 0) -> float:
    return float(page.locator("img.heat").nth(number).evaluate("heat => getComputedStyle(heat).opacity"))


def test_the_slider_fades_the_heat_of_its_own_picture_and_the_arrow_keys_move_it(opened: Opened) -> None:
    page = opened(report())
    slider = page.get_by_role("slider", name="Opacity of the heat for Pneumothorax")
    assert (opacity(page, 0), opacity(page, 1)) == (1, 1)
    slider.fill("40")
    assert (opacity(page, 0), opacity(page, 1)) == (0.4, 1)
    slider.press("ArrowLeft")
    assert opacity(page) == 0.35
    assert complaints(page) == []


def test_the_box_to_tick_takes_the_heat_away_by_keyboard(opened: Opened) -> None:
    page = opened(report())
    for _ in range(2):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "shown":
            break
    page.keyboard.press("Space")
    assert (opacity(page, 0), opacity(page, 1)) == (0, 1)
    page.keyboard.press("Space")
    assert opacity(page, 0) == 1


def test_without_script_the_heat_is_there_and_can_be_taken_away_and_nothing_is_offered_that_does_not_work(
    opened: Opened,
) -> None:
    page = opened(report(), java_script_enabled=False)
    assert page.locator("img.heat").count() == 2
    assert not page.locator("input.opacity").first.is_visible()
    shown = page.locator(".stage").first.screenshot()
    page.get_by_text("heat", exact=True).first.click()
    assert page.locator(".stage").first.screenshot() != shown


def test_boxes_lie_where_the_report_says(opened: Opened) -> None:
    made = report()
    page = opened(made)
    (x0, y0, x1, y1) = made.content["findings"][0]["regions"][0]["box"]
    stage, box = page.locator(".stage").first.bounding_box(), page.locator("rect.line").first.bounding_box()
    assert stage and box
    across, down = stage["width"] / SOURCE[1], stage["height"] / SOURCE[0]
    expected = (stage["x"] + x0 * across, stage["y"] + y0 * down, (x1 - x0) * across, (y1 - y0) * down)
    assert (box["x"], box["y"], box["width"], box["height"]) == pytest.approx(expected, abs=2)


def test_a_map_that_is_withheld_is_no_evidence(opened: Opened) -> None:
    page = opened(report(spoil=True))
    figure = page.locator("figure").first
    assert figure.locator("img.heat, rect, input").count() == 0
    assert "Map not reliable, not drawn" in figure.inner_text()
    row = page.locator("tr.present").first
    assert "Pneumothorax" in row.inner_text() and "no map to show" in row.inner_text()
    assert page.locator("figure").nth(1).locator("img.heat").count() == 1


def test_a_person_sees_priority_reasons_and_findings_without_scrolling(opened: Opened) -> None:
    page = opened(report(ALL))
    for words in ("critical", "Review required", "Possible pneumothorax (93%)"):
        box = page.get_by_text(words).first.bounding_box()
        assert box and box["y"] + box["height"] <= 450, words
    last = page.locator("tbody tr").last.bounding_box()
    assert last and last["y"] + last["height"] <= 900


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_cut_off(opened: Opened, width: int) -> None:
    page = opened(report(ALL), width=width, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("more", [{}, {"spoil": True}, {"probabilities": (0.01, 0.02, 0.01, 0.03, 0.01)}])
def test_axe_finds_nothing_serious(opened: Opened, more: dict[str, Any]) -> None:
    page = opened(report(**more))
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


def long_study() -> Report:
    """Every finding present, 300 images of which many are left out for many reasons, and many failed checks."""
    lost = [
        Problem("truncated", f"the file ends early, as {n % 30} others of its kind", f"{n:012x}") for n in range(120)
    ]
    checks = [
        QualityResult(f"check {n}", n % 2 == 0, False, "a detail that fills a whole line of text") for n in range(40)
    ]
    return report(ALL, problems=lost, quality=checks, instances=[instance(n) for n in range(300)])


@pytest.mark.parametrize("made", [report, long_study])
def test_it_prints_on_two_pages_white_with_the_heat_on_it(opened: Opened, made: Callable[[], Report]) -> None:
    page = opened(made())
    page.locator("input.opacity").first.fill("0")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opacity(page) == 1
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(prefer_css_page_size=True)))
    assert 1 <= pages <= 2
