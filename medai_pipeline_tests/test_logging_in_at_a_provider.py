"""OpenID Connect against a provider that runs here: the way there and back, roles by group, and answers that do not hold."""

from __future__ import annotations

import html
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider_mock import User, run_server_in_thread
from starlette.testclient import TestClient

from medai_pipeline.errors import LoginRefused, SettingsError, StorageError
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.web.app import create_app
from medai_pipeline.web.provider import LONGEST_S, Provider
from medai_pipeline_tests.test_logging_in import audited
from medai_pipeline_tests.web import API, browser

USERS = (
    User(sub="ann", claims={"roles": ["readers", "football"]}),
    User(sub="eve", claims={"roles": ["football"]}),
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with run_server_in_thread(user_claims=USERS, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def oidc(web_settings: dict[str, Any], issuer: str) -> Iterator[Services]:
    more = {
        "oidc_issuer": issuer,
        "oidc_client_id": "medai",
        "oidc_client_secret": "a secret between us",
        "oidc_roles": ("readers=radiologist", "admins=admin"),
        "public_url": "http://testserver",
    }
    made = Services(read_settings({}, **web_settings, **more))
    yield made
    made.engine.dispose()


def at_the_provider(where: str, sub: str) -> str:
    """The person's browser at the provider: the form is sent with their name; where it is sent back to."""
    with httpx.Client(follow_redirects=False) as client:
        page = client.get(where)
        assert page.status_code == 200, page.text
        answer = client.post(where, data={"sub": sub})
        assert answer.status_code in (302, 303), html.unescape(re.sub("<[^>]+>", "", answer.text))[:500]
        return answer.headers["location"]


def log_in(client: TestClient, sub: str, next: str = "/") -> Any:
    there = client.get("/login/oidc", params={"next": next})
    assert there.status_code == 303, there.text
    back = at_the_provider(there.headers["location"], sub)
    return client.get(back.removeprefix("http://testserver"))


def test_who_belongs_to_a_group_with_a_role_is_let_in(oidc: Services) -> None:
    client = browser(create_app(oidc))
    assert "Log in with your organisation" in client.get("/login").text
    answer = log_in(client, "ann", next="/api/docs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/docs")
    me = client.get(f"{API}/me").json()
    assert (me["name"], me["roles"]) == ("oidc:ann", ["radiologist"])
    assert ("user:oidc:ann", "login", "oidc:ann") in audited(oidc)


def test_who_has_no_role_here_is_not_let_in(oidc: Services) -> None:
    client = browser(create_app(oidc))
    answer = log_in(client, "eve")
    assert answer.status_code == 401 and "no role here" in answer.text
    assert client.get(f"{API}/me").status_code == 401
    assert ("user:unknown", "login.failed", "openid") in audited(oidc)


def test_a_person_of_the_provider_who_is_disabled_is_out_at_once_and_not_let_in(oidc: Services) -> None:
    app = create_app(oidc)
    ann, other = browser(app), oidc.sessions.open("oidc:other", ["viewer"], oidc.now())
    assert log_in(ann, "ann").status_code == 303
    oidc.users.disable("oidc:ann", "test", oidc.now())
    oidc.users.disable("oidc:ann", "test", oidc.now())  # once more does no harm
    assert ann.get(f"{API}/me").status_code == 401
    assert oidc.sessions.find(other, oidc.now())
    refused = log_in(browser(app), "ann")
    assert refused.status_code == 401 and "disabled here" in refused.text
    begun = oidc.sessions.open("oidc:ann", ["viewer"], oidc.now())  # a login that was already on its way
    assert oidc.sessions.find(begun, oidc.now()) is None
    assert oidc.users.verify("oidc:ann", "") is None
    for deed in (
        lambda: oidc.users.set_roles("oidc:ann", ["admin"], "test", oidc.now()),
        lambda: oidc.users.make_token("oidc:ann", "x", oidc.now() + timedelta(days=1), "test", oidc.now()),
    ):
        with pytest.raises(StorageError, match="belongs to the provider"):
            deed()
    oidc.users.disable("oidc:ann", "test", oidc.now(), disabled=False)
    assert log_in(ann, "ann").status_code == 303 and ann.get(f"{API}/me").json()["roles"] == ["radiologist"]
    with pytest.raises(StorageError, match="not disabled"):
        oidc.users.disable("oidc:ann", "test", oidc.now(), disabled=False)
    chain = [row for row in audited(oidc) if row[2] == "oidc:ann"]
    assert ("test", "user.disabled", "oidc:ann") in chain and ("test", "user.enabled", "oidc:ann") in chain


def test_the_request_carries_pkce_state_and_nonce(oidc: Services, issuer: str) -> None:
    client = browser(create_app(oidc))
    where = client.get("/login/oidc").headers["location"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(where).query).items()}
    assert where.startswith(issuer)
    assert query["code_challenge_method"] == "S256" and len(query["code_challenge"]) == 43
    journey = client.app.state.provider.journey(  # type: ignore[attr-defined]
        client.cookies.get("medai_oidc", path="/login/oidc"), query["state"], oidc.now()
    )
    hashed = urlsafe_b64encode(sha256(journey.verifier.encode()).digest()).rstrip(b"=").decode()
    assert hashed == query["code_challenge"] and journey.verifier not in where
    assert len(query["state"]) >= 32 and len(query["nonce"]) >= 32 and query["state"] != query["nonce"]
    assert query["redirect_uri"] == "http://testserver/login/oidc/callback"


def test_a_code_that_another_browser_brings_is_refused(oidc: Services) -> None:
    app = create_app(oidc)
    mine, other = browser(app), browser(app)
    back = at_the_provider(mine.get("/login/oidc").headers["location"], "ann").removeprefix("http://testserver")
    assert other.get(back).status_code == 401  # without the cookie
    other.get("/login/oidc")
    assert other.get(back).status_code == 401  # with that of another login
    assert other.get(f"{API}/me").status_code == 401
    assert mine.get(back).status_code == 303
    assert mine.get(back).status_code == 401  # a code serves once


def test_a_token_for_another_nonce_or_client_does_not_hold(oidc: Services) -> None:
    provider = Provider(oidc.settings, oidc.keys.web)

    def begun(of: Provider = provider) -> tuple[Any, str]:
        where, cookie = of.begin("/", oidc.now())
        query = parse_qs(urlsplit(at_the_provider(where, "ann")).query)
        return of.journey(cookie, query["state"][0], oidc.now()), query["code"][0]

    journey, code = begun()
    assert provider.person(journey, code).name == "oidc:ann"
    journey, code = begun()
    with pytest.raises(LoginRefused, match="does not hold"):
        provider.person(replace(journey, nonce="another"), code)
    journey, code = begun()
    provider._settings = replace(oidc.settings, oidc_client_id="somebody-else")
    with pytest.raises(LoginRefused):
        provider.person(journey, code)


def test_a_login_that_took_too_long_or_was_tampered_with_is_refused(oidc: Services) -> None:
    provider = Provider(oidc.settings, oidc.keys.web)
    where, cookie = provider.begin("/", oidc.now())
    state = parse_qs(urlsplit(where).query)["state"][0]
    assert provider.journey(cookie, state, oidc.now()).state == state
    for given, at in (
        (cookie, LONGEST_S + 1),
        (cookie[:-2] + ("01" if cookie.endswith("00") else "00"), 0),
        ("", 0),
        ("zz", 0),
    ):
        with pytest.raises(LoginRefused):
            provider.journey(given, state, oidc.now() + timedelta(seconds=at))
    with pytest.raises(LoginRefused):
        provider.journey(cookie, state + "x", oidc.now())
    other = Provider(oidc.settings, bytes(32))
    with pytest.raises(LoginRefused):
        other.journey(cookie, state, oidc.now())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"oidc_roles": ("readers=king",)}, "MEDAI_OIDC_ROLES names king"),
        ({"oidc_roles": ()}, "also needs"),
        ({"oidc_client_secret": None}, "also needs"),
        ({"oidc_issuer": "http://provider.example"}, "https://"),
    ],
)
def test_settings_that_would_let_nobody_or_anybody_in_are_refused(
    oidc: Services, changes: dict[str, Any], words: str
) -> None:
    oidc.settings = replace(oidc.settings, **changes)
    with pytest.raises(SettingsError, match=words):
        create_app(oidc)


def test_another_issuer_at_that_address_is_refused(oidc: Services) -> None:
    oidc.settings = replace(oidc.settings, oidc_issuer=f"{oidc.settings.oidc_issuer}/")
    answer = browser(create_app(oidc)).get("/login/oidc")
    assert answer.status_code == 401 and "is not that issuer" in answer.text
