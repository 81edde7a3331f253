"""Images as tensors for a model, and all frames of a pydicom data set as an array.

Decoding and what values mean are in `image`; the intensity rules in `normalize`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from medai_pipeline.dicom.elements import META_ENCODING, PIXEL_DATA, Element, Encoding, Part10, Reader
from medai_pipeline.dicom.hounsfield import why_not_hounsfield, why_not_suv
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.limits import MAX_DECODED_BYTES, MAX_FRAMES_PREPARED
from medai_pipeline.dicom.normalize import normalize
from medai_pipeline.dicom.read import PYDICOM_TROUBLE
from medai_pipeline.dicom.transfer_syntax import Kind, syntax
from medai_pipeline.dicom.voi import presented
from medai_pipeline.errors import NoPixels, UndecodablePixels, UnfitValues, UnsupportedImage
from medai_pipeline.records import InputContract, Instance, TensorItem

__all__ = ["Image", "decode", "prepare"]

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", PIXEL_DATA: "PixelData"}
_HEADER_GROUPS = (0x0028, 0x5200)
_MODALITY = 0x00080060
_NOT_FOR_MODELS = frozenset({"LOCALIZER", "SCOUT"})


def decode(dataset: Dataset, frame: int | None = None) -> np.ndarray:
    """Stored values as (frames, rows, columns), or (frames, rows, columns, 3) as RGB for YBR and RGB images.

    `frame`, from 1, decodes that one alone. The dtype is that of the stored values.
    Raises NoPixels; UndecodablePixels, which names the transfer syntax.
    """
    image = image_of(dataset)
    if frame is not None:
        return image.stored(frame)[np.newaxis]
    if image.what.frame_bytes * image.frames > MAX_DECODED_BYTES:
        raise UndecodablePixels(f"the image takes more than {MAX_DECODED_BYTES >> 30} GiB; ask for single frames")
    first = image.stored(1)
    if image.frames == 1:
        return first[np.newaxis]
    frames = np.empty((image.frames, *first.shape), first.dtype)
    frames[0] = first
    for number in range(2, image.frames + 1):
        frames[number - 1] = image.stored(number)
    return frames


def image_of(dataset: Dataset) -> Image:
    """The image of a pydicom data set as it is now, its pixel bytes not copied. Raises NoPixels, UndecodablePixels."""
    tag = next((tag for tag in _PIXELS if tag in dataset), None)
    if tag is None:
        raise NoPixels("the object has no image; it is kept but not analyzed")
    elements: list[Element] | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes values in its warnings
            uid = str(dataset.file_meta.TransferSyntaxUID)
            little = uid != "1.2.840.10008.1.2.2"
            elements = _header(dataset, little)
            pixels = dataset[tag]
    except PYDICOM_TROUBLE:
        pass  # what pydicom says may quote values
    if elements is None:
        raise UndecodablePixels("the object's description of its pixels cannot be read; correct it at its source")
    value, vr = pixels.value or b"", str(pixels.VR).encode()
    undefined = bool(pixels.is_undefined_length) or syntax(uid).kind is not Kind.NATIVE
    elements.append(Element(tag, vr, value, undefined, encoding=Encoding(META_ENCODING.explicit, little)))
    return Image(Part10(elements=elements, transfer_syntax=uid))


def _header(dataset: Dataset, little: bool) -> list[Element]:
    """The elements that describe pixels, written and read again: one reader for both kinds of data set."""
    tags = [tag for tag in dataset.keys() if tag.group in _HEADER_GROUPS or tag == _MODALITY]  # noqa: SIM118 - iterating reads values
    header = Dataset({tag: dataset.get_item(tag) for tag in tags})
    implicit, was_little = dataset.original_encoding
    header.set_original_encoding(implicit, was_little, dataset.original_character_set)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = little, False
    write_dataset(file, header)
    written = BytesIO(file.getvalue()).getbuffer()
    return Reader(written).elements(0, len(written), Encoding(True, little))[0]


def prepare(
    data: bytes, instance: Instance, contract: InputContract, *, at_most: int = MAX_FRAMES_PREPARED
) -> list[tuple[np.ndarray, TensorItem]]:
    """Each frame of a file as a tensor (channels, height, width) of the contract, with where it came from.

    Frames come in the order of their geometry; of more than `at_most` an even choice is decoded, the others are not.
    Localizer frames of an enhanced object are left out.
    Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels; UnfitValues when the values are not what the contract's
    rule is for; UnsupportedImage when nothing of it is for a model.
    """
    image = Image.of(data)
    if reason := _unfit(image, contract):
        raise UnfitValues(reason)
    numbers = [n for n in image.groups.order(image.frames) if not _NOT_FOR_MODELS & set(image.groups.frame_type(n))]
    if not numbers:
        raise UnsupportedImage("all frames are localizers; they are kept but not analyzed")
    return [_prepared(image, number, instance, contract) for number in _evenly(numbers, at_most)]


def _unfit(image: Image, contract: InputContract) -> str:
    """Why the values are not what the contract's intensity rule is for; "" when they are."""
    if contract.scaling.startswith("ct-"):
        return why_not_hounsfield(image.attributes, image.groups)
    return why_not_suv(image.attributes) if image.modality == "PT" else ""


def _evenly(numbers: Sequence[int], at_most: int) -> Sequence[int]:
    if len(numbers) <= at_most:
        return numbers
    return [numbers[int(i)] for i in np.linspace(0, len(numbers) - 1, at_most)]


def _prepared(image: Image, number: int, instance: Instance, contract: InputContract) -> tuple[np.ndarray, TensorItem]:
    frame, window = image.frame(number), None
    values = frame.values
    if contract.scaling == "xray":
        values, window = presented(values, image.voi(number))
    tensor, placement = normalize(values, contract, invert=image.inverted, window=window, padding=frame.padding)
    spacing = image.groups.spacing_mm(number) or instance.spacing_mm
    item = TensorItem(instance.sop_instance_uid, number, placement, spacing, instance.view_position)
    return tensor, item
