"""The order of images: within a series by geometry, as a person scrolls through it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np

from medai_pipeline.records import Instance

_SAME_DIRECTION = 1e-3  # ImageOrientationPatient is written with 3 to 6 digits


def sort_series(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Instances ordered by series, and inside each by `sort_slices`. Does not depend on the order given."""
    by_series = sorted(instances, key=lambda i: (i.series_instance_uid, i.sop_instance_uid, i.source_sha256))
    groups = groupby(by_series, key=lambda instance: instance.series_instance_uid)
    return tuple(instance for _, group in groups for instance in sort_slices(tuple(group)))


def sort_slices(series: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """One series along the normal of its slices (PS3.3 C.7.6.2.1.1), else by Instance Number; equals stay in the order given."""
    depths = slice_depths_mm(series)
    if depths is None:
        return tuple(sorted(series, key=lambda i: i.instance_number))
    ordered = sorted(zip(depths, series, strict=True), key=lambda pair: (round(pair[0], 3), pair[1].instance_number))
    return tuple(instance for _, instance in ordered)


def slice_depths_mm(series: tuple[Instance, ...]) -> list[float] | None:
    """How far along the common normal each slice lies, in mm; None when they have no common normal or no position."""
    normal: np.ndarray | None = None
    depths: list[float] = []
    for instance in series:
        if instance.orientation is None or instance.position_mm is None:
            return None
        own = np.cross(instance.orientation[:3], instance.orientation[3:])
        if normal is None:
            normal = own
        if np.abs(own - normal).max() > _SAME_DIRECTION or not own.any():
            return None
        depths.append(float(np.dot(normal, instance.position_mm)))
    return depths
