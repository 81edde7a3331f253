"""`medai deliveries`: which results went where, what hinders them, and once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from medai_pipeline.errors import MedaiError, SettingsError
from medai_pipeline.local.study_commands import user
from medai_pipeline.returning import OFF

if TYPE_CHECKING:
    from medai_pipeline.services import Services
    from medai_pipeline.storage.deliveries import Delivery

_STYLES = {"failed": "bold red", "pending": "yellow", "dropped": "dim"}


def by_study(services: Services, study_keys: Sequence[str] | None = None) -> dict[str, list[Delivery]]:
    """Study key -> the deliveries of its last edition."""
    found: dict[str, list[Delivery]] = {}
    for row in services.deliveries.latest(study_keys):
        found.setdefault(row.study_key, []).append(row)
    return found


def as_records(rows: Sequence[Delivery]) -> list[dict[str, Any]]:
    return [
        {
            "destination": row.destination,
            "state": row.state,
            "reason": row.reason,
            "attempts": row.attempts,
            "edition": row.edition,
            "revision": row.revision,
            "withdrawal": row.withdrawal,
            "review": row.decision or None,
            "objects": len(row.objects),
            "next_attempt_at": row.next_attempt_at.isoformat() if row.next_attempt_at else None,
            "updated_at": row.updated_at.isoformat(),
        }
        for row in rows
    ]


def in_words(rows: Sequence[Delivery]) -> Text:
    """A cell of the worklist: the states, and of what is in trouble why."""
    text = Text()
    for number, row in enumerate(rows):
        where = f"{row.destination}: " if len(rows) > 1 else ""
        text.append("\n" if number else "").append(
            f"{where}{_state(row)}", style=_STYLES.get(row.state, "") if row.troubled else ""
        )
        if row.troubled:
            text.append(f"\n{row.reason}")
    return text


def as_table(services: Services, problems: bool) -> Table:
    table = Table(title="Deliveries", title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for column in ("study", "edition", "destination", "state", "objects", "tries", "reason"):
        table.add_column(column, no_wrap=column != "reason", min_width=40 if column == "reason" else None)
    for rows in by_study(services).values():
        for row in rows:
            if problems and not row.troubled:
                continue
            state = Text(_state(row), style=_STYLES.get(row.state, ""))
            count = str(len(row.objects))
            table.add_row(
                row.study_key, str(row.edition), row.destination, state, count, str(row.attempts), Text(row.reason)
            )
    return table


def retry(services: Services, study_keys: Sequence[str], everything: bool) -> list[str]:
    """What has not arrived is due now; the study keys concerned. Raises MedaiError for a key with nothing to send again."""
    wanted = None if everything else _keys(study_keys)
    done = services.deliveries.retry(user(), services.now(), wanted)
    missing = sorted(set(wanted or ()) - set(done))
    if missing:
        raise MedaiError(f"nothing waits to be delivered for {', '.join(missing)}: see `medai deliveries`")
    return done


def send(services: Services, study_keys: Sequence[str]) -> list[str]:
    """Results of any age become due; the study keys concerned."""
    if services.settings.return_when == OFF:
        raise SettingsError("returning results is off: set MEDAI_RETURN to at-once or after-review")
    return services.desk.want(_keys(study_keys))


def _keys(study_keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(key.strip().upper() for key in study_keys))


def _state(row: Delivery) -> str:
    words = f"{row.state} (withdrawn)" if row.withdrawal else row.state
    return f"{words}, waits" if row.state == "pending" and not row.attempts else words


def pick(study_keys: Sequence[str], everything: bool) -> None:
    """Raises UsageError unless one of both was said."""
    if bool(study_keys) == everything:
        raise click.UsageError("name study keys, or say --all")
