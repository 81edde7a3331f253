"""Passwords, sessions and tokens: who gets in, for how long, and what is written down about it."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy import make_url

from medai_pipeline.errors import StorageError
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.sessions import WINDOW
from medai_pipeline.web.app import create_app
from medai_pipeline.web.authentication import COOKIE
from medai_pipeline.web.login import MOST_BY_NAME
from medai_pipeline.web.roles import Role
from medai_pipeline_tests.web import API, PASSWORD, add_user, browser, caller, log_in, token_of


def audited(services: Services) -> list[tuple[str, str, str]]:
    """(actor, action, subject) of the whole chain."""
    url = make_url(services.settings.database_url or "").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        return connection.execute("SELECT actor, action, subject FROM medai.audit_log ORDER BY seq").fetchall()


def everything(services: Services) -> str:
    """All that the tables of users and logins hold, and the audit chain."""
    url = make_url(services.settings.database_url or "").set(drivername="postgresql")
    tables = ("users", "sessions", "api_tokens", "login_failures", "audit_log", "idempotency_keys")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        return "\n".join(str(row) for t in tables for row in connection.execute(f"SELECT * FROM medai.{t}"))  # type: ignore[arg-type]


def test_a_person_logs_in_and_out(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.RADIOLOGIST)
    client = browser(app)
    answer = log_in(client, "ann", next="/api/docs?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/docs?x=1")
    assert client.get(f"{API}/me").json()["name"] == "ann"
    page = client.get("/api/docs").text
    token = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page)
    assert token
    assert client.post("/logout", data={"csrf_token": token[1]}).headers["location"] == "/login"
    assert client.get(f"{API}/me").status_code == 401
    assert [row[1] for row in audited(services)] == ["user.added", "login", "logout"]


def test_the_cookie_is_for_us_alone(services: Services, app: FastAPI) -> None:
    add_user(services, "ann", Role.VIEWER)
    cookie = log_in(browser(app), "ann").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/" in cookie
    assert "Secure" not in cookie  # on this machine, without TLS, a browser would not send it
    behind_tls = create_app(
        Services(read_settings({}, **{**overrides(services), "public_url": "https://here.example"}))
    )
    cookie = log_in(browser(behind_tls, base_url="https://testserver"), "ann").headers["set-cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie


@pytest.mark.parametrize(
    "where", ["//evil.example", "https://evil.example", "/\\evil.example", "\t//evil", "javascript:x"]
)
def test_nobody_is_sent_elsewhere_after_the_login(app: FastAPI, services: Services, where: str) -> None:
    add_user(services, "ann", Role.VIEWER)
    assert log_in(browser(app), "ann", next=where).headers["location"] == "/"


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    wrong, unknown = (log_in(browser(app), name, "not the password") for name in ("ann", "nobody"))
    assert wrong.status_code == unknown.status_code == 401
    words = re.compile(r'role="alert">(.*?)<')
    assert words.findall(wrong.text) == words.findall(unknown.text) != []
    assert ("user:unknown", "login.failed", "ann") in audited(services)
    assert ("user:unknown", "login.failed", "unknown") in audited(services)


def test_what_was_typed_is_kept_nowhere(app: FastAPI, services: Services, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    log_in(client, "hunter2-typed-as-name", "hunter2-as-password")
    log_in(client, "ann")
    secret = client.cookies.get(COOKIE)
    token = token_of(services, "ann")
    caller_ = browser(app, cookies={})
    caller_.get(f"{API}/me", headers={"Authorization": "Bearer medai_wrong-one"})
    kept = everything(services) + caplog.text
    assert secret
    for typed in ("hunter2", PASSWORD, secret, token, "medai_wrong"):
        assert typed not in kept


def test_many_wrong_passwords_close_the_door_also_after_a_restart(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    for _ in range(MOST_BY_NAME):
        assert log_in(client, "ann", "not the password").status_code == 401
    restarted = create_app(Services(read_settings({}, **overrides(services))))
    refused = log_in(browser(restarted), "ann")  # also with the right one
    assert refused.status_code == 429 and "try again in" in refused.text
    now = services.now()
    assert services.sessions.wait_s("name ann", MOST_BY_NAME, now) > 0
    assert services.sessions.wait_s("name ann", MOST_BY_NAME, now + WINDOW) == 0
    assert services.sessions.wait_s("name bob", MOST_BY_NAME, now) == 0


def test_a_right_password_forgives_the_wrong_ones_before(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    for _ in range(MOST_BY_NAME - 1):
        log_in(client, "ann", "not the password")
    assert log_in(client, "ann").status_code == 303
    assert log_in(client, "ann", "not the password").status_code == 401


def test_a_session_ends_when_nothing_is_asked_and_in_any_case(services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    now = services.now()
    idle = timedelta(minutes=services.settings.session_idle_minutes)
    longest = timedelta(hours=services.settings.session_hours)
    secret = services.sessions.open("ann", None, now)
    assert services.sessions.find(secret, now + idle / 2)
    assert services.sessions.find(secret, now + idle * 1.4)  # it was seen meanwhile
    assert services.sessions.find(secret, now + idle * 3) is None
    busy, at = services.sessions.open("ann", None, now), now
    while at < now + longest - idle / 2:
        assert services.sessions.find(busy, at)
        at += idle / 2
    assert services.sessions.find(busy, now + longest) is None


def test_who_is_disabled_is_out_at_once_and_other_roles_count_at_once(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.RADIOLOGIST)
    client, program = browser(app), caller(app, name="ann")
    log_in(client, "ann")
    services.users.set_roles("ann", [Role.VIEWER], "test", services.now())
    assert client.get(f"{API}/me").json()["roles"] == program.get(f"{API}/me").json()["roles"] == ["viewer"]
    services.users.disable("ann", "test", services.now())
    assert client.get(f"{API}/me").status_code == program.get(f"{API}/me").status_code == 401
    assert log_in(browser(app), "ann").status_code == 401
    services.users.disable("ann", "test", services.now(), disabled=False)
    assert client.get(f"{API}/me").status_code == 401  # a new login, not the old session


def test_a_new_password_ends_the_logins_with_the_old_one(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    log_in(client, "ann")
    services.users.set_password("ann", "another password, as long", "test", services.now())
    assert client.get(f"{API}/me").status_code == 401
    assert log_in(client, "ann").status_code == 401
    assert log_in(client, "ann", "another password, as long").status_code == 303


def test_tokens_that_ended_were_revoked_or_are_made_up_do_not_serve(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    good, ended = token_of(services, "ann"), token_of(services, "ann", days=-1)
    revoked = token_of(services, "ann")
    services.users.revoke_token(services.users.tokens("ann")[-1].id, "test", services.now())
    client = browser(app)

    def status(header: str) -> int:
        return client.get(f"{API}/me", headers={"Authorization": header}).status_code

    assert status(f"Bearer {good}") == 200
    wrong = [
        f"Bearer {ended}",
        f"Bearer {revoked}",
        f"Bearer {good}x",
        f"Basic {good}",
        "Bearer",
        "",
        f"Bearer {good[:-1]}",
    ]
    assert [status(header) for header in wrong] == [401] * len(wrong)
    log_in(client, "ann")
    assert status("Bearer made-up") == 401  # a cookie does not make up for it
    with pytest.raises(StorageError):
        services.users.revoke_token(services.users.tokens("ann")[-1].id, "test", services.now())


def test_a_write_with_a_cookie_must_come_from_our_own_page(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.RADIOLOGIST)
    client = browser(app)
    log_in(client, "ann")
    assert client.post("/logout").status_code == 403
    assert client.post("/logout", data={"csrf_token": "0" * 64}).status_code == 403
    path = f"{API}/studies/NOSUCHSTUDY/retry"
    assert client.post(path).status_code == 403
    token = re.search(r'name="csrf-token" content="([0-9a-f]{64})"', client.get("/api/docs").text)
    assert token
    assert client.post(path, headers={"X-CSRF-Token": token[1]}).status_code == 404
    assert caller(app, name="ann").post(path).status_code == 404  # a program's token is known to no page
    other = browser(app)
    log_in(other, "ann")
    assert other.post(path, headers={"X-CSRF-Token": token[1]}).status_code == 403  # it belongs to one session


def test_a_login_form_of_another_site_is_refused(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    form = {"name": "ann", "password": PASSWORD, "csrf_token": "made-up"}
    assert browser(app).post("/login", data=form).status_code == 403
    client = browser(app)
    client.get("/login")
    assert client.post("/login", data=form).status_code == 403


def test_a_refusal_is_in_the_audit_chain(app: FastAPI, services: Services) -> None:
    caller(app, Role.VIEWER, name="vic").put(
        f"{API}/studies/X/priority", json={"priority": "urgent", "reason": "because"}
    )
    assert ("user:vic", "access.refused", "/api/v1/studies/{study_uid}/priority") in audited(services)
    assert services.audit.verify().ok


@pytest.mark.parametrize("name", ["", "Ann", "a b", "oidc:x", "../x", "a" * 64, "ä"])
def test_names_that_could_be_taken_for_another_are_no_user_names(services: Services, name: str) -> None:
    with pytest.raises(StorageError, match="user name"):
        add_user(services, name, Role.VIEWER)


def test_a_short_password_is_refused(services: Services) -> None:
    with pytest.raises(StorageError, match="12"):
        services.users.add("ann", "short", [Role.VIEWER], "test", services.now())


def overrides(services: Services) -> dict[str, Any]:
    known = services.settings
    return {"home": known.home, "database_url": known.database_url, "orthanc_url": known.orthanc_url}
