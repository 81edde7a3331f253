"""The one place where everything is put together; workspace.yaml names `defs`.

Loading this imports no torch, timm, highdicom or Great Expectations, and opens no connection: a test holds it.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from medai_pipeline.logs import quiet_libraries
from medai_pipeline.orchestration.ageing import retention
from medai_pipeline.orchestration.assets import ASSETS
from medai_pipeline.orchestration.jobs import study_job
from medai_pipeline.orchestration.model_assets import MODEL_ASSETS, MODEL_JOBS
from medai_pipeline.orchestration.model_sensors import model_backfills, model_followers
from medai_pipeline.orchestration.requests import api_requests, request_job
from medai_pipeline.orchestration.resources import io_manager, session_resource
from medai_pipeline.orchestration.retention import kept_values
from medai_pipeline.orchestration.return_assets import pacs_results, return_job
from medai_pipeline.orchestration.return_sensors import pacs_returns
from medai_pipeline.orchestration.sensors import orthanc_studies
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings


def build_definitions(**overrides: Any) -> dg.Definitions:
    """Definitions from the environment; `overrides` are settings by attribute name (tests use them)."""
    services = Services(read_settings(**overrides))
    return dg.Definitions(
        assets=[*ASSETS, pacs_results, *MODEL_ASSETS],
        jobs=[study_job, request_job, return_job, *MODEL_JOBS],
        sensors=[
            orthanc_studies(services),
            api_requests(services),
            model_backfills(services),
            model_followers(services),
            kept_values(services),
            retention(services),
            pacs_returns(services),
        ],
        resources={"session": session_resource(services), "study_io": io_manager(services)},
        executor=dg.in_process_executor,
    )


quiet_libraries()
defs = build_definitions()
