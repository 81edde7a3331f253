"""`medai users`: who may log in, from the terminal of who runs the stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from fastapi import FastAPI

from medai_pipeline.cli import main
from medai_pipeline.local.user_commands import DEMO, first_users
from medai_pipeline.services import Services
from medai_pipeline.storage.heartbeat import STALE, beats
from medai_pipeline_tests.test_logging_in import audited, everything
from medai_pipeline_tests.web import API, browser, log_in

Medai = Callable[..., tuple[int, str]]


@pytest.fixture
def medai(web_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Medai:
    for variable, value in (("MEDAI_HOME", "home"), ("DATABASE_URL", "database_url"), ("ORTHANC_URL", "orthanc_url")):
        monkeypatch.setenv(variable, web_settings[value])

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["users", *arguments])
        return done.exit_code, done.output

    return run


def test_a_user_is_added_listed_given_other_roles_and_disabled(medai: Medai, app: FastAPI, services: Services) -> None:
    code, shown = medai("add", "ann", "--role", "radiologist", "--role", "viewer")
    password = shown.split()[-1]
    assert code == 0 and log_in(browser(app), "ann", password).status_code == 303
    assert medai("list") == (0, "ann                  radiologist, viewer\n")
    assert medai("roles", "ann", "--role", "engineer")[0] == 0
    code, shown = medai("password", "ann")
    assert code == 0 and log_in(browser(app), "ann", password).status_code == 401
    assert log_in(browser(app), "ann", shown.split()[-1]).status_code == 303
    assert medai("disable", "ann")[0] == 0 and "engineer  (disabled)" in medai("list")[1]
    assert medai("disable", "ann", "--again")[0] == 0 and "disabled" not in medai("list")[1]
    assert password not in everything(services)
    actions = [action for _, action, _ in audited(services)]
    assert {"user.added", "user.roles", "user.password", "user.disabled", "user.enabled"} <= set(actions)


def test_a_person_of_a_provider_is_disabled_and_enabled(medai: Medai, services: Services) -> None:
    session = services.sessions.open("oidc:24", ["viewer"], services.now())
    assert medai("disable", "oidc:24")[0] == 0 and services.sessions.find(session, services.now()) is None
    assert medai("list")[1].split() == ["oidc:24", "(disabled)"]
    code, shown = medai("token", "oidc:24")
    assert code == 1 and "belongs to the provider" in " ".join(shown.split())
    assert medai("enable", "oidc:24")[0] == 0 and medai("list")[1] == ""
    assert medai("enable", "oidc:24")[0] == 1
    actors = {(actor.partition(":")[0], action) for actor, action, _ in audited(services)}
    assert actors == {("user", "user.disabled"), ("user", "user.enabled")}


def test_a_token_is_made_listed_and_revoked(medai: Medai, app: FastAPI) -> None:
    medai("add", "ann", "--role", "viewer")
    token = medai("token", "ann", "--label", "night", "--days", "2")[1].strip()
    me = lambda: browser(app).get(f"{API}/me", headers={"Authorization": f"Bearer {token}"}).status_code  # noqa: E731
    assert me() == 200
    listed = medai("tokens", "ann")[1]
    assert "night" in listed and token not in listed
    assert medai("revoke", listed.split()[0])[0] == 0
    assert me() == 401 and "revoked" in medai("tokens")[1]


def test_a_token_of_a_user_who_was_disabled_stays_dead(medai: Medai, app: FastAPI) -> None:
    medai("add", "ann", "--role", "viewer")
    token = medai("token", "ann", "--label", "night", "--days", "2")[1].strip()
    medai("disable", "ann")
    medai("disable", "ann", "--again")
    assert browser(app).get(f"{API}/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_what_cannot_be_is_said_in_one_line(medai: Medai) -> None:
    medai("add", "ann", "--role", "viewer")
    for arguments, words in (
        (("add", "ann", "--role", "viewer"), "already"),
        (("add", "Ann Smith", "--role", "viewer"), "begins with a letter"),
        (("roles", "bob", "--role", "viewer"), "nobody has this name"),
        (("token", "bob"), "nobody has this name"),
    ):
        code, shown = medai(*arguments)
        assert code == 1 and words in " ".join(shown.split()) and "Traceback" not in shown
    assert medai("add", "bob", "--role", "king")[0] == 2


def test_the_first_start_makes_one_admin_and_a_demo_its_reader_anew(services: Services, app: FastAPI) -> None:
    (line,) = first_users(services, demo=False)
    assert "log in as  admin with password" in line
    assert log_in(browser(app), "admin", line.split()[6]).status_code == 303
    assert first_users(services, demo=False) == []
    (first,), (second,) = first_users(services, demo=True), first_users(services, demo=True)
    assert log_in(browser(app), DEMO, first.split()[6]).status_code == 401
    assert log_in(browser(app), DEMO, second.split()[6]).status_code == 303
    kept = everything(services)
    assert not any(line.split()[6] in kept for line in (line, first, second))


def test_a_daemon_that_is_silent_is_not_ready(services: Services) -> None:
    now = services.now()
    assert not beats(services.engine, now)  # Dagster never ran on this database
    table = "CREATE TABLE public.daemon_heartbeats (id bigint, daemon_type text, daemon_id text, timestamp timestamp, body text)"
    body = f'{{"__class__": "DaemonHeartbeat", "timestamp": {now.timestamp()}, "daemon_type": "SENSOR"}}'
    try:
        with services.engine.begin() as connection:
            connection.execute(sa.text(table))
            row = {"kind": "SENSOR", "body": body}
            insert = "INSERT INTO public.daemon_heartbeats VALUES (1, :kind, 'x', '2000-01-01', :body)"
            connection.execute(sa.text(insert), row)
        assert beats(services.engine, now) and beats(services.engine, now + STALE / 2)
        assert not beats(services.engine, now + STALE)
    finally:
        with services.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS public.daemon_heartbeats"))
