"""Resources: the session of a run, which shows by a lock in Postgres that the run is alive, until it ends."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from medai_pipeline.orchestration.io_managers import StudyIOManager
from medai_pipeline.orchestration.study_loop import RunSession
from medai_pipeline.services import Services


def session_resource(services: Services) -> dg.ResourceDefinition:
    """`context.resources.session` for the steps of one run."""

    def opened(context: dg.InitResourceContext) -> Iterator[RunSession]:
        run_id = context.run.run_id if context.run else ""
        try:
            yield RunSession(services, run_id)
        finally:
            services.let_go(run_id)

    return dg.ResourceDefinition(resource_fn=opened)


def io_manager(services: Services) -> dg.IOManagerDefinition:
    return dg.IOManagerDefinition.hardcoded_io_manager(StudyIOManager(services))
