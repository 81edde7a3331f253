"""The order of images within a series, by geometry, as a person scrolls through it; and what is wrong with that order.

PS3.3 C.7.6.2.1.1: Image Position (Patient) is the first pixel's centre, and the cross product of the two directions in
Image Orientation (Patient) the normal along which slices are stacked. Nothing here looks at pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

import numpy as np

from medai_pipeline.records import Instance, Problem

_SAME_DIRECTION = 1e-3  # ImageOrientationPatient is written with 3 to 6 digits
_SAME_PLACE_MM = 1e-2
_GAP = 1.5  # in steps: a slice is missing; less is a writer's rounding
_LARGEST_MM = 1e6


def sort_series(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Instances ordered by series, and inside each by `sort_slices`. Does not depend on the order given."""
    return tuple(instance for series in _by_series(instances) for instance in sort_slices(series))


def _by_series(instances: Iterable[Instance]) -> Iterator[tuple[Instance, ...]]:
    ordered = sorted(instances, key=lambda i: (i.series_instance_uid, i.sop_instance_uid, i.source_sha256))
    for _, group in groupby(ordered, key=lambda instance: instance.series_instance_uid):
        yield tuple(group)


def sort_slices(series: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """One series stack by stack, each along the normal of its slices, else by Instance Number; equals stay as given.

    Stacks of different orientation (a scanner's three planes in one series) follow each other by their lowest Instance
    Number; images without geometry come last.
    """
    ordered: list[Instance] = []
    for stack in stacks(series):
        depths = slice_depths_mm(stack)
        keys = depths if depths is not None else [0.0] * len(stack)
        pairs = sorted(zip(keys, stack, strict=True), key=lambda pair: (round(pair[0], 3), pair[1].instance_number))
        ordered += [instance for _, instance in pairs]
    return tuple(ordered)


def stacks(series: Iterable[Instance]) -> list[tuple[Instance, ...]]:
    """The images of one series that share an orientation, by lowest Instance Number; those without geometry last."""
    directions: list[tuple[np.ndarray, list[Instance]]] = []
    flat: list[Instance] = []
    for instance in series:
        own = _direction(instance)
        if own is None:
            flat.append(instance)
            continue
        known = next((members for one, members in directions if np.abs(one - own).max() <= _SAME_DIRECTION), None)
        if known is None:
            directions.append((own, [instance]))
        else:
            known.append(instance)
    found = sorted((members for _, members in directions), key=lambda m: min(i.instance_number for i in m))
    return [tuple(members) for members in (*found, flat) if members]


def _direction(instance: Instance) -> np.ndarray | None:
    """The six direction cosines; None when they, or the position, are missing or make no plane."""
    if instance.orientation is None or instance.position_mm is None:
        return None
    values = np.array(instance.orientation)
    if not all(math.isfinite(v) and abs(v) < _LARGEST_MM for v in (*instance.orientation, *instance.position_mm)):
        return None
    return values if np.cross(values[:3], values[3:]).any() else None


def slice_depths_mm(series: Sequence[Instance]) -> list[float] | None:
    """How far along the common normal each slice lies, in mm; None when they have no common normal or no position."""
    directions = [_direction(instance) for instance in series]
    first = directions[0] if directions else None
    if first is None or any(d is None or np.abs(d - first).max() > _SAME_DIRECTION for d in directions):
        return None
    normal = np.cross(first[:3], first[3:])
    return [float(np.dot(normal, instance.position_mm)) for instance in series]  # type: ignore[arg-type]


def series_problems(instances: Iterable[Instance]) -> list[Problem]:
    """Gaps, duplicates, mixed orientations and spacings of cross-sectional series; the subject is the new series UID.

    Only CT, MR and PET slices of one frame are looked at: other images need no geometry. Never raises.
    """
    found: list[Problem] = []
    for series in _by_series(i for i in instances if i.modality in ("CT", "MR", "PT") and i.frames == 1 and i.usable):
        if len(series) > 1:
            found += _problems(series, series[0].series_instance_uid)
    return found


def _problems(series: tuple[Instance, ...], subject: str) -> Iterator[Problem]:
    found = stacks(series)
    flat = sum(_direction(instance) is None for instance in series)
    if flat:
        yield Problem("series-geometry", f"{flat} of {len(series)} images have no position or orientation", subject)
    if len(found) - bool(flat) > 1:
        yield Problem("series-orientations", f"{len(found) - bool(flat)} orientations in one series", subject)
    sizes = Counter((i.rows, i.columns, i.spacing_mm) for i in series)
    if len(sizes) > 1:
        yield Problem("series-sizes", f"{len(sizes)} different sizes or pixel spacings in one series", subject)
    for stack in found:
        depths = slice_depths_mm(stack)
        if depths is not None:
            yield from _depth_problems(sorted(depths), subject)


def _depth_problems(depths: list[float], subject: str) -> Iterator[Problem]:
    """Gaps and duplicates along one stack, by its own usual step (the median)."""
    steps = [b - a for a, b in pairwise(depths)]
    duplicates = sum(step <= _SAME_PLACE_MM for step in steps)
    if duplicates:
        yield Problem("series-duplicates", f"{duplicates} images lie where another one does", subject)
    apart = [step for step in steps if step > _SAME_PLACE_MM]
    if len(apart) < 2:
        return
    usual = float(np.median(apart))
    gaps = [step for step in apart if step > _GAP * usual]
    if gaps:
        missing = sum(max(1, round(step / usual) - 1) for step in gaps)
        reason = f"{len(gaps)} gaps, about {missing} slices missing (slices are {usual:.3g} mm apart)"
        yield Problem("series-gaps", reason, subject)
    elif max(apart) - min(apart) > 0.1 * usual:
        yield Problem("series-spacing", f"slices are {min(apart):.3g} to {max(apart):.3g} mm apart", subject)
