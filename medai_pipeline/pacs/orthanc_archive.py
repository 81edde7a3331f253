"""A study as one zip archive, streamed to a file. It holds the images as they are: it identifies, and is for its owner alone.

Facts, found on 1.10.1: the archive comes without a length, so that a connection that breaks looks like its end: whether it
is whole is seen in the archive itself. A study that is not there is answered 404 before the first byte.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medai_pipeline.errors import PacsError, PacsUnreachable, StorageError, StorageFull
from medai_pipeline.pacs.wire import Wire

ATTEMPTS = 3
KINDS = {"zip": "archive", "dicomdir": "media"}


class Archive:
    """A part of `Orthanc`."""

    _wire: Wire

    def archive(self, orthanc_id: str, path: Path, level: str = "studies", kind: str = "zip") -> int:
        """Writes the archive to `path` (mode 0600, whole or not at all) and tells how many files it holds.

        `kind`: zip, by patient, study and series; or dicomdir, a file-set for media. `level`: studies, series or patients.
        Memory stays bounded by one piece. Raises StorageError, PacsNotFound, PacsUnreachable.
        """
        draft = path.with_name(f".{path.name}.part")
        try:
            for attempt in range(ATTEMPTS):
                try:
                    self._stream(f"{level}/{orthanc_id}/{KINDS[kind]}", draft)
                    count = _files_in(draft)
                    draft.replace(path)
                    return count
                except (PacsUnreachable, zipfile.BadZipFile) as error:
                    if attempt == ATTEMPTS - 1:
                        raise PacsUnreachable(
                            f"the PACS at {self._wire.address} does not finish the archive: try again"
                        ) from error
        finally:
            draft.unlink(missing_ok=True)
        raise PacsError("not reached")

    @contextmanager
    def archive_pieces(self, orthanc_id: str) -> Iterator[Iterator[bytes]]:
        """The zip of a study piece by piece, for one who sends it on: not tried again, nor looked at when it ends."""
        with self._wire.stream("GET", f"studies/{orthanc_id}/archive") as response:
            yield self._wire.pieces(response)

    def _stream(self, url: str, draft: Path) -> None:
        with self._wire.stream("GET", url) as response:
            try:
                draft.unlink(missing_ok=True)
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    for piece in self._wire.pieces(response):
                        file.write(piece)
                    file.flush()
                    os.fsync(descriptor)
            except OSError as error:
                if error.errno in {28, 122}:  # ENOSPC, EDQUOT
                    raise StorageFull("no space left for the archive: make room, then retry") from error
                raise StorageError(f"the archive cannot be written ({error.strerror}): check the folder") from error


def _files_in(draft: Path) -> int:
    with zipfile.ZipFile(draft) as archive:
        return sum(not entry.is_dir() and not entry.filename.endswith("DICOMDIR") for entry in archive.infolist())
