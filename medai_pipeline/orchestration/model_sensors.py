"""The sensors over the registry: a promoted version's backfill, until no study is left; what shadows say; comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from medai_pipeline.errors import MedaiError
from medai_pipeline.models.catalog import Kind, ModelSet
from medai_pipeline.orchestration.model_assets import COMPARISON_JOB, MODEL_JOBS, PAIRS, SHADOW_JOB, pair
from medai_pipeline.orchestration.model_choice import observe
from medai_pipeline.orchestration.partitions import BACKFILL, DEFER_EVENTS, RANGE_END, RANGE_START, contiguous
from medai_pipeline.registering import affected, needs_other_tensors, pairs_of
from medai_pipeline.services import Services
from medai_pipeline.storage.changes import ReadStudy
from medai_pipeline.storage.rows import ModelRow

BEHIND = {"dagster/priority": "-10"}  # new studies have 0
_FROM_PREDICTION = ("predictions", "gradcam_maps", "triage_reports")
_SINCE = "medai/asked_at"  # which asking a backfill answers
_CLOCKS = timedelta(minutes=1)  # by which those of two machines may differ
_OPEN = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
SHADOWS_AT_ONCE = 64
MARKED_AT_ONCE = 10_000  # studies of a promoted version that Dagster is told of at a time
STUDIES_AT_ONCE = 2000  # of one backfill: Dagster evaluates a backfill whole each time; the next one takes those left


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a version's backfill was asked for without fewer studies being left, and when last; whether Dagster knows of
    all its studies that they are stale."""

    left: int = 0
    tries: int = 0
    at: float = 0.0
    marked: bool = False

    def next(self, left: int, now: datetime) -> Effort:
        tries = self.tries + 1 if left >= self.left > 0 else 1
        return replace(self, left=left, tries=tries, at=now.timestamp())


def model_backfills(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="model_backfills",
        asset_selection=dg.AssetSelection.groups("study"),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="After a promotion: marks the studies that another version has read, and starts their backfill.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        efforts = {key: Effort(**values) for key, values in json.loads(context.cursor or "{}").items()}
        try:
            requests, efforts, words = request_backfills(services, context, efforts)
        except MedaiError as error:
            return dg.SkipReason(error.reason)
        cursor = json.dumps({key: asdict(effort) for key, effort in efforts.items()})
        if not requests:
            context.update_cursor(cursor)
            return dg.SkipReason("; ".join(words) or "every study was read by the version that is active for it")
        return dg.SensorResult(run_requests=requests, cursor=cursor)

    return evaluate


def request_backfills(
    services: Services, context: dg.SensorEvaluationContext, efforts: dict[str, Effort]
) -> tuple[list[dg.RunRequest], dict[str, Effort], list[str]]:
    """A backfill for each version whose promotion left older studies, unless one is under way or failed too often."""
    rows = services.registry.versions()
    wanting = [(row, row.backfill_since) for row in rows if row.state == "active" and row.backfill_since]
    if not wanting:
        return [], {}, []
    instance, settings, now = context.instance, services.settings, services.now()
    requests, words = [], []
    kept = {name: efforts.get(name, Effort()) for name in (_name(row, since) for row, since in wanting)}
    busy = [row for row, since in wanting if kept[_name(row, since)].marked and _backfills(instance, row.label, _OPEN)]
    if len(busy) == len(wanting):  # all studies are not read every few seconds for as long as a backfill takes
        return [], kept, [f"{row.label}: its backfill is under way" for row in busy]
    models, read = services.models, services.changes.read_studies()
    known = set(instance.get_dynamic_partitions("studies"))
    for row, since in wanting:
        name = _name(row, since)
        effort = kept[name]
        keys = [key for key in affected(read, models, row.label, since) if key in known]
        if not keys:
            words.append(f"{row.label}: {_end(services, row, since, known)}")
            continue
        if _backfills(instance, row.label, [BulkActionStatus.CANCELED], since):
            services.registry.backfill_done(row.name, row.version, since, stopped=True)
            words.append(f"{row.label}: its backfill was canceled; `medai backfill --model {row.label}` starts another")
            continue
        keys.reverse()  # those reported last are looked at soonest
        if not effort.marked:
            marked = observe(instance, keys, version_of(row), MARKED_AT_ONCE)
            kept[name] = effort = replace(effort, marked=marked)
        if _backfills(instance, row.label, _OPEN):
            words.append(f"{row.label}: {len(keys)} studies are left")
            continue
        pause = settings.retry_seconds * 2 ** (effort.tries - 1) if effort.tries else 0
        if effort.tries >= settings.max_attempts:
            words.append(f"{row.label}: {len(keys)} studies cannot be computed again; see the failed runs, then run "
                         f"`medai backfill --model {row.label}`")  # fmt: skip
            continue
        if now.timestamp() - effort.at < pause:
            words.append(f"{row.label}: tried again soon")
            continue
        first, anew = _first(models, read, keys)
        anew |= effort.tries > 0 and len(keys) > effort.left - STUDIES_AT_ONCE  # a run that died may have left others
        observe(instance, first, version_of(row), len(first))  # also what was reported since all were marked
        kept[name] = effort.next(len(keys), now)
        tags = {**BEHIND, BACKFILL: row.label, _SINCE: since.isoformat(), DEFER_EVENTS: "true",
                "medai/studies": str(len(first))}  # fmt: skip
        subset = _subset(context, first, anew)
        requests.append(dg.RunRequest.for_asset_graph_subset(subset, tags))
    return requests, kept, words


def _name(row: ModelRow, since: datetime) -> str:
    """Under which name the sensor's cursor knows an asking."""
    return f"{row.label} {since.isoformat()}"


def version_of(row: ModelRow) -> str:
    """The data version that `predictions` of this version carry."""
    return f"{row.label}:{row.weights_sha256[:16]}"


def _end(services: Services, row: ModelRow, since: datetime, known: set[str]) -> str:
    """Whether really nothing is left: what was at work when the studies were read may have been reported by the version before."""
    if services.changes.undecided_since(since + _CLOCKS):
        return "the last studies are at work"
    if known & set(affected(services.changes.read_studies(), services.models, row.label, since)):
        return "looked at again soon"
    services.registry.backfill_done(row.name, row.version, since)
    return "no study is left"


def _backfills(
    instance: dg.DagsterInstance, label: str, statuses: list[BulkActionStatus], since: datetime | None = None
) -> bool:
    """Whether Dagster has backfills of a version in one of these states (which were asked for at `since`).

    Their tags are looked at here: without an index that not every storage has, Dagster looks for them on runs, and a
    backfill that has no run yet would not be found.
    """
    wanted = {BACKFILL: label} | ({_SINCE: since.isoformat()} if since else {})
    found = instance.get_backfills(filters=BulkActionsFilter(statuses=statuses, created_after=since))
    return any(wanted.items() <= backfill.tags.items() for backfill in found)


def _first(models: ModelSet, read: Sequence[ReadStudy], keys: Sequence[str]) -> tuple[list[str], bool]:
    """Which studies the next backfill takes, those that keep their tensors first, and whether it makes the tensors anew:
    where the version before took other images, or took them otherwise."""
    others = {study.study_key for study in read if needs_other_tensors(study, models)}
    same = [key for key in keys if key not in others]
    return (same or list(keys))[:STUDIES_AT_ONCE], not same


def _subset(context: dg.SensorEvaluationContext, keys: Sequence[str], anew: bool) -> AssetGraphSubset:
    """The assets from the prediction on; from the tensors on where these are made `anew`."""
    assets = ("normalized_tensors", *_FROM_PREDICTION) if anew else _FROM_PREDICTION
    partitions = {AssetKeyPartitionKey(dg.AssetKey(asset), key) for asset in assets for key in keys}
    assert context.repository_def
    return AssetGraphSubset.from_asset_partition_set(partitions, context.repository_def.asset_graph)


def model_followers(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="model_followers",
        jobs=MODEL_JOBS,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks shadow versions about new studies, and compares versions that have read the same ones.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        asked = {question: Asked(**values) for question, values in json.loads(context.cursor or "{}").items()}
        try:
            shadows, asked, words = request_shadows(services, context.instance, asked)
            pairs = request_comparisons(services, context.instance)
        except MedaiError as error:
            return dg.SkipReason(error.reason)
        cursor = json.dumps({question: asdict(times) for question, times in asked.items()})
        if not shadows and not pairs:
            context.update_cursor(cursor)
            return dg.SkipReason(words or "no shadow version waits for a study, and every comparison is up to date")
        new = [request.partition_key for request in pairs if request.partition_key]
        return dg.SensorResult(
            run_requests=[*shadows, *pairs],
            dynamic_partitions_requests=[PAIRS.build_add_request(new)] if new else [],
            cursor=cursor,
        )

    return evaluate


@dataclass(frozen=True, slots=True)
class Asked:
    """How often a shadow was asked about a study that it has not answered, and when last (seconds since 1970)."""

    tries: int = 0
    at: float = 0.0


def request_shadows(
    services: Services, instance: dg.DagsterInstance, asked: dict[str, Asked]
) -> tuple[list[dg.RunRequest], dict[str, Asked], str]:
    """Runs over the studies reported since a version became a shadow about which it has said nothing yet.

    One that it cannot answer is asked again with growing pauses, MEDAI_MAX_ATTEMPTS times. `asked` knows the unanswered
    ones, "name@version study"; returns them as they are then, and what to say of those given up.
    """
    open_ones = _unanswered(services)
    if not open_ones or _live(instance, SHADOW_JOB):
        return [], {question: times for question, times in asked.items() if question in open_ones}, ""
    settings, now = services.settings, services.now().timestamp()
    known = {question: asked.get(question, Asked()) for question in open_ones}
    given_up = [question for question, times in known.items() if times.tries >= settings.max_attempts]
    due = [
        question
        for question, times in known.items()
        if question not in given_up and now - times.at >= settings.retry_seconds * (2**times.tries - 1)
    ]
    keys = list(dict.fromkeys(open_ones[question] for question in due))[:SHADOWS_AT_ONCE]
    known |= {question: Asked(known[question].tries + 1, now) for question in due if open_ones[question] in keys}
    order = list(instance.get_dynamic_partitions("studies"))
    requests = [
        dg.RunRequest(
            run_key=f"shadow {group[0]} {group[-1]} {now:.0f}",
            job_name=SHADOW_JOB,
            tags={**BEHIND, RANGE_START: group[0], RANGE_END: group[-1], DEFER_EVENTS: "true"},
        )
        for group in contiguous(keys, order, 16)
    ]
    words = f"{len(given_up)} answers of shadow versions are given up: see the runs of {SHADOW_JOB}" if given_up else ""
    return requests, {question: times for question, times in known.items() if times.tries}, words


def _unanswered(services: Services) -> dict[str, str]:
    """ "name@version study" -> study, of every answer that a shadow owes."""
    rows = [(row, row.promoted_at) for row in services.registry.versions() if row.state == "shadow" and row.promoted_at]
    if not rows:
        return {}
    found: dict[str, str] = {}
    for row, since in rows:
        entry = services.models.entry(row.label)
        for key, kinds in services.changes.unasked(row.name, row.version, since):
            if entry in services.models.beside([Kind(*kind) for kind in kinds]):
                found[f"{row.label} {key}"] = key
    return found


def request_comparisons(services: Services, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """A comparison for each pair of versions that has grown by a step since it was requested last, or whose run failed."""
    requests = []
    for old, new in pairs_of(services.registry.versions()):
        count, partition = services.changes.in_common(old, new), pair(old, new)
        if count:  # Dagster makes a run of one key once
            key = f"{partition} {reached(count)} {_failed(instance, partition, services.settings.max_attempts)}"
            requests.append(dg.RunRequest(run_key=key, job_name=COMPARISON_JOB, partition_key=partition))
    return requests


def _failed(instance: dg.DagsterInstance, partition: str, most: int) -> int:
    """How many runs of a comparison have failed, as far as that is a reason for a further one."""
    failed = [dg.DagsterRunStatus.FAILURE]
    runs = dg.RunsFilter(job_name=COMPARISON_JOB, statuses=failed, tags={"dagster/partition": partition})
    return min(instance.get_runs_count(runs), most)


def reached(count: int) -> int:
    """The last step that a growing number of studies has passed: each up to 10, then 15, 20, ... 100, 150, 200, ..."""
    step = max(1, 10 ** (len(str(count)) - 1) // 2)
    return count - count % step


def _live(instance: dg.DagsterInstance, job: str) -> bool:
    ended = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    statuses = [status for status in dg.DagsterRunStatus if status not in ended]
    return instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=statuses)) > 0
