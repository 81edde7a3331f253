"""Passwords, sessions and tokens: who gets in, for how long, and what is written down about it."""

from __future__ import annotations

import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy import make_url
from starlette.requests import Request

from medai_pipeline.errors import StorageError
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.sessions import SEEN_EVERY, WINDOW
from medai_pipeline.storage.web_tables import sessions
from medai_pipeline.web.app import create_app
from medai_pipeline.web.authentication import COOKIE, MOST_BY_ADDRESS
from medai_pipeline.web.login import MOST_BY_NAME, MOST_BY_NAME_AND_ADDRESS, MOST_FROM_BUSY_ADDRESS
from medai_pipeline.web.roles import Role
from medai_pipeline.web.whence import address
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
    for _ in range(MOST_BY_NAME_AND_ADDRESS):
        assert log_in(client, "ann", "not the password").status_code == 401
    restarted = create_app(Services(read_settings({}, **overrides(services))))
    refused = log_in(browser(restarted), "ann")  # also with the right one
    assert refused.status_code == 429 and "try again in" in refused.text
    assert log_in(browser(app, client=("10.0.0.9", 1)), "ann").status_code == 303  # who fails keeps out himself alone
    add_user(services, "bob", Role.VIEWER)
    now = services.now()
    services.sessions.failed(["name bob"] * MOST_BY_NAME, now)  # from many addresses
    assert log_in(browser(app, client=("10.0.0.8", 1)), "bob").status_code == 429
    assert services.sessions.wait_s("name bob", MOST_BY_NAME, now + WINDOW) == 0
    assert services.sessions.wait_s("name cid", MOST_BY_NAME, now) == 0


def test_an_address_that_failed_for_many_names_keeps_out_nobody_else(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    add_user(services, "bob", Role.VIEWER)
    busy = browser(app, client=("10.0.0.7", 1))
    services.sessions.failed(["address 10.0.0.7"] * MOST_BY_ADDRESS, services.now())
    for _ in range(MOST_FROM_BUSY_ADDRESS):
        assert log_in(busy, "ann", "not the password").status_code == 401
    assert log_in(busy, "ann").status_code == 429
    assert log_in(browser(app, client=("10.0.0.7", 2)), "bob").status_code == 303
    before = len(audited(services))
    assert log_in(busy, "nobody-of-many", "x").status_code == 401
    assert len(audited(services)) == before  # the chain is not filled by whoever types names


PROXY, CALLER, LIAR = "10.0.0.1", "192.0.2.7", "198.51.100.9"


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "told"),
    [
        ((), PROXY, [CALLER], PROXY),  # never by default
        ((PROXY,), LIAR, [CALLER], LIAR),  # nor from anybody else
        ((PROXY,), PROXY, [], PROXY),
        ((PROXY,), PROXY, [CALLER], CALLER),
        ((PROXY,), PROXY, [f"{LIAR}, {CALLER}"], CALLER),  # what the caller wrote stands to the left
        ((PROXY,), PROXY, [LIAR, CALLER], CALLER),
        (("10.0.0.0/24",), PROXY, [f"{LIAR}, {CALLER}, 10.0.0.2"], CALLER),
        ((PROXY,), PROXY, [f"{CALLER}, nonsense"], PROXY),
        (("127.0.0.1",), "::ffff:127.0.0.1", [CALLER], CALLER),
        (("::1",), "::1", ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
    ],
)
def test_where_a_login_comes_from_is_said_by_trusted_proxies_alone(
    web_settings: dict[str, Any], trusted: tuple[str, ...], peer: str, forwarded: list[str], told: str
) -> None:
    known = Services(read_settings({}, **web_settings, trusted_proxies=trusted))
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {
        "type": "http",
        "client": (peer, 1),
        "headers": headers,
        "app": SimpleNamespace(state=SimpleNamespace(services=known)),
    }
    assert address(Request(scope)) == told


def test_callers_behind_a_trusted_proxy_are_counted_apart(web_settings: dict[str, Any], services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    behind = create_app(Services(read_settings({}, **web_settings, trusted_proxies=("10.0.0.1",))))
    one = browser(behind, client=(PROXY, 1))
    one.headers["X-Forwarded-For"] = LIAR
    for _ in range(MOST_BY_NAME_AND_ADDRESS):
        log_in(one, "ann", "not the password")
    assert log_in(one, "ann").status_code == 429
    one.headers["X-Forwarded-For"] = f"{LIAR}, {CALLER}"
    assert log_in(one, "ann").status_code == 303


def test_a_right_password_forgives_the_wrong_ones_before(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    for _ in range(MOST_BY_NAME_AND_ADDRESS - 1):
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
    alone = services.sessions.open("ann", None, now)  # its page asks by itself, and nobody is there
    assert services.sessions.find(alone, now + idle * 0.9, attended=False)
    assert services.sessions.find(alone, now + idle * 1.1, attended=False) is None
    busy, at = services.sessions.open("ann", None, now), now
    while at < now + longest - idle / 2:
        assert services.sessions.find(busy, at)
        at += idle / 2
    assert services.sessions.find(busy, now + longest) is None


def test_what_a_page_asks_by_itself_keeps_nobody_logged_in(app: FastAPI, services: Services) -> None:
    add_user(services, "ann", Role.VIEWER)
    client = browser(app)
    log_in(client, "ann")

    def seen_after(headers: dict[str, str]) -> bool:
        """Whether a request with these headers counts as somebody's presence."""
        earlier = services.now() - 2 * SEEN_EVERY
        with services.engine.begin() as connection:
            connection.execute(sa.update(sessions).values(seen_at=earlier))
        assert client.get(f"{API}/me", headers=headers).status_code == 200
        with services.engine.connect() as connection:
            return connection.scalar(sa.select(sessions.c.seen_at)) != earlier

    assert seen_after({}) and not seen_after({"X-Unattended": "1"})


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
