"""`medai analyze` and `medai deidentify`: studies found in folders through the stages, without any server.

Writes plain files under one folder a study, named by study key. A study that fails is an outcome with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from medai_pipeline import stages
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.read import StudyFiles
from medai_pipeline.errors import MedaiError, StorageFull
from medai_pipeline.publish import report_files
from medai_pipeline.records import DeidentifiedStudy, Manifest, Problem, Report, SourceInstance


class StudyFolder:
    """`stages.Objects` over plain files: what was received stays where it is, what is made goes to the study's folder."""

    def __init__(self, root: Path, sources: Mapping[str, Path]) -> None:
        self.root = root
        self._sources = sources
        self._written: set[Path] = set()

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        write_file(path, data)
        self._written.add(path)

    def discard(self) -> None:
        """Takes back what was put: a study that could not be de-identified as a whole leaves no part of it."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def get(self, name: str) -> bytes:
        return (self._sources.get(name) or self._path(name)).read_bytes()

    def source(self, name: str) -> Path:
        """The file that was received under this name."""
        return self._sources[name]

    def _path(self, name: str) -> Path:
        kind, _, file = PurePosixPath(name).parts[0], None, PurePosixPath(name).name
        return self.root / kind / file


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one study: its report, or the stage it stopped at and why.

    `paths` are its files and `subjects` names that of each problem's subject: for the terminal of who named them.
    `left_out` counts the files of which nothing was made.
    """

    study_key: str
    report: Report | None = None
    stage: str = ""
    reason: str = ""
    problems: tuple[Problem, ...] = ()
    left_out: int = 0
    paths: tuple[Path, ...] = field(default=(), repr=False)
    subjects: Mapping[str, Path] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class OneShot:
    """How `analyze` runs: keys, where to write, what computes and draws."""

    out: Path
    study_key: Callable[[str], str]
    deidentifier: Deidentifier
    inference: stages.Inference
    drawing: stages.Drawing = field(default_factory=stages.Drawing)
    rules: Path | None = None
    advanced: Callable[[str, str], None] = lambda study_key, stage: None  # progress: a study is at a stage now


def analyze(found: Sequence[StudyFiles], job: OneShot) -> Iterator[Outcome]:
    """Every study through all stages; inference in batches over several studies. Yields in order of completion."""
    by_uid = {files.study_instance_uid: files for files in found}
    for batch in stages.batches(list(by_uid), lambda uid: len(by_uid[uid].paths)):
        chunk = _Chunk(job)
        for uid in batch:
            chunk.add(by_uid[uid])
        yield from chunk.run()


def deidentify(found: Sequence[StudyFiles], job: OneShot) -> Iterator[Outcome]:
    """De-identification alone: DIR/<study key>/anonymized/*.dcm."""
    for files in found:
        chunk = _Chunk(job)
        key = chunk.add(files)
        yield chunk.attempt("deidentify", key, partial(chunk.deidentify, key)) or chunk.outcome(key)


# How often `OneShot.advanced` is called for a study that comes through
ANALYZE_STEPS = 7
DEIDENTIFY_STEPS = 1


class _Chunk:
    """Some studies on their way; each stage goes over all that are left."""

    def __init__(self, job: OneShot) -> None:
        self.job = job
        self.folders: dict[str, StudyFolder] = {}
        self.manifests: dict[str, Manifest] = {}
        self.studies: dict[str, DeidentifiedStudy] = {}
        self.paths: dict[str, tuple[Path, ...]] = {}

    def add(self, files: StudyFiles) -> str:
        key = self.job.study_key(files.study_instance_uid)
        sources = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files.paths}
        instances = tuple(SourceInstance(f"raw/{d}", d, p.stat().st_size) for d, p in sorted(sources.items()))
        digest = hashlib.sha256("\n".join(sorted(sources)).encode()).hexdigest()
        self.folders[key] = StudyFolder(self.job.out / key, {f"raw/{d}": p for d, p in sources.items()})
        self.manifests[key] = Manifest(key, 1, digest, instances)
        self.paths[key] = files.paths
        return key

    def outcome(self, key: str, **values: Any) -> Outcome:
        """With what is known of the study's files."""
        study = self.studies.get(key)
        sources = {i.sha256: self.folders[key].source(i.object_key) for i in self.manifests[key].instances}
        subjects = {digest[: stages.SHORT_DIGEST]: path for digest, path in sources.items()}
        if study:
            subjects |= {i.sop_instance_uid: sources[i.source_sha256] for i in study.instances}
            values = {"problems": study.problems, "left_out": len(study.problems)} | values
        return Outcome(key, paths=self.paths[key], subjects=subjects, **values)

    def deidentify(self, key: str) -> DeidentifiedStudy:
        try:
            study, _ = stages.deidentify_study(self.manifests[key], self.folders[key], self.job.deidentifier)
        except MedaiError:
            self.folders[key].discard()
            raise
        self.studies[key] = study
        return study

    def run(self) -> Iterator[Outcome]:
        self.failed: list[Outcome] = []
        studies = self.each("deidentify", self.manifests, lambda key, _: self.deidentify(key))
        studies = self.checked("check", stages.check_deidentified(list(studies.values())))
        for keys in stages.batches(list(studies), lambda key: _frames(studies[key])):  # one file may hold hundreds
            yield from self._read({key: studies[key] for key in keys})
        yield from self.failed

    def _read(self, studies: Mapping[str, DeidentifiedStudy]) -> Iterator[Outcome]:
        """De-identified studies to their reports; those that fail wait in `failed`."""
        tensors = self.each(
            "normalize", studies, lambda key, s: stages.normalize_study(s, self.folders[key], self.job.inference.models)
        )
        tensors = self.checked("check", stages.check_tensors(list(tensors.values())))
        answers = stages.predict_studies(list(tensors.values()), self.job.inference)
        good = self.each("predict", answers, lambda _, answer: _raised(answer))
        predictions = self.checked("check", stages.check_predictions(list(good.values())))

        def explain(key: str, prediction: Any) -> Any:
            maps = stages.explain_study(
                prediction, tensors[key], studies[key], self.folders[key], self.job.drawing, self.job.inference
            )
            run = stages.Run("", datetime.now(UTC), self.job.rules)
            report = stages.report_study(studies[key], tensors[key], prediction, maps, run)
            write_report(report, self.job.out / key)
            self.write_results(key, report, tensors[key], prediction, maps, run.at)
            return report

        reports = self.each("report", predictions, explain)
        for key, report in reports.items():
            yield self.outcome(key, report=report, problems=tensors[key].problems)

    def write_results(self, key: str, report: Report, tensors: Any, prediction: Any, maps: Any, at: datetime) -> None:
        """results/*.dcm and fhir.json, about the de-identified study: they name nobody."""
        from medai_pipeline.results.dicom import objects

        study, folder = self.studies[key], self.folders[key]
        who = stages.identity_in(study, folder)
        evidence = stages.evidence_of(report, study, tensors, prediction, maps, folder, who, at)
        for number, made in enumerate(objects(evidence), 1):
            write_file(self.job.out / key / "results" / f"{number:02d}-{made.kind}.dcm", made.data)
        write_file(self.job.out / key / "fhir.json", stages.bundle_of(report, study, prediction, folder, at))

    def each(self, stage: str, values: Mapping[str, Any], work: Callable[[str, Any], Any]) -> dict[str, Any]:
        done: dict[str, Any] = {}
        for key, value in values.items():
            failed = self.attempt(stage, key, partial(_into, done, key, work, value))
            if failed:
                self.failed.append(failed)
        return done

    def checked(self, stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
        def refuse(_: str, value: Any) -> Any:
            stages.refuse_blocked(value.checks)
            return value

        return self.each(stage, values, refuse)

    def attempt(self, stage: str, key: str, work: Callable[[], object]) -> Outcome | None:
        self.job.advanced(key, stage)
        try:
            work()
        except StorageFull:
            raise  # every further study would fail alike
        except MedaiError as error:
            return self.outcome(key, stage=stage, reason=error.reason)
        return None


def _frames(study: DeidentifiedStudy) -> int:
    return sum(max(1, instance.frames) for instance in study.instances if instance.usable)


def _into(done: dict[str, Any], key: str, work: Callable[[str, Any], Any], value: Any) -> None:
    done[key] = work(key, value)


def _raised(answer: Any) -> Any:
    if isinstance(answer, MedaiError):
        raise answer
    return answer


def write_report(report: Report, folder: Path) -> None:
    """report.json, report.html and overlays/*.png."""
    for name, data in report_files(report).items():
        write_file(folder / name, data)


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all, for its owner alone (0600, new folders 0700). Raises StorageFull with what to do."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # what went wrong first is what a person needs to know
            temporary.unlink(missing_ok=True)
        raise StorageFull(
            f"cannot write to the output folder ({error.strerror}): make room or choose another --out"
        ) from error
