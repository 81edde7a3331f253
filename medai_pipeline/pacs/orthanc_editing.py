"""Orthanc changes what it holds: anonymize and modify make copies, delete takes away. The pipeline itself calls none of it.

Orthanc's anonymization is its own, measured in docs/deidentification.md: it is not what this package calls de-identified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medai_pipeline.pacs.orthanc_jobs import Jobs


class Editing(Jobs):
    """A part of `Orthanc`."""

    def anonymize(self, orthanc_id: str, keep: Sequence[str] = (), replace: Mapping[str, str] | None = None) -> str:
        """The Orthanc id of a new study, without identity as far as Orthanc goes. `keep`, `replace`: DICOM keywords."""
        body = {"Keep": list(keep), "Replace": dict(replace or {}), "Force": bool(keep or replace)}
        return str(self._job(f"studies/{orthanc_id}/anonymize", body)["ID"])

    def modify(self, orthanc_id: str, replace: Mapping[str, str] | None = None, remove: Sequence[str] = ()) -> str:
        """The Orthanc id of a new study, with new UIDs; the old one stays. Raises PacsError when Orthanc refuses the change."""
        body = {"Replace": dict(replace or {}), "Remove": list(remove), "KeepSource": True}
        return str(self._job(f"studies/{orthanc_id}/modify", body)["ID"])

    def delete(self, orthanc_id: str, level: str = "studies") -> None:
        """Takes a study (or series, instances, patients) out of the PACS, for good. Raises PacsNotFound when it is not there."""
        self._wire.request("DELETE", f"{level}/{orthanc_id}", repeatable=False)
