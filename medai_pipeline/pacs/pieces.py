"""How an association's socket is used, on either side: no waiting for small packets, no waiting for ever, no claims believed.

Small packets wait for each other: the peer holds the second half of its answer back until we acknowledge the first
(Nagle), and we delay that by 40 ms. So acknowledgements go out at once where the system can (TCP_QUICKACK, Linux):
40 images a second into Orthanc instead of 16; TCP_NODELAY alone changes nothing there.

pynetdicom reads a PDU in pieces of 4 KB, of any length that its header claims, and waits for ever for the rest of one
that is begun. Here it is read at once, up to a limit, within a time.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import AssociationSocket

from medai_pipeline.dicom.limits import MAX_FILE_BYTES

PDU_BYTES = 256 * 2**10  # what we take as one P-DATA-TF: fewer, larger pieces
LONGEST_PDU = 2 * 2**20  # an A-ASSOCIATE-RQ has no limit of its own; 128 contexts with every transfer syntax are 200 KB
QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def connection_handlers(timeout_s: float) -> list[tuple[Any, ...]]:
    """For `evt_handlers`: a connection that is silent within a PDU for `timeout_s` is closed."""
    opened = (evt.EVT_CONN_OPEN, partial(_opened, timeout_s))
    acknowledged = ((event, no_waiting) for event in (evt.EVT_DATA_SENT, evt.EVT_DATA_RECV))
    return [opened, *acknowledged, (evt.EVT_DATA_RECV, _not_too_much)]


def no_waiting(event: evt.Event) -> None:
    """Small packets go out at once, and what came is acknowledged at once (the kernel forgets that after a while)."""
    connection = event.assoc.dul.socket
    if connection is None or connection.socket is None:
        return
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if QUICK_ACK is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)


def _not_too_much(event: evt.Event) -> None:
    """One object is held in memory until it is whole: one that never ends must not take all of it."""
    message = event.assoc.dimse.message
    if message is not None and message.data_set is not None and message.data_set.tell() > MAX_FILE_BYTES:
        event.assoc.abort(block=False)


def _opened(timeout_s: float, event: evt.Event) -> None:
    connection = event.assoc.dul.socket
    if connection is None or connection.socket is None:
        return
    connection.socket.settimeout(timeout_s)
    connection.recv = partial(_read, connection)  # type: ignore[method-assign]
    no_waiting(event)


def _read(connection: AssociationSocket, count: int) -> bytearray:
    """`count` bytes, fewer when the connection ends before. An OSError closes the association."""
    if count > LONGEST_PDU:
        raise OSError("a PDU that is longer than any we take")
    data = bytearray(count)
    view, at = memoryview(data), 0
    assert connection.socket is not None
    while at < count:
        read = connection.socket.recv_into(view[at:])
        if not read:
            view.release()
            del data[at:]
            break
        at += read
    return data
