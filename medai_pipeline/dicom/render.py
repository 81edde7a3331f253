"""An image as a person would see it on a plain screen: 8-bit grey, and PNG.

Aspect ratio (non-square pixels), overlays and colour maps are the caller's.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset

from medai_pipeline.dicom.bodypart import named_in
from medai_pipeline.dicom.normalize import Bounds, normalize
from medai_pipeline.dicom.pixels import decode, frame_values, is_inverted, presented
from medai_pipeline.dicom.read import parse
from medai_pipeline.errors import UnsupportedImage
from medai_pipeline.records import InputContract

# Body part -> (centre, width) in Hounsfield units that radiologists look at first.
CT_WINDOWS: dict[str, Bounds] = {"CHEST": (-600, 1500), "BRAIN": (40, 80), "HEAD": (40, 80)}
CT_SOFT_TISSUE: Bounds = (40, 400)


def display(data: bytes, frame: int = 1) -> np.ndarray:
    """One frame (from 1) as uint8 (rows, columns), brighter is denser in X-ray: MONOCHROME1 is inverted.

    CT by its body part's window; others by their own VOI, else robust percentiles.
    Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels; UnsupportedImage when there is no such frame.
    """
    dataset = parse(data)
    frames = _frame_count(dataset)
    if not 1 <= frame <= frames:
        raise UnsupportedImage(f"the image has frames 1 to {frames} only; ask for one of them")
    values = frame_values(dataset, decode(dataset, frame)[0], frame)
    window: Bounds | None
    if dataset.get("Modality") == "CT":
        window = CT_WINDOWS.get(named_in(str(dataset.get("BodyPartExamined", ""))), CT_SOFT_TISSUE)
    else:
        values, window = presented(dataset, values, frame)
    contract = InputContract(height=values.shape[0], width=values.shape[1], high=255.0)
    tensor, _ = normalize(values, contract, invert=is_inverted(dataset), window=window)
    return np.rint(tensor[0]).astype(np.uint8)


def _frame_count(dataset: Dataset) -> int:
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        return 1


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 (rows, columns) or (rows, columns, 3) RGB as PNG, compressed for speed rather than size."""
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
