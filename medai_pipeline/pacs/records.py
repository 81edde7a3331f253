"""What a PACS tells about studies, instances and changes. They identify patients: no repr shows a value.

Orthanc ids are SHA-1 digests of DICOM identifiers, so they count as identifying too.
"""

from __future__ import annotations

from dataclasses import dataclass


class Hidden:
    """A repr without values, for records that identify."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<hidden>)"


@dataclass(frozen=True, slots=True, repr=False)
class PacsStudy(Hidden):
    """One study as the PACS lists it. DICOM values are as stored, "" where absent; dates are DA (YYYYMMDD).

    `last_update`: Orthanc's own time (UTC, 1 s resolution) of the last instance that came in; deletions and
    metadata do not move it. `instance_count` is None where it was not asked for (`Orthanc.studies(counts=False)`).
    """

    orthanc_id: str
    study_instance_uid: str
    last_update: str = ""
    instance_count: int | None = None
    patient_id: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class PacsInstance(Hidden):
    """One stored instance. `size_bytes` is what `fetch` gives; `sop_class_uid` is "" on servers that do not tell.

    `series_orthanc_id` groups the instances of a series; `manufacturer` and `series_description` are the series'.
    """

    orthanc_id: str
    sop_instance_uid: str
    size_bytes: int
    sop_class_uid: str = ""
    series_orthanc_id: str = ""
    manufacturer: str = ""
    series_description: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Change(Hidden):
    """One event of the feed: `kind` is Orthanc's ChangeType, `resource_type` Patient|Study|Series|Instance."""

    seq: int
    kind: str
    resource_type: str
    orthanc_id: str


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the feed. `last` is the cursor to go on from; `done` says that nothing newer is there now.

    `reset` is true when the server's counter is behind the cursor that was asked for: its database is another one,
    the cursor must start again at 0, and only a sweep finds what the feed no longer tells.
    """

    items: tuple[Change, ...]
    last: int
    done: bool
    reset: bool = False


@dataclass(frozen=True, slots=True)
class SourceDigest:
    """Identity of a study's content: hexadecimal SHA-256 over the sorted (SOPInstanceUID, MD5 of the file) pairs.

    `instances` are those it was made of, sorted by SOPInstanceUID; `md5s[i]` belongs to `instances[i]`.
    """

    digest: str
    instances: tuple[PacsInstance, ...]
    md5s: tuple[str, ...]

    @property
    def instance_count(self) -> int:
        return len(self.instances)


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What became of one upload. `status`: Success | AlreadyStored | Refused | Unsupported (a node that does not take such
    objects at all). `reason` says why, without identity. `retryable`: refused for now alone, as where the PACS has no room.
    """

    status: str
    orthanc_id: str = ""
    study_orthanc_id: str = ""
    reason: str = ""
    retryable: bool = False

    @property
    def stored(self) -> bool:
        return self.status in {"Success", "AlreadyStored"}
