"""Parts of an upload as DICOM files, one at a time: as they are, or out of a zip whose size nobody has to believe.

Nothing is written to a path that a zip names, and no name is kept: they hold patients' names now and then.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medai_pipeline.dicom.limits import MAX_FILE_BYTES
from medai_pipeline.errors import TooLarge
from medai_pipeline.storage.spool import Part

MOST_FILES = 20_000
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PIECE = 2**20
_TAIL = 2**16 + 22  # in which a zip's directory is announced (APPNOTE 4.3.16)
_END, _ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_DIRECTORY_BYTES = 8 * 2**20  # of 20,000 files with long names; each entry costs ten times as much in memory


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one file; or why there are none, in words without its name."""

    data: bytes = b""
    refused: str = ""


def files(parts: Iterable[Part], limit: int) -> Iterator[File]:
    """Every file of the parts. At most `limit` bytes come out of all zips together: more raises TooLarge."""
    budget = _Budget(limit)
    for part in parts:
        if part.spool.read_at(part.start, 4) in _ZIP:
            yield from _unzipped(part, budget)
        elif part.length > MAX_FILE_BYTES:
            yield File(refused=f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        else:
            budget.file()
            yield File(part.spool.read_at(part.start, part.length))


class _Budget:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0
        self.count = 0

    def file(self) -> None:
        self.count += 1
        if self.count > MOST_FILES:
            raise TooLarge(f"more than {MOST_FILES} files at once: send several uploads")

    def spend(self, size: int) -> None:
        self.spent += size
        if self.spent > self.limit:
            raise TooLarge(
                f"the zip unpacks to more than {self.limit // 2**20} MiB: send several, or raise MEDAI_MAX_UPLOAD_MB"
            )


def _unzipped(part: Part, budget: _Budget) -> Iterator[File]:
    if _is_crowded(part):
        yield File(refused="a zip of too many files, or in the zip64 format: send several smaller ones")
        return
    try:
        archive = zipfile.ZipFile(io.BufferedReader(part))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError):
        yield File(refused="a zip that cannot be read: make it again")
        return
    with archive:
        for entry in archive.infolist():
            if entry.is_dir() or entry.filename.rpartition("/")[2].upper() == "DICOMDIR":
                continue  # a DICOMDIR names patients, and lists what comes anyway
            budget.file()
            yield _entry(archive, entry, budget)


def _is_crowded(part: Part) -> bool:
    """Whether reading the zip's directory alone would cost too much; the reader takes all of it into memory."""
    start = max(0, part.length - _TAIL)
    tail = part.spool.read_at(part.start + start, part.length - start)
    at = tail.find(_END)
    while at >= 0:  # which of several counts is the reader's choice: none may be too large
        if int.from_bytes(tail[at + 12 : at + 16], "little") > _DIRECTORY_BYTES:
            return True
        at = tail.find(_END, at + 1)
    return _ZIP64 in tail


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: _Budget) -> File:
    if entry.flag_bits & 1:
        return File(refused="encrypted inside the zip: send it without a password")
    pieces, size = [], 0
    try:
        with archive.open(entry) as file:
            while piece := file.read(_PIECE):  # what the zip says of its sizes is not believed
                size += len(piece)
                budget.spend(len(piece))
                if size > MAX_FILE_BYTES:
                    return File(refused=f"larger than {MAX_FILE_BYTES // 2**20} MiB")
                pieces.append(piece)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, ValueError, OSError, RuntimeError):
        return File(refused="damaged inside the zip: make it again")
    return File(b"".join(pieces))
