"""Which studies are worked on together, and which images of a long series are looked at: sizes, no content."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

STUDIES_AT_ONCE = 32
IMAGES_AT_ONCE = 512
IMAGES_PER_STUDY = 2048  # more are sampled evenly, and the report says so: bounds memory (224 x 224 float32: 411 MB)


def batches(keys: Sequence[str], images: Callable[[str], int]) -> list[list[str]]:
    """Studies that are worked on together: enough to share the cost of a check and to fill inference batches, few
    enough for memory: at most STUDIES_AT_ONCE, and IMAGES_AT_ONCE of them unless one study alone has more.

    `images` of a key: its frames, as far as they are known, not its files."""
    made: list[list[str]] = []
    room = 0
    for key in keys:
        if not made or len(made[-1]) >= STUDIES_AT_ONCE or images(key) > room:
            made.append([])
            room = IMAGES_AT_ONCE
        made[-1].append(key)
        room -= images(key)
    return made


def evenly(values: Sequence, most: int) -> list:
    """At most `most` of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[int(i)] for i in np.linspace(0, len(values) - 1, most)]
