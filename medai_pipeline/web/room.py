"""How much of what is uploaded lies in memory at once, over all requests of this process: who comes later waits a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medai_pipeline.errors import TooMany

ROOM_BYTES = 512 * 2**20
LONGEST_WAIT_S = 60.0


class Room:
    """Bytes that may be held together. One that is larger than all of it goes alone."""

    def __init__(self, size: int, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._size = size
        self._wait_s = longest_wait_s
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Waits until there is room for `size` bytes. Raises TooMany when there is none for too long."""
        size = min(size, self._size)
        with self._freed:
            if not self._freed.wait_for(lambda: self._held + size <= self._size, self._wait_s):
                raise TooMany("other uploads fill the memory that is set aside for them: try again", int(self._wait_s))
            self._held += size
        try:
            yield
        finally:
            with self._freed:
                self._held -= size
                self._freed.notify_all()


ROOM = Room(ROOM_BYTES)
