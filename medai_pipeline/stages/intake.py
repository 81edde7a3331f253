"""raw_dicom and anonymized_instances: bytes in, hashed and de-identified, with what could not be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from medai_pipeline.burned_in.screen import Screened, Screener
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.heading import count_patients, patient_of
from medai_pipeline.dicom.read import age_years, identity_of, parse
from medai_pipeline.dicom.select import select
from medai_pipeline.dicom.series import series_problems
from medai_pipeline.dicom.validate import problems as object_problems
from medai_pipeline.errors import DeidentificationError, DicomError, StudyError
from medai_pipeline.records import (
    DeidentifiedInstance,
    DeidentifiedStudy,
    Identity,
    Instance,
    Manifest,
    Problem,
    SourceInstance,
)
from medai_pipeline.stages.objects import Objects
from medai_pipeline.stages.words import counted

DUPLICATE = "another file with other bytes has the same SOP Instance UID and is used instead; send only the right one"
SHORT_DIGEST = 12  # characters of a SHA-256 that name a file to a person


def fetch_study(
    study_key: str, revision: int, source_digest: str, files: Iterable[bytes], objects: Objects
) -> Manifest:
    """Each file hashed and stored as it arrives; memory stays bounded by one file. The name holds no UID."""
    instances = []
    for data in files:
        digest = hashlib.sha256(data).hexdigest()
        name = f"raw/{study_key}/{digest}"
        objects.put(name, data)
        instances.append(SourceInstance(name, digest, len(data)))
    if not instances:
        raise StudyError("the study holds no file (any more); it is looked at again when a file arrives")
    return Manifest(study_key, revision, source_digest, tuple(sorted(instances, key=lambda i: i.sha256)))


def deidentify_study(
    manifest: Manifest, objects: Objects, deidentifier: Deidentifier
) -> tuple[DeidentifiedStudy, Identity]:
    """Every file of the manifest, screened for burned-in text and de-identified by PS3.15 Annex E.

    A file that cannot be, or whose text stays doubtful, goes nowhere and is listed. What is wrong with a file that can be
    used, and with the slices of a series, is a warning.

    Of two files with one SOP Instance UID the first by digest is used. Raises StudyError when no file is left, and when
    the files are of several patients: what is made of one must never count for the other.
    """
    instances: dict[str, Instance] = {}  # by the digest of their source
    problems = list(manifest.problems)
    identity: Identity | None = None
    age: int | None = None
    uids: dict[str, str] = {}
    used: set[str] = set()
    patients: set[tuple[str, str]] = set()
    warnings: list[Problem] = []
    screener = Screener()
    for source in manifest.instances:
        subject = source.sha256[:SHORT_DIGEST]
        data = objects.get(source.object_key)
        patients.add(patient_of(data))
        if count_patients(patients) > 1:
            continue  # nothing more is made; only how many they are is still of interest
        try:
            screened = screener.screen(data, source.sha256)
            result = _deidentified(screened, source, deidentifier)
            if identity is None:
                header = parse(data, pixels=False)
                identity, age = identity_of(header), age_years(header)
        except (DicomError, DeidentificationError) as error:
            problems.append(Problem(getattr(error, "code", "deidentification"), error.reason, subject))
            continue
        if result.instance.sop_instance_uid in used:
            problems.append(Problem("duplicate-instance", DUPLICATE, subject))
            continue
        used.add(result.instance.sop_instance_uid)
        warnings += (replace(problem, subject=subject) for problem in object_problems(data))
        uids.update(result.uids)
        instances[source.sha256] = _stored(result, manifest, source, objects)
    if count_patients(patients) > 1:
        raise StudyError(
            f"files of {count_patients(patients)} patients share one Study Instance UID; "
            "correct it in the PACS (nothing was analysed)"
        )
    problems += _looked_at_again(screener, manifest, objects, deidentifier, instances)
    if identity is None or not instances:
        raise StudyError(
            f"none of the {len(manifest.instances)} files can be used: {counted(p.reason for p in problems)}"
        )
    selected = select(list(instances.values()))
    study = DeidentifiedStudy(
        manifest.study_key, manifest.revision, manifest.source_digest, deidentifier.profile, selected, tuple(problems),
        warnings=(*warnings, *series_problems(selected)), age_years=age,
    )  # fmt: skip
    return study, replace(identity, uids=uids)


def _deidentified(screened: Screened, source: SourceInstance, deidentifier: Deidentifier) -> DeidentifiedInstance:
    return deidentifier.deidentify(screened.data, pixels_screened=screened.pixels, source_sha256=source.sha256)


def _stored(result: DeidentifiedInstance, manifest: Manifest, source: SourceInstance, objects: Objects) -> Instance:
    """The file written, under a name that is the same however often it is written."""
    name = f"anonymized/{manifest.study_key}/{result.instance.sop_instance_uid}-{source.sha256[:SHORT_DIGEST]}.dcm"
    objects.put(name, result.data)
    digest = hashlib.sha256(result.data).hexdigest()
    return replace(result.instance, object_key=name, sha256=digest, size_bytes=len(result.data))


def _looked_at_again(
    screener: Screener, manifest: Manifest, objects: Objects, deidentifier: Deidentifier, instances: dict[str, Instance]
) -> list[Problem]:
    """What was written before text was found on another image of its series is screened with more care, and replaced.

    One whose text stays doubtful then is no instance any more, and a problem.
    """
    problems = []
    again = set(screener.passed_by())
    for source in manifest.instances:
        if source.sha256 not in again or source.sha256 not in instances:
            continue
        try:
            screened = screener.screen(objects.get(source.object_key), source.sha256)
            if screened.masks:
                result = _deidentified(screened, source, deidentifier)
                instances[source.sha256] = _stored(result, manifest, source, objects)
        except (DicomError, DeidentificationError) as error:
            objects.delete(instances.pop(source.sha256).object_key)
            code = getattr(error, "code", "deidentification")
            problems.append(Problem(code, error.reason, source.sha256[:SHORT_DIGEST]))
    return problems
