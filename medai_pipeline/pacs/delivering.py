"""Results to a destination, and what it says of them: Orthanc by REST, any DICOM node by C-STORE and storage commitment.

What is due, and what follows from an answer, is decided in `returning`. Sending the same objects again is safe: Orthanc
keeps the first (or with OverwriteInstances the last) of two with one SOP Instance UID, and a node answers Success.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from medai_pipeline.dicom.own import is_own_result
from medai_pipeline.errors import PacsNotFound
from medai_pipeline.pacs.commitment import Commitment, ask_commitment
from medai_pipeline.pacs.destination import Destination
from medai_pipeline.pacs.dimse import Node, store_many
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.pacs.records import PacsInstance, UploadResult

NO_IMAGES = "the PACS holds no image of this study (any more): nothing is returned to it"


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the objects of one delivery. `refused`: why some are not there ("" when all are that can be).

    `for_now`: it has refused for now alone, as where it has no room. `left_out`: kinds of objects that the node does not
    take at all, in words. `stored[i]`: whether object i is there.
    """

    stored: tuple[bool, ...] = field(repr=False)
    refused: str = ""
    left_out: str = ""
    for_now: bool = False


class Sender(Protocol):
    """One destination. Raises PacsUnreachable, PacsUnauthorized, PacsError."""

    @property
    def commits(self) -> bool: ...

    def send(self, study_instance_uid: str, items: Sequence[bytes]) -> Sent: ...

    def commit(self, objects: Sequence[tuple[str, str]]) -> Commitment | None: ...


def sender_for(
    destination: Destination, orthanc: Callable[[], Orthanc], listen: tuple[str, int] | None = None
) -> Sender:
    """`orthanc` opens the PACS where the destination is that one; `listen`: where commitments are answered to."""
    return ToNode(destination.node, destination.commitment, listen) if destination.node else ToOrthanc(orthanc())


@dataclass(frozen=True, slots=True)
class ToOrthanc:
    """The Orthanc that the study came from: nothing is returned to a study that is not there any more."""

    pacs: Orthanc
    commits: bool = False

    def send(self, study_instance_uid: str, items: Sequence[bytes]) -> Sent:
        found = self.pacs.find_studies(study_instance_uid)
        if not any(not is_own(one) for study in found for one in self.pacs.instances(study.orthanc_id)):
            raise PacsNotFound(NO_IMAGES)
        return summed(self.pacs.return_many(items))

    def commit(self, objects: Sequence[tuple[str, str]]) -> Commitment | None:
        return None


@dataclass(frozen=True, slots=True)
class ToNode:
    """A DICOM node."""

    node: Node
    commits: bool
    listen: tuple[str, int] | None

    def send(self, study_instance_uid: str, items: Sequence[bytes]) -> Sent:
        return summed(store_many(self.node, items))

    def commit(self, objects: Sequence[tuple[str, str]]) -> Commitment | None:
        return ask_commitment(self.node, objects, self.listen)


def is_own(instance: PacsInstance) -> bool:
    """Whether it is a result of this pipeline, by what it says itself."""
    return is_own_result(instance.manufacturer, instance.sop_class_uid, instance.series_description)


def summed(results: Sequence[UploadResult]) -> Sent:
    """Results of single objects as one answer. A node that takes none of the kinds has refused all."""
    stored = tuple(result.stored for result in results)
    reasons = Counter(result.reason for result in results if result.status == "Refused")
    unknown = Counter(result.reason for result in results if result.status == "Unsupported")
    if unknown and not any(stored):
        reasons += unknown
    refused = "; ".join(f"{count} of {len(results)} objects: {reason}" for reason, count in reasons.most_common(2))
    left_out = "; ".join(f"{count} left out: {reason}" for reason, count in sorted(unknown.items()))
    later = [result.retryable for result in results if result.status == "Refused"]
    return Sent(stored, refused, "" if refused else left_out, for_now=bool(later) and all(later))
