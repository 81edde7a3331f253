"""The calibration that training measured on held-out images, as a version's card carries it. Plain values: no torch, no NumPy.

TOML and JSON both hold it: lists and numbers alone, and a class that could not be measured is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EACH_CLASS, TOP_LABEL = "each class", "top label"  # what the error over all is of
BIN = ("confidence", "frequency", "low", "high", "many")


def calibration_of(held_out: Mapping[str, Any], multi_label: bool) -> dict[str, Any]:
    """The card's `calibration` of what `evaluate.measure` found.

    `error` is the expected calibration error over all, `over` what it is of, `classes` the pairs (label, error), and
    `reliability` the bins of the plot as rows of `BIN`.
    """
    classes = {label: figures["calibration_error"] for label, figures in held_out["classes"].items()}
    return {
        "error": held_out["calibration_error"],
        "over": EACH_CLASS if multi_label else TOP_LABEL,
        "classes": [[label, error] for label, error in classes.items() if error is not None],
        "images": held_out["images"],
        "studies": held_out["studies"],
        "reliability": [[row[name] for name in BIN] for row in held_out["reliability"]],
    }


def is_measured(calibration: Mapping[str, Any]) -> bool:
    """Whether it is of that form: a card that a person wrote may say anything here."""
    rows = ((calibration.get("classes"), 2), (calibration.get("reliability"), len(BIN)))
    return {"error", "over", "images", "studies"} <= set(calibration) and all(
        isinstance(table, list) and all(isinstance(row, list) and len(row) == width for row in table)
        for table, width in rows
    )
