"""Which findings a phantom study has: asked for, or drawn by chance from its seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chosen(
    seed: int, findings: Sequence[str] | None, known: Sequence[str], normal_share: float = 0.35
) -> tuple[str, ...]:
    """`findings` sorted and checked, or, when None, none, one (usual), two or three by chance.

    Raises ValueError that names what is unknown.
    """
    if findings is not None:
        unknown = sorted(set(findings) - set(known))
        if unknown:
            raise ValueError(f"no such finding here: {', '.join(unknown)}; known: {', '.join(known)}")
        return tuple(sorted(set(findings)))
    rng = np.random.default_rng([seed, 0])
    if rng.random() < normal_share:
        return ()
    count = int(rng.choice([1, 2, 3], p=[0.62, 0.29, 0.09]))
    return tuple(sorted(rng.choice(known, size=min(count, len(known)), replace=False).tolist()))
