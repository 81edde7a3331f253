"""What the worst header costs: a megabyte in one value of an object whose header holds almost as many words as are searched for.

    python benchmarks/deidentification_bound.py

CPU seconds of de-identifying one object, and as a multiple of the same object without the megabyte and of a plain loop
over the words (`word in text`), which is what one pattern of all words replaces.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable

from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.options import parse_options

MEGABYTE = 1 << 20
ROOT = b"1.2.826.0.1.987654321"
OPTIONS = "clean-descriptors retain-device-identity retain-full-dates retain-uids"
DRAW = random.Random(3)
LETTERS = b"etaoinshrdlucmfwypvbgkqjxz"


def word(least: int, most: int) -> bytes:
    return bytes(DRAW.choice(LETTERS) for _ in range(DRAW.randint(least, most)))


WORDS = [word(6, 12) for _ in range(950)]


def prose() -> bytes:
    text = b" ".join(word(1, 9) for _ in range(220_000))[: MEGABYTE - 2]
    for one in WORDS:
        text = text.replace(one, b"")
    return text


def filled(unit: bytes) -> bytes:
    return (unit * (MEGABYTE // len(unit)))[: MEGABYTE - 2]


def the_object(*elements: tuple[int, bytes]) -> bytes:
    """A file in implicit VR, in which a value of any VR may be long."""
    values = {
        0x00080005: b"ISO_IR 192",
        0x00080016: b"1.2.840.10008.5.1.4.1.1.7",
        0x00080018: ROOT + b".1",
        0x00101000: b"\\".join(WORDS),
        0x0020000D: ROOT + b".2",
        0x0020000E: ROOT + b".3",
        **dict(elements),
    }
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", 18) + b"1.2.840.10008.1.2\0"
    return bytes(128) + b"DICM" + meta + b"".join(_element(tag, values[tag]) for tag in sorted(values))


def _element(tag: int, value: bytes) -> bytes:
    value += b" " * (len(value) & 1)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def cases() -> dict[str, tuple[int, bytes]]:
    text = prose()
    return {
        "comment, words": (0x00204000, text),
        "comment, known words": (0x00204000, filled(b"chest lung axial contrast ")),
        "comment, values of one letter": (0x00204000, filled(b"\\a")),
        "technical text": (0x00181020, text),
        "technical text, not ASCII": (0x00181020, ("é".encode() + text)[: MEGABYTE - 2]),
        "technical text, almost a word": (0x00181020, filled(WORDS[0][:-1])),
        "label": (0x00620005, filled(b"a 1")),
        "numbers": (0x00281050, filled(b"1.5\\")),
        "code strings": (0x00080008, filled(b"AB\\")),
        "UIDs": (0x00083010, filled(b"1.2.3\\")),
        "dates": (0x00080020, filled(b"20200101\\")),
        "opaque bytes": (0x00281201, DRAW.randbytes(MEGABYTE)),
    }


def seconds(run: Callable[[], object]) -> float:
    """The least of three."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        run()
        spent.append(time.process_time() - began)
    return min(spent)


def main() -> None:
    def clean(data: bytes) -> Callable[[], object]:
        return lambda: Deidentifier(bytes(range(32)), parse_options(OPTIONS)).deidentify(data)

    without, text = seconds(clean(the_object())), prose()
    loop = seconds(lambda: any(one in text for one in WORDS))
    print(f"without the megabyte {without:.3f} s; a loop over {len(WORDS)} words, one pass: {loop:.2f} s")
    print("| one value of a megabyte | CPU s | times the object without | times the loop |\n|---|---|---|---|")
    for name, element in cases().items():
        spent = seconds(clean(the_object(element)))
        print(f"| {name} | {spent:.2f} | {spent / without:.0f} | {spent / loop:.1f} |")


if __name__ == "__main__":
    main()
