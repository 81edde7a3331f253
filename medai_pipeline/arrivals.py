"""Noticing studies: the change feed as a hint, the sweep as the truth, the quiet period, and the digest that is identity.

`notice` is one look at the PACS. It writes what it saw through the repository and the vault and returns the cursor of
the next look; it decides nothing about runs. Facts about Orthanc that it rests on are in `pacs/orthanc.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from medai_pipeline.errors import PacsNotFound
from medai_pipeline.pacs.seam import Pacs, united
from medai_pipeline.records import Identity

ACTOR = "pipeline:sensor"
SETTLED_AT_ONCE = 50  # a look stays short: a tick has a time limit, and the rest is settled at the next


@dataclass(frozen=True, slots=True)
class Cursor:
    """`seq`: the last change read; `swept_at`: POSIX seconds of the last full sweep (0: never)."""

    seq: int = -1
    swept_at: float = 0.0

    @classmethod
    def from_text(cls, text: str | None) -> Cursor:
        return cls(**json.loads(text)) if text else cls()

    def to_text(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Watch:
    """What noticing needs: the PACS, the rows, the vault, the site's keys, and the two waiting times."""

    pacs: Pacs
    lifecycle: Any
    vault: Any
    study_key: Callable[[str], str]
    quiet: timedelta
    sweep_every: timedelta
    ours: Callable[[str], Callable[[Any], bool]]  # study key -> whether an instance is a result that we made ourselves
    history: timedelta | None = None  # how old a study may be that was never seen before; None: any


@dataclass(frozen=True, slots=True)
class Noticed:
    """What one look found: for the tick's message, without identity."""

    cursor: Cursor
    swept: bool
    changed: int
    revisions: tuple[tuple[str, int], ...] = field(default=())
    vanished: int = 0


def notice(watch: Watch, cursor: Cursor, now: datetime) -> Noticed:
    """One look. Raises PacsUnreachable or PacsUnauthorized; what was written before stays true and is looked at again."""
    last = watch.pacs.last_change()
    reset = cursor.seq > last  # the PACS database was made anew: its feed starts over
    due = reset or cursor.seq < 0 or now.timestamp() - cursor.swept_at >= watch.sweep_every.total_seconds()
    seq, touched = _read_feed(watch, last if cursor.seq < 0 or reset else cursor.seq)
    changed, vanished = _sweep(watch, now) if due else _look_at(watch, touched, now)
    revisions, gone = _settle(watch, now)
    return Noticed(
        Cursor(seq, now.timestamp() if due else cursor.swept_at), due, changed, tuple(revisions), vanished + gone
    )


def take_up(watch: Watch, study_instance_uid: str, now: datetime) -> bool:
    """A study that a person asks for, however old: noticed now, and settled by the next looks. False when it is known as it
    is. Raises PacsNotFound."""
    found = watch.pacs.find_study(study_instance_uid)
    if found is None:
        raise PacsNotFound("the PACS does not hold this study (any more)")
    return _see(replace(watch, history=None), found, now)


def _read_feed(watch: Watch, since: int) -> tuple[int, set[str]]:
    """All changes after `since`: the last sequence number read, and the studies that a new file or change names."""
    touched: set[str] = set()
    while True:
        page = watch.pacs.changes(since)
        touched.update(c.orthanc_id for c in page.items if c.resource_type == "Study")
        since = max(since, page.last)
        if page.done or not page.items:
            return since, touched


def _sweep(watch: Watch, now: datetime) -> tuple[int, int]:
    """Every study in the PACS against what is known: finds what the feed missed, and what vanished."""
    present: defaultdict[str, list[Any]] = defaultdict(list)
    for study in watch.pacs.studies():
        present[watch.study_key(study.study_instance_uid)].append(study)
    changed = sum(_see(watch, united(studies), now) for studies in present.values())
    missing = [key for key in watch.lifecycle.unfinished_keys() if key not in present]
    return changed, sum(_confirm_gone(watch, key, now) for key in missing)


def _confirm_gone(watch: Watch, key: str, now: datetime) -> bool:
    """A sweep pages by offset and can miss a study that is there: only the study's own answer proves that it is gone."""
    if watch.vault.known([key]):
        uid = watch.vault.read(key, ACTOR, "is the study still there").study_instance_uid
        if watch.pacs.find_studies(uid):
            return False
    watch.lifecycle.vanish(key, now)
    return True


def _look_at(watch: Watch, orthanc_ids: set[str], now: datetime) -> tuple[int, int]:
    changed = 0
    for orthanc_id in sorted(orthanc_ids):
        try:
            found = watch.pacs.find_study(watch.pacs.study(orthanc_id).study_instance_uid)
        except PacsNotFound:
            continue  # deleted since the event; the sweep says so if it was waiting
        changed += bool(found) and _see(watch, found, now)
    return changed, 0


def _see(watch: Watch, study: Any, now: datetime) -> bool:
    key = watch.study_key(study.study_instance_uid)
    if _is_history(watch, study, now) and not watch.lifecycle.is_known(key):
        return False
    if _only_results_came(watch, key, study):
        return False
    changed = watch.lifecycle.touch(key, watch.pacs.fingerprint(study), study.instance_count, now)
    if changed:
        watch.vault.store(key, _identity(study))
    return changed


def _only_results_came(watch: Watch, key: str, study: Any) -> bool:
    """A settled study looks different and its images are the same, as when results were returned to it: nothing to wait for.

    An image that arrives meanwhile changes the digest, or else the fingerprint that is seen next.
    """
    known, fingerprint = watch.lifecycle.settled(key), watch.pacs.fingerprint(study)
    if known is None or known.fingerprint == fingerprint or not study.orthanc_id:
        return False
    try:
        digest = watch.pacs.source_digest(study.orthanc_id, ignore=watch.ours(key)).digest
    except PacsNotFound:
        return False
    return digest == known.digest and watch.lifecycle.still_settled(known, fingerprint, study.instance_count)


def _is_history(watch: Watch, study: Any, now: datetime) -> bool:
    """Whether the last image came before the time that the site wants looked at. An unknown time counts as now."""
    if watch.history is None or not study.last_update:
        return False
    return now - datetime.strptime(study.last_update, "%Y%m%dT%H%M%S").replace(tzinfo=UTC) > watch.history


def _settle(watch: Watch, now: datetime) -> tuple[list[tuple[str, int]], int]:
    """Studies that have been quiet long enough get their digest; a digest not seen before is a new revision."""
    revisions = []
    gone = 0
    for arrival in watch.lifecycle.settling(now, watch.quiet.total_seconds())[:SETTLED_AT_ONCE]:
        if not watch.vault.known([arrival.study_key]):  # killed between seeing it and keeping whose it is
            watch.lifecycle.touch(arrival.study_key, "", arrival.instance_count, now)  # the next sweep sees it anew
            continue
        uid = watch.vault.read(arrival.study_key, ACTOR, "is the study complete").study_instance_uid
        try:
            found = watch.pacs.find_studies(uid)
            if not found:
                watch.lifecycle.vanish(arrival.study_key, now)
                gone += 1
                continue
            if _see(watch, united(found), now):
                continue  # a file arrived just now: the quiet period begins again
            ids = [study.orthanc_id for study in found]
            digest = watch.pacs.source_digest(*ids, ignore=watch.ours(arrival.study_key))
        except PacsNotFound:
            continue  # deleted just now: the next look sees what is left
        revision = watch.lifecycle.settle(
            arrival.study_key, arrival.fingerprint, digest.digest, len(digest.instances), now
        )
        if revision is not None:
            revisions.append((arrival.study_key, revision))
    return revisions, gone


def _identity(study: Any) -> Identity:
    """What the PACS itself says of the study; de-identification adds the rest from the files."""
    return Identity(
        study_instance_uid=study.study_instance_uid,
        patient_id=study.patient_id,
        patient_name=study.patient_name,
        birth_date=study.birth_date,
        sex=study.sex,
        accession_number=study.accession_number,
        study_date=study.study_date,
        orthanc_id=study.orthanc_id,
    )
