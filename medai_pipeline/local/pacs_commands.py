"""What `medai pacs ...` does: asks a PACS or a DICOM node, and shows what came in and was not taken.

What a person is shown here identifies patients. Where a database is known, that it was asked for is in the audit chain.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai_pipeline.errors import PacsNotFound, SettingsError, StorageError
from medai_pipeline.incoming.spool import Quarantined
from medai_pipeline.local.study_commands import user
from medai_pipeline.pacs.node import Node, parse_node
from medai_pipeline.pacs.records import PacsInstance

if TYPE_CHECKING:
    from medai_pipeline.pacs.seam import Pacs
    from medai_pipeline.services import Services
    from medai_pipeline.settings import Settings

SHOWN = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "study": (
        "PatientID", "PatientName", "StudyDate", "AccessionNumber", "StudyDescription",
        "NumberOfStudyRelatedInstances", "StudyInstanceUID",
    ),
    "series": ("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    "image": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
    "worklist": ("PatientID", "PatientName", "AccessionNumber", "RequestedProcedureDescription", "StudyInstanceUID"),
}  # fmt: skip
ORTHANC_LEVEL = {"image": "instance"}


@dataclass(frozen=True, slots=True, repr=False)
class Asking:
    """`node` None: the PACS of the settings. Shows no value."""

    services: Services
    node: Node | None = None

    def __repr__(self) -> str:
        return "Asking(<hidden>)"

    @property
    def pacs(self) -> Pacs:
        """The seam, over the node that was named or over the PACS of the settings."""
        if self.node is None:
            return self.services.pacs
        from medai_pipeline.pacs.dicom_pacs import DicomPacs

        return DicomPacs(self.node)


def asking(services: Services, name: str | None) -> Asking:
    """Raises SettingsError when `name` is no node."""
    known = services.settings
    text = name or known.pacs
    return Asking(services, parse_node(text, known.aet, known.tls) if text else None)


def node_of(settings: Settings, name: str | None) -> Node:
    """The node that was named, or that of MEDAI_PACS. Raises SettingsError when there is none."""
    text = name or settings.pacs
    if not text:
        raise SettingsError("name a DICOM node: --node dicom://AET@HOST:PORT, or MEDAI_PACS")
    return parse_node(text, settings.aet, settings.tls)


def status(services: Services) -> dict[str, Any]:
    """Who the PACS is, and what came in: for a person and for programs, without identity. Raises PacsError when it is away."""
    system = services.pacs.system()
    aside = services.spool.quarantine()
    return {
        "pacs": services.settings.pacs or services.settings.orthanc_url,
        "answers_as": system.get("DicomAet", ""),
        "version": system.get("Version", ""),
        "waiting_to_be_passed_on": len(services.spool.waiting()),
        "in_quarantine": len(aside),
    }


def found(asked: Asking, level: str, keys: Mapping[str, str], limit: int) -> list[dict[str, str]]:
    """What matches, a dictionary a hit with the keywords of SHOWN."""
    answers = [{keyword: text(keyword) for keyword in SHOWN[level]} for text in _texts(asked, level, keys, limit)]
    _record(asked.services, "find", {"level": level, "answers": len(answers)})
    return answers


def _texts(asked: Asking, level: str, keys: Mapping[str, str], limit: int) -> Iterator[Callable[[str], str]]:
    if asked.node is None:
        from medai_pipeline.pacs.orthanc import Orthanc

        pacs = asked.services.pacs
        if level == "worklist" or not isinstance(pacs, Orthanc):
            raise SettingsError("a worklist is asked for at its own node: --node dicom://AET@HOST:PORT")
        for hit in pacs.search(ORTHANC_LEVEL.get(level, level), keys, limit):
            yield lambda keyword, tags=hit.tags: str(tags.get(keyword, ""))  # type: ignore[misc]
        return
    from medai_pipeline.pacs.find import find, find_worklist

    if level == "worklist":
        matches = find_worklist(asked.node, keys, limit=limit)
    else:
        matches = find(asked.node, level.upper(), keys, "patient" if level == "patient" else "study", limit)
    for match in matches:
        yield match.text


def fetch(asked: Asking, study_uids: Sequence[str], out: Path, advance: Callable[[int], None]) -> int:
    """Each instance of the studies as OUT/<beginning of its SHA-256>.dcm, mode 0600; how many. As the PACS has them: identified.

    Raises PacsNotFound for a study that is not there.
    """
    pacs, written, wanted = asked.pacs, 0, list[tuple[PacsInstance, ...]]()
    for uid in study_uids:
        studies = pacs.find_studies(uid)
        if not studies:
            raise PacsNotFound("the PACS has no study with one of these UIDs: `medai pacs find` lists what it has")
        wanted.append(pacs.instances(*(study.orthanc_id for study in studies)))
    # before the first byte: whatever is cut off, it was recorded
    _record(asked.services, "get", {"studies": len(wanted), "instances": sum(map(len, wanted))})
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _, data in (fetched for instances in wanted for fetched in pacs.fetch(instances)):
        write_private(out / f"{hashlib.sha256(data).hexdigest()[:24]}.dcm", data)
        written += 1
        advance(1)
    return written


def move_to(asked_node: Node, services: Services, study_uids: Sequence[str], destination: str) -> int:
    """C-MOVE of each study to the AE that the node knows as `destination`; how many instances went."""
    from medai_pipeline.pacs.retrieve import move

    _record(services, "move", {"studies": len(study_uids), "to": destination})  # before: some may go and the rest fail
    return sum(move(asked_node, destination, "STUDY", {"StudyInstanceUID": uid}).completed for uid in study_uids)


def quarantined(services: Services, beginnings: Sequence[str]) -> list[Quarantined]:
    """Entries whose digest begins so; all without a beginning. Raises StorageError for one that fits nothing."""
    entries = services.spool.quarantine()
    if any(entry.file_name for entry in entries):  # they may name somebody
        _record(services, "quarantine list", {"files": len(entries)})
    for beginning in beginnings:
        if not any(entry.digest.startswith(beginning) for entry in entries):
            raise StorageError("no entry of the quarantine begins so: `medai pacs quarantine` lists them")
    return [entry for entry in entries if not beginnings or entry.digest.startswith(tuple(beginnings))]


def act(services: Services, entries: Sequence[Quarantined], what: str, out: Path | None = None) -> None:
    """`what`: again (to the PACS once more), forget (for good), or out (in clear to the folder `out`; the entry stays)."""
    spool = services.spool
    _record(services, f"quarantine {what}", {"files": len(entries)})  # before: whatever is cut off, it was recorded
    for entry in entries:
        if what == "again":
            spool.try_again(entry.entry)
        elif what == "forget":
            spool.forget(entry.entry)
        elif out is not None:
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(out / f"{entry.digest[:24]}.dcm", spool.quarantined(entry.entry))


def write_private(path: Path, data: bytes) -> None:
    """Mode 0600 from the first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _record(services: Services, action: str, detail: Mapping[str, Any]) -> None:
    if services.settings.database_url:
        services.audit.append(user(), f"pacs {action}", "pacs", detail)
