"""The product as a contestant, with its options."""

from __future__ import annotations

from collections.abc import Callable

KEY = bytes(range(32))
OPTION_SETS: dict[str, frozenset[str]] = {}


class NotOffered(Exception):
    """The product has no such option (yet)."""


def deidentifier(options: frozenset[str]) -> Callable[[bytes], bytes]:
    """File bytes -> file bytes under the Basic Profile and `options` (names of `standard.OPTIONS`)."""
    from medai_pipeline.dicom.deidentify import Deidentifier

    if options:
        raise NotOffered("no options yet")
    tool = Deidentifier(KEY)
    return lambda data: tool.deidentify(data).data


def screened() -> Callable[[bytes], bytes]:
    """File bytes -> file bytes with burned-in text looked for first."""
    raise NotOffered("no screening of pixels yet")
