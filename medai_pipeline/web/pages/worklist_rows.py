"""The rows of the worklist page: what waits in the order of reading, what is still on its way, what has failed, what is read.

The order is `reading_list`'s; here rows are only described, counted and chosen. One snapshot serves all who look within a
moment: fifty pages that ask every few seconds cost the database one question.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from medai_pipeline.reading_list import ListedStudy, reading_list
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.storage.history import DeliveryTrouble
from medai_pipeline.storage.rows import ProgressRow

READ_SHOWN = 200  # decided studies that the page can show
REASONS_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page. `kind`: open, read, pipeline or failed. `since`: when it began to wait, or to be what it is.

    `marks`: (look, words). `version` changes when anything but the waiting time does.
    """

    study_key: str
    kind: str
    since: datetime
    priority: str = ""
    modality: str = ""
    body_part: str = ""
    findings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    more_reasons: int = 0
    marks: tuple[tuple[str, str], ...] = ()
    state: str = ""
    reads_by: datetime | None = None
    over_limit: bool = False
    retry: bool = False
    undelivered: bool = False

    @property
    def version(self) -> str:
        told = (
            self.kind, self.since, self.priority, self.modality, self.body_part, self.findings, self.reasons,
            self.more_reasons, self.marks, self.state, self.over_limit, self.retry,
        )  # fmt: skip
        return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to see; "" for everything. `show`: open, critical, late, pipeline, failed, undelivered, read, all."""

    show: str = "open"
    priority: str = ""
    modality: str = ""
    finding: str = ""
    q: str = ""

    def takes(self, row: Row) -> bool:
        return (
            SHOWN[self.show](row)
            and self.priority in ("", row.priority)
            and self.modality in ("", row.modality)
            and (not self.finding or self.finding in row.findings)
            and self.q.strip().upper() in row.study_key
        )


# which rows each choice of "show" takes, and how it is called
SHOWN: dict[str, Callable[[Row], bool]] = {
    "open": lambda row: row.kind != "read",
    "unread": lambda row: row.kind == "open",
    "critical": lambda row: row.kind == "open" and row.priority == "critical",
    "late": lambda row: row.over_limit,
    "pipeline": lambda row: row.kind == "pipeline",
    "failed": lambda row: row.kind == "failed",
    "undelivered": lambda row: row.undelivered,
    "read": lambda row: row.kind == "read",
    "all": lambda row: True,
}
NAMES = {
    "open": "All open", "unread": "To read", "critical": "Critical", "late": "Over the limit", "pipeline": "In the pipeline",
    "failed": "Failed", "undelivered": "Not delivered", "read": "Read", "all": "All",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows at one moment, in the order of the page."""

    rows: tuple[Row, ...]
    at: float  # monotonic seconds

    def counts(self) -> dict[str, int]:
        return {name: sum(map(takes, self.rows)) for name, takes in SHOWN.items()}

    def chosen(self, wanted: Wanted) -> list[Row]:
        return [row for row in self.rows if wanted.takes(row)]

    def values(self, attribute: str) -> list[str]:
        """What there is to filter by."""
        found: set[str] = set()
        for row in self.rows:
            value = getattr(row, attribute)
            found.update(value if isinstance(value, tuple) else [value])
        return sorted(found - {""})

    def next_after(self, study_key: str) -> str:
        """The study to read after this one: the first open one that it is not. "" for none."""
        return next((row.study_key for row in self.rows if row.kind == "open" and row.study_key != study_key), "")


class Snapshots:
    """Makes a snapshot when the last one is too old; who comes meanwhile waits for it instead of making another.

    Where making one takes long, it serves as long again and half: a machine that is busy is not kept busy by who looks on.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._took_s = 0.0

    def get(self, max_age_s: float) -> Snapshot:
        """One that was begun at most so long ago, or as described above; 0: what holds now."""
        asked = time.monotonic()
        with self._lock:
            patience_s = max_age_s and max(max_age_s, 2.5 * self._took_s)
            if self._last is None or asked - self._last.at > patience_s:
                begun = time.monotonic()
                self._last = Snapshot(tuple(rows(self._services)), begun)
                self._took_s = time.monotonic() - begun
            return self._last


def rows(services: Services) -> list[Row]:
    """Failed studies first: a person must act. Then what waits in its order, what is on its way, and what was read."""
    now = services.now()
    listed = reading_list(services, now, READ_SHOWN)
    trouble = _by_study(services.history.undelivered())
    reported = {study.row.study_key for study in listed}
    progress = [_progress(row, row.study_key in reported) for row in services.worklist.in_progress()]
    opened = [_listed(study, trouble) for study in listed if not study.is_read]
    done = [_listed(study, trouble) for study in listed if study.is_read]
    failed = [row for row in progress if row.kind == "failed"]
    return [*failed, *opened, *(row for row in progress if row.kind != "failed"), *done]


def _by_study(troubles: Iterable[DeliveryTrouble]) -> dict[str, list[DeliveryTrouble]]:
    found: dict[str, list[DeliveryTrouble]] = {}
    for trouble in troubles:
        found.setdefault(trouble.study_key, []).append(trouble)
    return found


def _listed(study: ListedStudy, trouble: dict[str, list[DeliveryTrouble]]) -> Row:
    row = study.row
    undelivered = trouble.get(row.study_key, [])
    marks = [("warn", "review required")] * row.review_required
    marks += [("", f"priority by {row.prioritized_by.removeprefix('user:')}")] * bool(row.prioritized_by)
    marks += [("demo", "demo model")] * row.demo
    marks += [("bad", f"not delivered to {one.destination}: {one.reason}"[:160]) for one in undelivered]
    marks += [("", "no model")] * (not row.models)
    review = row.review
    return Row(
        study_key=row.study_key,
        kind="read" if study.is_read else "open",
        since=row.waiting_since if review is None else review.at,
        priority=row.priority.value,
        modality=row.modality,
        body_part=row.body_part,
        findings=row.findings,
        reasons=row.reasons[:REASONS_SHOWN],
        more_reasons=max(0, len(row.reasons) - REASONS_SHOWN),
        marks=tuple(marks),
        state="to read" if review is None else f"{review.decision} by {review.reviewer.removeprefix('user:')}",
        reads_by=study.reads_by,
        over_limit=study.over_limit,
        undelivered=bool(undelivered),
    )


_WORDS = {
    StudyState.RECEIVING: "images arrive", StudyState.READY: "waits for a run", StudyState.QUEUED: "queued",
    StudyState.RUNNING: "at work", StudyState.FAILED: "failed", StudyState.VANISHED: "gone from the PACS",
    StudyState.FORGOTTEN: "forgotten",
}  # fmt: skip


def _progress(row: ProgressRow, reported: bool) -> Row:
    failed, forgotten = row.state is StudyState.FAILED, row.state is StudyState.FORGOTTEN
    earlier = [("", "an earlier report stands")] * reported
    stage = f" at {row.stage}" if row.stage else ""
    again = f", attempt {row.attempts}" if row.attempts > 1 else ""
    return Row(
        study_key=row.study_key,
        kind="failed" if failed else "read" if forgotten else "pipeline",
        since=row.since,
        reasons=(row.reason,) if row.reason else (),
        marks=() if forgotten else (("", f"{row.instance_count} images"), *earlier),
        state=f"{_WORDS[row.state]}{stage}{again}",
        retry=failed,
    )


def tag(rows: Sequence[Row], counts: dict[str, int]) -> str:
    """An ETag of what is shown."""
    told = repr([(row.study_key, row.version) for row in rows]) + repr(sorted(counts.items()))
    return f'"{hashlib.sha256(told.encode()).hexdigest()[:24]}"'


def spoken(waited: timedelta) -> str:
    """As the page's script says it, too: "12 min", "3 h 05 min", "4 days"."""
    minutes = max(0, int(waited.total_seconds() // 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
