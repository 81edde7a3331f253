"""What the pipeline asks of a PACS, whatever it is: `orthanc` answers by REST, `dicom_pacs` by DIMSE alone.

`services.pacs` is one of them. Handles (`orthanc_id`) are the PACS's own and identify: for a DIMSE one they are UIDs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from medai_pipeline.pacs.records import Changes, PacsInstance, PacsStudy, SourceDigest, UploadResult


class Pacs(Protocol):
    """Thread-safe. Every method raises PacsUnreachable (retry), PacsUnauthorized (settings), PacsNotFound (gone) or PacsError."""

    def close(self) -> None: ...

    def system(self) -> dict[str, Any]:
        """Who answers. Raises when it does not."""

    def last_change(self) -> int:
        """The newest sequence number of its change feed; always 0 where it has none."""

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """Events after `since`: a hint only. None where it has no feed: sweeps alone then notice studies."""

    def studies(self) -> Iterator[PacsStudy]:
        """Every study (of the days that are watched), with its instance count."""

    def study(self, orthanc_id: str) -> PacsStudy:
        """One study by its handle. Raises PacsNotFound."""

    def find_studies(self, study_instance_uid: str) -> tuple[PacsStudy, ...]:
        """All under this UID: one for each Patient ID, usually one, () for none."""

    def find_study(self, study_instance_uid: str) -> PacsStudy | None:
        """`find_studies` as one (`united`)."""

    def fingerprint(self, study: PacsStudy) -> str:
        """Equal as long as no instance came in or went, as far as the PACS tells cheaply."""

    def source_digest(
        self, *orthanc_ids: str, ignore: Callable[[PacsInstance], bool] = ..., concurrency: int = 4
    ) -> SourceDigest:
        """What the studies consist of now, without what `ignore` names."""

    def instances(self, *orthanc_ids: str) -> tuple[PacsInstance, ...]:
        """Their instances, sorted by SOP Instance UID. Raises PacsNotFound when there are none."""

    def fetch(self, instances: Iterable[PacsInstance], concurrency: int = 4) -> Iterator[tuple[PacsInstance, bytes]]:
        """Each instance once with its file, in whatever order they come; memory stays bounded by a few."""

    def upload(self, data: bytes) -> UploadResult: ...

    def upload_many(
        self,
        items: Iterable[bytes | Path],
        concurrency: int = 8,
        progress: Callable[[UploadResult], None] | None = None,
    ) -> list[UploadResult]:
        """Stores files; results in the order of `items`. Repeating it is safe."""


def nothing(_: PacsInstance) -> bool:
    """Ignore no instance."""
    return False


def united(studies: Iterable[PacsStudy]) -> PacsStudy:
    """Several studies with one StudyInstanceUID as one, all instances counted. It names no patient when they differ."""
    parts = sorted(studies, key=lambda study: study.orthanc_id)
    if len(parts) == 1:
        return parts[0]
    counts = [part.instance_count for part in parts if part.instance_count is not None]
    return PacsStudy(
        orthanc_id="",
        study_instance_uid=parts[0].study_instance_uid,
        last_update=max(part.last_update for part in parts),
        instance_count=sum(counts) if len(counts) == len(parts) else None,
    )


def digest_of(pairs: Iterable[tuple[PacsInstance, str]]) -> SourceDigest:
    """Of (instance, MD5 of its file, or "" where the PACS tells none), in this order."""
    digest, instances, md5s = hashlib.sha256(), [], []
    for instance, md5 in pairs:
        digest.update(f"{instance.sop_instance_uid}\0{md5}\n".encode())
        instances.append(instance)
        md5s.append(md5)
    return SourceDigest(digest.hexdigest(), tuple(instances), tuple(md5s))
