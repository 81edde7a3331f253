"""What a person asks of an Orthanc: find studies by their attributes, take one out as it is, delete an image, fetch from
another node. How the pipeline itself reads the PACS stands in `orthanc`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from medai_pipeline.errors import PacsError
from medai_pipeline.pacs.wire import Wire

MOST_FOUND = 500


class Browse:
    """Raises PacsUnreachable, PacsUnauthorized, PacsNotFound, PacsError, as `Orthanc` does."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def search(self, query: Mapping[str, str], limit: int = MOST_FOUND) -> list[Mapping[str, Any]]:
        """Studies whose attributes match, as Orthanc describes them: `query` by DICOM keyword, with * and ? and date ranges."""
        body = {"Level": "Study", "Expand": True, "CaseSensitive": False, "Limit": limit, "Query": dict(query)}
        found = self._wire.read_json(self._wire.request("POST", "tools/find", json=body))
        if not isinstance(found, list):
            raise PacsError(f"{self._wire.address} does not answer like an Orthanc: check ORTHANC_URL")
        return found

    def study(self, orthanc_id: str) -> Mapping[str, Any]:
        """The study as Orthanc describes it, with how much it holds."""
        body = dict(self._wire.json(f"studies/{orthanc_id}"))
        return {**body, "Statistics": self._wire.json(f"studies/{orthanc_id}/statistics")}

    def instances_named(self, sop_instance_uid: str) -> list[str]:
        """The Orthanc ids of the instances with this SOP Instance UID: one, or none."""
        response = self._wire.request("POST", "tools/lookup", content=sop_instance_uid.encode())
        return [item["ID"] for item in self._wire.read_json(response) if item["Type"] == "Instance"]

    def delete_instance(self, orthanc_id: str) -> None:
        self._wire.request("DELETE", f"instances/{orthanc_id}")

    @contextmanager
    def archive(self, orthanc_id: str) -> Iterator[Iterator[bytes]]:
        """The study as a zip of its files as they are, piece by piece: memory holds one piece."""
        with self._wire.stream(f"studies/{orthanc_id}/archive") as pieces:
            yield pieces

    def modalities(self) -> Sequence[str]:
        """The names of the other nodes that this Orthanc knows."""
        return list(self._wire.json("modalities"))

    def retrieve(self, modality: str, study_instance_uid: str) -> int:
        """Makes the PACS fetch a study from another node (C-MOVE to itself); how many matches that node had.

        Raises PacsError when the node does not answer or refuses.
        """
        query = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        asked = self._wire.read_json(self._wire.request("POST", f"modalities/{modality}/query", json=query))
        answers = self._wire.json(f"queries/{asked['ID']}/answers")
        for number in answers:
            self._wire.request("POST", f"queries/{asked['ID']}/answers/{number}/retrieve", json={"Synchronous": True})
        return len(answers)
