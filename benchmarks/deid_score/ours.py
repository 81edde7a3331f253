"""The product as a contestant: its Basic Profile, and each of its options."""

from __future__ import annotations

from collections.abc import Callable

from deid_score.standard import OPTIONS

KEY = bytes(range(32))

# What the options are called at the product, where it is not the column's name of Table E.1-1.
_NAMES = {"retain_long_full_dates": "retain-full-dates", "retain_long_modified_dates": "retain-modified-dates"}
# The options that the MIDI-B challenge asks for (TCIA's practice).
_CHALLENGE = frozenset(
    {
        "retain_safe_private",
        "retain_device_identity",
        "retain_patient_characteristics",
        "retain_long_modified_dates",
        "clean_descriptors",
        "clean_pixel_data",
    }
)
OPTION_SETS: dict[str, frozenset[str]] = {
    **{option.replace("_", "-"): frozenset({option}) for option in OPTIONS},
    "as MIDI-B asks": _CHALLENGE,
    "all but full dates": frozenset(OPTIONS) - {"retain_long_full_dates"},
}


class NotOffered(Exception):
    """The product has no such option, or cannot screen pixels here."""


def deidentifier(options: frozenset[str]) -> Callable[[bytes], bytes]:
    """File bytes -> file bytes under the Basic Profile and `options` (names of `standard.OPTIONS`). Raises NotOffered."""
    from medai_pipeline.dicom.deidentify import Deidentifier
    from medai_pipeline.dicom.options import BY_NAME

    names = [_NAMES.get(option, option.replace("_", "-")) for option in options]
    if missing := [name for name in names if name not in BY_NAME]:
        raise NotOffered(f"no such option: {', '.join(missing)}")
    tool = Deidentifier(KEY, [BY_NAME[name] for name in names])
    if "clean_pixel_data" not in options:
        return lambda data: tool.deidentify(data).data
    screen = _screen()
    return lambda data: tool.deidentify(screen(data), pixels_screened=True).data


def screened() -> Callable[[bytes], bytes]:
    """File bytes -> file bytes with burned-in text looked for first. Raises NotOffered."""
    return deidentifier(frozenset({"clean_pixel_data"}))


def _screen() -> Callable[[bytes], bytes]:
    try:
        from medai_pipeline.burned_in import screen
    except ImportError as error:
        raise NotOffered("no screening of pixels for burned-in text") from error
    return screen
