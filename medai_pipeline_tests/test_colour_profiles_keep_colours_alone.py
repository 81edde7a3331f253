"""An ICC profile computes what it did, and says nothing."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydicom.dataset import Dataset

from medai_pipeline.dicom import icc
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import parse
from medai_pipeline_tests.dicom_objects import image, written

KEY = b"a key that only this test knows!"


def deidentified(dataset: Dataset) -> Dataset:
    return parse(Deidentifier(KEY).deidentify(written(dataset)).data)


def srgb_with(text: bytes) -> bytes:
    """A real profile whose description, copyright and free bytes say something."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[48:56], data[84:100] = text[:8].ljust(8), text[:16].ljust(16)
    count = int.from_bytes(data[128:132], "big")
    for entry in range(count):
        name, offset, size = struct.unpack_from(">4sLL", data, 132 + 12 * entry)
        if name in (b"desc", b"cprt", b"chrm", b"dmnd", b"dmdd"):
            data[offset + 8 : offset + size] = text.ljust(size - 8, b"\0")[: size - 8]
    return bytes(data + text)


def test_a_colour_profile_keeps_its_colours_and_no_word():
    dataset = image(8, 8, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, SamplesPerPixel=3)
    dataset.PhotometricInterpretation, dataset.PlanarConfiguration, dataset.PixelData = "RGB", 0, bytes(range(192))
    dataset.ICCProfile = srgb_with(b"scanner of Vandermeer")
    assert dataset.ICCProfile.count(b"Vandermeer") >= 2
    kept = deidentified(dataset).ICCProfile
    assert b"andermeer" not in kept and icc.cleaned(kept) == kept.rstrip(b"\0").ljust(len(kept), b"\0")
    picture = Image.frombytes("RGB", (8, 8), dataset.PixelData)
    target = ImageCms.createProfile("LAB")
    before, after = (
        ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(p)), target, outputMode="LAB").tobytes()
        for p in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), kept)
    )
    assert max(abs(one - other) for one, other in zip(before, after, strict=True)) <= 1


@pytest.mark.parametrize("profile", [b"description: Vandermeer", b"", bytes(500), srgb_with(b"x")[:200]])
def test_a_profile_that_cannot_be_read_is_left_out_or_a_standard_one(profile):
    dataset = image(8, 8, PixelData=bytes(192), BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 3, 0, "RGB"
    dataset.ICCProfile = profile
    assert not deidentified(dataset).get("ICCProfile")
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc.standard_profile())))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 600), st.binary(max_size=40))
def test_a_damaged_profile_never_keeps_what_was_put_into_it(at, put):
    data = bytearray(srgb_with(b"of Vandermeer"))
    data[at : at + len(put)] = put
    kept = icc.cleaned(bytes(data)) or b""
    assert b"ermeer" not in kept
    assert len(put) < 16 or put not in kept or put in icc.cleaned(srgb_with(b""))
