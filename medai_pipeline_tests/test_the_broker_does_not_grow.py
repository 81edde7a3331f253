"""Messages that were delivered and results that are over leave Postgres; what is still wanted stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from celery import Celery

from medai_pipeline.orchestration.broker import purge
from medai_pipeline.orchestration.celery_urls import celery_urls
from medai_pipeline.storage.database import dagster_url, engine_for


def test_a_database_without_a_broker_is_left_alone(database_url: str) -> None:
    assert purge(engine_for(database_url), datetime.now(UTC)) == 0


def test_only_what_is_over_and_old_goes(database_url: str) -> None:
    engine = engine_for(database_url)
    urls = celery_urls(dagster_url(database_url), None)
    app = Celery(broker=urls["MEDAI_CELERY_BROKER"], backend=urls["MEDAI_CELERY_BACKEND"])
    for number in range(3):  # two are delivered, one still waits for its worker
        app.send_task("a.task", task_id=f"task-{number}", queue="dagster")
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("dagster")
        for _ in range(2):
            queue.get(timeout=10).ack()
        queue.close()
    app.backend.store_result("task-0", None, "SUCCESS")
    app.backend.store_result("task-1", None, "STARTED")
    app.close()

    assert purge(engine, datetime.now(UTC)) == 0, "young rows stay"
    assert purge(engine, datetime.now(UTC) + timedelta(days=3)) == 3, "two messages and one result"
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM kombu_message WHERE visible")) == 1
        assert connection.scalars(sa.text("SELECT task_id FROM celery_taskmeta")).all() == ["task-1"]
