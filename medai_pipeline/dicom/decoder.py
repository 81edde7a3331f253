"""Compressed frames, decoded in another process: a decoder that crashes, hangs or eats memory harms that process alone.

Here: starting such processes, keeping idle ones, asking them, and killing one that does not answer in time. Why not in
this process, with what it costs: docs/adr, "Compressed pixel data is decoded in a process of its own".
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from medai_pipeline.dicom.description import PHOTOMETRIC, Description
from medai_pipeline.dicom.limits import frame_seconds
from medai_pipeline.dicom.transfer_syntax import name
from medai_pipeline.errors import UndecodablePixels

_IDLE_AT_MOST = 4
_HEAD_AT_MOST = 4096
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")  # no setting and no secret


class _Gone(Exception):
    """The process died or was killed: `why` in words."""


class _Process:
    def __init__(self) -> None:
        environment = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "medai_pipeline.dicom.decoder_process"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0,
            start_new_session=True,  # Ctrl-C is for the parent; the child ends when its input does
        )  # fmt: skip
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        self.owner = os.getpid()

    def ask(self, request: dict[str, Any], codestream: bytes, seconds: float) -> np.ndarray | None:
        """The decoded frame, None where no decoder could. Raises _Gone; the process must not be used again then."""
        deadline = time.monotonic() + seconds
        try:
            self._write(json.dumps(request | {"bytes": len(codestream)}).encode() + b"\n", deadline)
            self._write(codestream, deadline)
            head, rest = self._head(deadline)
            if not head:
                return None
            body = bytearray(head["bytes"])
            body[: len(rest)] = rest
            self._read_into(memoryview(body)[len(rest) :], deadline)
            return np.frombuffer(body, head["dtype"]).reshape(head["shape"])
        except (BrokenPipeError, ConnectionResetError, LookupError, TypeError, ValueError):
            raise _Gone("the decoder crashed") from None

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._child.stdin is not None
        file, view = self._child.stdin.fileno(), memoryview(data)
        while view:
            self._wait(file, select.POLLOUT, deadline)
            view = view[os.write(file, view) :]

    def _head(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        received = b""
        while b"\n" not in received:
            if len(received) > _HEAD_AT_MOST:
                raise _Gone("the decoder crashed")
            received += self._read(1 << 16, deadline)
        line, _, rest = received.partition(b"\n")
        return json.loads(line), rest

    def _read_into(self, view: memoryview, deadline: float) -> None:
        assert self._child.stdout is not None
        while view:
            self._wait(self._child.stdout.fileno(), select.POLLIN, deadline)
            count = os.readv(self._child.stdout.fileno(), [view])
            if not count:
                raise _Gone("the decoder crashed")
            view = view[count:]

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._child.stdout is not None
        self._wait(self._child.stdout.fileno(), select.POLLIN, deadline)
        data = os.read(self._child.stdout.fileno(), size)
        if not data:
            raise _Gone("the decoder crashed")
        return data

    def _wait(self, file: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(file, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise _Gone("the decoder took too long")

    def end(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()


_idle: list[_Process] = []
_lock = threading.Lock()


def _take() -> _Process:
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.owner == os.getpid():  # a fork's copy talks to its parent's: leave it alone
                return process
    return _Process()


def _give_back(process: _Process) -> None:
    with _lock:
        if len(_idle) < _IDLE_AT_MOST:
            _idle.append(process)
            return
    process.end()


os.register_at_fork(after_in_child=_idle.clear)


def decode_frame(codestream: bytes, what: Description, syntax: str, seconds: float | None = None) -> np.ndarray:
    """One compressed frame as (rows, columns) or (rows, columns, 3), YBR as RGB.

    Raises UndecodablePixels, which names the transfer syntax: no decoder could, or one crashed, or took longer than
    `seconds` (default by the frame's size).
    """
    allowed = frame_seconds(what.frame_bytes)
    trouble = "the pixel data cannot be decoded"
    try:
        process = _take()
    except OSError as error:
        raise UndecodablePixels(
            f"no decoder process can be started ({error.strerror}); free memory and retry"
        ) from None
    try:
        decoded = process.ask(_request(what, syntax), codestream, min(allowed, allowed if seconds is None else seconds))
    except _Gone as gone:
        process.end()
        decoded, trouble = None, str(gone)
    except BaseException:
        process.end()  # interrupted between question and answer: its next answer would be the wrong one
        raise
    else:
        _give_back(process)
    if decoded is None or decoded.shape[:2] != (what.rows, what.columns):
        raise UndecodablePixels(f"{trouble} ({name(syntax)}); send it in another transfer syntax")
    return decoded


def _request(what: Description, syntax: str) -> dict[str, Any]:
    """What a decoder has to know, in pydicom's keywords: numbers and one term of the standard."""
    request: dict[str, Any] = {
        "syntax": syntax,
        "Rows": what.rows,
        "Columns": what.columns,
        "SamplesPerPixel": what.samples,
        "BitsAllocated": what.bits_allocated,
        "BitsStored": what.bits_stored,
        "HighBit": what.high_bit,
        "PixelRepresentation": int(what.signed),
        "PhotometricInterpretation": what.photometric if what.photometric in PHOTOMETRIC else "MONOCHROME2",
    }
    if what.samples > 1:
        request["PlanarConfiguration"] = int(what.planar)
    return request
