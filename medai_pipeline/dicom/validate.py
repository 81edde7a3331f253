"""What is wrong with a data set, as a list: what a person at the source would want to know. Nothing here raises or stops."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from medai_pipeline.records import Problem

REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
REQUIRED_OF_IMAGES = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
# Photometric Interpretation -> Samples per Pixel (PS3.3 C.7.6.3.1.2)
SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def problems(dataset: Dataset) -> list[Problem]:
    """Every problem found; empty when there is none. Reasons name attributes and numbers, never other values."""
    return [problem for check in (_missing, _bits, _photometric) for problem in check(dataset)]


def _value(dataset: Dataset, keyword: str) -> object:
    """A value, None when it is absent or cannot be read as its VR."""
    try:
        return dataset.get(keyword)
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError):
        return None


def _is_image(dataset: Dataset) -> bool:
    return any(keyword in dataset for keyword in _PIXELS)


def _missing(dataset: Dataset) -> Iterator[Problem]:
    keywords = REQUIRED + (REQUIRED_OF_IMAGES if _is_image(dataset) else ())
    for keyword in keywords:
        if _value(dataset, keyword) in (None, ""):
            yield Problem("missing-attribute", f"{keyword} is missing")


def _bits(dataset: Dataset) -> Iterator[Problem]:
    """PS3.5 8.1.1: Bits Stored within Bits Allocated, High Bit its last."""
    if "PixelData" not in dataset:
        return
    allocated, stored, high = (_value(dataset, keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    if isinstance(allocated, int) and allocated != 1 and allocated % 8:
        yield Problem("bits", f"BitsAllocated is {allocated}, not 1 or a multiple of 8")
    if isinstance(allocated, int) and isinstance(stored, int) and not 0 < stored <= allocated:
        yield Problem("bits", f"BitsStored is {stored} of {allocated} allocated")
    if isinstance(stored, int) and isinstance(high, int) and high != stored - 1:
        yield Problem("bits", f"HighBit is {high} with BitsStored {stored}")


def _photometric(dataset: Dataset) -> Iterator[Problem]:
    if not _is_image(dataset):
        return
    photometric, samples = _value(dataset, "PhotometricInterpretation"), _value(dataset, "SamplesPerPixel")
    expected = 3 if str(photometric).startswith("YBR") else SAMPLES.get(str(photometric))
    if photometric and expected is None:
        yield Problem("photometric", "PhotometricInterpretation is not one of the standard's")
    if expected is not None and isinstance(samples, int) and samples != expected:
        yield Problem("photometric", f"SamplesPerPixel is {samples} where {expected} is expected")
