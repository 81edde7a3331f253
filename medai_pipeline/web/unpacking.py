"""Parts of an upload as DICOM files, one at a time: as they are, or out of a zip whose size nobody has to believe.

Nothing is written to a path that a zip names, and no name is kept: they hold patients' names now and then. Memory holds one
file of an upload, and of all uploads together as much as `room` allows; a file is looked at before it is unpacked whole.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from medai_pipeline.dicom.limits import MAX_FILE_BYTES
from medai_pipeline.dicom.read import HEAD_BYTES, begins_as_dicom
from medai_pipeline.errors import TooLarge
from medai_pipeline.storage.spool import Part
from medai_pipeline.web.room import ROOM

MOST_FILES = 20_000
LOOSE_BYTES = 64 * 2**20  # up to this size a file may be packed as tightly as it likes
TIGHTEST = 200  # times that a larger one may be packed: images of patients reach 2 to 10, empty masks more
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# the two whose unpacking stops at a given size (zipfile takes whatever the others make of a piece)
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_PIECE = 2**18
_TAIL = 2**16 + 22  # in which a zip's directory is announced (APPNOTE 4.3.16)
_ENTRY, _END, _ZIP64 = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x07"
_DIRECTORY_BYTES = 8 * 2**20  # of 20,000 files with long names; each entry costs ten times as much in memory
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, ValueError, OSError, RuntimeError)


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one file; or why there are none, in words without its name."""

    data: bytes = b""
    refused: str = ""


_DAMAGED = File(refused="damaged inside the zip: make it again")


def files(parts: Iterable[Part], limit: int) -> Iterator[File]:
    """Every file of the parts; let go of each before you take the next. At most `limit` bytes come out of all zips together.

    Raises TooLarge for more than that, and for too many files; TooMany when other uploads leave no room for too long.
    """
    budget = _Budget(limit)
    for part in parts:
        if part.spool.read_at(part.start, 4) in _ZIP:
            yield from _unzipped(part, budget)
            continue
        budget.file()
        with _read(part, part.length) as file:
            yield file
        del file  # before the next is read


class _Budget:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0
        self.count = 0

    def file(self, more: int = 1) -> None:
        self.count += more
        if self.count > MOST_FILES:
            raise TooLarge(f"more than {MOST_FILES} files at once: send several uploads")

    def spend(self, size: int) -> None:
        self.spent += size
        if self.spent > self.limit:
            raise TooLarge(
                f"the zip unpacks to more than {self.limit // 2**20} MiB: send several, or raise MEDAI_MAX_UPLOAD_MB"
            )


def _unzipped(part: Part, budget: _Budget) -> Iterator[File]:
    entries = _entries(part)
    if entries is None:
        yield File(refused="a zip of too many files, or in the zip64 format: send several smaller ones")
        return
    budget.file(entries)  # before the first of them is taken
    try:
        archive = zipfile.ZipFile(io.BufferedReader(part))
    except _DAMAGE:
        yield File(refused="a zip that cannot be read: make it again")
        return
    with archive:
        for entry in archive.infolist():
            if entry.is_dir() or entry.filename.rpartition("/")[2].upper() == "DICOMDIR":
                continue  # a DICOMDIR names patients, and lists what comes anyway
            with _entry(archive, entry, budget) as file:
                yield file
            del file  # before the next is read


def _entries(part: Part) -> int | None:
    """How many files the zip's directory lists at most; None where reading it would cost too much memory.

    By what stands there, not by what the zip says of itself; the reader takes all of it into memory.
    """
    start = max(0, part.length - _TAIL)
    tail = part.spool.read_at(part.start + start, part.length - start)
    if _ZIP64 in tail:
        return None
    most, at = 0, tail.find(_END)
    while at >= 0:  # which of several counts is the reader's choice: none may be too large
        size = int.from_bytes(tail[at + 12 : at + 16], "little")
        if size > _DIRECTORY_BYTES:
            return None
        begin = max(0, start + at - size)
        most = max(most, part.spool.read_at(part.start + begin, start + at - begin).count(_ENTRY))
        at = tail.find(_END, at + 1)
    return most


@contextmanager
def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: _Budget) -> Iterator[File]:
    """One file of a zip. The size it is said to have is where unpacking ends, so it is what is counted."""
    refused = _why_not(entry)
    if refused:
        yield File(refused=refused)
        return
    stream = _opened(archive, entry)
    if stream is None:
        yield _DAMAGED
        return
    with stream, _read(stream, entry.file_size, budget) as file:
        yield file


def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes] | None:
    try:
        return archive.open(entry)
    except _DAMAGE:
        return None


def _why_not(entry: zipfile.ZipInfo) -> str:
    """Why an entry is not even looked into; "" if it is."""
    if entry.flag_bits & 1:
        return "encrypted inside the zip: send it without a password"
    if entry.compress_type not in _METHODS:
        return "packed in an unusual way: make the zip with deflate, as is usual"
    if entry.file_size > max(LOOSE_BYTES, TIGHTEST * entry.compress_size):
        return f"packed more than {TIGHTEST} times, as no image is: send this file without a zip"
    return ""


@contextmanager
def _read(stream: IO[bytes] | io.RawIOBase, size: int, budget: _Budget | None = None) -> Iterator[File]:
    """The file that `stream` gives, of `size` bytes at most, held while the caller works on it."""
    if size > MAX_FILE_BYTES:
        yield File(refused=f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        return
    head = _piece(stream, HEAD_BYTES)
    if head is None:
        yield _DAMAGED
    elif len(head) == HEAD_BYTES and not begins_as_dicom(head):
        yield File(refused="not a DICOM file; leave it out")
    else:
        if budget:
            budget.spend(size)
        with ROOM.held(size):
            yield _whole(stream, head)


def _whole(stream: IO[bytes] | io.RawIOBase, head: bytes) -> File:
    kept = io.BytesIO()  # gives its bytes away without copying them
    piece: bytes | None = head
    while piece:
        kept.write(piece)
        piece = _piece(stream, _PIECE)
    return File(kept.getvalue()) if piece is not None else _DAMAGED


def _piece(stream: IO[bytes] | io.RawIOBase, size: int) -> bytes | None:
    """None where the zip is damaged."""
    try:
        return stream.read(size) or b""
    except _DAMAGE:
        return None
