"""From the spool to the PACS: what is kept leaves it only when the PACS has it, or has refused it for good."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from medai_pipeline.errors import MedaiError, ObjectMissing, PacsBusy, StorageError, StudyForgotten
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.pacs.records import UploadResult

log = logging.getLogger(__name__)
BATCH_FILES, BATCH_BYTES = 32, 64 * 2**20
IDLE_S = 0.5
LONGEST_WAIT_S = 30.0


class Uploading(Protocol):
    """What forwarding needs of a PACS."""

    def upload_many(self, items: Sequence[bytes], concurrency: int = 8) -> list[UploadResult]: ...


@dataclass
class Forwarder:
    """`wake` is set by whoever keeps something, so that it does not wait for the next look."""

    spool: Spool
    pacs: Uploading
    wake: threading.Event = field(default_factory=threading.Event)
    _unreadable: set[str] = field(default_factory=set)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. A PACS that does not answer is tried again, at most every half minute."""
        wait = IDLE_S
        while not stop.is_set():
            try:
                self.forward()
                wait = IDLE_S
            except MedaiError as error:
                wait = min(2 * wait, LONGEST_WAIT_S)
                log.error("what came in waits, and is tried again in %.0f s: %s", wait, error.reason)
                stop.wait(wait)
                continue
            self.wake.wait(wait)
            self.wake.clear()

    def forward(self) -> int:
        """Everything that waits, once; how many files the PACS took. Raises PacsError, StorageError; nothing is lost.

        What the PACS refuses for now alone stays, and is said by PacsBusy once the rest is done.
        """
        taken, put_off = 0, ""
        for batch in self._batches():
            results = self.pacs.upload_many([data for _, data in batch])
            for (entry, data), result in zip(batch, results, strict=True):
                if result.retryable:
                    put_off = result.reason
                    continue
                if not result.stored:
                    self.spool.refused(entry, data, f"the PACS refused it: {result.reason}")
                    log.warning("a file is in quarantine: the PACS refused it: %s", result.reason)
                else:
                    self.spool.done(entry)
                taken += result.stored
        if put_off:
            raise PacsBusy(f"the PACS does not take everything now: {put_off}")
        return taken

    def _batches(self) -> Iterator[list[tuple[str, bytes]]]:
        batch: list[tuple[str, bytes]] = []
        size = 0
        for entry in self.spool.waiting():
            data = self._read(entry)
            if data is None:
                continue
            if batch and (len(batch) >= BATCH_FILES or size + len(data) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((entry, data))
            size += len(data)
        if batch:
            yield batch

    def _read(self, entry: str) -> bytes | None:
        """None for one that cannot be read, which never holds up the others; it is said once and stays."""
        if entry in self._unreadable:
            return None
        try:
            return self.spool.read(entry)
        except ObjectMissing:
            return None  # another process has passed it on
        except StudyForgotten:
            self.spool.done(entry)
            return None
        except StorageError as error:
            self._unreadable.add(entry)
            log.error(error.reason)
            return None
