"""Compressed frames without what no decoder needs: comments, application segments, boxes, and bytes behind their end.

One function for each family. Nothing is decoded: markers are walked, and coded data is copied as it lies. A codestream
that cannot be walked raises DeidentificationError, for what it holds is not known.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from medai_pipeline.errors import DeidentificationError

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# The next marker in coded data: FF is stuffed with 00 in JPEG (ISO 10918-1 B.1.1.5), with a 0 bit in JPEG-LS
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_SCAN, _COMMENT, _LS_FRAME = 0xDA, 0xFE, 0xF7
_JPEG_SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0), _LS_FRAME, 0xF8} - {0xC8})
_JFIF, _ADOBE, _COLOUR_TRANSFORM = b"JFIF\0", b"Adobe", b"mrfx"

_J2K_START, _J2K_END, _TILE_PART, _TILE_DATA = b"\xff\x4f\xff\x51", b"\xff\xd9", 0xFF90, 0xFF93
_J2K_COMMENT, _TILE_LENGTHS = 0xFF64, 0xFF55
_J2K_SEGMENTS = frozenset({*range(0xFF50, 0xFF64), *range(0xFF70, 0xFF7A), _J2K_COMMENT})
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "


def jpeg(stream: bytes) -> bytes:
    """JPEG, JPEG Lossless and JPEG-LS (ISO 10918-1 B.1, ISO 14495-1 C) from SOI to EOI."""
    if stream[:2] != _JPEG_START:
        raise _unwalkable("JPEG")
    return b"".join(_jpeg_pieces(stream))


def _jpeg_pieces(stream: bytes) -> Iterator[bytes]:
    yield _JPEG_START
    position, coded = 2, _JPEG_MARKER
    while True:
        while stream[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if stream[position : position + 2] == _JPEG_END:
            yield _JPEG_END
            return
        if position + 4 > len(stream) or stream[position] != 0xFF:
            raise _unwalkable("JPEG")
        marker, end = stream[position + 1], position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if end < position + 4 or end > len(stream):
            raise _unwalkable("JPEG")
        yield _jpeg_segment(marker, stream[position:end])
        position = end
        if marker == _LS_FRAME:
            coded = _LS_MARKER
        if marker == _SCAN:
            following = coded.search(stream, position)
            if following is None:
                raise _unwalkable("JPEG")
            yield stream[position : following.start()]
            position = following.start()


def _jpeg_segment(marker: int, segment: bytes) -> bytes:
    """What stays of a segment: of application data only what decoders go by (JFIF 1.02, Adobe's and HP's transforms)."""
    if marker in _JPEG_SEGMENTS:
        return segment
    content = segment[4:]
    if marker == 0xE0 and content.startswith(_JFIF) and len(content) >= 14:
        content = content[:12] + b"\0\0"  # no thumbnail
    elif marker == 0xEE and content.startswith(_ADOBE) and len(content) >= 12:
        content = content[:12]
    elif marker == 0xE8 and content.startswith(_COLOUR_TRANSFORM) and len(content) >= 5:
        content = content[:5]
    elif marker == _COMMENT or 0xE0 <= marker <= 0xEF:
        return b""
    else:
        raise _unwalkable("JPEG")
    return segment[:2] + (len(content) + 2).to_bytes(2, "big") + content


def jpeg2000(stream: bytes) -> bytes:
    """The codestream alone of JPEG 2000 and HTJ2K (ISO 15444-1 annex A), from SOC to EOC, without comments."""
    if stream.startswith(_JP2_SIGNATURE):
        stream = _codestream_box(stream)
    if not stream.startswith(_J2K_START):
        raise _unwalkable("JPEG 2000")
    header, position = _headers(stream, 2, _TILE_PART)
    tiles: list[bytes] = []
    changed = False
    while stream[position : position + 2] == b"\xff\x90":
        tile, position, shorter = _tile_part(stream, position)
        tiles.append(tile)
        changed |= shorter
    end = stream[position : position + 2]
    if not tiles or (end != _J2K_END and stream[position:].strip(b"\0")):
        raise _unwalkable("JPEG 2000")
    kept = [segment for marker, segment in header if not (changed and marker == _TILE_LENGTHS)]
    return b"".join((stream[:2], *kept, *tiles, end if end == _J2K_END else b""))


def _headers(stream: bytes, position: int, last: int) -> tuple[list[tuple[int, bytes]], int]:
    """(marker, segment) up to the marker `last`, without comments; and where that stands."""
    found: list[tuple[int, bytes]] = []
    while True:
        if position + 4 > len(stream) and last != _TILE_DATA:
            raise _unwalkable("JPEG 2000")
        marker = int.from_bytes(stream[position : position + 2], "big")
        if marker == last:
            return found, position
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        if marker not in _J2K_SEGMENTS or end < position + 4 or end > len(stream):
            raise _unwalkable("JPEG 2000")
        if marker != _J2K_COMMENT:
            found.append((marker, stream[position:end]))
        position = end


def _tile_part(stream: bytes, start: int) -> tuple[bytes, int, bool]:
    """One tile-part without comments, its length (Psot) corrected; where the next begins; whether it became shorter."""
    if start + 12 > len(stream) or stream[start + 2 : start + 4] != b"\0\x0a":
        raise _unwalkable("JPEG 2000")
    length = int.from_bytes(stream[start + 6 : start + 10], "big")
    end = start + length if length else stream.rfind(_J2K_END, start)
    header, data = _headers(stream, start + 12, _TILE_DATA)
    if end < data + 2 or end > len(stream):
        raise _unwalkable("JPEG 2000")
    kept = b"".join(segment for _, segment in header)
    removed = data - (start + 12) - len(kept)
    begin = stream[start : start + 6] + struct.pack(">L", length - removed if length else 0)
    return b"".join((begin, stream[start + 10 : start + 12], kept, stream[data:end])), end, removed > 0


def _codestream_box(stream: bytes) -> bytes:
    """The contiguous codestream of a JP2 file (ISO 15444-1 annex I)."""
    position = 0
    while position + 8 <= len(stream):
        length, kind, header = int.from_bytes(stream[position : position + 4], "big"), stream[position + 4 :][:4], 8
        if length == 1:
            length, header = int.from_bytes(stream[position + 8 : position + 16], "big"), 16
        end = position + length if length else len(stream)
        if end < position + header or end > len(stream):
            break
        if kind == b"jp2h" and b"pclr" in stream[position:end]:
            break  # a palette that a decoder would apply
        if kind == b"jp2c":
            return stream[position + header : end]
        position = end
    raise _unwalkable("JPEG 2000")


def rle(stream: bytes, pixels: int) -> bytes:
    """RLE (PS3.5 annex G), each segment as far as it is read: to `pixels` bytes. The very bytes given where that is all."""
    if len(stream) < 64:
        raise _unwalkable("RLE")
    count, *offsets = struct.unpack_from("<16L", stream)
    if not 0 < count <= 15 or offsets[0] != 64 or sorted(set(offsets[:count])) != offsets[:count]:
        raise _unwalkable("RLE")
    ends = [*offsets[1:count], len(stream)]
    read = [_packed_end(stream, start, end, pixels) for start, end in zip(offsets, ends, strict=False)]
    padded = (not stream[at:end].strip(b"\0") and end - at < 2 for at, end in zip(read, ends, strict=True))
    if all(padded) and not any(offsets[count:]):
        return stream
    segments = [stream[start:end] for start, end in zip(offsets, read, strict=False)]
    segments = [segment + b"\0" * (len(segment) & 1) for segment in segments]
    starts = [64 + sum(map(len, segments[:n])) for n in range(count)]
    return struct.pack("<16L", count, *starts, *[0] * (15 - count)) + b"".join(segments)


def _packed_end(stream: bytes, position: int, end: int, wanted: int) -> int:
    """Where a segment's runs have made `wanted` bytes."""
    made = 0
    while made < wanted:
        if position >= end:
            raise _unwalkable("RLE")
        run = stream[position]
        if run < 128:
            made += run + 1
            position += run + 2
        else:
            if run > 128:
                made += 257 - run
                position += 1
            position += 1
    if position > end:
        raise _unwalkable("RLE")
    return position


def _unwalkable(family: str) -> DeidentificationError:
    return DeidentificationError(
        f"a compressed frame is no {family} codestream as its transfer syntax says, and cannot be cleaned;"
        " send the object in another transfer syntax"
    )
