"""The product as a contestant: its Basic Profile, and each of its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    screener = _screener()

    def both(data: bytes) -> bytes:
        screened = screener.screen(data)
        return tool.deidentify(screened.data, pixels_screened=screened.pixels).data

    return both


def hashing() -> Callable[[bytes], bytes]:
    """As the command line calls it: the digest of the source is made too."""
    return deidentifier(frozenset())


def given_digest() -> Callable[[bytes], bytes]:
    """As the pipeline calls it: the digest of the source is known from its fetch."""
    from medai_pipeline.dicom.deidentify import Deidentifier

    tool, digest = Deidentifier(KEY), "0" * 64
    return lambda data: tool.deidentify(data, source_sha256=digest).data


def screened() -> Callable[[bytes], bytes]:
    """File bytes -> file bytes with burned-in text looked for first. Raises NotOffered."""
    return deidentifier(frozenset({"clean_pixel_data"}))


def _screener() -> Any:
    try:
        from medai_pipeline.burned_in.screen import Screener
    except ImportError as error:
        raise NotOffered(f"no screening of pixels for burned-in text ({error})") from error
    return Screener()
