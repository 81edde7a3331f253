"""`pacs_results`: what is due of a study's results goes back to where the images came from. A job of its own (docs/adr/0009).

It touches no study's state: a delivery that fails is a failed check of its partition, and is tried again by the sensor.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from medai_pipeline import __version__, stages
from medai_pipeline.orchestration.io_managers import StudyValues
from medai_pipeline.orchestration.partitions import DEFER_EVENTS, STUDIES
from medai_pipeline.records import Identity
from medai_pipeline.services import Services
from medai_pipeline.stages import Edition
from medai_pipeline.storage.deliveries import Delivery

RETURN_JOB = "return_job"
DELIVERY_CHECK = "delivery"
NOTHING_DUE = "nothing of this study is to be returned: returning is off, or waits for a review, or it has no report"
BY_HAND = "user:dagster"  # Dagster does not know who clicked


@dg.asset(
    partitions_def=STUDIES,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=16),
    required_resource_keys={"session"},
    code_version=__version__,
    group_name="study",
    io_manager_key="study_io",
    description="The results as DICOM objects in the original study: MEDAI_RETURN says when, MEDAI_RETURN_TO where to.",
    check_specs=[
        dg.AssetCheckSpec(
            DELIVERY_CHECK,
            asset="pacs_results",
            description="Every destination has taken the results.",
            partitions_def=STUDIES,
        )
    ],
)
def pacs_results(
    context: dg.AssetExecutionContext,
    triage_reports: StudyValues,
    gradcam_maps: StudyValues,
    predictions: StudyValues,
    normalized_tensors: StudyValues,
    anonymized_instances: StudyValues,
) -> Iterator[Any]:
    session = context.resources.session
    services: Services = session.services
    services.hold(session.run_id)
    deferred = context.run.tags.get(DEFER_EVENTS) == "true"
    desk = services.desk
    told: dict[str, list[Delivery]] = {}
    for key in context.partition_keys:
        if not deferred:  # a person asked for it: no waiting, and what has failed once more
            desk.want([key])
            services.deliveries.retry(BY_HAND, services.now(), [key])

        def made(edition: Edition, identity: Identity, key: str = key) -> Sequence[Any]:
            report, study, tensors = triage_reports[key], anonymized_instances[key], normalized_tensors.get(key)
            prediction, maps, objects = predictions[key], gradcam_maps[key], services.objects
            return stages.results_of(report, study, tensors, prediction, maps, objects, identity, edition)

        told[key] = desk.deliver(key, made, session.run_id)
        context.log.info(f"{key}: {said(told[key]) or NOTHING_DUE}")
    if deferred:
        for key, rows in told.items():
            _report(context, key, rows)
    yield from _finish(services, told, deferred)


def said(rows: Sequence[Delivery]) -> str:
    """What became of a study's deliveries, in one line."""
    return "; ".join(f"{row.destination}: {row.state}{f' ({row.reason})' if row.reason else ''}" for row in rows)


def _finish(services: Services, told: dict[str, list[Delivery]], deferred: bool) -> Iterator[Any]:
    bad = {key: said(rows) for key, rows in told.items() if any(row.troubled for row in rows)}
    if bad and not deferred:
        yield _result(told, bad)
        raise dg.Failure(description="; ".join(bad.values()), allow_retries=False)
    rows = next(iter(told.values()), [])
    metadata = {} if deferred else described(rows)
    version = None if deferred or not rows else dg.DataVersion(data_version(rows))
    yield dg.Output(StudyValues(services, "pacs_results", []), metadata=metadata, data_version=version)
    yield _result(told, bad)


def _result(told: dict[str, list[Delivery]], bad: dict[str, str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=DELIVERY_CHECK,
        passed=not bad,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"studies": len(told), "not delivered": len(bad), "why": "\n".join(bad.values())},
    )


def _report(context: dg.AssetExecutionContext, key: str, rows: list[Delivery]) -> None:
    """One partition's materialization where all lies there, and its check in any case."""
    bad = [row for row in rows if row.troubled]
    if rows and not bad:
        tags = {"dagster/data_version": data_version(rows), "dagster/data_version_is_user_provided": "true"}
        context.log_event(
            dg.AssetMaterialization(context.asset_key, partition=key, metadata=described(rows), tags=tags)
        )
    evaluation = dg.AssetCheckEvaluation(
        asset_key=context.asset_key,
        check_name=DELIVERY_CHECK,
        passed=not bad,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"deliveries": table(rows)},
        partition=key,
    )
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
        job_name=context.job_name,
        step_key="pacs_results",
        event_specific_data=evaluation,
    )
    context.instance.report_dagster_event(event, context.run_id)


def described(rows: Sequence[Delivery]) -> dict[str, Any]:
    """Counts and states; UIDs of the PACS stay out of Dagster."""
    if not rows:
        return {"deliveries": NOTHING_DUE}
    kinds = Counter(one["kind"] for one in rows[0].objects)
    return {
        "edition": rows[0].edition,
        "revision": rows[0].revision,
        "objects": dict(kinds),
        "withdrawn": rows[0].withdrawal,
        "review": rows[0].decision or "none",
        "deliveries": table(rows),
    }


def table(rows: Sequence[Delivery]) -> Any:
    records = [
        dg.TableRecord(
            {
                "destination": row.destination,
                "state": row.state,
                "attempts": row.attempts,
                "reason": row.reason,
                "edition": row.edition,
            }
        )
        for row in rows
    ]
    return dg.MetadataValue.table(records) if records else dg.MetadataValue.text("none")


def data_version(rows: Sequence[Delivery]) -> str:
    return f"{rows[0].report_id}:{rows[0].edition}"


return_job = dg.define_asset_job(
    RETURN_JOB,
    selection=dg.AssetSelection.assets(pacs_results),
    executor_def=dg.in_process_executor,
    tags={"dagster/priority": "-3"},  # behind new studies, before shadows and backfills
    description="Results of studies that are reported, back to the PACS.",
)
