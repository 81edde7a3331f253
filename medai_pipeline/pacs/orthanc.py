"""Orthanc by REST: the change feed, the sweep, digests, studies out and objects in. Decides nothing about them.

What the pipeline itself does not need is in the files beside: search, archive, modalities, editing.

Facts, found on 1.10.1 (Debian), on which this module rests; what newer versions add is detected, never assumed:

- `/studies?expand` gives the main tags of study and patient and LastUpdate, but no instance count; that is one
  `/studies/{id}/statistics` each (0.7 ms). Listings page by offset, so a deletion between two pages can hide a study
  from one sweep: absence from a sweep proves nothing, `study()` does.
- LastUpdate (UTC, whole seconds) moves when an instance comes in, not when one is deleted or metadata is written.
- Deletions leave no event in `/changes`; they take the events of what they deleted with them.
- `/tools/bulk-content` (1.9.4+) lists a study's instances with SOP Class UID in one request. Where it is not
  allowed or not known, `/studies/{id}/instances` serves, without the class.
- One StudyInstanceUID under two Patient IDs is two studies to Orthanc. `find_studies` gives both; `united` makes one of
  them, so that what is one study by its UID is never half seen.
- An instance is stored once: a second upload of the same SOP Instance UID is AlreadyStored, also with other bytes,
  unless the server sets OverwriteInstances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medai_pipeline.errors import PacsError, PacsNotFound, PacsUnauthorized, PacsUnreachable
from medai_pipeline.pacs.orthanc_archive import Archive
from medai_pipeline.pacs.orthanc_editing import Editing
from medai_pipeline.pacs.orthanc_modalities import Modalities
from medai_pipeline.pacs.orthanc_search import Search
from medai_pipeline.pacs.parallel import ordered
from medai_pipeline.pacs.records import Change, Changes, PacsInstance, PacsStudy, SourceDigest, UploadResult
from medai_pipeline.pacs.seam import digest_of, nothing, united
from medai_pipeline.pacs.stow import stow
from medai_pipeline.pacs.wire import Wire

PAGE = 100
IN_FLIGHT_BYTES = 256 * 2**20
_UNASKED = "\0"  # whether the server has the DICOMweb plug-in


class Orthanc(Search, Archive, Modalities, Editing):
    """A client for one Orthanc; thread-safe, one connection pool. Close it, or use it as a context manager.

    Every method raises PacsUnreachable (retry), PacsUnauthorized (settings), PacsNotFound (gone) or PacsError.
    """

    def __init__(self, url: str, username: str = "", password: str | None = None) -> None:
        self._wire = Wire(url, username, password)
        self._dicomweb_root: str | None = _UNASKED

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    # -- the server ---------------------------------------------------------------------------------------------

    def system(self) -> dict[str, Any]:
        """`/system`: Version, DicomAet, DicomPort, ..."""
        body = self._wire.json("system")
        if not isinstance(body, dict) or "Version" not in body:
            raise PacsError(f"{self._wire.address} does not answer like an Orthanc: check ORTHANC_URL")
        return body

    def statistics(self) -> dict[str, Any]:
        """`/statistics`: CountPatients, CountStudies, CountSeries, CountInstances, TotalDiskSizeMB, ..."""
        return dict(self._wire.json("statistics"))

    def last_change(self) -> int:
        """The newest sequence number of the change feed; 0 when nothing ever happened."""
        return int(self._wire.json("changes", limit=0)["Last"])

    def changes(self, since: int, limit: int = 1000) -> Changes:
        """Events after `since`, oldest first, at most `limit`. A hint only: see the module's facts.

        The counter survives restarts. `reset` is true when the server's counter is behind `since`.
        """
        body = self._wire.json("changes", since=since, limit=limit)
        items = tuple(
            Change(int(item["Seq"]), item["ChangeType"], item["ResourceType"], item["ID"]) for item in body["Changes"]
        )
        reset = not items and since > 0 and self.last_change() < since
        return Changes(items, items[-1].seq if items else (0 if reset else since), bool(body["Done"]), reset)

    # -- studies ------------------------------------------------------------------------------------------------

    def studies(self, counts: bool = True, concurrency: int = 4) -> Iterator[PacsStudy]:
        """Every study, page by page. `counts=False` leaves `instance_count` None and saves a request a study.

        A study that vanishes while it is counted is left out.
        """
        since = 0
        while page := self._wire.json("studies", expand="", since=since, limit=PAGE):
            since += len(page)
            if not counts:
                yield from map(_study, page)
                continue
            for body, count in ordered(lambda body: self._count_or_none(body["ID"]), page, concurrency):
                if count is not None:
                    yield _study(body, count)

    def study(self, orthanc_id: str) -> PacsStudy:
        """One study with its instance count. Raises PacsNotFound when it is not there (any more)."""
        return _study(self._wire.json(f"studies/{orthanc_id}"), self._count(orthanc_id))

    def find_studies(self, study_instance_uid: str) -> tuple[PacsStudy, ...]:
        """All that Orthanc holds under this StudyInstanceUID: one study for each Patient ID, usually one, () for none."""
        counted = ((hit, self._count_or_none(hit)) for hit in self.named("study", study_instance_uid))
        return tuple(_study(self._wire.json(f"studies/{hit}"), count) for hit, count in counted if count is not None)

    def find_study(self, study_instance_uid: str) -> PacsStudy | None:
        """`find_studies` as one (`united`). None when there is none."""
        found = self.find_studies(study_instance_uid)
        return united(found) if found else None

    def instances(self, *orthanc_ids: str) -> tuple[PacsInstance, ...]:
        """The instances of a study (of several: of all of them), sorted by SOP Instance UID."""
        found = (instance for orthanc_id in orthanc_ids for instance in self._instances(orthanc_id))
        return tuple(sorted(found, key=lambda instance: (instance.sop_instance_uid, instance.orthanc_id)))

    def _instances(self, orthanc_id: str) -> list[PacsInstance]:
        bodies = self._bulk(orthanc_id)
        if bodies is None:
            bodies = self._wire.json(f"studies/{orthanc_id}/instances", expand="")
        if not bodies:
            raise PacsNotFound(f"the PACS at {self._wire.address} does not have this study (any more)")
        series = {
            body["ID"]: body["MainDicomTags"] for body in self._wire.json(f"studies/{orthanc_id}/series", expand="")
        }
        return [_instance(body, series.get(body.get("ParentSeries", ""), {})) for body in bodies]

    def source_digest(
        self,
        *orthanc_ids: str,
        ignore: Callable[[PacsInstance], bool] = nothing,
        concurrency: int = 4,
    ) -> SourceDigest:
        """What the study (several: all of them together) consists of now, without what `ignore` names (our own results).

        Equal after a restart, a re-upload or a migration of the same files; another one after any late, lost or
        changed instance. No instance left gives the digest of nothing, count 0.
        """
        chosen = [instance for instance in self.instances(*orthanc_ids) if not ignore(instance)]
        return digest_of(ordered(self._md5, chosen, concurrency))

    @staticmethod
    def fingerprint(study: PacsStudy) -> str:
        """Cheap change detection: equal as long as no instance came in or went. Not an identity: `source_digest` is."""
        count = "?" if study.instance_count is None else study.instance_count
        return f"{study.last_update}/{count}"

    # -- instances out and in -----------------------------------------------------------------------------------

    def fetch(
        self,
        instances: Iterable[PacsInstance],
        concurrency: int = 4,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
    ) -> Iterator[tuple[PacsInstance, bytes]]:
        """(instance, its file as stored) in the given order, several at a time.

        At most `concurrency` files and `in_flight_bytes` are held; one bigger file goes alone.
        Raises PacsNotFound at the first instance that is not there any more.
        """
        return ordered(self._file, instances, concurrency, lambda instance: instance.size_bytes, in_flight_bytes)

    def upload(self, data: bytes) -> UploadResult:
        """Stores one DICOM file. Repeating it is safe. Raises PacsError when Orthanc cannot read it."""
        response = self._wire.request("POST", "instances", content=data)
        body = self._wire.read_json(response)
        if isinstance(body, list):  # newer versions unpack zip archives: one entry a file
            body = body[0] if body else {"Status": "Refused"}
        return UploadResult(body.get("Status", "Refused"), body.get("ID", ""), body.get("ParentStudy", ""))

    def upload_many(
        self,
        items: Iterable[bytes | Path],
        concurrency: int = 8,
        progress: Callable[[UploadResult], None] | None = None,
    ) -> list[UploadResult]:
        """Stores many files, read as they are needed; results in the order of `items`.

        What Orthanc refuses is a result with status Refused; an unreachable or unauthorized PACS ends the upload.
        """
        results = []
        for _, result in ordered(self._upload_or_refusal, items, concurrency):
            results.append(result)
            if progress:
                progress(result)
        return results

    def return_many(self, items: Sequence[bytes]) -> list[UploadResult]:
        """Stores a few objects, by STOW-RS where the DICOMweb plug-in answers, else as `upload_many`; in their order."""
        root = self._dicomweb()
        if root is None:
            return self.upload_many(items)
        try:
            return [stow(self._wire, root, item) for item in items]
        except PacsNotFound:  # the plug-in is there and answers elsewhere
            self._dicomweb_root = None
            return self.upload_many(items)

    def _dicomweb(self) -> str | None:
        """Where the DICOMweb plug-in answers, below the server's address; None where there is none."""
        if self._dicomweb_root is _UNASKED:
            try:
                told = str(
                    self._wire.json("plugins/dicom-web").get("RootUri", "")
                )  # ../dicom-web/app/client/index.html
                self._dicomweb_root = told.removeprefix("../").partition("/app/")[0].strip("/") or "dicom-web"
            except PacsUnreachable:
                raise
            except PacsError:
                self._dicomweb_root = None
        return self._dicomweb_root

    def _upload_or_refusal(self, item: bytes | Path) -> UploadResult:
        try:
            return self.upload(item.read_bytes() if isinstance(item, Path) else item)
        except (PacsUnreachable, PacsUnauthorized):
            raise
        except PacsError as error:
            return UploadResult("Refused", reason=error.reason, retryable=error.retryable)

    def _file(self, instance: PacsInstance) -> bytes:
        return self._wire.get(f"instances/{instance.orthanc_id}/file").content

    def _md5(self, instance: PacsInstance) -> str:
        """The MD5 that Orthanc keeps; of the file itself where the server keeps none (StoreMD5ForAttachments off)."""
        try:
            md5 = self._wire.get(f"instances/{instance.orthanc_id}/attachments/dicom/md5").text.strip()
        except PacsNotFound:
            md5 = ""
        return md5 or hashlib.md5(self._file(instance), usedforsecurity=False).hexdigest()

    def _count(self, orthanc_id: str) -> int:
        return int(self._wire.json(f"studies/{orthanc_id}/statistics")["CountInstances"])

    def _count_or_none(self, orthanc_id: str) -> int | None:
        try:
            return self._count(orthanc_id)
        except PacsNotFound:
            return None

    def _bulk(self, orthanc_id: str) -> list[dict[str, Any]] | None:
        """The instances with metadata in one request; None where the server does not offer it to us."""
        query = {"Resources": [orthanc_id], "Level": "Instance", "Metadata": True, "Short": False}
        try:
            return self._wire.read_json(self._wire.request("POST", "tools/bulk-content", json=query))
        except PacsUnreachable:
            raise
        except PacsError:
            return None


def _study(body: Mapping[str, Any], count: int | None = None) -> PacsStudy:
    study, patient = body.get("MainDicomTags", {}), body.get("PatientMainDicomTags", {})
    return PacsStudy(
        orthanc_id=body["ID"],
        study_instance_uid=study.get("StudyInstanceUID", ""),
        last_update=body.get("LastUpdate", ""),
        instance_count=count,
        patient_id=patient.get("PatientID", ""),
        patient_name=patient.get("PatientName", ""),
        birth_date=patient.get("PatientBirthDate", ""),
        sex=patient.get("PatientSex", ""),
        accession_number=study.get("AccessionNumber", ""),
        study_id=study.get("StudyID", ""),
        study_date=study.get("StudyDate", ""),
        study_time=study.get("StudyTime", ""),
        study_description=study.get("StudyDescription", ""),
        referring_physician=study.get("ReferringPhysicianName", ""),
    )


def _instance(body: Mapping[str, Any], series: Mapping[str, str]) -> PacsInstance:
    return PacsInstance(
        orthanc_id=body["ID"],
        sop_instance_uid=body["MainDicomTags"].get("SOPInstanceUID", ""),
        size_bytes=int(body.get("FileSize", 0)),
        sop_class_uid=body.get("Metadata", {}).get("SopClassUid", ""),
        series_orthanc_id=body.get("ParentSeries", ""),
        manufacturer=series.get("Manufacturer", ""),
        series_description=series.get("SeriesDescription", ""),
    )
