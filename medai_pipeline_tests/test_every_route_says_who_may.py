"""Nothing is open by oversight: each route names its permission, and who has it not is refused."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI

from medai_pipeline.errors import SettingsError
from medai_pipeline.services import Services
from medai_pipeline.web import app as application
from medai_pipeline.web.roles import PERMISSIONS, Permission, Role
from medai_pipeline_tests.web import browser, caller


def test_every_route_has_a_permission_or_is_on_the_list_of_public_ones(app: FastAPI) -> None:
    found = list(application.permissions(app))
    assert len(found) > 5
    assert [place for place in found if place[2] is None] == []
    public = {(method, path) for method, path, permission in found if permission == "public" and method != "HEAD"}
    assert public == application.PUBLIC


def test_an_application_with_a_route_that_says_nothing_is_not_made(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = APIRouter()

    @router.get("/open/by/oversight")
    def oversight() -> str:
        return "everybody's"

    monkeypatch.setattr(application, "ROUTERS", (*application.ROUTERS, router))
    with pytest.raises(SettingsError, match="GET /open/by/oversight"):
        application.create_app(services)


def test_nobody_gets_in_without_a_login(app: FastAPI) -> None:
    client = browser(app)
    for method, path, permission in application.permissions(app):
        if permission == "public" or method == "HEAD":
            continue
        answer = client.request(method, concrete(path))
        api = path.startswith("/api/v1/")
        assert answer.status_code == (401 if api else 303), f"{method} {path}: {answer.status_code}"
        if not api:
            assert answer.headers["location"].startswith("/login?next=")


def test_each_role_is_refused_what_its_row_does_not_hold(app: FastAPI, services: Services) -> None:
    for role in Role:
        client = caller(app, role)
        for method, path, permission in application.permissions(app):
            if isinstance(permission, Permission) and method != "HEAD" and permission not in PERMISSIONS[role]:
                answer = client.request(method, concrete(path))
                assert answer.status_code == 403, f"{role} {method} {path}: {answer.status_code}"
                assert answer.headers["content-type"] == "application/problem+json"
                assert permission in answer.json()["detail"]


def test_the_description_tells_the_permission_of_each_operation(app: FastAPI) -> None:
    described = caller(app, Role.VIEWER).get("/api/openapi.json").json()
    told = {
        (m.upper(), path): op.get("x-medai-permission")
        for path, item in described["paths"].items()
        for m, op in item.items()
    }
    assert told
    assert all(told.values())
    here = {(m, p): permission for m, p, permission in application.permissions(app)}
    assert {place: here[place] for place in told} == told


def concrete(path: str) -> str:
    """The path with something in each of its parameters."""
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))
