"""Instances as a table and back, without loss: one row an instance, one column a field of `Instance`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import polars as pl

from medai_pipeline.records import Instance

_NUMBERS = pl.List(pl.Float64)
SCHEMA: dict[str, Any] = {
    "sop_instance_uid": pl.String,
    "series_instance_uid": pl.String,
    "study_instance_uid": pl.String,
    "sop_class_uid": pl.String,
    "transfer_syntax_uid": pl.String,
    "modality": pl.String,
    "source_sha256": pl.String,
    "body_part": pl.String,
    "series_description": pl.String,
    "view_position": pl.String,
    "laterality": pl.String,
    "photometric": pl.String,
    "rows": pl.Int64,
    "columns": pl.Int64,
    "frames": pl.Int64,
    "samples_per_pixel": pl.Int64,
    "bits_stored": pl.Int64,
    "instance_number": pl.Int64,
    "spacing_mm": _NUMBERS,
    "orientation": _NUMBERS,
    "position_mm": _NUMBERS,
    "slice_thickness_mm": pl.Float64,
    "image_type": pl.List(pl.String),
    "burned_in_annotation": pl.String,
    "patient_identity_removed": pl.String,
    "private_elements": pl.Int64,
    "identity_values": pl.Int64,
    "usable": pl.Boolean,
    "reason": pl.String,
    "object_key": pl.String,
    "sha256": pl.String,
    "size_bytes": pl.Int64,
    "content": pl.String,
}


def instance_table(instances: Iterable[Instance]) -> pl.DataFrame:
    """One row an instance, in the order given; the schema is the same for none at all."""
    return pl.DataFrame([asdict(instance) for instance in instances], schema=SCHEMA, orient="row")


def instances(table: pl.DataFrame) -> tuple[Instance, ...]:
    """The instances that `instance_table` made a table of."""
    return tuple(Instance(**{name: _plain(value) for name, value in row.items()}) for row in table.to_dicts())


def _plain(value: object) -> Any:
    return tuple(value) if isinstance(value, list) else value
