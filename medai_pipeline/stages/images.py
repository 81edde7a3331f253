"""normalized_tensors: which images a model may see, and these as one array by the contract of the model chosen for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from medai_pipeline.errors import DicomError, NoUsableImages
from medai_pipeline.records import DeidentifiedStudy, Problem, StudyTensors, TensorItem
from medai_pipeline.stages.batching import IMAGES_PER_STUDY, evenly
from medai_pipeline.stages.objects import Objects
from medai_pipeline.stages.words import counted


def normalize_study(study: DeidentifiedStudy, objects: Objects, model_name: str = "") -> StudyTensors:
    """The images a model may see, as one float32 array (N, C, H, W) by the contract of the model chosen for them.

    A study no model covers comes back without pixels and with the reason; a study without one usable image raises
    NoUsableImages.
    """
    from medai_pipeline.models.catalog import choose, entry

    images = [instance for instance in study.instances if instance.usable]
    if not images:
        reasons = [i.reason for i in study.instances] + [p.reason for p in study.problems]
        raise NoUsableImages(f"no image that a model may see: {counted(reasons)}")
    modality, body_part = _most_common((i.modality, i.body_part) for i in images)
    choice = choose(modality, body_part)
    chosen = entry(model_name) if model_name else choice.entry
    empty = StudyTensors(
        study.study_key, study.revision, modality, body_part, "", None, np.zeros((0, 0, 0, 0), np.float32), (),
        study.problems, choice.reason,
    )  # fmt: skip
    if chosen is None:
        return empty
    same_modality = [i for i in images if i.modality == modality]
    rows, items, problems = _prepare_all(same_modality, objects, chosen.contract)
    if not rows:
        raise NoUsableImages(f"no image could be decoded: {counted(p.reason for p in problems)}")
    others = tuple(
        Problem("other-modality", f"modality {i.modality}, the study is read as {modality}", i.sop_instance_uid)
        for i in images
        if i.modality != modality
    )
    return replace(
        empty,
        model=chosen.name,
        contract=chosen.contract,
        pixels=np.stack(rows),
        items=tuple(items),
        problems=(*study.problems, *problems, *others),
        no_model_reason="",
        body_part_assumed=choice.assumed,
    )


def _prepare_all(instances, objects, contract):
    """Rows and items of all frames, in series order, at most IMAGES_PER_STUDY of them, evenly spaced."""
    from medai_pipeline.dicom.pixels import prepare
    from medai_pipeline.dicom.series import sort_series

    ordered = evenly(sort_series(instances), IMAGES_PER_STUDY)
    rows: list[np.ndarray] = []
    items: list[TensorItem] = []
    problems: list[Problem] = []
    for instance in ordered:
        try:
            prepared = prepare(objects.get(instance.object_key), instance, contract)
        except DicomError as error:
            problems.append(Problem(error.code, error.reason, instance.sop_instance_uid))
            continue
        for tensor, item in prepared:
            rows.append(tensor)
            items.append(item)
    kept = evenly(list(range(len(rows))), IMAGES_PER_STUDY)
    return [rows[i] for i in kept], [items[i] for i in kept], problems


def _most_common(pairs: Iterable[tuple[str, str]]) -> tuple[str, str]:
    counts = Counter(pairs)
    return max(counts, key=lambda pair: (counts[pair], bool(pair[1]), pair))
