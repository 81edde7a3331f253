"""Runs over a range of studies, also those that a person's backfill starts, report each partition themselves (docs/adr/0006)."""

from __future__ import annotations

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from medai_pipeline.orchestration.partitions import DEFER_EVENTS, RANGE_START


class StudyRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue. Without the tag it would say of a range that all of it was made, even where a study failed."""

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        if RANGE_START in run.tags and DEFER_EVENTS not in run.tags:
            self._instance.add_run_tags(run.run_id, {DEFER_EVENTS: "true"})
        return super().submit_run(context)
