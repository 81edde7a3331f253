"""The worklist for a terminal and for programs, the reports as plain files, and the table of models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medai_pipeline import DISCLAIMER
from medai_pipeline.analyze import write_file
from medai_pipeline.local.deliveries import as_records, by_study, in_words
from medai_pipeline.local.study_commands import user
from medai_pipeline.reading_list import ListedStudy, reading_list

if TYPE_CHECKING:
    from medai_pipeline.services import Services
    from medai_pipeline.storage.deliveries import Delivery

_STYLES = {"critical": "bold white on red", "urgent": "bold red", "routine": "yellow", "normal": "green"}
REASONS_SHOWN = 2
READ_SHOWN = 20  # of those that have been read, in the terminal; --json has all


def as_json(services: Services) -> dict[str, Any]:
    """`studies` in the order of reading, then those read; `in_progress` those without a report for what the PACS holds now."""
    studies = reading_list(services, services.now())
    delivered = by_study(services, [study.row.study_key for study in studies])
    return {
        "studies": [_study(study, delivered.get(study.row.study_key, ())) for study in studies],
        "in_progress": [
            {
                "study_key": row.study_key,
                "revision": row.revision,
                "state": row.state.value,
                "stage": row.stage,
                "reason": row.reason,
                "attempts": row.attempts,
                "since": row.since.isoformat(),
            }
            for row in services.worklist.in_progress()
        ],
        "disclaimer": DISCLAIMER,
    }


def _study(study: ListedStudy, delivered: Sequence[Delivery]) -> dict[str, Any]:
    row = study.row
    return {
        "study_key": row.study_key,
        "revision": row.revision,
        "modality": row.modality,
        "priority": row.priority.value,
        "review_required": row.review_required,
        "findings": list(row.findings),
        "reasons": list(row.reasons),
        "models": list(row.models),
        "demo_model": row.demo,
        "reported_at": row.reported_at.isoformat(),
        "seconds_to_report": round(row.seconds_to_report, 1),
        "place": study.place,
        "waiting_since": row.waiting_since.isoformat(),
        "waited_seconds": round(study.waited.total_seconds(), 1),
        "reads_by": study.reads_by.isoformat() if study.reads_by else None,
        "over_limit": study.over_limit,
        "decision": row.review.decision if row.review else None,
        "read_at": row.review.at.isoformat() if row.review else None,
        "deliveries": as_records(delivered),
    }


def terminal() -> Console:
    """Standard output, wide enough for a study key and its reasons also where it is no terminal."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=170)


def as_table(services: Services) -> Table:
    table = Table(title="Worklist", title_justify="left", header_style="bold", box=SIMPLE_HEAD, show_lines=False)
    now = services.now()
    studies = reading_list(services, now, READ_SHOWN)
    delivered = by_study(services, [study.row.study_key for study in studies])
    returned = ("returned",) if delivered else ()
    for column in ("priority", "study", "rev", "modality", "why", "model", "review", "waited", "reads by", *returned):
        least = {"why": 40, "returned": 8}.get(column)
        table.add_column(column, no_wrap=column not in ("why", "model", "returned"), min_width=least)
    for study in studies:
        row = study.row
        table.add_row(
            Text(row.priority.value, style=_STYLES[row.priority.value]),
            row.study_key,
            str(row.revision),
            row.modality,
            _reasons(row.reasons),
            _models(row.models, row.demo),
            "yes" if row.review_required else "",
            _span(study.waited),
            _reads_by(study, now),
            *(in_words(delivered.get(row.study_key, ())) for _ in returned),
            style="dim" if study.is_read else "",
        )
    for waiting in services.worklist.in_progress():
        why = f"{waiting.stage}: {waiting.reason}" if waiting.reason else waiting.stage
        state = Text(waiting.state.value, style="bold magenta" if waiting.state.value == "failed" else "dim")
        table.add_row(state, waiting.study_key, str(waiting.revision or ""), "", Text(why))
    return table


def _span(time: timedelta) -> str:
    """ "40 s", "12 min", "3 h 05" or "2 d 03 h"."""
    minutes = int(time.total_seconds()) // 60
    if minutes < 1:
        return f"{time.total_seconds():.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02}" if hours < 24 else f"{hours // 24} d {hours % 24:02} h"


def _reads_by(study: ListedStudy, now: datetime) -> Text:
    """The promise in local time, or the decision of who has read it."""
    if study.row.review:
        return Text(study.row.review.decision)
    assert study.reads_by is not None
    local = study.reads_by.astimezone()
    same_day = local.date() == now.astimezone().date()
    time = f"{local:%H:%M}" if same_day else f"{local:%d.%m. %H:%M}"
    return Text(f"{time}, over", style="bold red") if study.over_limit else Text(time)


def _models(models: Sequence[str], demo: bool) -> Text:
    text = Text("\n".join(models) or "none")
    return text.append("\nDEMO: phantoms only", style="bold magenta") if demo else text


def _reasons(reasons: Sequence[str]) -> Text:
    """The first two; the report has them all."""
    more = len(reasons) - REASONS_SHOWN
    return Text("\n".join(reasons[:REASONS_SHOWN]) + (f"\n(and {more} more, see the report)" if more > 0 else ""))


def warnings(services: Services) -> list[str]:
    """What `medai status` warns of."""
    from medai_pipeline.local.status import look

    return look(services).warnings()


def export_reports(services: Services, folder: Path) -> list[Path]:
    """Each study's report.json, report.html, fhir.json and overlays under FOLDER/<study key>; returns those folders."""
    made = []
    for row in services.worklist.worklist():
        target = folder / row.study_key
        services.audit.append(user(), "report.export", row.study_key, {"purpose": "medai worklist --export"})
        for name in services.objects.names(f"{row.object_prefix}/"):
            write_file(target / name.removeprefix(f"{row.object_prefix}/"), services.objects.get(name))
        made.append(target)
    return made
