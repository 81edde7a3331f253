"""Pixel data is written as its header describes it: no bytes, bits, fragments or segments that could hold an identity."""

from __future__ import annotations

import struct
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders import RLELosslessEncoder

from medai_pipeline.burned_in.screen import Screener
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import DeidentificationError, MedaiError
from medai_pipeline_tests.conftest import missing
from medai_pipeline_tests.dicom_objects import image, written

KEY = b"a key that only this test knows!"
NAME = b"QUXBERG^ZOLTAN"
JPEG, JPEG_2000, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
RAMP = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)


def deidentified(data: bytes) -> bytes:
    return Deidentifier(KEY).deidentify(data).data


def bits(rows: int, columns: int, frames: int, value: bytes) -> bytes:
    dataset = image(rows=rows, columns=columns)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.NumberOfFrames = frames
    dataset.PixelData = value + b"\0" * (len(value) & 1)
    dataset["PixelData"].VR = "OB"
    return written(dataset)


@pytest.mark.parametrize(
    ("rows", "columns", "frames", "value", "left"),
    [
        (3, 7, 1, b"\xff\xff\xff", b"\xff\xff\x1f"),  # 21 bits
        (3, 7, 2, b"\xff" * 6, b"\xff" * 5 + b"\x03"),  # 42 bits: frames follow each other without a gap
        (4, 4, 1, b"\xff\xff", b"\xff\xff"),  # none to spare
    ],
)
def test_bits_behind_the_last_one_bit_sample_are_cleared(
    rows: int, columns: int, frames: int, value: bytes, left: bytes
) -> None:
    pixels = parse(deidentified(bits(rows, columns, frames, value))).PixelData
    assert pixels[: len(left)] == left


def item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<L", len(content)) + content


def compressed(syntax: str, value: bytes, frames: int = 1, **more: object) -> bytes:
    dataset = image(rows=64, columns=80, **more)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = value
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


def jpeg(**options: object) -> bytes:
    buffer = BytesIO()
    Picture.fromarray(RAMP).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_2000(boxed: bool) -> bytes:
    buffer = BytesIO()
    Picture.fromarray(RAMP).save(buffer, "JPEG2000", no_jp2=not boxed)
    return buffer.getvalue()


def rle() -> bytes:
    return RLELosslessEncoder.encode(
        RAMP, rows=64, columns=80, samples_per_pixel=1, number_of_frames=1, bits_allocated=8, bits_stored=8,
        pixel_representation=0, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


def with_segment(stream: bytes, at: int, marker: bytes) -> bytes:
    return stream[:at] + marker + struct.pack(">H", len(NAME) + 2) + NAME + stream[at:]


def in_tile_part(stream: bytes) -> bytes:
    """A comment in the first tile-part's header, Psot adjusted."""
    start, data = stream.index(b"\xff\x90"), stream.index(b"\xff\x93")
    length = struct.unpack(">L", stream[start + 6 : start + 10])[0] + len(NAME) + 4
    stream = stream[: start + 6] + struct.pack(">L", length) + stream[start + 10 :]
    return with_segment(stream, data, b"\xff\x64")


BOX = struct.pack(">L", 8 + len(NAME)) + b"xml " + NAME
HIDDEN = {
    "JPEG comment": (JPEG, encapsulate([jpeg(comment=NAME)])),
    "JPEG application segment": (JPEG, encapsulate([with_segment(jpeg(), 2, b"\xff\xe1")])),
    "JPEG bytes after EOI": (JPEG, encapsulate([jpeg() + NAME])),
    "JPEG thumbnail or more in JFIF": (JPEG, encapsulate([with_segment(jpeg(), 2, b"\xff\xe0")])),
    "JP2 box": (JPEG_2000, encapsulate([jpeg_2000(True) + BOX])),
    "comment in the main header": (
        JPEG_2000, encapsulate([with_segment(jpeg_2000(False), jpeg_2000(False).index(b"\xff\x52"), b"\xff\x64")]),
    ),
    "comment in a tile-part": (JPEG_2000, encapsulate([in_tile_part(jpeg_2000(False))])),
    "bytes after EOC": (JPEG_2000, encapsulate([jpeg_2000(False) + NAME])),
    "bytes after the RLE segments": (RLE, encapsulate([rle() + NAME])),
    "offset table": (JPEG, item(NAME) + item(jpeg() + b"\0" * (len(jpeg()) & 1)) + b"\xfe\xff\xdd\xe0\0\0\0\0"),
    "extra fragment": (
        JPEG, item(b"") + item(jpeg() + b"\0" * (len(jpeg()) & 1)) + item(NAME) + b"\xfe\xff\xdd\xe0\0\0\0\0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("syntax,value", HIDDEN.values(), ids=list(HIDDEN))
def test_what_a_compressed_frame_carries_beside_the_image_is_not_written(syntax, value):
    source = compressed(syntax, value)
    result = deidentified(source)
    assert NAME in source and NAME not in result
    np.testing.assert_array_equal(Image.of(result).stored(1), Image.of(source).stored(1))


def test_frames_stay_frames_behind_a_true_offset_table():
    first, second = jpeg(quality=90), jpeg(quality=40, comment=NAME)
    source = compressed(JPEG, encapsulate([first, second], has_bot=True), frames=2)
    result = deidentified(source)
    assert NAME not in result
    for number in (1, 2):
        np.testing.assert_array_equal(Image.of(result).stored(number), Image.of(source).stored(number))
    value, offsets, lengths = encapsulate_extended([first, second])
    source = compressed(JPEG, value, 2, ExtendedOffsetTable=offsets, ExtendedOffsetTableLengths=NAME + b"12")
    result = deidentified(source)
    assert NAME not in result
    np.testing.assert_array_equal(Image.of(result).stored(2), Image.of(source).stored(2))


@pytest.mark.parametrize("syntax", [JPEG, JPEG_2000, RLE])
def test_a_codestream_that_cannot_be_walked_is_refused(syntax):
    with pytest.raises(DeidentificationError, match="codestream") as refused:
        deidentified(compressed(syntax, encapsulate([NAME * 20])))
    assert "\n" not in str(refused.value) and NAME.decode() not in str(refused.value)


def test_real_compressed_files_decode_to_the_same_values(test_data):
    """Those without extras stay as they are, to the byte."""
    unchanged = compared = 0
    for folder in ("wg04", "htj2k"):
        root = test_data / "dicom" / folder
        if not root.is_dir():
            missing(f"test data in {root.name}")
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            source = path.read_bytes()
            try:
                before = Image.of(source)
                expected = before.stored(1)
            except MedaiError:
                continue
            after = Image.of(deidentified(source))
            compared += 1
            if bytes(after._element.value) == bytes(before._element.value):
                unchanged += 1
            else:
                np.testing.assert_array_equal(after.stored(1), expected, err_msg=path.name)
    assert compared > 40 and unchanged > compared // 4


# bits beside the stored ones ---------------------------------------------------------------------------------


def native(values: np.ndarray, stored: int, high: int, signed: bool, big: bool = False) -> bytes:
    dataset = image(rows=values.shape[0], columns=values.shape[1])
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, stored, high
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return written(dataset)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("stored,high", [(12, 11), (12, 15), (10, 12)])
def test_bits_that_store_nothing_are_cleared_and_stored_values_stay(stored, high, signed):
    random = np.random.default_rng(4).integers(0, 1 << 16, (32, 48)).astype(np.uint16)
    source = native(random, stored, high, signed)
    result = deidentified(source)
    np.testing.assert_array_equal(Image.of(result).stored(1), Image.of(source).stored(1))
    words = np.frombuffer(parse(result).PixelData, "<i2" if signed else "<u2").astype(np.int64)
    below = high + 1 - stored
    values = Image.of(source).stored(1).astype(np.int64).ravel()
    np.testing.assert_array_equal(words, values << below)  # zeros below; zeros or the sign above


def test_pixels_with_nothing_in_unused_bits_are_copied_as_they_are():
    values = np.random.default_rng(5).integers(0, 1 << 12, (32, 48)).astype(np.uint16)
    assert parse(deidentified(native(values, 12, 11, False))).PixelData == values.tobytes()


def test_clearing_unused_bits_costs_little():
    from medai_pipeline.dicom.attributes import Attributes
    from medai_pipeline.dicom.description import describe
    from medai_pipeline.dicom.read import check_whole
    from medai_pipeline.dicom.unused_bits import cleared

    part = check_whole(native(np.full((512, 512), 0x4ABC, np.uint16), 12, 11, False))
    attributes = Attributes(part.elements)
    value, what = attributes.elements[0x7FE00010].value, describe(attributes)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        cleared(value, what)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005  # measured 0.1 to 0.2 ms


# pixel data that nobody has looked at ------------------------------------------------------------------------


@pytest.mark.parametrize("missing_tag", ["Rows", "Columns"])
@pytest.mark.parametrize("zero", [False, True], ids=["absent", "zero"])
def test_pixel_data_without_rows_or_columns_is_refused_everywhere(missing_tag, zero):
    dataset = image()
    if zero:
        setattr(dataset, missing_tag, 0)
    else:
        delattr(dataset, missing_tag)
    source = written(dataset)
    for refuse in (deidentified, lambda data: Screener().screen(data)):
        with pytest.raises(DeidentificationError, match="rows or columns") as refused:
            refuse(source)
        assert "\n" not in str(refused.value)


def test_images_inside_sequences_are_removed():
    inner, deeper = Dataset(), Dataset()
    for nested in (inner, deeper):
        nested.Rows = nested.Columns = 8
        nested.BitsAllocated = 8
        nested.PixelData = NAME * 5
    inner.AnatomicRegionSequence = [deeper]
    source = written(image(ReferencedImageSequence=[inner], PresentationLUTSequence=[inner]))
    result = deidentified(source)
    assert NAME in source and NAME not in result
    assert len(parse(result).PixelData) > 0
