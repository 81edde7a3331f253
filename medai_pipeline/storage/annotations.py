"""What people draw and write on images: a row an annotation as it is now, and every version it had. Deleted ones are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from medai_pipeline.errors import ChangedMeanwhile, NotFound
from medai_pipeline.storage.audit import Audit
from medai_pipeline.storage.tables import annotations as table
from medai_pipeline.storage.web_tables import annotation_versions


@dataclass(frozen=True, slots=True)
class Annotation:
    """`geometry` by `kind`, in pixels of the image; `frame` counts from 1. `author`: who made this version."""

    id: UUID
    study_key: str
    revision: int
    sop_instance_uid: str
    frame: int
    author: str
    kind: str
    label: str
    geometry: Mapping[str, Any]
    version: int
    deleted: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One state that an annotation has had."""

    annotation_id: UUID
    version: int
    author: str
    kind: str
    label: str
    geometry: Mapping[str, Any]
    deleted: bool
    created_at: datetime


class Annotations:
    """`actor` is who draws. Each change is a version more, with its record in the audit chain."""

    def __init__(self, engine: Engine, audit: Audit) -> None:
        self._engine = engine
        self._audit = audit

    def add(
        self,
        place: tuple[str, int, str, int],
        kind: str,
        label: str,
        geometry: Mapping[str, Any],
        actor: str,
        now: datetime,
    ) -> Annotation:
        """`place`: study key, revision, SOP Instance UID, frame."""
        made = Annotation(uuid4(), *place, actor, kind, label, geometry, 1, False, now, now)
        with self._engine.begin() as connection:
            values = {name: getattr(made, name) for name in Annotation.__dataclass_fields__}
            connection.execute(sa.insert(table).values(**values))
            self._note(connection, made, "annotation.added")
        return made

    def change(
        self,
        annotation_id: UUID,
        kind: str,
        label: str,
        geometry: Mapping[str, Any],
        actor: str,
        seen: str,
        now: datetime,
    ) -> Annotation:
        """Raises NotFound, ChangedMeanwhile unless `seen` is the present version."""
        values = {"kind": kind, "label": label, "geometry": geometry}
        return self._next(annotation_id, values, actor, seen, now, "annotation.changed")

    def delete(self, annotation_id: UUID, actor: str, seen: str, now: datetime) -> Annotation:
        """Marks it as deleted: it is listed no more, and can still be asked for."""
        return self._next(annotation_id, {"deleted": True}, actor, seen, now, "annotation.deleted")

    def find(self, annotation_id: UUID) -> Annotation | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == annotation_id)).mappings().first()
        return Annotation(**row) if row else None

    def listed(
        self,
        study_key: str = "",
        sop_instance_uid: str = "",
        kind: str = "",
        label: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[Annotation], int]:
        """A page of those that are not deleted, in the order of drawing; and how many there are in all."""
        given = {"study_key": study_key, "sop_instance_uid": sop_instance_uid, "kind": kind, "label": label}
        query = sa.select(table).where(
            ~table.c.deleted, *(table.c[name] == value for name, value in given.items() if value)
        )
        total = sa.select(sa.func.count()).select_from(query.subquery())
        page = query.order_by(table.c.created_at, table.c.id).limit(limit).offset(offset)
        with self._engine.connect() as connection:
            found = [Annotation(**row) for row in connection.execute(page).mappings()]
            return found, int(connection.scalar(total) or 0)

    def versions(self, annotation_id: UUID) -> list[Version]:
        """All that it was, the newest first."""
        query = sa.select(annotation_versions).where(annotation_versions.c.annotation_id == annotation_id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(annotation_versions.c.version.desc())).mappings()
            return [Version(**row) for row in rows]

    def _next(
        self, annotation_id: UUID, values: Mapping[str, Any], actor: str, seen: str, now: datetime, action: str
    ) -> Annotation:
        with self._engine.begin() as connection:
            mine = table.c.id == annotation_id
            row = connection.execute(sa.select(table).where(mine).with_for_update()).first()
            if row is None or row.deleted:
                raise NotFound("there is no such annotation, or it is deleted")
            if str(row.version) != seen:
                raise ChangedMeanwhile("somebody has changed this annotation since you looked: load it again")
            changed = connection.execute(
                sa.update(table)
                .where(mine)
                .values(**values, author=actor, version=row.version + 1, updated_at=now)
                .returning(*table.c)
            )
            made = Annotation(**changed.mappings().one())
            self._note(connection, made, action)
        return made

    def _note(self, connection: Connection, made: Annotation, action: str) -> None:
        same = ("version", "author", "kind", "label", "geometry", "deleted")
        row = {"annotation_id": made.id, **{name: getattr(made, name) for name in same}, "created_at": made.updated_at}
        connection.execute(sa.insert(annotation_versions).values(**row))
        detail = {"annotation": str(made.id), "version": made.version, "kind": made.kind}
        self._audit.append_in(connection, made.author, action, made.study_key, detail)
