"""report.html stands alone, says the essential in words, and escapes what it did not write."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from medai_pipeline.explain.study import explain
from medai_pipeline.records import ImagePlace, Problem
from medai_pipeline.results.html import SCRIPT_SOURCE
from medai_pipeline.wording import percent
from medai_pipeline_tests.report_samples import LABELS, instance, prediction, tensors
from medai_pipeline_tests.test_report_content import make, no_model


class Page(HTMLParser):
    """The text and the tags of a page; fails on tags that are closed in the wrong order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(make().html)


def test_the_page_is_well_formed(page):
    assert page.open == []


def test_the_page_needs_nothing_from_elsewhere_and_forbids_itself_all_but_its_own_script():
    html = make().html
    assert "<script" not in html
    assert "<link" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert f"script-src {SCRIPT_SOURCE};" in policy and "'unsafe-inline'; script" in policy
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', html))


def test_the_pictures_are_inside_the_page(page):
    report = make()
    inside = [attributes["src"].partition(",")[2] for tag, attributes in page.tags if tag == "img"]
    assert [base64.b64decode(data) for data in inside] == list(report.overlays.values())


def test_a_reader_finds_priority_reasons_findings_and_disclaimer(page):
    for words in (
        "critical",
        "Review required",
        "Possible pneumothorax (93%)",
        "Pneumothorax present 93% ± 3%",
        "Nodule not present 20%",
        "Map passed its checks",
        "Research use only.",
        "Demo model trained on synthetic phantoms: no clinical value.",
        "1 image declares text",
        "demo-chest 1",
        "aaaaaaaaaaaa",
    ):
        assert words in page.text


def test_the_bar_shows_probability_and_threshold(page):
    label = next(attributes["aria-label"] for tag, attributes in page.tags if attributes.get("class") == "bar")
    assert label == "probability 93%, plus or minus 3%, threshold 50%"


def test_a_normal_study_says_that_the_picture_is_no_finding():
    text = Page(make(prediction((0.01, 0.02, 0.01, 0.03, 0.01))).html).text
    assert "not present: shown as the most probable finding" in text
    assert "Below threshold: no heat drawn." in text
    assert "passed its checks" not in text


def test_each_picture_says_which_image_it_is():
    place = ImagePlace(series_number=3, instance_number=12, images=24, axis="z", position_mm=-34.5, edges=tuple("RLAP"))
    maps = explain(prediction(), tensors())
    shown = replace(maps, heatmaps=tuple(replace(found, place=place) for found in maps.heatmaps))
    report = make(heatmaps=shown)
    assert "Series 3, image 12 of 24, z -34.5 mm" in Page(report.html).text
    assert report.content["quality"]["heatmaps"][0]["place"]["position_mm"] == -34.5


def test_a_study_without_a_model_says_that_it_was_not_analysed():
    page = Page(no_model().html)
    assert "It was not analysed." in page.text
    assert "No model covers this study: no model for ultrasound." in page.text


def test_what_was_left_out_is_counted_by_reason():
    lost = [Problem("truncated", "the file ends early", f"{number}") for number in range(3)]
    text = Page(make(problems=lost, instances=[instance(0)]).html).text
    assert "4 received, 1 usable" in text
    assert "3 left out: the file ends early" in text


def test_text_that_looks_like_markup_stays_text():
    sly = "<b onclick=alert(1)>x</b>"
    html = make(prediction(labels=(sly, *LABELS[1:])), problems=[Problem("truncated", sly)]).html
    assert sly not in html
    assert "&lt;b onclick" in html
    assert Page(html).open == []


def test_the_page_is_small_beside_its_pictures():
    report = make()
    pictures = sum(len(data) for data in report.overlays.values())
    assert len(report.html) < 20_000 + 1.4 * pictures


def test_no_probability_is_said_to_be_none_or_all():
    said = {share: percent(share) for share in (0.0, 0.004, 0.005, 0.006, 0.5, 0.994, 0.995, 0.996, 1.0)}
    assert said[0.0] == said[0.004] == said[0.005] == "<1%" and said[0.006] == "1%"
    assert said[0.994] == "99%" and said[0.996] == said[1.0] == ">99%"
    assert not {"0%", "100%"} & set(said.values())
