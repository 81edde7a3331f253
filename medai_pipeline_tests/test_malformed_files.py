"""Whatever a file claims, each step ends soon, stays small, and either works or raises one of our errors in one safe line."""

from __future__ import annotations

import os
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from medai_pipeline.dicom import decoder
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.description import describe
from medai_pipeline.dicom.elements import MAX_DEPTH, MAX_ELEMENTS, read_part10
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.lut import table
from medai_pipeline.dicom.pixels import decode, prepare
from medai_pipeline.dicom.read import check_whole, group_by_study, parse
from medai_pipeline.dicom.render import display
from medai_pipeline.dicom.scan import scan
from medai_pipeline.dicom.validate import problems
from medai_pipeline.errors import DicomError, MedaiError, NotDicom, TruncatedFile, UndecodablePixels
from medai_pipeline.records import InputContract, Instance
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.dicom_objects import MARKER, UID_MARKER, image, planted, written

ROW = Instance("2.25.1", "2.25.2", "2.25.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "CT", "")
CONTRACT = InputContract(16, 16)
DEIDENTIFIER = Deidentifier(b"0123456789abcdef")
STEPS = (
    lambda data: parse(data, pixels=False),
    lambda data: decode(parse(data)),
    lambda data: prepare(data, ROW, CONTRACT, at_most=3),
    display,
    DEIDENTIFIER.deidentify,
)
SECONDS_AT_MOST = 20.0  # of one step on one small file; a decoder that hangs is ended after 15


def hold(data: bytes) -> list[str]:
    """Runs every step; returns the reasons of the errors, each checked to be one line without identity."""
    reasons = [problem.reason for problem in problems(data)]
    for step in STEPS:
        began = time.monotonic()
        try:
            step(data)
        except MedaiError as error:
            reasons.append(str(error))
            assert error.__context__ is None or MARKER not in str(error.__context__)
        assert time.monotonic() - began < SECONDS_AT_MOST
    for reason in reasons:
        assert MARKER not in reason and UID_MARKER not in reason and "\n" not in reason, reason
    return reasons


@cache
def real_files() -> list[bytes]:
    """Small real files of every transfer syntax and kind, and a planted one."""
    folder = Path(os.environ.get("MEDAI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "dicom"
    if not folder.is_dir():
        missing(f"test data at {folder} (set MEDAI_TEST_DATA)")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 60_000)
    return [written(planted()), *(path.read_bytes() for path in paths)]


def mutated(data: bytes, seed: int) -> bytes:
    """Damage as transfer errors and hostile writers do it: mostly in the header, in lengths and VRs, cut, doubled."""
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        if not changed:
            break
        at = rng.randrange(min(len(changed), rng.choice((200, 2000, len(changed)))))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = struct.pack("<L", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)))
        elif kind == 2:
            changed[at : at + 2] = rng.choice((b"SQ", b"UN", b"OB", b"OW", b"PN", b"\0\0", b"ZZ", b"UT"))
        elif kind == 3:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            changed[at:at] = changed[max(0, at - rng.randrange(1, 64)) : at]
        elif kind == 5:
            changed[at : at + 8] = rng.choice((b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\xdd\xe0\0\0\0\0"))
        elif rng.random() < 0.3:
            del changed[max(at, 1) :]
    return bytes(changed)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.data())
def test_damaged_real_files_raise_only_our_errors(seed, data):
    files = real_files()
    hold(mutated(files[data.draw(st.integers(0, len(files) - 1))], seed))


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.data())
def test_the_fast_pass_reads_what_the_thorough_one_reads(seed, data):
    files = real_files()
    damaged = mutated(files[data.draw(st.integers(0, len(files) - 1))], seed)
    fast = scan(damaged)
    if fast is not None:
        thorough = read_part10(damaged)
        assert fast.elements == thorough.elements and fast.meta == thorough.meta
        assert (fast.transfer_syntax, fast.encoding) == (thorough.transfer_syntax, thorough.encoding)


def test_text_where_numbers_are_expected_is_not_quoted():
    """A sequence whose bytes pydicom reads as binary numbers once quoted the UIDs in it."""
    reference = planted()["ReferencedImageSequence"]
    dataset = image()
    dataset.add(reference)
    for vr in (b"FD", b"US", b"AT", b"OB"):
        hold(written(dataset).replace(b"UI\x1c\x00", vr + b"\x1c\x00"))
    hold(written(image(RescaleType=MARKER)).replace(b"\x28\x00\x54\x10LO", b"\x28\x00\x54\x10FD"))


HEAD = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"


def test_zeros_without_end_are_read_once():
    began = time.monotonic()
    check_whole(HEAD + b"\x08\x00\x05\x00CS\x00\x00" + bytes(1_000_000) + b"\x09" + bytes(7))
    assert time.monotonic() - began < SECONDS_AT_MOST


def test_more_elements_than_memory_is_for_are_refused():
    element = b"\x09\x00\x10\x00LO\x00\x00"
    with pytest.raises(NotDicom, match="elements"):
        check_whole(HEAD + element * (MAX_ELEMENTS + 2))


@pytest.mark.parametrize("length", ["undefined", "defined"])
def test_nesting_without_end_is_refused_or_left_alone(length):
    data = b""
    for _ in range(20 * MAX_DEPTH):
        size = len(data)
        if length == "defined":
            data = struct.pack("<HH2sHLHHL", 0x0040, 0x0275, b"SQ", 0, size + 8, 0xFFFE, 0xE000, size) + data
        else:
            data = bytes.fromhex("40007502 5351 0000 ffffffff feff00e0 ffffffff") + data
    dataset = written(image())
    hold(dataset[: -12 - 2 * 40 * 48] + data + dataset[-12 - 2 * 40 * 48 :])


def test_a_deflate_bomb_is_refused_before_it_is_inflated():
    deflater = zlib.compressobj(9, wbits=-15)
    body = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(100)) + deflater.flush()
    head = HEAD.replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99")
    with pytest.raises(NotDicom, match="MiB"):
        check_whole(head + body)


def compressed(syntax: str, **claims: int) -> bytes:
    dataset = image(64, 64, PixelData=np.arange(64 * 64, dtype="<i2").tobytes())
    dataset.compress(syntax)
    for keyword, value in claims.items():
        setattr(dataset, keyword, value)
    return written(dataset)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize(
    "claims",
    [{"Rows": 65535, "Columns": 65535}, {"Rows": 16000, "Columns": 16000}, {"NumberOfFrames": 2**31 - 1}, {"Rows": 65}],
)
def test_compressed_pixels_that_hold_less_than_they_claim_are_refused(syntax, claims):
    with pytest.raises(UndecodablePixels):
        Image.of(compressed(syntax, **claims)).stored(1)


def test_fragments_that_claim_more_than_the_file_has_are_refused():
    dataset = image(PixelData=encapsulate([b"\0" * 64]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = dataset.PixelData[:-68] + struct.pack("<L", 0x7FFFFFFF) + dataset.PixelData[-64:]
    with pytest.raises(DicomError):
        decode(dataset)


def test_a_segmented_palette_that_expands_without_end_is_refused():
    line = struct.pack("<3H", 1, 65535, 65535)
    data = struct.pack("<3H", 0, 1, 0) + line * 3000
    dataset = image(PixelData=bytes(40 * 48), BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", data)
    began = time.monotonic()
    hold(written(dataset))
    assert time.monotonic() - began < SECONDS_AT_MOST


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 65535), min_size=3, max_size=3), st.binary(max_size=64))
def test_lookup_tables_of_any_content_work_or_are_refused(descriptor, entries):
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new(0x00283002, "US", descriptor)
    item.add_new(0x00283006, "OW", entries + bytes(len(entries) & 1))
    item.add_new(0x00283003, "LO", MARKER)
    data = written(image(ModalityLUTSequence=[item], VOILUTSequence=[item], Modality="CR"))
    hold(data)
    attributes = Image.of(data).attributes.items(0x00283010)[0]
    try:
        found = table(attributes, signed_input=True)
    except UndecodablePixels:
        return
    assert found.apply(np.array([-(2**31), 0, 2**31 - 1])).shape == (3,)


@pytest.mark.parametrize("charset", ["ISO_IR 999", "ISO 2022 IR 87", "GB18030", MARKER, "\\\\\\", "ISO_IR 192\\ISO 2022 IR 149"])  # fmt: skip
def test_wrong_character_sets_do_no_harm(charset):
    dataset = planted()
    data = written(dataset).replace(b"ISO_IR 100", charset.encode().ljust(10)[:10])
    hold(data.replace(MARKER.encode() + b"^JANE", b"\x1b$B\xff\xfe\x1b\x00\x80\x81\x8d\x8f\x90\xa0\xff"[:14]))


# a decoder in a process of its own ---------------------------------------------------------------------------


def test_a_decoder_that_dies_is_replaced_and_the_next_image_is_decoded(monkeypatch):
    data = compressed(JPEG2000Lossless)
    good = Image.of(data).stored(1)
    process = decoder._take()
    process._child.kill()
    decoder._give_back(process)
    with pytest.raises(UndecodablePixels, match="crashed"):
        Image.of(data).stored(1)
    np.testing.assert_array_equal(Image.of(data).stored(1), good)


def test_a_decoder_that_hangs_is_ended_in_time():
    process = decoder._take()
    os.kill(process._child.pid, 19)  # SIGSTOP: it answers nothing any more
    decoder._give_back(process)
    what = describe(Image.of(compressed(JPEG2000Lossless)).attributes)
    began = time.monotonic()
    with pytest.raises(UndecodablePixels, match="too long"):
        decoder.decode_frame(b"\xff\x4f" + bytes(1 << 20), what, JPEG2000Lossless, seconds=0.5)
    assert time.monotonic() - began < 5
    assert process._child.returncode is not None


def test_the_decoder_knows_no_setting_and_ends_with_its_parent():
    code = (
        "import os, sys; os.environ['MEDAI_SECRET'] = 'ZQXSECRET'\n"
        "from medai_pipeline.dicom import decoder\n"
        "child = decoder._take()._child\n"
        "print(child.pid, b'ZQXSECRET' in open(f'/proc/{child.pid}/environ', 'rb').read())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid, seen = done.stdout.split()
    assert seen == "False"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        os.sched_yield()
    assert not Path(f"/proc/{pid}").exists()


def test_a_large_claim_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claims in ({"Rows": 16000, "Columns": 16000}, {"NumberOfFrames": 2**20}):
        for syntax in (RLELossless, JPEG2000Lossless):
            with pytest.raises(UndecodablePixels):
                Image.of(compressed(syntax, **claims)).stored(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    studies, found = group_by_study([tmp_path / "pipe"])
    assert not studies and [left.problem.code for left in found] == ["not-dicom"]


def test_a_cut_multi_frame_object_names_what_is_missing():
    with pytest.raises(TruncatedFile):
        Image.of(written(image(NumberOfFrames=3)))
