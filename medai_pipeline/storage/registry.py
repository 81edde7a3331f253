"""The model registry: versions, their states, and for what each is active. Of a card it knows an ensemble's members alone.

    registered -> shadow, active, retired        shadow -> registered, active, retired
    active -> registered (when another takes its place), retired        retired -> registered (registered again)

For one modality and body part at most one version is active: an index of Postgres holds that, whoever writes. Every change
comes with its record in the audit chain, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row

from medai_pipeline.errors import ModelNotFound, RegistryRefused
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.rows import ModelRow
from medai_pipeline.storage.tables import model_scopes, models

REGISTERED, SHADOW, ACTIVE, RETIRED = "registered", "shadow", "active", "retired"
TRANSITIONS = {
    REGISTERED: (SHADOW, ACTIVE, RETIRED),
    SHADOW: (REGISTERED, ACTIVE, RETIRED),
    ACTIVE: (REGISTERED, RETIRED),
    RETIRED: (REGISTERED,),
}
_LOCK = 0x6D656461_69000003

Scope = tuple[str, str]


@dataclass(frozen=True, slots=True)
class NewModel:
    """What is registered: the card as JSON, and what registration measured. `scopes` are (modality, body part)."""

    name: str
    version: str
    architecture: str
    weights_sha256: str
    card: Mapping[str, Any]
    scopes: Sequence[Scope]
    measured: Mapping[str, Any]
    prepared: Mapping[str, Any]


class Registry:
    """Versions by name and version. `actor` is who asks, `now` an aware datetime."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def versions(self) -> list[ModelRow]:
        """All of them: active ones first, the last promoted before the others."""
        order = (models.c.state != ACTIVE, models.c.promoted_at.desc().nulls_last(), models.c.name, models.c.version)
        with self._engine.connect() as connection:
            return [ModelRow.of(row) for row in connection.execute(sa.select(models).order_by(*order))]

    def version(self, name: str, version: str = "") -> ModelRow:
        """One version; without `version` the active one of the name, or its only one. Raises ModelNotFound."""
        every = self.versions()
        named = [row for row in every if row.name == name and version in ("", row.version)]
        if len(named) > 1 and named[0].state != ACTIVE:
            which = ", ".join(row.label for row in named)
            raise ModelNotFound(f"{name} has several versions: name one of {which}")
        if not named:
            known = ", ".join(row.label for row in every) or "none yet: `medai models register`"
            raise ModelNotFound(f"no model {name}{'@' + version if version else ''} is registered; there are {known}")
        return named[0]

    def register(self, new: NewModel, actor: str, now: datetime) -> bool:
        """Adds a version as `registered`; False when the same is there. A retired one is `registered` again.

        Raises RegistryRefused when the version is there with other weights or another card: a version never changes.
        """
        with self._engine.begin() as connection:
            _lock(connection)
            there = _find(connection, new.name, new.version)
            if there is None:
                self._insert(connection, new, actor, now)
                return True
            if there.weights_sha256 != new.weights_sha256 or there.card != dict(new.card):
                what = "other weights" if there.weights_sha256 != new.weights_sha256 else "another card"
                raise RegistryRefused(
                    f"{there.label} is registered with {what}: a version never changes; name a new one"
                )
            if there.state != RETIRED:
                return False
            self._move(connection, there, REGISTERED, actor)
            return True

    def promote(self, name: str, version: str, actor: str, now: datetime, backfill: bool = True) -> tuple[str, ...]:
        """The version is active for all it is made for; returns name@version of what it took the place of.

        What had its place is `registered` from then on, so that going back is a promotion of it. Both or nothing.
        Raises RegistryRefused when a version in its place serves more than this one would.
        """
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            _require_members(connection, row)
            before = _displaced(connection, row)
            for other in before:
                lost = sorted(_scopes(connection, other) - _scopes(connection, row))
                if lost:
                    raise RegistryRefused(
                        f"{other.label} is active for {_words(lost)} too, which {row.label} is not made for: retire "
                        f"{other.label} first (nothing would read these), or register a version that is made for all"
                    )
            for other in before:
                self._move(connection, other, REGISTERED, actor, replaced_by=row.label)
            labels = tuple(other.label for other in before)
            # where the backfill of one had not ended, this one reads what the versions before that have read
            older = [f"{other.replaced},{other.behind}" for other in before if other.backfill_since]
            behind = [
                label for label in dict.fromkeys(",".join(older).split(",")) if label not in {"", row.label, *labels}
            ]
            self._move(
                connection, row, ACTIVE, actor, replaces=list(labels), promoted_by=actor, promoted_at=now,
                backfill_since=now if backfill else None, replaced=",".join(labels),
                behind=",".join(behind),
            )  # fmt: skip
            return labels

    def shadow(self, name: str, version: str, actor: str, now: datetime) -> None:
        """The version is asked beside the active one from now on."""
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            _require_members(connection, row)
            self._move(connection, row, SHADOW, actor, promoted_by=actor, promoted_at=now)

    def retire(self, name: str, version: str, actor: str) -> None:
        """The version answers no more; its results stay. Registering it again brings it back.

        Raises RegistryRefused while an ensemble that answers asks it.
        """
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            users = [other.label for other in _answering(connection) if row.label in other.card.get("members", {})]
            if users:
                raise RegistryRefused(
                    f"{row.label} is a member of {', '.join(users)}, which would ask it all the same: retire that first, "
                    "or promote another in its place"
                )
            self._move(connection, row, RETIRED, actor)

    def want_backfill(self, name: str, version: str, actor: str, now: datetime) -> None:
        """Older studies are to be computed again by this version. Raises RegistryRefused unless it is active."""
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            if row.state != ACTIVE:
                raise RegistryRefused(
                    f"{row.label} is {row.state}, not active: `medai models promote {row.label}` first"
                )
            _set(connection, row, backfill_since=now)
            self._audit.append_in(connection, actor, "model.backfill", f"model:{row.label}")

    def backfill_done(self, name: str, version: str, since: datetime, stopped: bool = False) -> bool:
        """No older study is left to be computed again, or a person has `stopped` that. False when it was asked for anew since."""
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            if row.backfill_since != since:
                return False
            _set(connection, row, backfill_since=None)
            action = "model.backfill_stopped" if stopped else "model.backfilled"
            self._audit.append_in(connection, "system", action, f"model:{row.label}")
            return True

    def prepare(self, name: str, version: str, prepared: Mapping[str, Any], actor: str = "system") -> None:
        """Notes how a version is best computed, by machine kind; what was known of other kinds stays."""
        with self._engine.begin() as connection:
            _lock(connection)
            row = _required(connection, name, version)
            _set(connection, row, prepared={**row.prepared, **prepared})
            serves = {kind: made.get("backend", "") for kind, made in prepared.items()}
            self._audit.append_in(connection, actor, "model.prepare", f"model:{row.label}", {"serves": serves})

    def scopes(self, name: str, version: str) -> list[Scope]:
        """(modality, body part) the version is made for."""
        with self._engine.connect() as connection:
            return sorted(_scopes(connection, _required(connection, name, version)))

    def _insert(self, connection: Connection, new: NewModel, actor: str, now: datetime) -> None:
        values = {
            "name": new.name,
            "version": new.version,
            "architecture": new.architecture,
            "weights_sha256": new.weights_sha256,
            "state": REGISTERED,
            "card": dict(new.card),
            "measured": dict(new.measured),
            "prepared": dict(new.prepared),
            "registered_by": actor,
            "registered_at": now,
        }
        connection.execute(sa.insert(models).values(**values))
        rows = [{"name": new.name, "version": new.version, "modality": m, "body_part": b} for m, b in set(new.scopes)]
        connection.execute(sa.insert(model_scopes), rows)
        detail = {"weights_sha256": new.weights_sha256}
        self._audit.append_in(connection, actor, "model.register", f"model:{new.name}@{new.version}", detail)

    def _move(self, connection: Connection, row: ModelRow, state: str, actor: str, **more: Any) -> None:
        if state not in TRANSITIONS[row.state]:
            can = ", ".join(TRANSITIONS[row.state])
            way = f"is {row.state} already" if state == row.state else f"is {row.state} and cannot become {state}"
            raise RegistryRefused(f"{row.label} {way}: from there it goes to {can} (see `medai models --help`)")
        detail: dict[str, Any] = {key: more.pop(key) for key in ("replaces", "replaced_by") if key in more}
        changes = {"backfill_since": None, **more, "state": state}
        _set(connection, row, **changes)
        connection.execute(sa.update(model_scopes).where(_of(model_scopes, row)).values(active=state == ACTIVE))
        detail |= {"from": row.state, "weights_sha256": row.weights_sha256}
        self._audit.append_in(connection, actor, f"model.{state}", f"model:{row.label}", detail)


def _lock(connection: Connection) -> None:
    """One change at a time: a promotion sees all scopes as they are."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _of(table: sa.Table, row: ModelRow) -> sa.ColumnElement[bool]:
    return (table.c.name == row.name) & (table.c.version == row.version)


def _set(connection: Connection, row: ModelRow, **values: Any) -> None:
    connection.execute(sa.update(models).where(_of(models, row)).values(**values))


def _find(connection: Connection, name: str, version: str) -> ModelRow | None:
    found: Row[Any] | None = connection.execute(
        sa.select(models).where(models.c.name == name, models.c.version == version)
    ).first()
    return ModelRow.of(found) if found is not None else None


def _required(connection: Connection, name: str, version: str) -> ModelRow:
    row = _find(connection, name, version)
    if row is None:
        raise ModelNotFound(f"no model {name}@{version} is registered: `medai models list` shows what is")
    return row


def _scopes(connection: Connection, row: ModelRow) -> set[Scope]:
    query = sa.select(model_scopes.c.modality, model_scopes.c.body_part).where(_of(model_scopes, row))
    return {(found.modality, found.body_part) for found in connection.execute(query)}


def _answering(connection: Connection) -> list[ModelRow]:
    query = sa.select(models).where(models.c.state.in_((ACTIVE, SHADOW)))
    return [ModelRow.of(row) for row in connection.execute(query)]


def _require_members(connection: Connection, row: ModelRow) -> None:
    """Raises RegistryRefused when an ensemble would ask a version that is retired."""
    for label in row.card.get("members", {}):
        member = _required(connection, *label.split("@", 1))
        if member.state == RETIRED:
            raise RegistryRefused(f"{row.label} asks {label}, which is retired: register {label} again first")


def _displaced(connection: Connection, row: ModelRow) -> list[ModelRow]:
    """Active versions for anything that this one is made for."""
    mine = model_scopes.alias()
    same = sa.select(model_scopes.c.name, model_scopes.c.version).join(
        mine, (mine.c.modality == model_scopes.c.modality) & (mine.c.body_part == model_scopes.c.body_part)
    )
    same = same.where(model_scopes.c.active, mine.c.name == row.name, mine.c.version == row.version)
    found = connection.execute(sa.select(models).where(sa.tuple_(models.c.name, models.c.version).in_(same)))
    return [other for other in map(ModelRow.of, found) if other.label != row.label]


def _words(scopes: Sequence[Scope]) -> str:
    return ", ".join(f"{modality} {body_part}" for modality, body_part in scopes)
