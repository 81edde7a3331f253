"""What `medai audit|keys|forget|retention` do: one function a command, over the services."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from medai_pipeline.errors import StorageError
from medai_pipeline.local.study_commands import user
from medai_pipeline.local.terminal import printable
from medai_pipeline.local.worklist import terminal

if TYPE_CHECKING:
    from medai_pipeline.services import Services
    from medai_pipeline.storage.audit_trail import AuditFilter

Say = Callable[[str], object]


# the audit chain ---------------------------------------------------------------------------------------------


def records(services: Services, wanted: AuditFilter) -> list[Any]:
    """The last records that fit, after the looking was recorded."""
    services.audit.append(user(), "audit.read", "audit", _asked(wanted))
    return services.audit_trail.newest(wanted)


def exported(services: Services, wanted: AuditFilter, form: str) -> Iterator[str]:
    """The records as text, in pieces, after the export was recorded."""
    from medai_pipeline.results.audit_event import audit_event, bundle

    services.audit.append(user(), "audit.export", "audit", {**_asked(wanted), "format": form})
    rows = services.audit_trail.records(wanted)
    if form == "fhir":
        return bundle(rows)
    made = audit_event if form == "ndjson" else as_json
    return (json.dumps(made(row)) + "\n" for row in rows)


def as_json(row: Any) -> dict[str, Any]:
    return {**row._mapping, "at": row.at.isoformat()}


def show_records(rows: Iterable[Any]) -> None:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in ("number", "when (UTC)", "who", "what", "whom", "more"):
        table.add_column(column, no_wrap=column != "more")
    for row in rows:
        more = ", ".join(f"{name}: {value}" for name, value in row.detail.items())
        texts = (row.actor, row.action, row.subject, more)
        table.add_row(
            str(row.seq), f"{row.at:%Y-%m-%d %H:%M:%S}", *(printable(text).replace("[", r"\[") for text in texts)
        )
    terminal().print(table)


def write_pieces(path: Path, pieces: Iterable[str]) -> int:
    """A file for its owner alone; returns its bytes."""
    path.touch(mode=0o600)
    with path.open("w") as file:
        for piece in pieces:
            file.write(piece)
    return path.stat().st_size


def _asked(wanted: AuditFilter) -> dict[str, Any]:
    given = {name: getattr(wanted, name) for name in wanted.__slots__ if getattr(wanted, name)}
    return {name: value if isinstance(value, (int, str)) else value.isoformat() for name, value in given.items()}


# the site's secrets ------------------------------------------------------------------------------------------


def show_keys(services: Services) -> None:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in ("secret", "is", "since (UTC)", "studies", "here"):
        table.add_column(column)
    for row in services.rotation.rows():
        since = f"{row.since:%Y-%m-%d %H:%M}" if row.since else ""
        table.add_row(row.key_id, row.state, since, str(row.studies), "yes" if row.here else "no")
    terminal().print(table)


def rotate(services: Services, prepare: bool, out: Path | None, say: Say) -> None:
    """Each step is done where it is still to be done: what was cut off goes on.

    Raises SettingsError when the keys cannot be written, StorageError while another rotation is at work.
    """
    with services.rotation.alone():
        if not services.rotation.begun():
            ring = services.rotation.prepared()
            _write(services, ring, out)
            say(f"a new secret, {ring.newest.id}, is in {out or services.settings.key_path}: keep a copy of it")
            if out:
                say("set MEDAI_KEY to what it holds on every machine, start again, then run this again")
                return
        if prepare:
            say("copy the key file to every machine, then run `medai keys rotate`")
            return
        _finish(services, out, say)


def _finish(services: Services, out: Path | None, say: Say) -> None:
    rotation = services.rotation
    rotation.put_in_force(user())
    say(f"{sum(rotation.reseal())} keys, identities and objects are sealed under the new secret now")
    left = rotation.destroyed()
    if left.secrets != services.key_source.ring.secrets:
        _write(services, left, out)
        if out:
            say(f"nothing is sealed under the old secret: set MEDAI_KEY to what {out} holds, and run this again")
            return
    if len(left.secrets) > 1:
        say("something is still sealed under the old secret, which stays: run this again")
    for secret_id in rotation.note_destroyed(user()):
        say(f"secret {secret_id} is destroyed: copies of it open nothing that is here; make a new backup")


def _write(services: Services, ring: Any, out: Path | None) -> None:
    from medai_pipeline.storage.keyring import write_ring

    if out:
        write_ring(out.resolve(), ring)
    else:
        services.key_source.write(ring)


# forgetting --------------------------------------------------------------------------------------------------


def wanted(services: Services, study_keys: Sequence[str], patient_id: str | None) -> list[str]:
    from medai_pipeline.orchestration.forgetting import studies_of_patient

    if patient_id is not None:
        return studies_of_patient(services, patient_id, user())
    services.spool.sort()
    return list(dict.fromkeys(key.strip().upper() for key in study_keys))


def loose(services: Services, study_keys: Sequence[str], patient_id: str | None) -> int:
    """How many files that came in are theirs, and under no study's own secret."""
    return len(services.spool.shared_of(study_keys, patient_id or ""))


def forget(services: Services, study_keys: Sequence[str], patient_id: str | None, reason: str, say: Say) -> list[str]:
    """Forgets each, and what came in of the patient and names no study; returns those that were never known here."""
    from medai_pipeline.orchestration.forgetting import forget as forget_study
    from medai_pipeline.orchestration.forgetting import forget_incoming

    missing: list[str] = []
    delivered: Counter[str] = Counter()
    incoming = 0
    for key in study_keys:
        try:
            done = forget_study(services, key, reason, user())
        except StorageError:
            missing.append(key)
            continue
        delivered, incoming = delivered + done.delivered, incoming + done.incoming
        say(f"{key}  forgotten; {done.objects} objects deleted")
    incoming += forget_incoming(services, study_keys, patient_id or "", reason, user())
    if incoming:
        say(f"{incoming} files that had come in and waited, or were refused, are deleted: the PACS did not have them")
    for destination, count in sorted(delivered.items()):
        say(f"{count} objects were sent to {destination}, or were on their way: look for them there, and delete them")
    if len(missing) < len(study_keys):
        say("backups of medai.study_secrets made before open with the secret of then: `medai keys rotate` ends that")
    return missing


def lift(services: Services, study_keys: Sequence[str], reason: str) -> list[str]:
    """Those that were not forgotten."""
    from medai_pipeline.orchestration.forgetting import lift as lift_studies

    lifted = lift_studies(services, study_keys, reason, user())
    return [key for key in study_keys if key not in lifted]


# retention ---------------------------------------------------------------------------------------------------


def show_retention(services: Services, dry_run: bool) -> None:
    from medai_pipeline.orchestration.ageing import apply
    from medai_pipeline.retention import KINDS

    done = {aged.kind: aged for aged in apply(services, dry_run, user())}
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for column in ("kind", "kept", "studies", "pieces", "MB", "what it is"):
        table.add_column(column)
    for kind in KINDS.values():
        aged = done.get(kind.name)
        found = (
            (f"{aged.days:g} days", str(aged.studies), str(aged.objects), f"{aged.size / 1e6:.1f}")
            if aged
            else ("for ever", "", "", "")
        )
        table.add_row(kind.name, *found, kind.meaning)
    table.add_row("audit", "for ever", "", "", "", "the audit chain")
    terminal().print(table)
    terminal().print("nothing was deleted: this is what would be" if dry_run else "deleted")
