"""Retention: what is older than its rule in MEDAI_RETENTION goes, a bounded piece at a time, each pass audited."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from medai_pipeline.errors import MedaiError
from medai_pipeline.orchestration.event_log import AT_ONCE, delete_old_events, old_events
from medai_pipeline.orchestration.forgetting import forget, sweep_late_files
from medai_pipeline.retention import KINDS, Kind, parse_retention

if TYPE_CHECKING:
    from medai_pipeline.services import Services

ACTOR = "system:retention"
EVERY = timedelta(hours=1)
STUDIES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Aged:
    """What a rule finds, or has deleted: studies, objects (events, log files) and their bytes on the disk."""

    kind: str
    days: float
    studies: int = 0
    objects: int = 0
    size: int = 0


def retention(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="retention",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Deletes what MEDAI_RETENTION says is too old, once an hour. `medai retention --dry-run` shows it first.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            if not services.marks.due("retention", EVERY, services.now()):
                return dg.SkipReason("looked at within the last hour")
            sweep_late_files(services)
            done = apply(services)
        except MedaiError as error:
            return dg.SkipReason(error.reason)
        return dg.SkipReason(
            "; ".join(f"{a.kind}: {a.studies} studies, {a.objects} deleted" for a in done) or "no rule"
        )

    return evaluate


def apply(services: Services, dry_run: bool = False, actor: str = ACTOR) -> list[Aged]:
    """Every rule once; with `dry_run` nothing is deleted and everything that would be, in the end, is counted."""
    rules = parse_retention(services.settings.retention)
    now = services.now()
    done = []
    for name, days in rules.items():
        aged, delete = _of(KINDS[name])(services, KINDS[name], now, days, dry_run)
        if not dry_run:
            _record(services, actor, aged)  # first: whatever is cut off, nothing goes without a record
            delete()
        done.append(aged)
    return done


def _record(services: Services, actor: str, aged: Aged) -> None:
    if aged.studies or aged.objects:
        detail = {"older_than_days": aged.days, "studies": aged.studies, "objects": aged.objects, "bytes": aged.size}
        services.audit.append(actor, "retention.delete", f"kind:{aged.kind}", detail)


# what a rule finds, and what deletes just that
Rule = Callable[["Services", Kind, datetime, float, bool], tuple[Aged, Callable[[], object]]]


def _of(kind: Kind) -> Rule:
    others = {"reports": _reports, "quarantine": _quarantine, "events": _events, "logs": _logs}
    return _objects if kind.objects else others[kind.name]


def _objects(
    services: Services, kind: Kind, now: datetime, days: float, dry_run: bool
) -> tuple[Aged, Callable[[], object]]:
    keys = _keys(services, kind, now, days, dry_run)

    def delete() -> None:
        for key in keys:
            services.objects.delete_study(key, kind.objects)
        services.ages.note(keys, kind.name, now)

    return _sized(services, kind, days, keys), delete


def _reports(
    services: Services, kind: Kind, now: datetime, days: float, dry_run: bool
) -> tuple[Aged, Callable[[], object]]:
    keys = _keys(services, kind, now, days, dry_run)

    def delete() -> None:
        if keys:
            services.spool.sort()
        for key in keys:
            forget(services, key, f"older than {days:g} days", ACTOR)

    return _sized(services, kind, days, keys), delete


def _sized(services: Services, kind: Kind, days: float, keys: list[str]) -> Aged:
    sizes = [services.objects.study_size(key, kind.objects) for key in keys]
    return Aged(kind.name, days, len(keys), sum(count for count, _ in sizes), sum(size for _, size in sizes))


def _quarantine(
    services: Services, kind: Kind, now: datetime, days: float, dry_run: bool
) -> tuple[Aged, Callable[[], object]]:
    old = services.spool.older((now - timedelta(days=days)).timestamp())

    def delete() -> None:
        for entry, _ in old:
            services.spool.forget(entry)

    return Aged(kind.name, days, objects=len(old), size=sum(size for _, size in old)), delete


def _events(
    services: Services, kind: Kind, now: datetime, days: float, dry_run: bool
) -> tuple[Aged, Callable[[], object]]:
    until = now - timedelta(days=days)
    count = old_events(services.engine, until, None if dry_run else AT_ONCE)
    return Aged(kind.name, days, objects=count), lambda: delete_old_events(services.engine, until)


def _logs(
    services: Services, kind: Kind, now: datetime, days: float, dry_run: bool
) -> tuple[Aged, Callable[[], object]]:
    """A service's log is put aside when half the time is over, and the one put aside goes when it is half that old:
    so no line grows older than the rule says."""
    half = (now - timedelta(days=days / 2)).timestamp()
    folder = services.settings.home_path / "logs"
    old = [path for path in folder.glob("*.log.1") if path.stat().st_mtime <= half]

    def delete() -> None:
        for path in old:
            path.unlink(missing_ok=True)
        for path in folder.glob("*.log"):
            _begin_anew(path)

    return Aged(kind.name, days, objects=len(old), size=sum(path.stat().st_size for path in old)), delete


def _begin_anew(path: Path) -> None:
    """The log aside, unless one lies there; its service appends, so it goes on at 0."""
    older = path.with_suffix(".log.1")
    if path.stat().st_size and not older.exists():
        older.touch(mode=0o600)
        shutil.copyfile(path, older)
        os.truncate(path, 0)


def _keys(services: Services, kind: Kind, now: datetime, days: float, dry_run: bool) -> list[str]:
    return services.ages.older(now - timedelta(days=days), kind.name, None if dry_run else STUDIES_AT_ONCE)
