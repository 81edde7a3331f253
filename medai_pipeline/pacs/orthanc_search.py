"""Orthanc's own search (`/tools/find`) at every level. Its index answers for main tags; other keys open each file: slow.

Facts, found on 1.10.1: Limit and Since page over an order that stays as long as nothing is stored or deleted; `*` and `?`
match; case is told apart only on request, and only ASCII letters are folded. A list that the server cuts
(LimitFindResults) looks complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medai_pipeline.errors import PacsError
from medai_pipeline.pacs.records import Hidden
from medai_pipeline.pacs.wire import Wire

PAGE = 100
LEVELS = {"patient": "Patient", "study": "Study", "series": "Series", "instance": "Instance"}


@dataclass(frozen=True, slots=True, repr=False)
class Found(Hidden):
    """One hit: `tags` are DICOM keywords and values as Orthanc indexes them, its patient's among them."""

    level: str
    orthanc_id: str
    tags: Mapping[str, Any]
    parent_id: str = ""
    children: int = 0  # how many resources of the next level it holds


class Search:
    """A part of `Orthanc`."""

    _wire: Wire

    def search(
        self,
        level: str,
        query: Mapping[str, str] | None = None,
        limit: int | None = None,
        case_sensitive: bool = False,
        page: int = PAGE,
    ) -> Iterator[Found]:
        """What matches `query` (keyword -> value; `*`, `?`, dates as ranges `20260101-20260131`, several with backslashes).

        `level`: patient, study, series or instance. Asked for page by page, as they are taken.
        """
        if level not in LEVELS:
            raise PacsError(f"there is no level {level!r}: use {', '.join(LEVELS)}")
        told = 0
        while limit is None or told < limit:
            size = page if limit is None else min(page, limit - told)
            body = {
                "Level": LEVELS[level],
                "Query": dict(query or {}),
                "Expand": True,
                "CaseSensitive": case_sensitive,
                "Limit": size,
                "Since": told,
            }
            hits = self._wire.read_json(self._wire.request("POST", "tools/find", json=body))
            yield from (_found(level, hit) for hit in hits)
            told += len(hits)
            if len(hits) < size:
                return

    def named(self, level: str, uid: str) -> list[str]:
        """The Orthanc ids of what has this UID at a level: one for each Patient ID it is held under, usually one."""
        response = self._wire.request("POST", "tools/lookup", content=uid.encode())
        return sorted(item["ID"] for item in self._wire.read_json(response) if item["Type"] == LEVELS[level])


def _found(level: str, hit: Mapping[str, Any]) -> Found:
    tags = {**hit.get("PatientMainDicomTags", {}), **hit.get("MainDicomTags", {})}
    parent = next((hit[name] for name in ("ParentPatient", "ParentStudy", "ParentSeries") if name in hit), "")
    children = next((hit[name] for name in ("Studies", "Series", "Instances") if name in hit), ())
    return Found(level, hit["ID"], tags, parent, len(children))
