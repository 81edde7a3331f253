"""`medai status`: how the pipeline is doing, in a few lines, for sites without Prometheus; exit code 1 asks for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medai_pipeline.storage.observed import Observed, observe

if TYPE_CHECKING:
    from medai_pipeline.services import Services


def look(services: Services) -> Observed:
    return observe(services.engine, services.now(), services.settings.overdue_seconds)


def as_json(seen: Observed) -> dict[str, Any]:
    return {
        "studies": {state.value: count for state, count in seen.studies.items()},
        "failed_by_stage": dict(seen.failed),
        "deliveries": dict(seen.deliveries),
        "queue_age_seconds": round(seen.queue_age_s, 1),
        "oldest_without_report_seconds": round(seen.unreported_age_s, 1),
        "overdue": seen.overdue,
        "sensor_lag_seconds": seen.sensor_age_s,
        "daemon_heartbeat_age_seconds": seen.daemon_age_s,
        "warnings": seen.warnings(),
    }


def as_lines(seen: Observed) -> list[str]:
    counts = ", ".join(f"{count} {state.value}" for state, count in seen.studies.items() if count) or "none yet"
    return [
        f"studies       {counts}",
        f"waiting       the longest {seen.queue_age_s:.0f} s; without a report {seen.unreported_age_s:.0f} s",
        f"sensor        looked at the PACS {_ago(seen.sensor_age_s)}",
        f"daemon        lived {_ago(seen.daemon_age_s)}",
    ]


def _ago(age_s: float | None) -> str:
    return "never" if age_s is None else f"{age_s:.0f} s ago"
