"""The web application in this process over a real Postgres and a real Orthanc, and callers of every role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from medai_pipeline.phantoms.studies import PhantomStudy
from medai_pipeline.records import StudyState
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline.web.app import create_app
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.pipeline import Pipeline

PASSWORD = "a password of some length"
NewClient = Callable[..., TestClient]


@pytest.fixture
def web_settings(database_url: str, tmp_path: Path) -> dict[str, Any]:
    """Without a PACS: a test that needs one takes `pacs_settings`."""
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


def caller(app: FastAPI, *roles: Role, name: str = "") -> TestClient:
    """A client with the bearer token of a new user who has these roles."""
    services: Services = app.state.services
    name = name or "-".join(roles)
    if services.users.find(name) is None:
        services.users.add(name, PASSWORD, roles, "test", services.now())
    from datetime import timedelta

    now = services.now()
    token = services.users.make_token(name, "test", now + timedelta(days=1), "test", now)
    return TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False)


def browser(app: FastAPI, **more: Any) -> TestClient:
    """A client that asks for pages, keeps cookies and follows no redirect."""
    return TestClient(
        app, headers={"Accept": "text/html"}, follow_redirects=False, raise_server_exceptions=False, **more
    )


def log_in(client: TestClient, name: str, password: str = PASSWORD, next: str = "/") -> Any:
    """What the login form does."""
    client.get("/login")
    form = {
        "name": name,
        "password": password,
        "next": next,
        "csrf_token": client.cookies.get("medai_login", path="/login"),
    }
    return client.post("/login", data=form)


def reported(pipeline: Pipeline, *studies: PhantomStudy) -> list[str]:
    """Sends the studies and carries out what the sensor requests; their study keys."""
    keys = pipeline.send(*studies)
    pipeline.work()
    assert all(pipeline.state(key).state is StudyState.REPORTED for key in keys)
    return keys
