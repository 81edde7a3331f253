"""The worklist as it is read: who is next, since when each study waits, and by when its reading was promised to begin.

It joins what `storage` knows (which studies are reported, which read) with the order of `triage.waiting`. How it looks in a
terminal or on a page is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from medai_pipeline.storage.rows import WorklistRow
from medai_pipeline.triage.waiting import Waiting, beginnings, reading_order

if TYPE_CHECKING:
    from medai_pipeline.services import Services


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """One study of the list. `place`: 1 is read next; `reads_by`: when its reading was promised to begin; both None once read.

    `waited`: until now, or until it was read.
    """

    row: WorklistRow
    place: int | None
    waited: timedelta
    reads_by: datetime | None
    over_limit: bool

    @property
    def is_read(self) -> bool:
        return self.row.review is not None


def reading_list(services: Services, now: datetime, read: int | None = None) -> list[ListedStudy]:
    """Every open study in the order of reading, then those that have been read, the last one first.

    `read`: at most so many of these; None: all. The promise is `MEDAI_READING_LIMIT_HOURS` after the study began to wait, the
    pace is `MEDAI_READING_MINUTES`.
    """
    limit = timedelta(hours=services.settings.reading_limit_hours)
    pace = timedelta(minutes=services.settings.reading_minutes)
    opened = in_order(services.worklist.unread(), limit, pace, now)
    return [*opened, *(_read(row) for row in services.worklist.read(read))]


def in_order(rows: list[WorklistRow], limit: timedelta, pace: timedelta, now: datetime) -> list[ListedStudy]:
    """Open studies as they are to be read: by urgency, as long as everybody's promise can be kept."""
    by_key = {row.study_key: row for row in rows}
    queue = [_waiting(row, limit) for row in rows]
    order = reading_order(queue, beginnings(now.timestamp(), len(queue), pace.total_seconds()))
    return [_open(by_key[study.key], place, limit, now) for place, study in enumerate(order, 1)]


def _waiting(row: WorklistRow, limit: timedelta) -> Waiting:
    since = row.waiting_since.timestamp()
    return Waiting(row.study_key, row.priority.rank, since, since + limit.total_seconds())


def _open(row: WorklistRow, place: int, limit: timedelta, now: datetime) -> ListedStudy:
    reads_by = row.waiting_since + limit
    return ListedStudy(row, place, max(now - row.waiting_since, timedelta()), reads_by, now > reads_by)


def _read(row: WorklistRow) -> ListedStudy:
    at = row.review.at if row.review else row.waiting_since
    return ListedStudy(row, None, max(at - row.waiting_since, timedelta()), None, False)
