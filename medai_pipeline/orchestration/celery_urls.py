"""Where the warm workers find their broker and leave results: no Celery is imported to know it."""


def celery_urls(dagster_database_url: str, broker_url: str | None) -> dict[str, str]:
    """Broker and result backend as environment for dagster.yaml and the workers: the given broker, else Postgres itself."""
    return {
        "MEDAI_CELERY_BROKER": broker_url or f"sqla+{dagster_database_url}",
        "MEDAI_CELERY_BACKEND": f"db+{dagster_database_url}",
    }
