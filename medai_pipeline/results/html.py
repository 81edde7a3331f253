"""The report for a person: one HTML file that needs nothing else, no script and no network.

Here is only what turns content into markup; the look is `templates/report.html`, the words of the findings come from triage.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def render_html(content: Mapping[str, Any], overlays: Mapping[str, bytes]) -> str:
    """report.html from the content of report.json and its pictures (file name -> PNG). All text is escaped."""
    return _template().render(
        report=content,
        pictures=[_picture(found, content, overlays) for found in content["quality"]["heatmaps"]],
        excluded=_grouped(content["images"]["excluded"]),
        present=[row for row in content["findings"] if row["present"]],
        failed=[check for check in content["quality"]["checks"] if not check["passed"]],
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
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    return environment.get_template("report.html")


def _picture(found: Mapping[str, Any], content: Mapping[str, Any], overlays: Mapping[str, bytes]) -> dict[str, Any]:
    """One figure: the heatmap's row, whether its finding is present, and the picture as a data URI ("" without one)."""
    data = overlays.get(found["overlay"])
    row = next((row for row in content["findings"] if row["label"] == found["label"]), None)
    return {
        **found,
        "present": bool(row and row["present"]),
        "probability": row["probability"] if row else None,
        "source": f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else "",
    }


def _grouped(excluded: list[Mapping[str, str]]) -> list[tuple[int, str]]:
    """(count, reason), most frequent first: three hundred localizer lines say no more than one."""
    return [(count, reason) for reason, count in Counter(entry["reason"] for entry in excluded).most_common()]
