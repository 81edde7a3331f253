"""/metrics, the alert rules, the dashboard and `medai status` say the same of a database, and name nobody."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from medai_pipeline.cli import main
from medai_pipeline.errors import MedaiError
from medai_pipeline.records import ModelRef, Priority, StudyState
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.forgetting import Forgetting
from medai_pipeline.storage.marks import SENSOR
from medai_pipeline.web.app import create_app
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.conftest import ROOT
from medai_pipeline_tests.web import caller

KEY, LATE, FAILED = "A" * 26, "B" * 26, "C" * 26
MODEL = ModelRef("demo-chest-xray", "1", "0" * 64)


def arrive(services: Services, key: str, ago_s: float) -> None:
    at = services.now() - timedelta(seconds=ago_s)
    services.lifecycle.touch(key, f"f-{key}", 2, at)
    assert services.lifecycle.settle(key, f"f-{key}", f"d-{key}", 2, at) == 1
    services.secrets.of(key)


def report(services: Services, key: str, run: str = "run-1") -> None:
    now = services.now()
    assert services.lifecycle.claim(key, run, now)
    services.results.save_inference(key, 1, {"findings": []}, MODEL, f"i-{run}", run, now, seconds=0.3)
    content = {"findings": [], "models": [], "reasons": [], "quality": {"checks": []}}
    assert services.results.save_report(
        key, 1, run, f"r-{run}", content, Priority.ROUTINE, False, f"reports/{key}", now
    )


@pytest.fixture
def seen(services: Services) -> Services:
    arrive(services, KEY, 100)
    report(services, KEY)
    arrive(services, LATE, 7200)
    arrive(services, FAILED, 50)
    assert services.lifecycle.claim(FAILED, "run-2", services.now())
    services.lifecycle.advance(FAILED, 1, "run-2", "predictions", services.now())
    services.lifecycle.fail(FAILED, 1, "run-2", "predictions", "no model", False, services.now(), 5, 1)
    services.marks.note(SENSOR, services.now() - timedelta(seconds=7))
    return services


def scrape(client: TestClient) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found


def here(app: FastAPI, **headers: str) -> TestClient:
    return TestClient(app, client=("127.0.0.1", 50000), headers=headers, raise_server_exceptions=False)


def test_every_number_is_that_of_the_database(app: FastAPI, seen: Services) -> None:
    found = scrape(here(app))
    assert found["medai_up",] == 1
    for state, count in {"reported": 1, "ready": 1, "failed": 1, "running": 0, "forgotten": 0}.items():
        assert found["medai_studies", f"state={state}"] == count
    assert {
        StudyState(k[1][6:]): v for k, v in found.items() if k[0] == "medai_studies"
    } == seen.worklist.counts_by_state()
    assert found["medai_studies_failed", "stage=predictions"] == 1
    assert found["medai_failures_total", "stage=predictions"] == 1
    assert found["medai_studies_overdue",] == 1
    assert 7200 <= found["medai_queue_age_seconds",] < 7260
    assert 7200 <= found["medai_unreported_age_seconds",] < 7260
    assert 7 <= found["medai_sensor_lag_seconds",] < 60
    assert found["medai_daemon_heartbeat_age_seconds",] == float("inf")
    model = "model=demo-chest-xray@1"
    assert found["ml_inferences_total", model] == 1
    assert found["ml_inference_duration_seconds_count", model] == 1
    assert found["ml_inference_duration_seconds_sum", model] == pytest.approx(0.3)
    assert found["ml_inference_duration_seconds_bucket", "le=+Inf", model] == 1
    assert found["ml_inference_duration_seconds_bucket", "le=0.5", model] == 1
    assert ("ml_inference_duration_seconds_bucket", "le=0.25", model) not in found
    assert 100 <= found["medai_arrival_to_report_seconds_sum", "priority=routine"] < 160


def test_requests_are_counted_by_route_and_no_label_names_a_study(app: FastAPI, seen: Services) -> None:
    client = here(app)
    client.get(f"/api/v1/studies/{KEY}")
    client.get("/nothing/PatientName")
    found = scrape(client)
    assert found["http_requests_total", "endpoint=/api/v1/studies/{study_uid}", "method=GET", "status=401"] == 1
    assert found["http_requests_total", "endpoint=-", "method=GET", "status=404"] == 1
    assert found["http_request_duration_seconds_count", "endpoint=-", "method=GET"] == 1
    text = client.get("/metrics").text
    assert not any(word in text for word in (KEY, LATE, FAILED, "PatientName"))


def test_counters_never_fall_when_a_study_is_forgotten_and_a_second_report_is_no_arrival(
    app: FastAPI,
    seen: Services,
) -> None:
    report(seen, KEY, "run-9")
    before = scrape(here(create_app(seen)))
    Forgetting(seen.engine, seen.audit).forget(KEY, "user:test", "", seen.now())
    after = scrape(here(create_app(seen)))
    counters = [k for k in before if k[0].startswith(("ml_", "medai_arrival", "medai_failures"))]
    assert len(counters) > 5 and {k: after[k] for k in counters} == {k: before[k] for k in counters}
    assert after["ml_inferences_total", "model=demo-chest-xray@1"] == 2
    assert after["medai_arrival_to_report_seconds_count", "priority=routine"] == 1
    assert (after["medai_studies", "state=reported"], after["medai_studies", "state=forgotten"]) == (0, 1)


def test_who_may_scrape(app: FastAPI, web_settings: dict[str, Any]) -> None:
    assert here(app).get("/metrics").status_code == 200
    elsewhere = TestClient(app, client=("10.0.0.7", 50000))
    assert elsewhere.get("/metrics").status_code == 401
    assert here(app, **{"X-Forwarded-For": "10.0.0.7"}).get("/metrics").status_code == 401
    assert caller(app, Role.ENGINEER).get("/metrics").status_code == 200
    assert caller(app, Role.VIEWER).get("/metrics").status_code == 403
    guarded = create_app(Services(read_settings({}, **web_settings, metrics_token="s3cret-token")))
    assert here(guarded).get("/metrics").status_code == 401
    for given, status in (("s3cret-token", 200), ("s3cret", 401), ("", 401)):
        client = TestClient(guarded, client=("10.0.0.7", 50000), headers={"Authorization": f"Bearer {given}"})
        assert client.get("/metrics").status_code == status


def test_a_database_that_does_not_answer_is_a_number_and_no_error(web_settings: dict[str, Any]) -> None:
    down = Services(read_settings({}, **{**web_settings, "database_url": "postgresql://u@127.0.0.1:1/x"}))
    found = scrape(here(create_app(down)))
    assert found["medai_up",] == 0 and not any(k[0] == "medai_studies" for k in found)


def test_status_warns_in_words_and_by_its_exit_code(seen: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_HOME", seen.settings.home)
    monkeypatch.setenv("DATABASE_URL", seen.settings.database_url or "")
    told = CliRunner().invoke(main, ["status"])
    assert told.exit_code == 1
    for words in ("1 reported", "1 studies are overdue", "have failed", "does not beat"):
        assert words in told.output
    assert "1 studies are overdue" in CliRunner().invoke(main, ["worklist"]).output
    assert json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)["studies"]["failed"] == 1


def test_the_rules_and_the_dashboard_ask_for_metrics_that_there_are(app: FastAPI, seen: Services) -> None:
    import re

    here(app).get("/health")
    names = {k[0] for k in scrape(here(app))} | {"medai_deliveries"}  # of these there are none yet
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "medai.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += re.findall(r"expr: (.+)", rules)
    assert len(asked) > 15
    for expression in asked:
        used = set(re.findall(r"\b((?:medai|ml|http)_[a-z_]+)\b", expression))
        assert used and used <= names, expression
    for alert in ("StudyOverdue", "DaemonSilent", "SensorBehind", "StudiesFail", "DeliveriesFail"):
        assert f"alert: Medai{alert}" in rules


def test_the_rules_are_read_by_prometheus_itself() -> None:
    import shutil
    import subprocess

    from medai_pipeline_tests.conftest import missing

    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool (Debian: prometheus)")
    assert promtool
    rules = Path("deploy/prometheus/alerts.yml")
    done = subprocess.run([promtool, "check", "rules", str(rules)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_look_that_takes_too_long_is_given_up(seen: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    from medai_pipeline.storage import observed

    monkeypatch.setattr(observed, "TIMEOUT_MS", 100)
    with seen.engine.connect() as holding:
        holding.execute(sa.text("LOCK TABLE medai.tallies IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(MedaiError):
            observed.observe(seen.engine, seen.now(), 1800)
