"""The sensor `kept_values`: once a day what no promotion that is near would put back goes."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg

from medai_pipeline.errors import MedaiError
from medai_pipeline.keeping import purge_kept
from medai_pipeline.services import Services

EVERY = timedelta(days=1)


def kept_values(services: Services) -> dg.SensorDefinition:
    @dg.sensor(
        name="kept_values",
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Deletes kept values of replaced model versions after MEDAI_KEPT_DAYS. Their results stay.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        now = services.now()
        if context.cursor and now - datetime.fromisoformat(context.cursor) < EVERY:
            return dg.SkipReason(f"looked at {context.cursor[:16]}; once a day is enough")
        try:
            words, done = purge(services, now)
        except MedaiError as error:
            return dg.SkipReason(error.reason)
        if done:
            context.update_cursor(now.isoformat())
        context.log.info(words)
        return dg.SkipReason(words)

    return evaluate


def purge(services: Services, now: datetime) -> tuple[str, bool]:
    """What was deleted, in words, and whether that was all."""
    days = services.settings.kept_days
    gone = purge_kept(
        services.objects, services.audit, services.registry.versions(), services.changes.revisions(), now, days
    )
    return f"{gone.values} kept values older than {days:g} days deleted ({gone.size / 1e6:.1f} MB)", not gone.left
