"""normalized_tensors: which images a model may see, and these as one array by the contract of the model chosen for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.dicom.select import known_no_image, last_resort
from medai_pipeline.errors import DicomError, NoUsableImages
from medai_pipeline.records import DeidentifiedStudy, Instance, Problem, StudyTensors, TensorItem
from medai_pipeline.stages.batching import IMAGES_PER_STUDY, evenly
from medai_pipeline.stages.objects import Objects
from medai_pipeline.stages.words import counted

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import Choice, Kind, ModelSet


_ONLY_DERIVED = Problem(
    "no-acquired-images", "no acquired image is in the study, those computed from others were read", ""
)


def normalize_study(study: DeidentifiedStudy, objects: Objects, models: ModelSet | None = None) -> StudyTensors:
    """The images a model may see, as one float32 array (N, C, H, W) by the contract of the model chosen for them.

    `models`: those in force, by default the packaged ones. Of a study of several kinds of images the most frequent kind that
    a model covers is read; the others are problems of their own, so that nobody takes them for read. A study no model covers comes back without pixels and with the reason, and so does one of reports, key
    objects and presentation states alone, which is nothing wrong; one whose images cannot be used raises NoUsableImages.
    """
    images = [instance for instance in study.instances if instance.usable]
    if not images and not study.problems and study.instances and all(map(known_no_image, study.instances)):
        return _nothing_to_read(study)
    if not images and (images := last_resort(study.instances)):  # there is nothing better in it: a person is told
        study = replace(study, problems=(*study.problems, _ONLY_DERIVED))
    if not images:
        reasons = [i.reason for i in study.instances] + [p.reason for p in study.problems]
        raise NoUsableImages(f"no image that a model may see: {counted(reasons)}")
    kinds = _kinds(images)
    kind, choice, read = _chosen(images, kinds, models)
    empty = StudyTensors(
        study.study_key, study.revision, kind.modality, kind.body_part, "", None, np.zeros((0, 0, 0, 0), np.float32), (),
        study.problems, choice.reason, kinds=tuple(kinds),
    )  # fmt: skip
    if choice.entry is None:
        return empty
    rows, items, problems = _prepare_all(read, objects, choice.entry.contract)
    if not rows:
        raise NoUsableImages(f"no image could be decoded: {counted(p.reason for p in problems)}")
    taken = {image.sop_instance_uid for image in read}
    others = [image for image in images if image.sop_instance_uid not in taken]
    return replace(
        empty,
        model=choice.entry.name,
        contract=choice.entry.contract,
        pixels=np.stack(rows),
        items=tuple(items),
        problems=(*study.problems, *problems, *(_not_read(image, kind) for image in others)),
        no_model_reason="",
        body_part_assumed=choice.assumed,
    )


def _nothing_to_read(study: DeidentifiedStudy) -> StudyTensors:
    modality = Counter(instance.modality for instance in study.instances).most_common(1)[0][0]
    reason = f"the study holds no image: nothing to analyse ({counted(i.reason for i in study.instances)})."
    return StudyTensors(
        study.study_key, study.revision, modality, "", "", None, np.zeros((0, 0, 0, 0), np.float32), (), (), reason
    )


def _kinds(images: Iterable[Instance]) -> list[Kind]:
    """The kinds of images, the most frequent first. What names no body part goes with its modality."""
    counts = Counter(_kind(image) for image in images)
    stated = {kind.modality for kind in counts if kind.body_part}
    own = [kind for kind in counts if kind.body_part or kind.modality not in stated]
    return sorted(own, key=lambda kind: (counts[kind], kind), reverse=True)


def _kind(image: Instance) -> Kind:
    from medai_pipeline.models.catalog import Kind, region

    return Kind(image.modality, region(image.body_part))


def _chosen(
    images: Sequence[Instance], kinds: Sequence[Kind], models: ModelSet | None
) -> tuple[Kind, Choice, list[Instance]]:
    """The kind of image to be read, its model, and these images."""
    from medai_pipeline.models.catalog import packaged

    best, choice = (models or packaged()).choose_among(kinds)
    own = {image.sop_instance_uid: _kind(image) for image in images}
    read = [
        image
        for image in images
        if (kind := own[image.sop_instance_uid]).modality == best.modality and kind.body_part in ("", best.body_part)
    ]
    unnamed = best.body_part and any(not own[image.sop_instance_uid].body_part for image in read)
    return best, replace(choice, assumed=choice.assumed or bool(unnamed)), read


def _not_read(image: Instance, kind: Kind) -> Problem:
    if image.modality != kind.modality:
        return Problem("other-modality", f"{image.modality} beside {kind.modality}", image.sop_instance_uid)
    return Problem("other-body-part", f"another body part than {kind.body_part}", image.sop_instance_uid)


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
    if len(instances) > len(ordered):
        problems.append(Problem("sampled", f"of {len(instances)} images {len(ordered)} were looked at, evenly spaced"))
    elif len(rows) > len(kept):
        problems.append(Problem("sampled", f"of {len(rows)} frames {len(kept)} were looked at, evenly spaced"))
    return [rows[i] for i in kept], [items[i] for i in kept], problems
