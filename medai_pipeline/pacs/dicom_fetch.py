"""The instances of a study from a PACS without REST: series by series, by C-GET, or by C-MOVE to a port of our own.

Memory stays bounded: the PACS is not answered before the file has been taken.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.uid import UID

from medai_pipeline.dicom.heading import heading
from medai_pipeline.errors import MedaiError, PacsError, PacsNotFound, PacsUnauthorized, PacsUnreachable
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.peers import parse_peers
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.records import PacsInstance
from medai_pipeline.pacs.retrieve import COMPRESSED, get, move
from medai_pipeline.pacs.storage_classes import classes_of
from medai_pipeline.pacs.tls import TlsFiles

SOP_INSTANCE_UID = 0x00080018
LOOK_S = 0.2
PORT_WAIT_S = 120.0  # another worker on this machine may be receiving at the same port

Fetched = tuple[PacsInstance, bytes]


@dataclass(frozen=True, slots=True)
class Way:
    """How instances come. `move_port` None: by C-GET. Else by C-MOVE to our AE title, which the PACS must know with
    this machine's address and that port; `move_address` is where we listen, `tls` how."""

    move_port: int | None = None
    move_address: str = "127.0.0.1"
    tls: TlsFiles | None = None


def fetched(node: Node, way: Way, instances: Sequence[PacsInstance], concurrency: int) -> Iterator[Fetched]:
    """(instance, its file), each once, as they come; at most `concurrency` wait to be taken.

    Raises PacsNotFound when the PACS does not have one any more, PacsError when it cannot send one.
    """
    basket = _Basket({instance.sop_instance_uid: instance for instance in instances}, max(1, concurrency))
    work = _moved if way.move_port else _got
    thread = threading.Thread(target=basket.filled_by, args=(lambda: work(node, way, basket),), name="dicom-fetch")
    thread.start()
    try:
        yield from basket
    finally:
        basket.left.set()
        thread.join()


class _Basket:
    """Between the thread that receives and the one that takes. `wanted`: what has not come yet."""

    def __init__(self, wanted: Mapping[str, PacsInstance], room: int) -> None:
        self.wanted = dict(wanted)
        self.left = threading.Event()  # nobody takes any more
        self._queue: queue.Queue[Fetched | BaseException | None] = queue.Queue(room)

    def put(self, data: bytes) -> None:
        """Waits for room. What is not wanted (any more) is let go. Raises PacsError when nobody takes any more."""
        instance = self.wanted.get(heading(data).text(SOP_INSTANCE_UID))
        if instance is not None:
            self._offer((instance, data))
            self.wanted.pop(instance.sop_instance_uid, None)

    def filled_by(self, work: Callable[[], None]) -> None:
        try:
            work()
            end: BaseException | None = None
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes
            end = error
        if not self.left.is_set():
            self._offer(end)

    def __iter__(self) -> Iterator[Fetched]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            del item  # not two of them at a time

    def _offer(self, item: Fetched | BaseException | None) -> None:
        while not self.left.is_set():
            try:
                return self._queue.put(item, timeout=LOOK_S)
            except queue.Full:
                continue
        raise PacsError("nobody takes what the PACS sends any more")


def _got(node: Node, way: Way, basket: _Basket) -> None:
    for (study, series, modality), wanted in _by_series(basket).items():
        classes = {instance.sop_class_uid for instance in wanted} - {""} or set(classes_of(modality))
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        trouble = _attempt(node, keys, basket, classes, None)
        for syntax in COMPRESSED:  # of a PACS that takes the first context of a class and cannot convert to it
            if trouble is None or basket.left.is_set() or not _missing(basket, wanted):
                break
            _attempt(node, keys, basket, classes, syntax)
        _require_all(node, basket, wanted, trouble)


def _attempt(
    node: Node, keys: Mapping[str, str], basket: _Basket, classes: set[str], syntax: UID | None
) -> MedaiError | None:
    """None when the PACS has sent all that it has; else what was wrong with the objects."""
    try:
        result = get(node, "SERIES", keys, basket.put, sorted(classes), syntax)
    except (PacsUnreachable, PacsUnauthorized):
        raise
    except PacsError as error:
        return error
    if result.failed:
        return PacsError(f"the PACS at {node.address} cannot send {result.failed} objects of a series: check its log")
    return None


def _moved(node: Node, way: Way, basket: _Basket) -> None:
    assert way.move_port
    peers = parse_peers(f"*@{_address_of(node)}")
    with _listening(Listening(way.move_port, way.move_address, node.calling_ae, peers, way.tls), basket.put):
        for (study, series, _), wanted in _by_series(basket).items():
            result = move(node, node.calling_ae, "SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": series})
            trouble = PacsError(
                f"the PACS at {node.address} could not send {result.failed} objects to {node.calling_ae}: "
                f"register it there with this machine's address and port {way.move_port}"
            )
            _require_all(node, basket, wanted, trouble if result.failed else None)


def _by_series(basket: _Basket) -> dict[tuple[str, str, str], list[PacsInstance]]:
    series: defaultdict[tuple[str, str, str], list[PacsInstance]] = defaultdict(list)
    for instance in basket.wanted.values():
        study, uid, _ = instance.orthanc_id.split("/")
        series[study, uid, instance.series_orthanc_id.partition("/")[2]].append(instance)
    return dict(series)


def _missing(basket: _Basket, wanted: Sequence[PacsInstance]) -> bool:
    return any(instance.sop_instance_uid in basket.wanted for instance in wanted)


def _require_all(node: Node, basket: _Basket, wanted: Sequence[PacsInstance], trouble: MedaiError | None) -> None:
    if not _missing(basket, wanted):
        return
    raise trouble or PacsNotFound(f"the PACS at {node.address} does not have this object (any more)")


@contextmanager
def _listening(listening: Listening, keep: Callable[[bytes], None]) -> Iterator[None]:
    deadline = time.monotonic() + PORT_WAIT_S
    receiver = Receiver(listening, keep)
    while True:
        try:
            receiver.start()
            break
        except PacsError as error:
            if time.monotonic() > deadline:
                raise PacsUnreachable(error.reason) from error
            time.sleep(LOOK_S)
    try:
        yield
    finally:
        receiver.stop()


def _address_of(node: Node) -> str:
    try:
        return str(socket.getaddrinfo(node.host, None)[0][4][0])
    except socket.gaierror as error:
        raise PacsUnreachable(f"there is no host {node.host}: correct the DICOM node's address") from error
