"""Stored values come out as they went in, bit for bit, in every transfer syntax and layout that the standard has."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medai_pipeline.dicom import image as image_module
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.pixels import decode, prepare
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import NoPixels, UndecodablePixels, UnsupportedImage
from medai_pipeline.records import InputContract, Instance
from medai_pipeline_tests.dicom_objects import image, written

ROW = Instance("2.25.1", "2.25.2", "2.25.3", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "CT", "")
# one file of each way to write pixels, all decodable in this process too
DECODABLE = [
    "htj2k/htj2k/MR3_JPH", "pydicom-data/HTJ2KLossless_08_RGB.dcm", "pydicom-data/HTJ2K_08_RGB.dcm",
    "pydicom-data/JLSL_RGB_ILV1.dcm", "pydicom-data/JPGLosslessP14SV1_1s_1f_8b.dcm", "pydicom-data/MR2_J2KI.dcm",
    "pydicom-data/OBXXXX1A_rle_2frame.dcm", "pydicom-data/SC_rgb_16bit_2frame.dcm", "pydicom-data/SC_rgb_32bit.dcm",
    "pydicom-data/SC_rgb_expb_16bit.dcm", "pydicom-data/emri_small_big_endian.dcm", "pydicom-data/liver_expb.dcm",
    "pylibjpeg-data/RLELossless/SC_rgb_rle_16bit_2frame.dcm", "pydicom-data/SC_ybr_full_uncompressed.dcm", "wg04/JLSN/CT2_JLSN", "highdicom/sm_image_jpegls_nobot.dcm",
    "pylibjpeg-data/LittleEndianImplicit/rtdose.dcm",
]  # fmt: skip


def in_syntax(dataset, syntax: str) -> bytes:
    """The data set as a file, its values as they are: also for a syntax that pydicom does not know."""
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    known = syntax in pydicom.uid.AllTransferSyntaxes
    pydicom.dcmwrite(
        file, dataset, implicit_vr=implicit, little_endian=little, force_encoding=not known, enforce_file_format=known
    )
    return file.getvalue()


def test_decoded_pixels_have_the_golden_digests(test_data):
    golden = json.loads((test_data / "dicom" / "golden_wg04.json").read_text())
    checked = 0
    for path in sorted((test_data / "dicom").rglob("*_*")):
        name, _, codec = path.name.partition("_")
        expected = golden.get(f"{name}/{ {'JPH': 'HTJ2K'}.get(codec, codec) }")
        if expected is None or "sha256" not in expected or codec == "JPLY" or path.suffix:
            continue
        frames = decode(parse(path.read_bytes()))
        assert hashlib.sha256(frames.tobytes()).hexdigest() == expected["sha256"], path.name
        checked += 1
    assert checked >= 45


@pytest.mark.parametrize("name", DECODABLE)
def test_files_of_every_kind_decode_as_pydicom_does(name, test_data):
    data = (test_data / "dicom" / name).read_bytes()
    ours = Image.of(data)
    theirs = pydicom.pixels.pixel_array(parse(data))
    for number in range(1, ours.frames + 1):
        expected = theirs[number - 1] if ours.frames > 1 else theirs
        np.testing.assert_array_equal(ours.stored(number), expected)


def test_deflated_frames_are_the_native_ones(test_data):
    folder = test_data / "dicom" / "pydicom-data"
    deflated = decode(parse((folder / "liver_nonbyte_aligned_deflate.dcm").read_bytes()))
    np.testing.assert_array_equal(deflated, decode(parse((folder / "liver_nonbyte_aligned.dcm").read_bytes())))


@st.composite
def layouts(draw):
    """(values of frames, their container, object, transfer syntax): stored bits anywhere in 8 or 16 allocated."""
    stored = draw(st.integers(8, 16))
    allocated = draw(st.sampled_from([8, 16])) if stored == 8 else 16
    signed, high = draw(st.booleans()), draw(st.integers(stored - 1, allocated - 1))
    low = -(1 << stored - 1) if signed else 0
    dtype = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    samples = draw(st.sampled_from([1, 1, 3]))
    shape = (draw(st.integers(1, 3)), 4, 6, *([3] if samples == 3 else []))
    values = draw(hnp.arrays(dtype, shape, elements=st.integers(low, low + (1 << stored) - 1)))
    noise = draw(hnp.arrays(f"u{allocated // 8}", shape))  # overlays and rubbish beside the stored bits
    return values, noise, stored, high, draw(st.booleans()), draw(st.sampled_from(SYNTAXES))


SYNTAXES = [ImplicitVRLittleEndian, "1.2.840.10008.1.2.1", ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@settings(deadline=None, max_examples=300)
@given(layouts())
def test_any_native_layout_gives_the_values_back(layout):
    values, noise, stored, high, planar, syntax = layout
    unsigned = values.astype(noise.dtype) & noise.dtype.type((1 << stored) - 1)
    below = high + 1 - stored
    mask = noise.dtype.type(((1 << stored) - 1) << below)
    container = (unsigned << noise.dtype.type(below)) | (noise & ~mask)
    bits = values.itemsize * 8
    dataset = image(4, 6, NumberOfFrames=len(values), BitsAllocated=bits, BitsStored=stored, HighBit=high)
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if values.ndim == 4:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
        dataset.PlanarConfiguration = int(planar)
        container = np.moveaxis(container, -1, 1) if planar else container
    raw = container.astype(container.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    if bits == 8 and syntax == ExplicitVRBigEndian:  # OW: pairs of bytes are words (PS3.5 annex A.3)
        raw = np.frombuffer(raw, "<u2").astype(">u2").tobytes()
    dataset.PixelData = raw
    dataset["PixelData"].VR = "OW"
    data = in_syntax(dataset, syntax)
    np.testing.assert_array_equal(decode(parse(data)), values)
    np.testing.assert_array_equal(Image.of(data).stored(len(values)), values[-1])


@pytest.mark.parametrize(("keyword", "dtype", "bits"), [("FloatPixelData", "<f4", 32), ("DoubleFloatPixelData", "<f8", 64)])  # fmt: skip
def test_floating_point_pixels_are_read_and_their_padding_is_found(keyword, dtype, bits):
    values = np.linspace(-1.5, 2.5, 2 * 40 * 48).reshape(2, 40, 48).astype(dtype)
    values[0, :3] = -9999.5
    dataset = image(NumberOfFrames=2, BitsAllocated=bits)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    setattr(dataset, keyword, values.tobytes())
    setattr(dataset, "FloatPixelPaddingValue" if bits == 32 else "DoubleFloatPixelPaddingValue", -9999.5)
    decoded = Image.of(written(dataset))
    np.testing.assert_array_equal(decoded.stored(2), values[1])
    frame = decoded.frame(1)
    assert frame.padding[:3].all() and not frame.padding[3:].any() and frame.values.min() > -2


def test_32_bit_integers_are_read():
    values = np.arange(40 * 48, dtype="<i4") * 1_000_000 - 2_000_000
    dataset = image(BitsAllocated=32, BitsStored=32, HighBit=31, PixelData=values.tobytes())
    np.testing.assert_array_equal(Image.of(written(dataset)).stored(1).ravel(), values)


def test_single_bits_of_frames_that_begin_inside_a_byte():
    frames = np.random.default_rng(3).integers(0, 2, (3, 5, 7), dtype=np.uint8)
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset = image(5, 7, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0, PixelRepresentation=0)
    dataset.PixelData = packed + bytes(len(packed) & 1)
    np.testing.assert_array_equal(decode(parse(written(dataset))), frames)


def test_encapsulated_uncompressed_and_deflated_frames_are_native_ones():
    frames = np.random.default_rng(4).integers(-999, 999, (3, 40, 48)).astype("<i2")
    for syntax in ("1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"):
        parts = [frame.tobytes() for frame in frames]
        if syntax.endswith(".8.1"):
            deflaters = [zlib.compressobj(wbits=-15) for _ in parts]
            parts = [d.compress(part) + d.flush() for d, part in zip(deflaters, parts, strict=True)]
        dataset = image(NumberOfFrames=3, PixelData=encapsulate(parts))
        dataset["PixelData"].is_undefined_length = True
        np.testing.assert_array_equal(decode(parse(in_syntax(dataset, syntax))), frames)


def rle(frames: np.ndarray, **attributes) -> pydicom.Dataset:
    dataset = image(*frames.shape[1:], NumberOfFrames=len(frames), PixelData=frames.tobytes(), **attributes)
    dataset.compress(RLELossless)
    return dataset


FRAMES = np.random.default_rng(5).integers(-2000, 2000, (4, 16, 16)).astype("<i2")


def test_frames_are_found_whatever_the_offset_table_says(test_data):
    dataset = rle(FRAMES)
    good = dataset.PixelData
    lying = good[:8] + struct.pack("<4L", 0, 7, 9, 3) + good[24:]
    empty = good[:4] + bytes(4) + good[24:]
    for value in (good, lying, empty):
        dataset.PixelData = value
        np.testing.assert_array_equal(decode(parse(written(dataset))), FRAMES)


def test_frames_in_several_fragments_are_told_apart_by_table_or_by_their_end(test_data):
    whole = parse((test_data / "dicom" / "pydicom-data" / "MR2_J2KI.dcm").read_bytes())
    expected = decode(whole)[0]
    stream = bytes(next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1)))
    stream += bytes(len(stream) & 1)
    cut = len(stream) // 2 & ~1
    pieces = [stream[:cut], stream[cut:]] * 2
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(piece)) + piece for piece in pieces)
    whole.NumberOfFrames = 2
    for table in (b"", struct.pack("<2L", 0, len(stream) + 16)):
        whole.PixelData = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(table)) + table + items
        np.testing.assert_array_equal(decode(whole), np.stack([expected, expected]))


def test_an_extended_offset_table_is_used():
    dataset = rle(FRAMES)
    fragments = list(pydicom.encaps.generate_fragments(dataset.PixelData[24:]))
    offsets = np.cumsum([0] + [len(fragment) + 8 for fragment in fragments[:-1]])
    dataset.PixelData = dataset.PixelData[:4] + bytes(4) + dataset.PixelData[24:]
    dataset.ExtendedOffsetTable = offsets.astype("<u8").tobytes()
    dataset.ExtendedOffsetTableLengths = np.array([len(f) for f in fragments], "<u8").tobytes()
    np.testing.assert_array_equal(decode(parse(written(dataset))), FRAMES)


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless has no decoder here"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL has no decoder here"),
        ("1.2.840.10008.1.2.4.94", "on a server"),
        ("1.2.840.10008.1.2.4.102", "video"),
        ("1.2.840.10008.1.2.4.999", "retired or unknown"),
        ("1.2.826.0.1.99", "private"),
    ],
)
def test_what_cannot_be_decoded_says_why(syntax, reason):
    dataset = image(PixelData=encapsulate([b"\0" * 64]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UndecodablePixels, match=reason) as caught:
        decode(dataset)
    assert "1.2.826" not in str(caught.value)


def test_a_bit_stream_that_no_decoder_reads_names_its_transfer_syntax(test_data):
    data = (test_data / "dicom" / "wg04" / "JPLY" / "MR1_JPLY").read_bytes()
    with pytest.raises(UndecodablePixels, match="JPEG Extended"):
        decode(parse(data))


def test_an_object_without_image_says_so(test_data):
    with pytest.raises(NoPixels):
        decode(parse((test_data / "dicom" / "highdicom" / "sr_document.dcm").read_bytes()))


@pytest.mark.parametrize(
    "claim",
    [
        {"NumberOfFrames": 2_000_000_000},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 1000, "Columns": 1000},
        {"BitsAllocated": 12},
        {"BitsAllocated": 64, "BitsStored": 64},
        {"BitsStored": 17},
        {"SamplesPerPixel": 4},
        {"PhotometricInterpretation": "RGB"},
    ],
)
def test_claims_that_the_pixel_data_does_not_hold_are_refused_before_memory_is_taken(claim):
    with pytest.raises(UndecodablePixels):
        decode(image(**claim))


def test_only_the_frames_that_are_asked_for_are_decoded(monkeypatch):
    frames = np.zeros((2000, 40, 40), "<i2")
    data = written(rle(frames))
    decoded = []
    real = image_module.decode_frame
    monkeypatch.setattr(image_module, "decode_frame", lambda *a: decoded.append(1) or real(*a))
    prepared = prepare(data, ROW, InputContract(8, 8, scaling="ct-lung"), at_most=5)
    assert [item.frame for _, item in prepared] == [1, 500, 1000, 1500, 2000]
    assert len(decoded) == 5
    Image.of(data).stored(7)
    assert len(decoded) == 6


def test_a_frame_that_is_not_there_is_refused():
    with pytest.raises(UnsupportedImage):
        Image.of(written(image())).stored(2)
