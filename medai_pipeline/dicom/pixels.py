"""From stored pixel data to modality values, and on to a model's tensors.

Here: decoding, the Modality LUT (PS3.3 C.11.1), pixel padding, colour to luminance, the VOI window that a file names.
What a model wants of them is in `normalize`; how a person sees them in `render`.
"""

from __future__ import annotations

import struct
import warnings

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

from medai_pipeline.dicom.normalize import normalize
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import NoPixels, UndecodablePixels
from medai_pipeline.records import InputContract, Instance, TensorItem

MAX_DECODED_BYTES = 4 << 30
XRAY_MODALITIES = frozenset({"CR", "DX", "RG", "MG", "RF", "XA", "PX", "IO"})
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # PS3.3 C.7.6.3.1.2, Y of YBR_FULL
_PYTHON_TROUBLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_DECODER_TROUBLE = (*_PYTHON_TROUBLE, MemoryError, struct.error)  # also NotImplementedError, a RuntimeError


def decode(dataset: Dataset, frame: int | None = None) -> np.ndarray:
    """Stored values as (frames, rows, columns), or (frames, rows, columns, 3) as RGB for YBR and RGB images.

    `frame`, from 1, decodes that one alone. The dtype is that of the stored values.
    Raises NoPixels; UndecodablePixels, which names the transfer syntax.
    """
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS) or not dataset.get("Rows"):
        raise NoPixels("the object has no image; it is kept but not analyzed")
    if _decoded_bytes(dataset) > MAX_DECODED_BYTES:
        raise UndecodablePixels(f"the image would take more than {MAX_DECODED_BYTES >> 30} GiB; split it into parts")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = pixel_array(dataset, index=None if frame is None else frame - 1)
        colour = dataset.get("SamplesPerPixel", 1) > 1
        return values if values.ndim == 3 + colour else values[np.newaxis]
    except _DECODER_TROUBLE:
        pass  # what the decoders say may quote values
    raise UndecodablePixels(
        f"the pixel data cannot be decoded from {_syntax_name(dataset)}; send it in another transfer syntax"
    )


def _decoded_bytes(dataset: Dataset) -> int:
    sizes = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
    try:
        rows, columns, samples, bits, frames = (max(1, int(dataset.get(keyword) or 1)) for keyword in sizes)
    except (TypeError, ValueError, OverflowError) as error:
        raise UndecodablePixels("rows, columns or frames are not numbers; correct the object at its source") from error
    return rows * columns * samples * max(8, bits) // 8 * frames


def _syntax_name(dataset: Dataset) -> str:
    """The name of the transfer syntax, or its UID where the standard here has no name for it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return str(syntax.name if syntax.name.isprintable() else "an unknown transfer syntax")


def modality_values(dataset: Dataset, frames: np.ndarray, first_frame: int = 1) -> np.ndarray:
    """Frames from `decode` as float32 modality values (frames, rows, columns): Hounsfield units for CT.

    The Modality LUT Sequence or Rescale Slope and Intercept are applied, for each frame its own where the object is
    enhanced (C.7.6.16.2.9). Padding (C.7.5.1.1.2) becomes what is shown darkest. Colour becomes luminance, which no
    model here was made for: `select` keeps such images away from them.
    """
    if "PALETTE" in str(dataset.get("PhotometricInterpretation", "")) and "RedPaletteColorLookupTableData" in dataset:
        frames = apply_color_lut(frames, dataset)
    if frames.ndim == 4:
        return frames[..., :3].astype(np.float32) @ _LUMINANCE
    values = np.empty(frames.shape, np.float32)
    for index, frame in enumerate(frames):
        values[index] = _rescaled(dataset, frame, first_frame + index)
        _darken_padding(dataset, frame, values[index])
    return values


def _rescaled(dataset: Dataset, frame: np.ndarray, number: int) -> np.ndarray:
    group = functional_group(dataset, number, "PixelValueTransformationSequence")
    if group is None and dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(frame, dataset).astype(np.float32)
    source = dataset if group is None else group
    slope = _number(source.get("RescaleSlope"), 1.0)
    values = frame.astype(np.float32)
    values *= np.float32(slope if slope else 1.0)  # a slope of 0 would erase the image: a writer's "not used"
    values += np.float32(_number(source.get("RescaleIntercept"), 0.0))
    return values


def _darken_padding(dataset: Dataset, frame: np.ndarray, values: np.ndarray) -> None:
    """Values between Pixel Padding Value and its Range Limit to the darkest of the others, in place."""
    padding = dataset.get("PixelPaddingValue")
    if not isinstance(padding, int):
        return
    limit = dataset.get("PixelPaddingRangeLimit")
    limit = limit if isinstance(limit, int) else padding
    padded = (frame >= min(padding, limit)) & (frame <= max(padding, limit))
    if padded.any() and not padded.all():
        image = values[~padded]
        darkest = image.max() if is_inverted(dataset) else image.min()
        values[padded] = darkest


def _number(value: object, otherwise: float) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return otherwise
    return number if np.isfinite(number) and abs(number) < 1e30 else otherwise


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """A functional group macro for one frame (from 1): its own, else the shared one (PS3.3 C.7.6.16.1)."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[frame - 1 : frame], shared[:1]):
        items = groups[0].get(keyword) if groups else None
        if items:
            return items[0]
    return None


def is_inverted(dataset: Dataset) -> bool:
    """Whether the lowest values are shown white (MONOCHROME1)."""
    return str(dataset.get("PhotometricInterpretation", "")).strip() == "MONOCHROME1"


def voi_window(dataset: Dataset, frame: int = 1) -> tuple[float, float] | None:
    """The first VOI window as (centre, width) of the LINEAR function (PS3.3 C.11.2.1.2); None when there is none usable."""
    source = functional_group(dataset, frame, "FrameVOILUTSequence") or dataset
    centre, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    if not (np.isfinite(centre) and np.isfinite(width)):
        return None
    if str(source.get("VOILUTFunction", "")) == "LINEAR_EXACT":
        centre, width = centre + 0.5, width + 1  # C.11.2.1.3.2 in terms of C.11.2.1.2.1
    return (centre, width) if width >= 1 else None


def _first(value: object) -> float:
    many = isinstance(value, (list, tuple)) or hasattr(value, "append")
    return _number(value[0] if many and len(value) else value, float("nan"))  # type: ignore[arg-type,index]


def presented(dataset: Dataset, values: np.ndarray, frame: int) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Values and window for showing an X-ray image: through its VOI LUT where that is what it has, else unchanged."""
    window = voi_window(dataset, frame)
    if window is not None or not dataset.get("VOILUTSequence"):
        return values, window
    try:
        return apply_voi(np.rint(values).astype(np.int32), dataset).astype(np.float32), None
    except _PYTHON_TROUBLE:  # a LUT that is not whole: the image is still good without it
        return values, None


def prepare(data: bytes, instance: Instance, contract: InputContract) -> list[tuple[np.ndarray, TensorItem]]:
    """Each frame of a file as a tensor (channels, height, width) of the contract, with where it came from.

    Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels, UnsupportedImage.
    """
    dataset = parse(data)
    return [_prepared(dataset, stored, number, instance, contract) for number, stored in enumerate(decode(dataset), 1)]


def _prepared(
    dataset: Dataset, stored: np.ndarray, number: int, instance: Instance, contract: InputContract
) -> tuple[np.ndarray, TensorItem]:
    values, window = frame_values(dataset, stored, number), None
    if contract.scaling == "xray":
        values, window = presented(dataset, values, number)
    tensor, placement = normalize(values, contract, invert=is_inverted(dataset), window=window)
    item = TensorItem(instance.sop_instance_uid, number, placement, instance.spacing_mm, instance.view_position)
    return tensor, item


def frame_values(dataset: Dataset, stored: np.ndarray, number: int) -> np.ndarray:
    """Modality values (rows, columns) of one decoded frame.

    Raises UndecodablePixels when the object's lookup tables or attributes cannot be applied.
    """
    try:
        return modality_values(dataset, stored[np.newaxis], number)[0]
    except _DECODER_TROUBLE:
        pass
    raise UndecodablePixels("the object's lookup tables do not fit its pixel data; correct it at its source")
