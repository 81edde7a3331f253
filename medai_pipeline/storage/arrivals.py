"""What the PACS holds, as last seen, and when that becomes a study revision. Runs and their claims are in `studies`."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.dialects.postgresql import insert

from medai_pipeline.records import StudyState
from medai_pipeline.storage.rows import Arrival
from medai_pipeline.storage.secrets import is_forgotten
from medai_pipeline.storage.tables import arrivals, studies

VANISHED_REASON = "deleted in the PACS before it was reported"
_ENDED = (StudyState.REPORTED, StudyState.VANISHED, StudyState.FORGOTTEN)


class Arrivals:
    """Studies from the first image seen to a settled revision. `now` is always an aware datetime."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def touch(self, study_key: str, fingerprint: str, instance_count: int, now: datetime) -> bool:
        """Notes what the PACS holds; True when that is new, or changed, or the study is back: its quiet period begins.

        A study that was forgotten is never new: it is left alone until a person lifts that.
        """
        new = insert(arrivals).values(
            study_key=study_key,
            fingerprint=fingerprint,
            instance_count=instance_count,
            first_seen_at=now,
            changed_at=now,
        )
        # the clock from first image to report starts over only when the earlier images were settled
        began = sa.case(
            (arrivals.c.settled | arrivals.c.vanished, new.excluded.first_seen_at), else_=arrivals.c.first_seen_at
        )
        changed = new.on_conflict_do_update(
            index_elements=[arrivals.c.study_key],
            set_={
                "fingerprint": new.excluded.fingerprint,
                "instance_count": new.excluded.instance_count,
                "first_seen_at": began,
                "changed_at": now,
                "settled": False,
                "vanished": False,
            },
            where=(arrivals.c.fingerprint != new.excluded.fingerprint) | arrivals.c.vanished,
        )
        with self._engine.begin() as connection:
            if is_forgotten(connection, study_key):
                return False
            return connection.execute(changed.returning(arrivals.c.study_key)).first() is not None

    def settled(self, study_key: str) -> Arrival | None:
        """The arrival of a study whose images are complete as far as was seen; None while they come, or are gone."""
        rows = self._select((arrivals.c.study_key == study_key) & arrivals.c.settled & ~arrivals.c.vanished)
        return rows[0] if rows else None

    def still_settled(self, known: Arrival, fingerprint: str, instance_count: int) -> bool:
        """The PACS looks different now, and what is processed of the study is the same. False when `known` is outdated."""
        same = (arrivals.c.study_key == known.study_key) & (arrivals.c.fingerprint == known.fingerprint)
        statement = (
            sa.update(arrivals)
            .where(same, arrivals.c.settled, ~arrivals.c.vanished)
            .values(fingerprint=fingerprint, instance_count=instance_count)
        )
        with self._engine.begin() as connection:
            return connection.execute(statement.returning(arrivals.c.study_key)).first() is not None

    def is_known(self, study_key: str) -> bool:
        with self._engine.connect() as connection:
            query = sa.select(sa.exists().where(arrivals.c.study_key == study_key))
            return bool(connection.scalar(query))

    def settling(self, now: datetime, quiet_s: float) -> list[Arrival]:
        """Arrivals without a change for `quiet_s` seconds that are not settled yet, the longest quiet first."""
        return self._select(_UNSETTLED & (arrivals.c.changed_at <= now - timedelta(seconds=quiet_s)))

    def unsettled(self) -> list[Arrival]:
        """All arrivals whose images may still come."""
        return self._select(_UNSETTLED)

    def unfinished_keys(self) -> list[str]:
        """Studies the PACS should still hold because they have no report yet: what a sweep looks for."""
        open_revision = sa.exists().where(studies.c.study_key == arrivals.c.study_key, studies.c.state.not_in(_ENDED))
        query = (
            sa.select(arrivals.c.study_key)
            .where(~arrivals.c.vanished, ~arrivals.c.settled | (open_revision & _latest_is_open()))
            .order_by(arrivals.c.study_key)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def settle(self, study_key: str, fingerprint: str, digest: str, instance_count: int, now: datetime) -> int | None:
        """The revision that is now ready, or None when there is nothing new to do.

        None: the arrival changed since `fingerprint` was read (it stays unsettled), or its digest is done or under way
        already, or it is empty. A study that vanished and is back with the same digest is ready again as it was.
        """
        with self._engine.begin() as connection:
            arrival = _locked_arrival(connection, study_key)
            if arrival is None or arrival.fingerprint != fingerprint or arrival.vanished:
                return None
            connection.execute(
                sa.update(arrivals).where(arrivals.c.study_key == study_key).values(settled=True, digest=digest)
            )
            if instance_count == 0:
                return None
            latest = _locked_latest(connection, study_key)
            if latest is not None and latest.source_digest == digest:
                return _revive(connection, latest, now)
            revision = 1 if latest is None else latest.revision + 1
            connection.execute(
                sa.insert(studies).values(
                    study_key=study_key,
                    revision=revision,
                    source_digest=digest,
                    state=StudyState.READY,
                    instance_count=instance_count,
                    first_seen_at=arrival.first_seen_at,
                    ready_at=now,
                    updated_at=now,
                )
            )
            return revision

    def vanish(self, study_key: str, now: datetime) -> None:
        """The PACS holds the study no more: said at its latest revision, unless that one is reported."""
        with self._engine.begin() as connection:
            if _locked_arrival(connection, study_key) is None:
                return
            connection.execute(sa.update(arrivals).where(arrivals.c.study_key == study_key).values(vanished=True))
            latest = _locked_latest(connection, study_key)
            if latest is None or latest.state in _ENDED:
                return
            reason = f"{VANISHED_REASON}; before that: {latest.reason}" if latest.reason else VANISHED_REASON
            _change(
                connection, latest, state=StudyState.VANISHED, reason=reason, next_attempt_at=None, finished_at=now,
                updated_at=now,
            )  # fmt: skip

    def _select(self, where: sa.ColumnElement[bool]) -> list[Arrival]:
        query = sa.select(arrivals).where(where).order_by(arrivals.c.changed_at, arrivals.c.study_key)
        with self._engine.connect() as connection:
            return [Arrival.of(row) for row in connection.execute(query)]


_UNSETTLED = ~arrivals.c.settled & ~arrivals.c.vanished


def _latest_is_open() -> sa.ColumnElement[bool]:
    newest = studies.alias()
    state = (
        sa.select(newest.c.state)
        .where(newest.c.study_key == arrivals.c.study_key)
        .order_by(newest.c.revision.desc())
        .limit(1)
        .scalar_subquery()
    )
    return state.not_in(_ENDED)


def _locked_arrival(connection: Connection, study_key: str) -> Row | None:
    return connection.execute(sa.select(arrivals).where(arrivals.c.study_key == study_key).with_for_update()).first()


def _locked_latest(connection: Connection, study_key: str) -> Row | None:
    query = sa.select(studies).where(studies.c.study_key == study_key).order_by(studies.c.revision.desc()).limit(1)
    return connection.execute(query.with_for_update()).first()


def _revive(connection: Connection, latest: Row, now: datetime) -> int | None:
    if latest.state != StudyState.VANISHED:
        return None
    _change(
        connection, latest, state=StudyState.READY, reason="", stage="", attempts=0, run_id=None, ready_at=now,
        finished_at=None, updated_at=now,
    )  # fmt: skip
    return latest.revision


def _change(connection: Connection, study: Row, **values: object) -> None:
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_key == study.study_key, studies.c.revision == study.revision)
        .values(**values)
    )
