"""Where a stage finds and puts bytes: what every stage needs, and nothing of how it is kept."""

from __future__ import annotations

from typing import Protocol


class Objects(Protocol):
    """Where a stage puts and finds bytes: the encrypted store, or a plain folder of `medai analyze`."""

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def delete(self, name: str) -> None: ...
