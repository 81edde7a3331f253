"""Results back to where the images came from: what is due goes out, each destination by itself, until it lies there.

`Desk.deliver` is one try for one study. Killed at any place, the next try ends it: the UIDs are recorded before anything
is sent, the objects of an edition are the same each time, and sending one twice is safe (docs/adr/0009). A failure is the
delivery's alone: the study stays reported.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from medai_pipeline.errors import DatabaseUnreachable, MedaiError, ModelChanged, PacsBusy, PacsUnreachable
from medai_pipeline.pacs.delivering import Sender, sender_for
from medai_pipeline.pacs.destination import Destination
from medai_pipeline.records import Identity
from medai_pipeline.stages import Edition
from medai_pipeline.storage.deliveries import ACTOR, Deliveries, Delivery
from medai_pipeline.storage.editions import Editions

OFF = "off"
LONGEST_PAUSE_S = 1800.0
BUSY = "another run delivers this study just now"
NO_ANSWER = "sent; the node has not answered for it yet"
Make = Callable[[Edition, Identity], Sequence[Any]]  # -> results.written.DicomResult


@dataclass(frozen=True, slots=True)
class Policy:
    """The site's settings. `when`: off, at-once or after-review; `days`: how old what becomes due may be (None: any age)."""

    when: str
    destinations: tuple[Destination, ...]
    days: float | None
    attempts: int
    retry_seconds: float
    listen: tuple[str, int] | None = None

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.destinations]

    def pause(self, attempts: int) -> timedelta:
        return timedelta(seconds=min(self.retry_seconds * 2 ** max(attempts - 1, 0), LONGEST_PAUSE_S))


@dataclass(slots=True)
class Desk:
    """What delivers; one a run. `down`: destinations that did not answer in this run, and until when they are let alone."""

    policy: Policy
    deliveries: Deliveries
    editions: Editions
    vault: Any
    orthanc: Callable[[], Any]
    now: Callable[[], datetime]
    down: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # nodes that do not commit now, and why: asked in a later run

    def want(self, study_keys: Sequence[str] | None = None) -> list[str]:
        """Enters what is missing; the study keys concerned. With `study_keys` of any age: a person asked for these."""
        if self.policy.when == OFF:
            return []
        return self._want(None if study_keys is not None else self.policy.days, study_keys)

    def look_again(self, study_key: str) -> None:
        """What is not to be sent of a study any more, or not yet, stops: somebody may have decided just now."""
        self._want(self.policy.days, [study_key])

    def _want(self, days: float | None, study_keys: Sequence[str] | None) -> list[str]:
        now = self.now()
        since = None if days is None else now - timedelta(days=days)
        return self.editions.want(self.policy.when, self.policy.names, since, now, study_keys)

    def due(self, limit: int) -> list[str]:
        """Study keys with something to do now."""
        return [] if self.policy.when == OFF else self.deliveries.due(self.policy.names, self.now(), limit)

    def deliver(self, study_key: str, make: Make, run_id: str) -> list[Delivery]:
        """One try of what is due for a study; its last edition's deliveries as they are then. Raises DatabaseUnreachable."""
        if self.policy.when == OFF:
            return []
        with self.deliveries.alone(study_key) as alone:
            if alone:
                self.look_again(study_key)
                task = _Task(self, study_key, make, run_id)
                for row in self.deliveries.latest([study_key]):
                    if (
                        row.destination in self.policy.names
                        and row.next_attempt_at
                        and row.next_attempt_at <= self.now()
                    ):
                        task.attempt(row)
        return self.deliveries.latest([study_key])


class _Task:
    """One study's try: the identity is read once and the objects are made once, when a destination first needs them."""

    def __init__(self, desk: Desk, study_key: str, make: Make, run_id: str) -> None:
        self.desk, self.policy, self.rows = desk, desk.policy, desk.deliveries
        self.key, self.make, self.run_id = study_key, make, run_id
        self._made: tuple[Identity, Sequence[Any]] | None = None

    def attempt(self, row: Delivery) -> None:
        destination = next(one for one in self.policy.destinations if one.name == row.destination)
        if row.destination in self.desk.down:
            reason, until = self.desk.down[row.destination]
            self.rows.postpone(row, reason, until, self.desk.now())
            return
        try:
            sender = sender_for(destination, self.desk.orthanc, self.policy.listen)
            there = list(row.objects) if row.state == "sent" else self._send(row, sender)
            if there and sender.commits:
                self._commit(row, sender, there)
        except DatabaseUnreachable:
            raise  # nothing can be recorded: what was sent is sent again
        except Exception as error:  # noqa: BLE001 - the boundary between one delivery and its neighbours
            self._failed(row, error)

    def _send(self, row: Delivery, sender: Sender) -> list[Mapping[str, str]]:
        """What lies there now; [] when it does not, or nothing was to be sent."""
        if self.desk.editions.being_renewed(self.key):  # the vault may know another patient by now
            raise ModelChanged("other images of the study have come; what is said of them is returned instead")
        if not self.rows.begin(row, self.run_id, self.desk.now()):
            return []
        identity, results = self._objects(row)
        objects = [_named(result) for result in results]
        self.desk.look_again(self.key)  # making them took a while: a review may have come
        if not self.rows.name(row, objects, self.desk.now()):
            return []
        sent = sender.send(identity.study_instance_uid, [result.data for result in results]) if results else None
        if sent and sent.refused:
            if sent.for_now:
                raise PacsBusy(sent.refused)
            self._refused(row, sent.refused)
            return []
        there = [one for one, stored in zip(objects, sent.stored, strict=True) if stored] if sent else []
        now = self.desk.now()
        self.rows.sent(row, there, sent.left_out if sent else "", now if there and sender.commits else None, now)
        return there

    def _commit(self, row: Delivery, sender: Sender, there: Sequence[Mapping[str, str]]) -> None:
        if row.destination in self.desk.silent:
            self._later(row, self.desk.silent[row.destination])
            return
        try:
            answer = sender.commit([(one["sop_class_uid"], one["sop_instance_uid"]) for one in there])
        except (PacsUnreachable, PacsBusy) as error:  # no answer is no refusal: asked again until there is one
            self.desk.silent[row.destination] = error.reason
            self._later(row, error.reason)
            return
        except MedaiError as error:
            self._uncommitted(row, error.reason)
            return
        if answer is None:
            self.desk.silent[row.destination] = NO_ANSWER
            self._uncommitted(row, NO_ANSWER)
        elif answer.complete:
            self.rows.committed(row, self.desk.now())
        else:  # it lost some, or never had them: they are sent again
            reasons = ", ".join(sorted({f"0x{reason:04X}" for reason in answer.missing.values()}))
            self._refused(
                row, f"the node does not answer for {len(answer.missing)} of {len(there)} objects ({reasons})"
            )

    def _objects(self, row: Delivery) -> tuple[Identity, Sequence[Any]]:
        if self._made is None:
            identity = self.desk.vault.read(self.key, ACTOR, "return the results")
            self._made = identity, self.make(self._edition(row), identity)
        return self._made

    def _edition(self, row: Delivery) -> Edition:
        return Edition(
            number=row.edition,
            revision=row.revision,
            reported_at=row.reported_at,
            previous=self.rows.sent_before(self.key, row.edition),
            decision=row.decision,
            reviewer=row.reviewer.removeprefix("user:"),
            reviewed_at=row.reviewed_at,
            content=self.rows.content_of(row),
            withdrawal=row.withdrawal,
        )

    def _failed(self, row: Delivery, error: Exception) -> None:
        now, reason = self.desk.now(), error.reason if isinstance(error, MedaiError) else _unexpected(error)
        if isinstance(error, ModelChanged):
            self.rows.postpone(row, reason, now + self.policy.pause(1), now)
        elif isinstance(error, PacsUnreachable | PacsBusy):
            until = now + self.policy.pause(_tries(row))
            self.desk.down[row.destination] = reason, until
            self.rows.failed(row, reason, until, now)  # for ever: it heals when the PACS is back
        else:
            self._refused(row, reason)

    def _refused(self, row: Delivery, reason: str) -> None:
        """Tried again later, and left to a person after the last refusal; tries that nobody answered are none."""
        now, refusals = self.desk.now(), row.refusals + 1
        spent = refusals >= self.policy.attempts
        self.rows.failed(row, reason, None if spent else now + self.policy.pause(refusals), now, refused=True)

    def _later(self, row: Delivery, reason: str) -> None:
        """Sent, and nobody could be asked to commit: for ever, as that is no answer either."""
        now, attempts = self.desk.now(), row.attempts + 1
        self.rows.postpone(row, reason, now + self.policy.pause(attempts), now, attempts)

    def _uncommitted(self, row: Delivery, reason: str) -> None:
        now, spent = self.desk.now(), row.asked + 1 >= self.policy.attempts
        self.rows.uncommitted(row, reason, None if spent else now + self.policy.pause(row.asked + 1), now)


def _tries(row: Delivery) -> int:
    """How often it was sent, this time included; `row` is as it was before."""
    return row.attempts + (row.state == "pending")


def _named(result: Any) -> Mapping[str, str]:
    return {
        "kind": str(result.kind),
        "sop_class_uid": result.sop_class_uid,
        "sop_instance_uid": result.sop_instance_uid,
        "series_instance_uid": result.series_instance_uid,
    }


def _unexpected(error: Exception) -> str:
    """An error nobody foresaw: its kind and place, never its words, which could hold what it choked on."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}; please report it"
