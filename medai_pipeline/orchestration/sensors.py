"""The sensor `orthanc_studies`: notices studies, takes up what a dead run left, and requests runs for what is ready."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from medai_pipeline.arrivals import Cursor, notice
from medai_pipeline.errors import MedaiError
from medai_pipeline.orchestration.broker import purge
from medai_pipeline.orchestration.jobs import STUDY_JOB
from medai_pipeline.orchestration.partitions import BACKFILL, DEFER_EVENTS, RANGE_END, RANGE_START, STUDIES, contiguous
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.storage.marks import SENSOR

UNCLAIMED = timedelta(seconds=90)  # a started run claims its studies at its first step; importing takes seconds
UNSTARTED = timedelta(seconds=180)  # a launched run that never starts lost its worker or its message
UNREQUESTED = timedelta(seconds=30)  # a queued study that no live run covers lost its request

_ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_LIVE = [status for status in dg.DagsterRunStatus if status not in _ENDED]


def orthanc_studies(services: Services) -> dg.SensorDefinition:
    settings = services.settings

    @dg.sensor(
        name="orthanc_studies",
        job_name=STUDY_JOB,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches the PACS. Each study that is quiet becomes a partition; what is ready goes in one run.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = services.now()
        cursor = Cursor.from_text(context.cursor)
        try:
            noticed = notice(services.watch, cursor, now)
            services.marks.note(SENSOR, now)
            if noticed.swept:
                purge(services.engine, now)
            cursor, message = noticed.cursor, f"{noticed.changed} changed, {len(noticed.revisions)} complete"
        except MedaiError as error:
            context.log.error(error.reason)  # shown at the tick; ready studies are still requested below
            message = error.reason
        recover(services, context.instance, now)
        requests, new_keys = request_runs(services, context.instance, now)
        if not requests and not new_keys:
            context.update_cursor(cursor.to_text())
            return dg.SkipReason(message)
        return dg.SensorResult(
            run_requests=requests,
            dynamic_partitions_requests=[STUDIES.build_add_request(new_keys)] if new_keys else [],
            cursor=cursor.to_text(),
        )

    return evaluate


def request_runs(
    services: Services, instance: dg.DagsterInstance, now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """Runs for every study that is ready, as ranges of at most MEDAI_STUDIES_PER_RUN; and the keys new to Dagster.

    None while as many of our runs wait as there are workers: what is ready meanwhile goes together in the next one,
    instead of a small run for each look.
    """
    most = services.settings.studies_per_run
    rows = services.lifecycle.requestable(now, 4 * most)
    keys = [row.study_key for row in rows]
    if not keys or _waiting(instance) >= services.settings.workers:
        return [], []
    order = list(instance.get_dynamic_partitions("studies"))
    known = set(order)
    new_keys = [key for key in keys if key not in known]
    # A study that has brought down its run twice must not use up the attempts of its neighbours, too.
    alone = {row.study_key for row in rows if row.attempts >= 2}
    requests = [
        dg.RunRequest(
            tags={RANGE_START: group[0], RANGE_END: group[-1], DEFER_EVENTS: "true", "medai/studies": str(len(group))}
        )
        for group in contiguous(keys, order + new_keys, most, alone)
    ]
    services.lifecycle.mark_queued([(row.study_key, row.revision) for row in rows], now)
    return requests, new_keys


def _waiting(instance: dg.DagsterInstance) -> int:
    """Runs that the sensor requested and that stand in the queue: the daemon takes them out of it."""
    waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED], tags={DEFER_EVENTS: "true"})
    return sum(BACKFILL not in run.tags for run in instance.get_runs(waiting))  # new studies go before a backfill


def recover(services: Services, instance: dg.DagsterInstance, now: datetime) -> None:
    """Studies whose run is gone are ready again. Gone is: ended, deleted, its process dead, or never started."""
    rows = services.lifecycle.active()
    if not rows:
        return
    live = live_runs(services, instance, now)
    covered = _covered(instance, live)
    for row in rows:
        if row.state == StudyState.RUNNING and row.run_id not in live:
            _let_go(services, instance, row, now)
    lost = [
        (row.study_key, row.revision)
        for row in rows
        if row.state == StudyState.QUEUED
        and row.study_key not in covered
        and now - (row.run_requested_at or now) > UNREQUESTED
    ]
    services.lifecycle.unqueue(lost, now)


def _let_go(services: Services, instance: dg.DagsterInstance, row: Any, now: datetime) -> None:
    """A study of a run that is over: ready again, but for one that a person canceled, which waits for a person."""
    run = instance.get_run_by_id(row.run_id)
    backfill = run is not None and BACKFILL in run.tags
    if run is not None and row.report_id and (run.status == dg.DagsterRunStatus.SUCCESS or backfill):
        # A person materialized some stages of a reported study, without the report: nothing is left to do. Or a backfill
        # died over it, or was canceled: the report counts on, and the next backfill takes it up without the PACS.
        services.lifecycle.keep_report(row.study_key, row.revision, row.run_id, now)
    elif run is not None and run.status == dg.DagsterRunStatus.CANCELED:
        reason = "its run was canceled; materialize it again when it is wanted"
        services.lifecycle.fail(row.study_key, row.revision, row.run_id, row.stage, reason, False, now, 1, 0)
    else:
        most = services.settings.max_attempts
        services.lifecycle.release(row.run_id, "its run ended before the report", now, most)


def live_runs(
    services: Services, instance: dg.DagsterInstance, now: datetime, job_name: str | None = None
) -> dict[str, dg.DagsterRun]:
    """Runs (of one job) that are alive; one whose process is dead is told to Dagster as failed, and left out."""
    live = {}
    for record in instance.get_run_records(dg.RunsFilter(statuses=_LIVE, job_name=job_name)):
        run = record.dagster_run
        if _dead(services, record, now):
            instance.report_run_failed(run, "the process of this run is gone; its studies are taken up again")
        else:
            live[run.run_id] = run
    return live


def _dead(services: Services, record: Any, now: datetime) -> bool:
    run = record.dagster_run
    if run.status == dg.DagsterRunStatus.STARTING:
        return now - record.update_timestamp > UNSTARTED
    if run.status in {dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING}:
        started = (
            datetime.fromtimestamp(record.start_time, now.tzinfo) if record.start_time else record.update_timestamp
        )
        claimed = services.lifecycle.was_held(run.run_id) or services.deliveries.was_run(run.run_id)
        held = services.lifecycle.run_is_held(run.run_id)
        return not held and (claimed or now - started > UNCLAIMED)
    return False


def _covered(instance: dg.DagsterInstance, live: dict[str, dg.DagsterRun]) -> set[str]:
    """Study keys that some live run will work on."""
    order: Sequence[str] = instance.get_dynamic_partitions("studies") if live else []
    place = {key: n for n, key in enumerate(order)}
    covered: set[str] = set()
    for run in live.values():
        start, end = run.tags.get(RANGE_START), run.tags.get(RANGE_END)
        if start in place and end in place:
            covered.update(order[place[start] : place[end] + 1])
        elif "dagster/partition" in run.tags:
            covered.add(run.tags["dagster/partition"])
    return covered
