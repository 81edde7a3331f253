"""The DICOM nodes that Orthanc knows: list and name them, ask, send and fetch through it. Our own DIMSE is in `dimse`.

Facts, found on 1.10.1: a query stays in Orthanc with its answers until it is deleted, at most 100 of them; `find-worklist`
asks a node for its Modality Worklist; a node is only sent to, or fetched from, by the name that it has here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from medai_pipeline.errors import PacsNotFound
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.orthanc_jobs import JOB_S, Jobs
from medai_pipeline.pacs.orthanc_search import Found


class Modalities(Jobs):
    """A part of `Orthanc`. `name` is the symbolic name of a node at Orthanc. Raises PacsNotFound for an unknown one."""

    def modalities(self) -> dict[str, Node]:
        """Name -> where it is."""
        nodes = self._wire.json("modalities", expand="")
        return {name: Node(node["Host"], int(node["Port"]), node["AET"]) for name, node in nodes.items()}

    def add_modality(self, name: str, node: Node) -> None:
        """Makes a node known, or changes it, until Orthanc starts anew (unless DicomModalitiesInDatabase is set)."""
        body = {"AET": node.called_ae, "Host": node.host, "Port": node.port}
        self._wire.request("PUT", _path(name), json=body)

    def remove_modality(self, name: str) -> None:
        self._wire.request("DELETE", _path(name))

    def echo_modality(self, name: str, timeout_s: int = 10) -> None:
        """C-ECHO from Orthanc. Raises PacsError when it is not answered."""
        self._known(name)
        self._wire.request("POST", f"{_path(name)}/echo", json={"Timeout": timeout_s})

    def store_to(self, name: str, orthanc_ids: Sequence[str], within_s: float = JOB_S) -> int:
        """C-STORE from Orthanc of studies, series or instances; how many instances went. Raises PacsError when one failed."""
        self._known(name)
        return int(self._job(f"{_path(name)}/store", {"Resources": list(orthanc_ids)}, within_s)["InstancesCount"])

    def query(self, name: str, level: str, keys: Mapping[str, str]) -> list[Found]:
        """C-FIND from Orthanc at Patient, Study, Series or Instance level; keys with "" are asked for."""
        with self._queried(name, level, keys) as query_id:
            answers = self._wire.json(f"queries/{query_id}/answers", expand="", simplify="")
        return [Found(level.lower(), "", answer) for answer in answers]

    def retrieve(
        self, name: str, level: str, keys: Mapping[str, str], target_ae: str = "", within_s: float = JOB_S
    ) -> None:
        """C-MOVE of all that match `keys`, to Orthanc itself or to `target_ae`. Raises PacsError when it fails."""
        with self._queried(name, level, keys) as query_id:
            if not self._wire.json(f"queries/{query_id}/answers"):
                raise PacsNotFound(f"the node that the PACS at {self._wire.address} asked has nothing that matches")
            body = {"TargetAet": target_ae} if target_ae else {}
            self._job(f"queries/{query_id}/retrieve", body, within_s)

    def worklist(self, name: str, keys: Mapping[str, Any] | None = None) -> list[Found]:
        """What a node's Modality Worklist plans; `keys` as Orthanc's find-worklist takes them, sequences as lists."""
        self._known(name)
        answers = self._wire.read_json(
            self._wire.request("POST", f"{_path(name)}/find-worklist", json={"Query": dict(keys or {"PatientID": ""})})
        )
        return [Found("worklist", "", answer) for answer in answers]

    @contextmanager
    def _queried(self, name: str, level: str, keys: Mapping[str, str]) -> Iterator[str]:
        self._known(name)
        body = {"Level": level.capitalize(), "Query": dict(keys), "Normalize": False}
        response = self._wire.request("POST", f"{_path(name)}/query", json=body, repeatable=False)
        query_id = str(self._wire.read_json(response)["ID"])
        try:
            yield query_id
        finally:
            self._wire.request("DELETE", f"queries/{query_id}")

    def _known(self, name: str) -> None:
        """Newer and older versions answer an unknown name differently; the list is the same."""
        if name not in self._wire.json("modalities"):
            raise PacsNotFound(
                f"the PACS at {self._wire.address} knows no node of this name: add it to DicomModalities"
            )


def _path(name: str) -> str:
    return f"modalities/{quote(name, safe='')}"
