"""Which transfer syntaxes can be decoded here, and why the others cannot: one table (PS3.5 annex A, PS3.6 table A-1)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from pydicom.uid import UID_dictionary


class Kind(Enum):
    NATIVE = "native"  # values as they are, of any byte order; also where the whole data set is deflated
    FRAMES = "frames"  # compressed frame by frame, in fragments (PS3.5 A.4)
    NATIVE_FRAMES = "native frames"  # the same, each fragment native data
    DEFLATED_FRAMES = "deflated frames"  # the same, each frame deflated native data
    REFUSED = "refused"


class Syntax(NamedTuple):
    """`reason` says why pixels cannot be decoded ("" where they can)."""

    kind: Kind
    reason: str = ""


_ROOT = "1.2.840.10008.1.2"
_VIDEO = "is video, which no model here reads"
_ELSEWHERE = "keeps its pixels on a server, not in the file"
_NO_DECODER = "has no decoder here"

SYNTAXES: Mapping[str, Syntax] = {
    **{_ROOT + end: Syntax(Kind.NATIVE) for end in ("", ".1", ".2", ".1.99")},
    f"{_ROOT}.1.98": Syntax(Kind.NATIVE_FRAMES),
    **{f"{_ROOT}.4.{end}": Syntax(Kind.FRAMES) for end in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)},
    f"{_ROOT}.5": Syntax(Kind.FRAMES),
    f"{_ROOT}.8.1": Syntax(Kind.DEFLATED_FRAMES),
    **{f"{_ROOT}.4.{end}": Syntax(Kind.REFUSED, _NO_DECODER) for end in (110, 111, 112)},  # JPEG XL
    **{f"{_ROOT}.4.{end}": Syntax(Kind.REFUSED, _NO_DECODER) for end in (92, 93)},  # multi-component JPEG 2000
    **{f"{_ROOT}.4.{end}": Syntax(Kind.REFUSED, _ELSEWHERE) for end in (94, 95, 204, 205)},  # JPIP
    **{f"{_ROOT}.4.{end}": Syntax(Kind.REFUSED, _VIDEO) for end in range(100, 109)},
    **{f"{_ROOT}.4.{end}.1": Syntax(Kind.REFUSED, _VIDEO) for end in range(100, 107)},
    **{f"{_ROOT}.7.{end}": Syntax(Kind.REFUSED, _VIDEO) for end in (1, 2, 3)},
    f"{_ROOT}.6.1": Syntax(Kind.REFUSED, "is not for images"),
    f"{_ROOT}.6.2": Syntax(Kind.REFUSED, "is not for images"),
}
_NAMES = {
    f"{_ROOT}.4.{110 + n}": f"JPEG XL{rest}" for n, rest in enumerate((" Lossless", " JPEG Recompression", ""))
} | {f"{_ROOT}.8.1": "Deflated Image Frame Compression"}


def syntax(uid: str) -> Syntax:
    """The row of the table; a private or retired transfer syntax is refused with its own reason."""
    known = SYNTAXES.get(uid)
    if known:
        return known
    if uid.startswith(_ROOT):
        return Syntax(Kind.REFUSED, "is retired or unknown and has no decoder here")
    return Syntax(Kind.REFUSED, "is private: what its bytes mean is not published")


def name(uid: str) -> str:
    """The name in the standard, as far as it is known; a UID that is not the standard's is never quoted."""
    if uid in _NAMES:
        return _NAMES[uid]
    return UID_dictionary[uid][0] if uid in UID_dictionary else "an unknown transfer syntax"
