"""Local users: names, password digests (argon2id), roles; and tokens for programs. Every change is in the audit chain.

Of an OpenID Connect provider's people only those have a row who are not to be let in. What roles mean is not known here. A password or token is given out once, and kept as a digest.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from uuid import UUID, uuid4

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.errors import StorageError
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.web_tables import api_tokens, sessions, users

NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}\Z")
PROVIDED = "oidc:"  # before the subject that a provider names; no local user's name has a colon
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024  # argon2 hashes what it is given: a longer one only costs
TOKEN_PREFIX = "medai_"
_SECRET_BYTES = 32
_HASHING = threading.BoundedSemaphore(4)  # each takes 64 MiB: many logins at once wait for each other


@dataclass(frozen=True, slots=True)
class User:
    name: str
    roles: tuple[str, ...]
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it may be shown: never the secret."""

    id: UUID
    name: str
    label: str
    created_at: datetime
    ends_at: datetime
    revoked_at: datetime | None


def digest(secret: str) -> str:
    """How a random secret is kept: SHA-256 suffices, since it cannot be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Users:
    """Users and their tokens. `actor` is who does it; `now` an aware datetime."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def add(self, name: str, password: str, roles: Iterable[str], actor: str, now: datetime) -> None:
        """Raises StorageError when the name is taken or cannot be one, or the password is too short."""
        _check(name, password)
        values = {"name": name, "password_hash": _hasher().hash(password), "roles": sorted(roles)}
        with self._engine.begin() as connection:
            if _row(connection, name) is not None:
                raise StorageError(f"there is a user {name} already: choose another name, or change the roles")
            connection.execute(sa.insert(users).values(**values, created_at=now, updated_at=now))
            self._audit.append_in(connection, actor, "user.added", name, {"roles": values["roles"]})

    def any(self) -> bool:
        with self._engine.connect() as connection:
            return bool(connection.scalar(sa.select(sa.exists().where(~users.c.disabled))))

    def everybody(self) -> list[User]:
        with self._engine.connect() as connection:
            return [_user(row) for row in connection.execute(sa.select(users).order_by(users.c.name))]

    def find(self, name: str) -> User | None:
        with self._engine.connect() as connection:
            row = _row(connection, name)
        return _user(row) if row is not None else None

    def verify(self, name: str, password: str) -> User | None:
        """The user when the password is theirs and the account is enabled. As slow for a name that nobody has."""
        with self._engine.connect() as connection:
            row = _row(connection, name) if "\0" not in name else None
        kept = row.password_hash if row is not None else _nobody()
        try:
            with _HASHING:
                _hasher().verify(kept, password[:LONGEST_PASSWORD])
        except (Argon2Error, InvalidHashError):
            return None
        if row is None or row.disabled:
            return None
        return _user(row)

    def set_password(self, name: str, password: str, actor: str, now: datetime) -> None:
        _check(name, password)
        self._change(name, actor, "user.password", {}, now, password_hash=_hasher().hash(password))

    def set_roles(self, name: str, roles: Iterable[str], actor: str, now: datetime) -> None:
        """From the next request on. Raises StorageError when nobody has this name."""
        wanted = sorted(roles)
        self._change(name, actor, "user.roles", {"roles": wanted}, now, roles=wanted)

    def disable(self, name: str, actor: str, now: datetime, disabled: bool = True) -> None:
        """The login and all tokens end at once; `disabled=False` lets the user in again, with a new login.

        "oidc:SUBJECT" is a provider's person, known here or not. Raises StorageError when nobody has this name.
        """
        if name.startswith(PROVIDED):
            return self._bar(name, actor, now) if disabled else self._unbar(name, actor)
        self._change(name, actor, "user.disabled" if disabled else "user.enabled", {}, now, disabled=disabled)

    def is_disabled(self, name: str) -> bool:
        found = self.find(name)
        return found is not None and found.disabled

    def make_token(self, name: str, label: str, ends_at: datetime, actor: str, now: datetime) -> str:
        """A new token, shown here and never again."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        token_id = uuid4()
        with self._engine.begin() as connection:
            _required(connection, name)
            row = {"id": token_id, "token_sha256": digest(secret), "name": name, "label": label}
            connection.execute(sa.insert(api_tokens).values(**row, created_at=now, ends_at=ends_at))
            self._audit.append_in(connection, actor, "token.made", name, {"token": str(token_id), "label": label})
        return secret

    def tokens(self, name: str | None = None) -> list[Token]:
        query = sa.select(api_tokens).order_by(api_tokens.c.created_at)
        if name is not None:
            query = query.where(api_tokens.c.name == name)
        with self._engine.connect() as connection:
            return [
                Token(row.id, row.name, row.label, row.created_at, row.ends_at, row.revoked_at)
                for row in connection.execute(query)
            ]

    def revoke_token(self, token_id: UUID, actor: str, now: datetime) -> None:
        with self._engine.begin() as connection:
            found = connection.execute(
                sa.update(api_tokens)
                .where(api_tokens.c.id == token_id, api_tokens.c.revoked_at.is_(None))
                .values(revoked_at=now)
                .returning(api_tokens.c.name)
            ).first()
            if found is None:
                raise StorageError("no such token, or it is revoked already: `medai users tokens` lists them")
            self._audit.append_in(connection, actor, "token.revoked", found.name, {"token": str(token_id)})

    def by_token(self, secret: str, now: datetime) -> User | None:
        """Whose token it is, while it, and the user, are in force."""
        query = (
            sa.select(users)
            .join(api_tokens, api_tokens.c.name == users.c.name)
            .where(
                api_tokens.c.token_sha256 == digest(secret),
                api_tokens.c.revoked_at.is_(None),
                api_tokens.c.ends_at > now,
                ~users.c.disabled,
            )
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return _user(row) if row is not None else None

    def _bar(self, name: str, actor: str, now: datetime) -> None:
        """Nobody's password opens the row, and it has no roles: it only says that this person is not let in."""
        row = {"name": name, "password_hash": _nobody(), "roles": [], "disabled": True}
        with self._engine.begin() as connection:
            connection.execute(insert(users).values(**row, created_at=now, updated_at=now).on_conflict_do_nothing())
            connection.execute(sa.delete(sessions).where(sessions.c.name == name))
            self._audit.append_in(connection, actor, "user.disabled", name, {})

    def _unbar(self, name: str, actor: str) -> None:
        with self._engine.begin() as connection:
            if not connection.execute(sa.delete(users).where(users.c.name == name)).rowcount:
                raise StorageError("this person is not disabled: `medai users list` shows who is")
            self._audit.append_in(connection, actor, "user.enabled", name, {})

    def _change(self, name: str, actor: str, action: str, detail: dict, now: datetime, **values: object) -> None:
        with self._engine.begin() as connection:
            _required(connection, name)
            connection.execute(sa.update(users).where(users.c.name == name).values(**values, updated_at=now))
            if values.get("disabled"):  # for good: whoever is let in again makes new ones
                held = (api_tokens.c.name == name) & api_tokens.c.revoked_at.is_(None)
                connection.execute(sa.update(api_tokens).where(held).values(revoked_at=now))
            if "roles" not in values:  # another password, or none any more: who is logged in must log in again
                connection.execute(sa.delete(sessions).where(sessions.c.name == name, sessions.c.roles.is_(None)))
            self._audit.append_in(connection, actor, action, name, detail)


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()  # RFC 9106, the second recommended choice: 64 MiB, 3 passes


@cache
def _nobody() -> str:
    return _hasher().hash(secrets.token_hex())


def _check(name: str, password: str) -> None:
    if not NAME.match(name):
        raise StorageError("a user name begins with a letter and has a-z, 0-9, dot, dash and underscore, at most 63")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise StorageError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")


def _row(connection: Connection, name: str) -> sa.Row | None:
    return connection.execute(sa.select(users).where(users.c.name == name)).first()


def _required(connection: Connection, name: str) -> sa.Row:
    if name.startswith(PROVIDED):
        raise StorageError("this person belongs to the provider, with roles and password: here they are only disabled")
    row = connection.execute(sa.select(users).where(users.c.name == name).with_for_update()).first()
    if row is None:
        raise StorageError("nobody has this name: `medai users list` shows who there is")
    return row


def _user(row: sa.Row) -> User:
    return User(row.name, tuple(row.roles), row.disabled, row.created_at)
