"""The report for a person: one HTML file that needs nothing else and no network, and works without script.

Here is only what turns content into markup; the look is `templates/report.html`, the words of the findings come from triage.
Its one script moves the heat over the image. The page itself forbids every other (Content-Security-Policy in its head); who
serves it under a policy of their own allows `SCRIPT_SOURCE`, or the slider gives way to a box to tick.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from medai_pipeline.records import OverlayParts
from medai_pipeline.results.chain import chain
from medai_pipeline.wording import percent

LISTED = 8  # lines of a list that could be long; report.json has all

SCRIPT = """
document.documentElement.classList.add("script");
for (const slider of document.querySelectorAll("input.opacity")) {
  const figure = slider.closest("figure"), shown = figure.querySelector("input.shown");
  const apply = () => figure.style.setProperty("--heat", shown.checked ? slider.value / 100 : 0);
  slider.addEventListener("input", () => { shown.checked = slider.value > 0; apply(); });
  shown.addEventListener("change", () => { if (shown.checked && slider.value < 5) slider.value = 100; apply(); });
  apply();
}
"""
SCRIPT_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"


def render_html(
    content: Mapping[str, Any],
    overlays: Mapping[str, bytes],
    parts: Mapping[str, OverlayParts] | None = None,
    run_page: str = "",
) -> str:
    """report.html from the content of report.json and its pictures (file name -> PNG). All text is escaped.

    `parts`: the same pictures as image and heat, which may then be faded. `run_page`: where the run is shown.
    """
    pictures = [_picture(found, content, overlays, parts or {}) for found in content["quality"]["heatmaps"]]
    return _template().render(
        report=content,
        pictures=pictures,
        unmapped=_unmapped(content),
        excluded=_grouped(content["images"]["excluded"]),
        failed=[check for check in content["quality"]["checks"] if not check["passed"]],
        chain=chain(content),
        run_page=run_page,
        listed=LISTED,
        script=SCRIPT if any(picture["heat"] for picture in pictures) else "",
        script_source=SCRIPT_SOURCE,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("medai_pipeline.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["words"] = lambda label: label.replace("_", " ")
    return environment.get_template("report.html")


def _picture(
    found: Mapping[str, Any],
    content: Mapping[str, Any],
    overlays: Mapping[str, bytes],
    parts: Mapping[str, OverlayParts],
) -> dict[str, Any]:
    """One figure: the heatmap's row, whether its finding is present, and its pictures as data URIs ("" without one)."""
    row = next((row for row in content["findings"] if row["label"] == found["label"]), None)
    present = bool(row and row["present"])
    drawn = found["drawn"] and present  # a map that is withheld is no evidence, whatever pictures came along
    part = parts.get(found["overlay"])
    here = (found["image"], found["frame"])
    regions = [r for r in row["regions"] if (r["image"], r["frame"]) == here] if row and drawn else []
    return {
        **found,
        "present": present,
        "drawn": drawn,
        "probability": row["probability"] if row else None,
        "source": _data(part.image if part else overlays.get(found["overlay"], b"")),
        "heat": _data(part.heat if part and drawn else b""),
        "legend": _data(part.legend if part and drawn else b""),
        "whole": part is None,  # heat and words are inside the picture already
        "size": part.size if part else None,
        "regions": regions,
    }


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _unmapped(content: Mapping[str, Any]) -> set[str]:
    """Labels that are present and whose map is withheld, or for which none was made."""
    shown = {found["label"] for found in content["quality"]["heatmaps"] if found["drawn"]}
    return {row["label"] for row in content["findings"] if row["present"] and row["label"] not in shown}


def _grouped(excluded: list[Mapping[str, str]]) -> list[tuple[int, str]]:
    """(count, reason), most frequent first: three hundred localizer lines say no more than one."""
    return [(count, reason) for reason, count in Counter(entry["reason"] for entry in excluded).most_common()]
