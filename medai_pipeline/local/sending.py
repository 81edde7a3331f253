"""`medai send`: files to the PACS by Orthanc's REST or by C-STORE, and what became of them in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai_pipeline.errors import SettingsError
from medai_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Summary:
    text: str
    complete: bool


def send_files(
    settings: Settings, files: Sequence[Path], node: str | None, aet: str, advance: Callable[[int], Any]
) -> Summary:
    """Raises PacsError when the PACS cannot be reached; a file it refuses is counted with its reason."""
    return _by_dimse(files, node, aet, advance) if node else _by_rest(settings, files, advance)


def _by_rest(settings: Settings, files: Sequence[Path], advance: Callable[[int], Any]) -> Summary:
    from medai_pipeline.pacs.orthanc import Orthanc

    if not settings.orthanc_url:
        raise SettingsError("no PACS to send to: set ORTHANC_URL, or start one with `medai up`")
    with Orthanc(settings.orthanc_url, settings.orthanc_username, settings.orthanc_password) as pacs:
        results = pacs.upload_many(files, progress=lambda _: advance(1))
    stored = sum(r.stored for r in results)
    already = sum(r.status == "AlreadyStored" for r in results)
    refused = Counter(r.reason for r in results if not r.stored)
    return Summary(_text(len(files), stored, already, refused), stored == len(files))


def _by_dimse(files: Sequence[Path], node: str, aet: str, advance: Callable[[int], Any]) -> Summary:
    from medai_pipeline.pacs.dimse import store

    host, _, port = node.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError("--dicom expects HOST:PORT, for example 127.0.0.1:4242")
    results = store(files, host, int(port), called_ae=aet, progress=lambda _: advance(1))
    stored = sum(r.stored for r in results)
    refused = Counter(r.reason for r in results if not r.stored)
    return Summary(_text(len(files), stored, 0, refused), stored == len(files))


def _text(sent: int, stored: int, already: int, refused: Counter[str]) -> str:
    parts = [f"{stored} of {sent} files stored"]
    if already:
        parts.append(f"{already} were there already")
    parts += [f"{n} refused: {reason}" for reason, n in refused.most_common(3)]
    return "; ".join(parts)
