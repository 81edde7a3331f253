"""A PACS that is asked by DIMSE alone: C-FIND for what it has, C-GET or C-MOVE to fetch, C-STORE to send. No Orthanc.

Facts on which it rests, and limits that follow:

- There is no feed. Studies of the last days (StudyDate) are listed again and again; an old study that arrives now is
  not seen.
- What tells that a study changed is its number of instances: Number of Study Related Instances where the PACS gives it
  (the key is optional, PS3.4 C.3.4), else counted by C-FIND at image level. One instance exchanged for another is seen
  at the next other change.
- The digest of a study is made of SOP Instance UIDs alone: a PACS tells no checksums.
- Queries are hierarchical (PS3.4 C.4.1.3.1): below a study each series is asked for. Few offer relational ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from medai_pipeline.errors import PacsNotFound
from medai_pipeline.pacs.association import associate
from medai_pipeline.pacs.dicom_fetch import Way, fetched
from medai_pipeline.pacs.dimse import echo_node
from medai_pipeline.pacs.find import FIND_MODELS, Match, ask, query
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.records import Changes, PacsInstance, PacsStudy, SourceDigest, UploadResult
from medai_pipeline.pacs.seam import digest_of, nothing, united
from medai_pipeline.pacs.store import store_many

MODEL = FIND_MODELS["study"]


@dataclass(frozen=True, slots=True)
class DicomPacs:
    """The seam `Pacs` over one node. `days`: how far back studies are listed; `way`: how instances come to us."""

    node: Node
    days: int = 2
    way: Way = field(default_factory=Way)

    def close(self) -> None:
        """Nothing stays open between two questions."""

    def system(self) -> dict[str, Any]:
        echo_node(self.node)
        return {"DicomAet": self.node.called_ae, "Name": self.node.address}

    def last_change(self) -> int:
        return 0

    def changes(self, since: int, limit: int = 1000) -> Changes:
        return Changes((), 0, done=True)

    def studies(self) -> Iterator[PacsStudy]:
        today = date.today()
        days = f"{today - timedelta(self.days):%Y%m%d}-{today + timedelta(1):%Y%m%d}"  # its clock may be ahead of ours
        with self._asking() as asking:
            for match in list(asking("STUDY", StudyDate=days)):
                if match.text("StudyInstanceUID"):
                    yield self._study(match, asking)

    def study(self, orthanc_id: str) -> PacsStudy:
        found = self.find_study(orthanc_id)
        if found is None:
            raise self._gone()
        return found

    def find_studies(self, study_instance_uid: str) -> tuple[PacsStudy, ...]:
        with self._asking() as asking:
            matches = list(asking("STUDY", StudyInstanceUID=study_instance_uid))
            return tuple(
                self._study(match, asking) for match in matches if match.text("StudyInstanceUID") == study_instance_uid
            )

    def find_study(self, study_instance_uid: str) -> PacsStudy | None:
        found = self.find_studies(study_instance_uid)
        return united(found) if found else None

    def fingerprint(self, study: PacsStudy) -> str:
        return str(study.instance_count)

    def source_digest(
        self, *orthanc_ids: str, ignore: Callable[[PacsInstance], bool] = nothing, concurrency: int = 4
    ) -> SourceDigest:
        return digest_of((instance, "") for instance in self.instances(*orthanc_ids) if not ignore(instance))

    def instances(self, *orthanc_ids: str) -> tuple[PacsInstance, ...]:
        """`size_bytes` is 0 and `sop_class_uid` "" where the PACS does not tell."""
        with self._asking() as asking:
            found = [instance for uid in dict.fromkeys(orthanc_ids) for instance in _images(asking, uid)]
        if not found:
            raise self._gone()
        return tuple(sorted(found, key=lambda instance: instance.sop_instance_uid))

    def fetch(self, instances: Iterable[PacsInstance], concurrency: int = 4) -> Iterator[tuple[PacsInstance, bytes]]:
        return fetched(self.node, self.way, list(instances), concurrency)

    def upload(self, data: bytes) -> UploadResult:
        return store_many(self.node, [data])[0]

    def upload_many(
        self,
        items: Iterable[bytes | Path],
        concurrency: int = 8,
        progress: Callable[[UploadResult], None] | None = None,
    ) -> list[UploadResult]:
        return store_many(self.node, items, progress)

    @contextmanager
    def _asking(self) -> Iterator[_Asking]:
        with associate(self.node, [build_context(MODEL)]) as association:
            yield _Asking(association, self.node)

    def _study(self, match: Match, asking: _Asking) -> PacsStudy:
        uid = match.text("StudyInstanceUID")
        count = match.count("NumberOfStudyRelatedInstances")
        return PacsStudy(
            orthanc_id=uid,
            study_instance_uid=uid,
            instance_count=sum(1 for _ in _images(asking, uid)) if count is None else count,
            patient_id=match.text("PatientID"),
            patient_name=match.text("PatientName"),
            birth_date=match.text("PatientBirthDate"),
            sex=match.text("PatientSex"),
            accession_number=match.text("AccessionNumber"),
            study_id=match.text("StudyID"),
            study_date=match.text("StudyDate"),
            study_time=match.text("StudyTime"),
            study_description=match.text("StudyDescription"),
            referring_physician=match.text("ReferringPhysicianName"),
        )

    def _gone(self) -> PacsNotFound:
        return PacsNotFound(f"the PACS at {self.node.address} does not have this object (any more)")


@dataclass(frozen=True, slots=True)
class _Asking:
    """Several queries on one association."""

    association: Association
    node: Node

    def __call__(self, level: str, **keys: str) -> Iterator[Match]:
        return ask(self.association, self.node, query(level, keys), MODEL)


def _images(asking: _Asking, study: str) -> Iterator[PacsInstance]:
    for series in list(asking("SERIES", StudyInstanceUID=study)):
        uid = series.text("SeriesInstanceUID")
        if not uid or not _belongs(series, StudyInstanceUID=study):
            continue
        for image in asking("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=uid):
            sop = image.text("SOPInstanceUID")
            if sop and _belongs(image, StudyInstanceUID=study, SeriesInstanceUID=uid):
                modality = series.text("Modality")
                yield PacsInstance(
                    f"{study}/{uid}/{sop}",
                    sop,
                    0,
                    image.text("SOPClassUID"),
                    f"{uid}/{modality}",
                    series_description=series.text("SeriesDescription"),
                )


def _belongs(match: Match, **above: str) -> bool:
    """Whether an answer is about what was asked for: some nodes leave a key that they do not know unmatched."""
    return all(match.text(keyword) in {"", value} for keyword, value in above.items())
