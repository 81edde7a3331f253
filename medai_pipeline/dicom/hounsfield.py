"""Whether values have the unit that an intensity rule takes for granted: Hounsfield units for CT, SUV for PET."""

from __future__ import annotations

from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.functional_groups import PIXEL_VALUE_TRANSFORMATION, FunctionalGroups

_RESCALE_TYPE, _INTERCEPT, _SLOPE, _MODALITY_LUT = 0x00281054, 0x00281052, 0x00281053, 0x00283000
_UNITS, _MODALITY = 0x00541001, 0x00080060
_PET_UNITS = {
    "BQML": "Bq/ml", "CNTS": "counts", "NONE": "no unit", "CM2": "square centimetres", "PCNT": "percent",
    "CPS": "counts per second", "MGMINML": "mg/min/ml", "UMOLMINML": "umol/min/ml", "MLMING": "ml/min/g",
    "MLG": "ml/g", "1CM": "1/cm", "UMOLML": "umol/ml", "PROPCNTS": "proportional to counts",
    "PROPCPS": "proportional to counts per second", "MLMINML": "ml/min/ml", "MLML": "ml/ml", "STDDEV": "deviations",
}  # fmt: skip


def why_not_hounsfield(attributes: Attributes, groups: FunctionalGroups) -> str:
    """PS3.3 C.8.2.1.1.5: a CT image's Modality LUT gives Hounsfield units unless Rescale Type names another; "" when so."""
    modality = attributes.text(_MODALITY)
    if modality != "CT":
        return "the values are not Hounsfield units: the image is not a CT"
    group = groups.of(1, PIXEL_VALUE_TRANSFORMATION)
    source = attributes if group is None else group
    if source.text(_RESCALE_TYPE) not in ("", "HU", "US"):
        return "the values are not Hounsfield units: Rescale Type names another unit"
    if not source.numbers(_SLOPE) and not source.numbers(_INTERCEPT) and _MODALITY_LUT not in attributes:
        return "the values are not Hounsfield units: Rescale Slope and Intercept are missing"
    return ""


def why_not_suv(attributes: Attributes) -> str:
    """PS3.3 C.8.9.1.1.3: only Units GML is a standardized uptake value; "" when so.

    Activity is left alone: its SUV needs weight, dose and times, which de-identification removes or shifts, and a guess
    would look like a measurement.
    """
    units = attributes.text(_UNITS)
    if units == "GML":
        return ""
    return f"PET in {_PET_UNITS.get(units, 'an unknown unit')}, not in SUV: it is left as it is"
