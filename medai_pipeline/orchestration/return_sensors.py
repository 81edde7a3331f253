"""The sensor `pacs_returns`: enters which results should lie in the PACS, and requests runs for what is due."""

from __future__ import annotations

import dagster as dg

from medai_pipeline.errors import MedaiError
from medai_pipeline.orchestration.partitions import DEFER_EVENTS, RANGE_END, RANGE_START, contiguous
from medai_pipeline.orchestration.return_assets import RETURN_JOB
from medai_pipeline.orchestration.sensors import live_runs
from medai_pipeline.returning import OFF
from medai_pipeline.services import Services

STUDIES_AT_ONCE = 64
STUDIES_PER_RUN = 16  # a slow destination keeps a worker no longer than this from new studies
SECONDS = 5


def pacs_returns(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="pacs_returns",
        job_name=RETURN_JOB,
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Returns results by MEDAI_RETURN: at once, or after a person has accepted or edited them. Tries again.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if services.settings.return_when == OFF:
            return dg.SkipReason("returning results is off: MEDAI_RETURN switches it on")
        try:
            requests = request_returns(services, context.instance)
        except MedaiError as error:
            return dg.SkipReason(error.reason)
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason("nothing is due")

    return evaluate


def request_returns(services: Services, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """Runs over what is due, none while one is alive: it may be at work on the same studies."""
    desk = services.desk
    desk.want()
    keys = desk.due(STUDIES_AT_ONCE)
    if not keys or live_runs(services, instance, services.now(), RETURN_JOB):
        return []
    order = list(instance.get_dynamic_partitions("studies"))
    return [
        dg.RunRequest(tags={RANGE_START: group[0], RANGE_END: group[-1], DEFER_EVENTS: "true"})
        for group in contiguous(keys, order, STUDIES_PER_RUN)
    ]
