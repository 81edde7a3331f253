"""The site's OpenID Connect provider: where to send a person, and whom a code that comes back stands for. No route here.

Authorization code flow with PKCE (RFC 7636), state and nonce. What belongs to one login travels in a cookie that is sealed
under the site's key, so nothing is kept here.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from medai_pipeline.errors import LoginRefused, SettingsError
from medai_pipeline.settings import Settings
from medai_pipeline.storage.users import PROVIDED
from medai_pipeline.web.roles import Role

# what an identity provider signs with; a shared secret or no signature at all proves nothing
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LONGEST_S = 600  # from our page to the provider and back
LEEWAY_S = 60  # by which clocks may differ
CALLBACK = "/login/oidc/callback"
_AAD = b"medai oidc login v1"


@dataclass(frozen=True, slots=True)
class Journey:
    """One login under way. `next`: where the person wanted to go."""

    state: str
    nonce: str
    verifier: str
    next: str
    begun: float


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider vouches for; `name` cannot be that of a local user."""

    name: str
    roles: tuple[Role, ...]


def role_of_group(settings: Settings) -> dict[str, Role]:
    """MEDAI_OIDC_ROLES read. Raises SettingsError for what is no role, and for a provider without the rest."""
    found = {}
    for pair in settings.oidc_roles:
        group, _, role = pair.rpartition("=")
        if role.strip() not in set(Role):
            raise SettingsError(f"MEDAI_OIDC_ROLES names {role.strip()}: the roles are {', '.join(Role)}")
        found[group.strip()] = Role(role.strip())
    if settings.oidc_issuer and not (settings.oidc_client_id and settings.oidc_client_secret and found):
        raise SettingsError(
            "MEDAI_OIDC_ISSUER also needs MEDAI_OIDC_CLIENT_ID, MEDAI_OIDC_CLIENT_SECRET, MEDAI_OIDC_ROLES"
        )
    if settings.oidc_issuer and not _is_safe(settings.oidc_issuer):
        raise SettingsError("MEDAI_OIDC_ISSUER must begin with https:// (http:// serves on this machine alone)")
    return found


class Provider:
    """One provider, by its discovery document, which is fetched once."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._settings = settings
        self._issuer = settings.oidc_issuer or ""
        self._sealer = AESGCM(hmac.digest(key, _AAD, "sha256"))
        self._told: Mapping[str, Any] | None = None
        self._roles = role_of_group(settings)

    def __repr__(self) -> str:
        return "Provider(<hidden>)"

    @property
    def redirect_uri(self) -> str:
        """From the settings, never from the Host header of a request."""
        known = self._settings
        own = f"{'https' if known.tls_cert else 'http'}://{known.api_host}:{known.api_port}"
        return (known.public_url or own).rstrip("/") + CALLBACK

    def begin(self, next: str, now: datetime) -> tuple[str, str]:
        """(where to send the browser, the sealed cookie of this login)."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        journey = Journey(state, nonce, verifier, next, now.timestamp())
        query = {
            "response_type": "code",
            "client_id": self._settings.oidc_client_id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid profile",
            "state": journey.state,
            "nonce": journey.nonce,
            "code_challenge": create_s256_code_challenge(journey.verifier),
            "code_challenge_method": "S256",
        }
        place = self._metadata()["authorization_endpoint"]
        return f"{place}{'&' if '?' in place else '?'}{urlencode(query)}", self._seal(journey)

    def journey(self, cookie: str, state: str, now: datetime) -> Journey:
        """Raises LoginRefused unless this browser began this login, a short time ago."""
        found = self._open(cookie)
        if found is None or not hmac.compare_digest(found.state.encode(), state.encode("utf-8", "replace")):
            raise LoginRefused("this login was not begun here: begin again at /login")
        if not 0 <= now.timestamp() - found.begun <= LONGEST_S:
            raise LoginRefused("this login took too long: begin again at /login")
        return found

    def person(self, journey: Journey, code: str) -> Person:
        """Raises LoginRefused when the provider does not vouch for anybody, or for nobody with a role here."""
        token = self._redeem(journey, code)
        claims = self._verified(token, journey.nonce)
        given = claims.get(self._settings.oidc_roles_claim, ())
        groups = [given] if isinstance(given, str) else [g for g in given if isinstance(g, str)]
        roles = tuple(sorted({self._roles[group] for group in groups if group in self._roles}))
        subject = str(claims["sub"])
        if not subject.isprintable() or len(subject) > 200:
            raise LoginRefused("the provider names you in a way that cannot be kept")
        if not roles:
            raise LoginRefused("your organisation gave you no role here: ask whoever keeps MEDAI_OIDC_ROLES")
        return Person(f"{PROVIDED}{subject}", roles)

    def _redeem(self, journey: Journey, code: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": journey.verifier,
        }
        known = self._settings
        who = httpx.BasicAuth(known.oidc_client_id or "", known.oidc_client_secret or "")
        token = self._json("POST", self._metadata()["token_endpoint"], data=form, auth=who)
        if not isinstance(token.get("id_token"), str):
            raise LoginRefused("the provider gave no ID token: its client must be allowed the scope openid")
        return token

    def _verified(self, token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of the ID token (OpenID Connect Core 3.1.3.7): signature, iss, aud, azp, exp, iat, nonce, at_hash."""
        keys = KeySet.import_key_set(self._json("GET", self._metadata()["jwks_uri"]))  # type: ignore[arg-type]
        client_id = self._settings.oidc_client_id
        options = {
            "iss": {"essential": True, "values": [self._metadata()["issuer"]]},
            "aud": {"essential": True, "values": [client_id]},
        }
        told = {"nonce": nonce, "client_id": client_id, "access_token": token.get("access_token")}
        try:
            registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
            decoded = jwt.decode(token["id_token"], key=keys, registry=registry)
            claims = CodeIDToken(decoded.claims, decoded.header, options, told)
            claims.validate(leeway=LEEWAY_S)
        except (JoseError, ValueError) as error:
            raise LoginRefused(f"the provider's ID token does not hold ({type(error).__name__})") from None
        return claims

    def _metadata(self) -> Mapping[str, Any]:
        if self._told is None:
            told = self._json("GET", self._issuer.rstrip("/") + "/.well-known/openid-configuration")
            wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            if told.get("issuer") != self._issuer or not all(_is_safe(str(told.get(name))) for name in wanted):
                raise LoginRefused(
                    "what answers at MEDAI_OIDC_ISSUER is not that issuer: check the setting, also its last slash"
                )
            self._told = told
        return self._told

    def _json(self, method: str, url: str, **more: Any) -> Mapping[str, Any]:
        """Never the provider's words in our error: they could repeat the code."""
        try:
            answer = httpx.request(method, url, timeout=10, trust_env=not _is_local(url), **more)
            body = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise LoginRefused(
                f"the provider does not answer as it should ({type(error).__name__}): try again"
            ) from None
        if not isinstance(body, dict):
            raise LoginRefused("the provider does not answer as it should: try again")
        return body

    def _seal(self, journey: Journey) -> str:
        nonce = os.urandom(12)
        return (nonce + self._sealer.encrypt(nonce, json.dumps(asdict(journey)).encode(), _AAD)).hex()

    def _open(self, cookie: str) -> Journey | None:
        try:
            sealed = bytes.fromhex(cookie)
            return Journey(**json.loads(self._sealer.decrypt(sealed[:12], sealed[12:], _AAD)))
        except (InvalidTag, ValueError):
            return None


def _is_safe(url: str) -> bool:
    return url.startswith("https://") or (url.startswith("http://") and _is_local(url))


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
