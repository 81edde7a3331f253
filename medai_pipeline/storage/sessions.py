"""Who is logged in: random session ids, kept as digests, with an idle and an absolute end; and how often logins failed."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from medai_pipeline.storage.users import digest
from medai_pipeline.storage.web_tables import login_failures, sessions, users

_SECRET_BYTES = 32
SEEN_EVERY = timedelta(seconds=30)  # a page asks often: the time last seen need not be exact
WINDOW = timedelta(minutes=15)  # in which failed logins are counted


@dataclass(frozen=True, slots=True)
class Session:
    """`local` ones are of a user in the table `users`, the others of an OpenID Connect provider's."""

    name: str
    roles: tuple[str, ...]
    local: bool
    ends_at: datetime


class Sessions:
    """Sessions in Postgres: they survive a restart, and end everywhere at once. `key` hides what was typed at a login."""

    def __init__(self, engine: Engine, key: bytes, idle: timedelta, longest: timedelta) -> None:
        self._engine = engine
        self._key = key
        self._idle = idle
        self._longest = longest

    def open(self, name: str, roles: Iterable[str] | None, now: datetime) -> str:
        """A new session's id: the only time it is known. `roles` None: those of the local user, as they are then."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        row = {"token_sha256": digest(secret), "name": name, "roles": None if roles is None else sorted(roles)}
        with self._engine.begin() as connection:
            connection.execute(sa.delete(sessions).where(self._over(now)))
            connection.execute(
                sa.insert(sessions).values(**row, created_at=now, seen_at=now, ends_at=now + self._longest)
            )
        return secret

    def find(self, secret: str, now: datetime, attended: bool = True) -> Session | None:
        """The session, seen now where somebody is there; None when it has ended, or its user is disabled."""
        mine = sessions.c.token_sha256 == digest(secret)
        query = (
            sa.select(sessions, users.c.roles.label("user_roles"), users.c.disabled)
            .select_from(sessions.outerjoin(users, users.c.name == sessions.c.name))
            .where(mine, ~self._over(now))
        )
        with self._engine.begin() as connection:
            row = connection.execute(query).first()
            if row is None or row.disabled or (row.roles is None and row.user_roles is None):
                return None
            if attended and now - row.seen_at > min(SEEN_EVERY, self._idle / 4):
                connection.execute(sa.update(sessions).where(mine).values(seen_at=now))
        return Session(
            row.name, tuple(row.user_roles if row.roles is None else row.roles), row.roles is None, row.ends_at
        )

    def close(self, secret: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.delete(sessions).where(sessions.c.token_sha256 == digest(secret)))

    def failed(self, subjects: Iterable[str], now: datetime) -> None:
        """A login failed; `subjects` are the name typed and the address it came from, each with a word before it."""
        rows = [{"subject": self._hidden(subject), "at": now} for subject in subjects]
        with self._engine.begin() as connection:
            connection.execute(sa.delete(login_failures).where(login_failures.c.at < now - WINDOW))
            connection.execute(sa.insert(login_failures), rows)

    def succeeded(self, subject: str) -> None:
        """The person is who they say: earlier failures under this name count no more."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(login_failures).where(login_failures.c.subject == self._hidden(subject)))

    def wait_s(self, subject: str, most: int, now: datetime) -> int:
        """Seconds until `subject` may try again; 0 while it failed less than `most` times in the last minutes."""
        query = (
            sa.select(login_failures.c.at)
            .where(login_failures.c.subject == self._hidden(subject), login_failures.c.at > now - WINDOW)
            .order_by(login_failures.c.at.desc())
            .offset(most - 1)
            .limit(1)
        )
        with self._engine.connect() as connection:
            at = connection.scalar(query)
        return 0 if at is None else max(1, int((at + WINDOW - now).total_seconds()) + 1)

    def _over(self, now: datetime) -> sa.ColumnElement[bool]:
        return (sessions.c.ends_at <= now) | (sessions.c.seen_at <= now - self._idle)

    def _hidden(self, subject: str) -> str:
        """What people type at a login is a password now and then: it is not kept."""
        return hmac.new(self._key, subject.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
