"""A correction of pynetdicom 3.0: an answer that comes fast enough is taken by the wrong thread and lost.

Before it sends, `Association.send_*` clears `_reactor_checkpoint` and waits for `_is_paused`. But the reactor thread
sets `_is_paused` before it looks at the checkpoint: it may have passed already, then takes the answer off the queue
and drops it, and the sender waits for its whole DIMSE timeout. On a busy machine that met 3 of 100 associations.

And it serves an N-EVENT-REPORT that comes meanwhile in a thread of its own, which ends by saying that the reactor is not
paused, although it is: `release()` then waited for ever. While the reactor waits here, it says again and again that it does.
"""

from __future__ import annotations

import threading

from pynetdicom.association import Association

LOOK_S = 0.05


class Checkpoint(threading.Event):
    """An event whose `clear()` returns when the association's reactor truly waits at it, or has ended."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._changed = threading.Condition()
        self._open = True
        self._parked = False  # the reactor waits, and nobody has let it go since

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        with self._changed:
            self._open, self._parked = True, False
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until open. A reactor that was let go but has not run yet when the gate closes again, waits again."""
        with self._changed:
            while not self._open:
                self._parked = True
                self._association._is_paused = True
                self._changed.notify_all()
                self._changed.wait(LOOK_S)
            return True

    def clear(self) -> None:
        with self._changed:
            self._open = False
            while not self._parked and self._association.is_alive():
                self._changed.wait(LOOK_S)
