"""An image as a person would see it on a plain screen: 8-bit grey, and PNG.

Aspect ratio (non-square pixels), overlays and colour maps are the caller's.
"""

from __future__ import annotations

import cv2
import numpy as np

from medai_pipeline.dicom.bodypart import named_in
from medai_pipeline.dicom.image import Image
from medai_pipeline.dicom.normalize import RULES, Bounds, normalize
from medai_pipeline.dicom.voi import presented
from medai_pipeline.records import InputContract

_BODY_PART_EXAMINED = 0x00180015

# Body part -> (centre, width) in Hounsfield units that radiologists look at first.
CT_WINDOWS: dict[str, Bounds] = {"CHEST": (-600, 1500), "BRAIN": (40, 80), "HEAD": (40, 80)}
CT_SOFT_TISSUE: Bounds = (40, 400)


def display(data: bytes, frame: int = 1, scaling: str = "") -> np.ndarray:
    """One frame (from 1) as uint8 (rows, columns), brighter is denser in X-ray: MONOCHROME1 is inverted.

    `scaling` is the intensity rule of a model's contract ("ct-chest", "mr"): the picture then shows what the model saw.
    Without it CT is shown by its body part's window; others by their own VOI, else robust percentiles, as films ("xray")
    are in any case. Padding is black.
    Raises NotDicom, TruncatedFile, NoPixels, UndecodablePixels; UnsupportedImage when there is no such frame.
    """
    image = Image.of(data)
    found = image.frame(frame)
    values, window = found.values, None
    rule = scaling if scaling in RULES else "xray"
    if rule == "xray" and image.modality == "CT":
        window = CT_WINDOWS.get(named_in(image.attributes.text(_BODY_PART_EXAMINED)), CT_SOFT_TISSUE)
    elif rule == "xray":
        values, window = presented(values, image.voi(frame))
    contract = InputContract(height=values.shape[0], width=values.shape[1], high=255.0, scaling=rule)
    tensor, _ = normalize(values, contract, invert=image.inverted, window=window, padding=found.padding)
    return np.rint(tensor[0]).astype(np.uint8)


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 (rows, columns) or (rows, columns, 3) RGB as PNG, compressed for speed rather than size."""
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()
