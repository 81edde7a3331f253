"""The Celery app of the warm workers: `celery -A medai_pipeline.orchestration.worker worker -Q dagster`.

A worker process loads the definitions, torch and the models once, before its first run. What is lost when one dies is
found by the sensor (docs/adr/0003): the broker need not be lossless.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init
from dagster_celery.config import DEFAULT_CONFIG
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

QUEUE = "dagster"


def worker_app() -> Celery:
    made = make_app(
        {
            "broker": os.environ.get("MEDAI_CELERY_BROKER"),
            "backend": os.environ.get("MEDAI_CELERY_BACKEND"),
            "task_default_queue": QUEUE,
            "config_source": {
                **DEFAULT_CONFIG,
                "task_track_started": True,
                "worker_hijack_root_logger": False,
                "worker_redirect_stdouts": False,
                "broker_connection_retry_on_startup": True,
            },
        }
    )
    create_execute_job_task(made)
    create_resume_job_task(made)
    return made


@setup_logging.connect
def log(**_: Any) -> None:
    """In place of Celery's own handlers: the same lines as every other service."""
    from medai_pipeline.logs import configure
    from medai_pipeline.memory import no_core_files
    from medai_pipeline.settings import read_settings

    no_core_files()  # here: before the processes that do the work are forked

    settings = read_settings()
    configure(settings.log_level, settings.log_format)


@worker_process_init.connect
def warm(**_: Any) -> None:
    """What every run needs, imported before the first one waits for it: 10 s of CPU once instead of each time."""
    from importlib import import_module

    from medai_pipeline import stages
    from medai_pipeline.memory import keep_buffers
    from medai_pipeline.services import Services
    from medai_pipeline.settings import read_settings

    keep_buffers()
    import_module("medai_pipeline.definitions")
    stages.warm(Services(read_settings()).inference)


app = worker_app()
