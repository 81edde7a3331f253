"""The web application in this process over a real Postgres and a real Orthanc, and callers of every role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from medai_pipeline.orchestration.requests import REQUEST_JOB, request_run
from medai_pipeline.phantoms.studies import PhantomStudy, make_study, to_bytes
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.web.app import create_app
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.orthanc import RunningOrthanc
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.postgres import NewDatabase

API = "/api/v1"
PASSWORD = "a password of some length"


@pytest.fixture
def web_settings(database_url: str, tmp_path: Path) -> dict[str, Any]:
    """Without a PACS: a test that needs one takes `site`."""
    SiteKeys.load(None, tmp_path / "home" / "keys" / "site.key", create=True)
    return {"home": str(tmp_path / "home"), "database_url": database_url, "orthanc_url": "http://127.0.0.1:1"}


@pytest.fixture
def services(web_settings: dict[str, Any]) -> Iterator[Services]:
    made = Services(read_settings({}, **web_settings))
    yield made
    made.engine.dispose()


@pytest.fixture
def app(services: Services) -> FastAPI:
    return create_app(services)


def add_user(services: Services, name: str, *roles: Role) -> None:
    services.users.add(name, PASSWORD, roles, "test", services.now())


def token_of(services: Services, name: str, days: float = 1.0) -> str:
    now = services.now()
    return services.users.make_token(name, "test", now + timedelta(days=days), "test", now)


def caller(app: FastAPI, *roles: Role, name: str = "") -> TestClient:
    """A client with the bearer token of a user who has these roles."""
    services: Services = app.state.services
    name = name or "-".join(roles)
    if services.users.find(name) is None:
        add_user(services, name, *roles)
    headers = {"Authorization": f"Bearer {token_of(services, name)}"}
    return TestClient(app, headers=headers, raise_server_exceptions=False)


def browser(app: FastAPI, **more: Any) -> TestClient:
    """A client that asks for pages, keeps cookies and follows no redirect."""
    headers = {"Accept": "text/html"}
    return TestClient(app, headers=headers, follow_redirects=False, raise_server_exceptions=False, **more)


def log_in(client: TestClient, name: str, password: str = PASSWORD, next: str = "/") -> Any:
    """What the login form does."""
    client.get("/login")
    token = client.cookies.get("medai_login", path="/login")
    form = {"name": name, "password": password, "next": next, "csrf_token": token}
    return client.post("/login", data=form)


@dataclass
class Site:
    """A pipeline with two reported studies, its application, and callers."""

    pipeline: Pipeline
    app: FastAPI
    film: PhantomStudy
    volume: PhantomStudy

    @property
    def services(self) -> Services:
        return self.pipeline.services

    def caller(self, *roles: Role, name: str = "") -> TestClient:
        return caller(self.app, *roles, name=name)

    def key(self, study: PhantomStudy) -> str:
        return self.pipeline.key_of(study)

    def images(self, study: PhantomStudy) -> list[str]:
        """Image ids in the order of the study's datasets."""
        return [self.services.deidentifier.new_uid(str(d.SOPInstanceUID), 0x00080018) for d in study.datasets]

    def answer_requests(self) -> bool:
        """What the sensor and its run do; whether a run was needed."""
        if request_run(self.services) is None:
            return False
        job = self.pipeline.definitions.resolve_job_def(REQUEST_JOB)
        assert job.execute_in_process(instance=self.pipeline.instance).success
        return True

    def report(self, *studies: PhantomStudy) -> None:
        """Sends the studies, and carries out what the sensor requests."""
        keys = self.pipeline.send(*studies)
        self.pipeline.work()
        assert all(self.pipeline.state(key).state is StudyState.REPORTED for key in keys)


@pytest.fixture(scope="session")
def _site(
    new_database: NewDatabase, orthanc: RunningOrthanc, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    settings = {
        "home": str(home),
        "database_url": new_database(),
        "orthanc_url": orthanc.url,
        "orthanc_username": orthanc.username,
        "orthanc_password": orthanc.password,
        "stable_seconds": 0.0,
        "reconcile_seconds": 0.0,
        "retry_seconds": 0.0,
        "gpu_enabled": False,
        "history_days": None,
    }
    film = make_study("chest-xray", 811, findings=("Pneumothorax",))
    volume = make_study("chest-ct", 812, findings=("Nodule",), slices=6)
    with dg.DagsterInstance.ephemeral() as instance:
        pipeline = Pipeline(settings, instance)
        made = Site(pipeline, create_app(pipeline.services), film, volume)
        made.report(film, volume)
        yield made


@pytest.fixture
def site(_site: Site) -> Site:
    """One for the session; another file may have emptied its PACS meanwhile."""
    for study in (_site.film, _site.volume):
        _site.services.pacs.upload_many([to_bytes(dataset) for dataset in study.datasets])
    return _site
