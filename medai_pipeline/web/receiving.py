"""A request's body as parts on an encrypted spool, while it arrives: multipart forms, a zip, or one DICOM file.

Bounded in size and in time: a caller who sends slowly is told so, and holds nothing for long.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from medai_pipeline.errors import TooSlow, Unprocessable
from medai_pipeline.storage.spool import Part, Spool

SILENCE_S = 30.0  # between two pieces
GRACE_S = 60.0  # before the average counts
SLOWEST_BYTES_S = 64 * 1024
MOST_PARTS = 20_000
LONGEST_HEADER = 8 * 1024
AT_ONCE = 256 * 1024  # bytes that are written together


class Received:
    """The parts of a body; `sha256` is that of the whole body as it came."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.parts: list[Part] = []
        self.sha256 = hashlib.sha256()

    def begin(self) -> None:
        if len(self.parts) >= MOST_PARTS:
            raise Unprocessable(f"more than {MOST_PARTS} files at once: send several uploads")
        self.parts.append(Part(self.spool, self.spool.size, 0))

    def add(self, data: bytes) -> None:
        self.spool.write(data)
        self.parts[-1].length += len(data)


async def receive(request: Request, spool: Spool) -> Received:
    """Raises TooLarge, TooSlow, Unprocessable; the spool is the caller's to close."""
    received = Received(spool)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    form = _Form(options.get(b"boundary", b""), received) if kind == b"multipart/form-data" else None
    if form is None:
        received.begin()
    async for piece in _pieces(request):
        received.sha256.update(piece)
        await run_in_threadpool(form.feed if form else received.add, piece)
    if form:
        form.end()
    return received


class _Form:
    """The files of a multipart form; its other fields are passed over, and no file name is kept."""

    def __init__(self, boundary: bytes, received: Received) -> None:
        if not boundary:
            raise Unprocessable("multipart/form-data without a boundary: let your HTTP library make the form")
        self._received = received
        self._header = (b"", b"")
        self._is_file = self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._field,
                "on_header_value": self._value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_end": self._last,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            raise Unprocessable("the multipart form is broken: let your HTTP library make it") from None

    def end(self) -> None:
        if not self._ended:
            raise Unprocessable("the multipart form ends before its last boundary: send it again")

    def _last(self) -> None:
        self._ended = True

    def _begin(self) -> None:
        self._header, self._is_file = (b"", b""), False

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._more(data[start:end], b"")

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._more(b"", data[start:end])

    def _more(self, name: bytes, value: bytes) -> None:
        self._header = (self._header[0] + name, self._header[1] + value)
        if sum(map(len, self._header)) > LONGEST_HEADER:
            raise Unprocessable("a header of the multipart form is too long: let your HTTP library make it")

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._is_file = b"filename" in parse_options_header(value)[1]
        self._header = (b"", b"")

    def _headers_end(self) -> None:
        if self._is_file:
            self._received.begin()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._received.add(data[start:end])


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of a useful size, as long as it goes on."""
    began, size = time.monotonic(), 0
    waiting = bytearray()
    stream = request.stream().__aiter__()
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), SILENCE_S)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise TooSlow("nothing came for a while: send the rest in a new upload") from None
        except ClientDisconnect:
            raise Unprocessable("the connection ended before the upload did") from None
        size += len(piece)
        waiting += piece
        if time.monotonic() - began > GRACE_S + size / SLOWEST_BYTES_S:
            raise TooSlow("the upload is too slow: send less at once")
        if len(waiting) >= AT_ONCE:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
