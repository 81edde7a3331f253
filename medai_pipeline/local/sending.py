"""`medai send`: files to the PACS by Orthanc's REST or by C-STORE, and what became of them in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.records import UploadResult
from medai_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Summary:
    text: str
    complete: bool


def send_files(
    settings: Settings,
    files: Sequence[Path],
    node: str | None,
    aet: str,
    advance: Callable[[int], Any],
    tls: bool = False,
) -> Summary:
    """Raises PacsError when the PACS cannot be reached; a file it refuses is counted with its reason."""
    return _by_dimse(settings, files, node, aet, advance, tls) if node else _to_pacs(settings, files, advance)


def _to_pacs(settings: Settings, files: Sequence[Path], advance: Callable[[int], Any]) -> Summary:
    """By REST to Orthanc, or by C-STORE to MEDAI_PACS."""
    from medai_pipeline.services import Services

    if not settings.orthanc_url and not settings.pacs:
        raise SettingsError("no PACS to send to: set ORTHANC_URL or MEDAI_PACS, or start one with `medai up`")
    pacs = Services(settings).pacs
    try:
        return _summary(pacs.upload_many(files, progress=lambda _: advance(1)))
    finally:
        pacs.close()


def _by_dimse(
    settings: Settings, files: Sequence[Path], node: str, aet: str, advance: Callable[[int], Any], tls: bool
) -> Summary:
    from medai_pipeline.pacs.dimse import store

    host, _, port = node.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError("--dicom expects HOST:PORT, for example 127.0.0.1:4242")
    return _summary(
        store(files, host, int(port), aet, settings.aet, lambda _: advance(1), settings.tls if tls else None)
    )


def _summary(results: Sequence[UploadResult]) -> Summary:
    stored = sum(r.stored for r in results)
    already = sum(r.status == "AlreadyStored" for r in results)
    refused = Counter(r.reason for r in results if not r.stored)
    return Summary(_text(len(results), stored, already, refused), stored == len(results))


def _text(sent: int, stored: int, already: int, refused: Counter[str]) -> str:
    parts = [f"{stored} of {sent} files stored"]
    if already:
        parts.append(f"{already} were there already")
    parts += [f"{n} refused: {reason}" for reason, n in refused.most_common(3)]
    return "; ".join(parts)
