"""What must hold for the instance table of a de-identified study, before its images go any further.

Whether an image can be used by a model at all is decided where it is read, not here.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from medai_pipeline.quality.engine import STUDY, Check, validate
from medai_pipeline.records import QualityResult

NEW_UID = r"^2\.25\.(?:0|[1-9]\d{0,38})$"  # PS3.5 annex B.2: a UUID as an integer; every new UID is one
REQUIRED = (
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "sop_class_uid",
    "modality",
    "source_sha256",
    "rows",
    "columns",
    "series_description",
    "spacing_mm",
    "burned_in_annotation",
    "patient_identity_removed",
    "private_elements",
    "identity_values",
)
IDENTIFYING = (
    "patient_name",
    "patient_id",
    "birth",
    "accession",
    "physician",
    "operator",
    "institution",
    "address",
    "telephone",
    "study_date",
    "study_time",
    "study_id",
    "patient_sex",
    "patient_age",
    "comments",
    "other_patient",
)
_NAME_OR_DATE = r"\^|\b(?:19|20)\d{2}[-./]?(?:0[1-9]|1[0-2])[-./]?(?:0[1-9]|[12]\d|3[01])\b"

CHECKS: tuple[Check, ...] = (
    Check(
        "the study has images", "ExpectColumnValuesToBeBetween", "_images", "no image is left", options={"min_value": 1}
    ),
    Check(
        "required columns are there",
        "ExpectColumnValuesToBeInSet",
        "_missing",
        "columns are missing from the instance table",
        options={"value_set": [""]},
    ),
    Check(
        "all images belong to one study",
        "ExpectColumnValuesToBeInSet",
        "_studies",
        "the images name more than one study, or none",
        options={"value_set": [1]},
    ),
    Check(
        "every instance occurs once",
        "ExpectColumnValuesToBeInSet",
        "_copies",
        "{count} instance(s) occur more than once",
        options={"value_set": [1]},
    ),
    *(
        Check(
            f"the {kind} UID is a new one",
            "ExpectColumnValuesToMatchRegex",
            f"{kind}_instance_uid",
            f"{{count}} image(s) carry a {kind} UID that was not made at de-identification",
            options={"regex": NEW_UID},
        )
        for kind in ("study", "series", "sop")
    ),
    Check(
        "identities are removed",
        "ExpectColumnValuesToBeInSet",
        "patient_identity_removed",
        "{count} image(s) do not say that the patient's identity was removed",
        options={"value_set": ["YES"]},
    ),
    Check(
        "no private element is left",
        "ExpectColumnValuesToBeInSet",
        "private_elements",
        "{count} image(s) hold private elements that no table calls safe",
        options={"value_set": [0]},
    ),
    Check(
        "no value of the source's identity is left",
        "ExpectColumnValuesToBeInSet",
        "identity_values",
        "{count} image(s) hold a name, identifier or birth date of their source",
        options={"value_set": [0]},
    ),
    Check(
        "no identifying column is filled",
        "ExpectColumnValuesToBeInSet",
        "_identifying",
        "{count} image(s) carry values in identifying columns",
        options={"value_set": [""]},
    ),
    Check(
        "descriptions hold no name or date",
        "ExpectColumnValuesToNotMatchRegex",
        "series_description",
        "{count} image(s) have a series description that may hold a name or a date",
        blocking=False,
        options={"regex": _NAME_OR_DATE},
    ),
    Check(
        "no burned-in annotation is declared",
        "ExpectColumnValuesToNotBeInSet",
        "burned_in_annotation",
        "{count} image(s) declare burned-in annotation",
        blocking=False,
        options={"value_set": ["YES"]},
    ),
    Check(
        "pixel spacing is plausible",
        "ExpectColumnValuesToBeInSet",
        "_spacing",
        "{count} image(s) have a pixel spacing outside 0.01 to 10 mm",
        blocking=False,
        options={"value_set": [True]},
    ),
)


def check_instances(tables: Mapping[str, pl.DataFrame]) -> dict[str, tuple[QualityResult, ...]]:
    """Study key -> results, for the instance tables (one row an image, columns of `Instance`) of any number of studies."""
    if not tables:
        return {}
    return validate("instances", pl.concat([_prepared(key, table) for key, table in tables.items()]), CHECKS)


def _prepared(key: str, table: pl.DataFrame) -> pl.DataFrame:
    """The columns that the checks look at, text where they want text; one row of blanks for a study without images."""
    missing = ",".join(name for name in REQUIRED if name not in table.columns)
    images = table.height
    if not images:
        table = pl.DataFrame({"sop_instance_uid": [""]})
    return table.select(
        pl.lit(key).alias(STUDY),
        pl.lit(images).alias("_images"),
        pl.lit(missing).alias("_missing"),
        *(_text(table, name) for name in REQUIRED if name.endswith("_uid")),
        *(_text(table, name) for name in ("patient_identity_removed", "burned_in_annotation", "series_description")),
        *(_count(table, name) for name in ("private_elements", "identity_values")),
        _text(table, "study_instance_uid").n_unique().cast(pl.Int64).alias("_studies"),
        pl.len().over(_text(table, "sop_instance_uid")).cast(pl.Int64).alias("_copies"),
        _identifying(table).alias("_identifying"),
        pl.Series("_spacing", _plausible(table)),
    )


def _text(table: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name).cast(pl.String).fill_null("") if name in table.columns else pl.lit("")
    return column.alias(name)


def _count(table: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name).cast(pl.Int64).fill_null(0) if name in table.columns else pl.lit(0, pl.Int64)
    return column.alias(name)


def _identifying(table: pl.DataFrame) -> pl.Expr:
    """The names of the identifying columns that hold something, for each row."""
    names = [
        name
        for name in table.columns
        if name != "patient_identity_removed" and any(word in name.lower() for word in IDENTIFYING)
    ]
    filled = [
        pl.when(pl.col(name).cast(pl.String).fill_null("").str.strip_chars() != "")
        .then(pl.lit(name))
        .otherwise(pl.lit(""))
        for name in names
    ]
    return pl.concat_str(filled) if filled else pl.lit("")


def _plausible(table: pl.DataFrame) -> list[bool]:
    """Whether each image's spacing lies within 0.01 and 10 mm; unknown spacing is not implausible."""
    if "spacing_mm" not in table.columns:
        return [True] * table.height
    return [value is None or all(0.01 <= side <= 10 for side in value) for value in table["spacing_mm"].to_list()]
