"""The networks that this process holds ready: of each version on a device the newest, until it is in force no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from medai_pipeline.models.device_memory import release

if TYPE_CHECKING:
    from medai_pipeline.models.load import LoadedModel

Place = tuple[str, str, bool]  # name@version, device, whether what was prepared is looked for


class Kept:
    """Loads each network once, whichever thread asks; the others wait for it. Whoever computes with one that is let go
    keeps it until it is done."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._models: dict[Place, tuple[object, LoadedModel]] = {}

    def get(self, place: Place, state: object, make: Callable[[], LoadedModel]) -> LoadedModel:
        """What is kept at `place`, if it was made in the same `state` (weights, card, choice of a backend); else made anew,
        when the one before is let go: two may not fit on a device."""
        with self._lock:
            held = self._models.get(place)
            if held is None or held[0] != state:
                if held is not None:
                    del self._models[place], held
                    release()
                self._models[place] = held = (state, make())
            return held[1]

    def keep_only(self, labels: Collection[str]) -> None:
        """Lets go of every version but those of `labels` (name@version)."""
        with self._lock:
            gone = [place for place in self._models if place[0] not in labels]
            for place in gone:
                del self._models[place]
            if gone:
                release()
