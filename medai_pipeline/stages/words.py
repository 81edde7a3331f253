"""Short sentences out of many reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def counted(reasons: Iterable[str]) -> str:
    """'decoder missing (x3); a localizer': the most frequent first, at most three."""
    counts = Counter(reason for reason in reasons if reason)
    return (
        "; ".join(f"{reason} (x{n})" if n > 1 else reason for reason, n in counts.most_common(3)) or "no reason known"
    )
