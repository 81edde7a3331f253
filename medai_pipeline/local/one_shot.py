"""`medai analyze` and `medai deidentify` for a person: files in, what became of each study and file, the exit code.

Paths are shown here, on the terminal of who named them, and nowhere else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from medai_pipeline.analyze import ANALYZE_STEPS, DEIDENTIFY_STEPS, OneShot, Outcome, analyze, deidentify
from medai_pipeline.dicom.read import LeftOut, group_by_study
from medai_pipeline.errors import MedaiError, SettingsError
from medai_pipeline.local.terminal import StudyProgress, console, plain, shown
from medai_pipeline.models.catalog import packaged
from medai_pipeline.services import Services
from medai_pipeline.settings import Settings
from medai_pipeline.storage.keys import SiteKeys

JUNK_SHOWN = 5


def run_analyze(settings: Settings, paths: Sequence[Path], out: Path) -> int:
    """The exit code: 0 only if every study was reported and no file that looks like DICOM was left out."""
    return _run(settings, paths, out, analyze, "analyzing", ANALYZE_STEPS)


def run_deidentify(settings: Settings, paths: Sequence[Path], out: Path, file_set: Path | None) -> int:
    """As `run_analyze`; with `file_set` also a new file-set with its DICOMDIR of all that was de-identified."""
    return _run(settings, paths, out, deidentify, "de-identifying", DEIDENTIFY_STEPS, file_set)


def _run(
    settings: Settings,
    paths: Sequence[Path],
    out: Path,
    work: Callable[..., Any],
    verb: str,
    steps: int,
    file_set: Path | None = None,
) -> int:
    refuse_inside(out, paths)
    require_writable(out)
    found, left = group_by_study(paths)
    if not found:
        _say_left_out(left)
        raise MedaiError("no DICOM study found: name files or folders that hold DICOM files")
    services = Services(settings)
    services.keys = _keys(settings)
    services.models = packaged(settings.models)  # the registry is the running stack's
    outcomes: list[Outcome] = []
    with StudyProgress(verb, len(found), steps).shown() as bar:
        computing = (services.deidentifier, services.inference, services.drawing, services.settings.triage_rules)
        job = OneShot(out, services.keys.study_key, *computing, advanced=bar.advanced)
        for outcome in work(found, job):
            bar.ended(outcome.study_key)
            _say(outcome)
            outcomes.append(outcome)
    done = [outcome.study_key for outcome in outcomes if not outcome.reason]
    if file_set:
        _write_file_set(out, done, file_set)
    _say_left_out(left)
    lost = sum(outcome.left_out for outcome in outcomes) + sum(file.dicom for file in left)
    unused = f"; {lost} file{'s' if lost > 1 else ''} left out" if lost else ""
    click.echo(f"{len(done)} of {len(found)} studies done{unused}; see {shown(out)}")
    return 0 if len(done) == len(found) and not lost else 1


def refuse_inside(out: Path, paths: Sequence[Path]) -> None:
    """Raises SettingsError when the results would lie among the files that are read, and be read the next time."""
    for path in paths:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise SettingsError(f"--out lies inside {shown(path)}, which is read: choose a folder outside of it")


def require_writable(out: Path) -> None:
    """Makes the folder, private, and tries it. Raises SettingsError before any work is done for nothing."""
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise SettingsError(
            f"--out {shown(out)} cannot be written ({error.strerror}): choose another folder"
        ) from error


def _keys(settings: Settings) -> SiteKeys:
    made = not settings.key and not settings.key_path.exists()
    keys = SiteKeys.load(settings.key, settings.key_path, create=True)
    if made:
        console.print(
            f"made a new site key: {plain(shown(settings.key_path))}. Study keys and new UIDs come from it; "
            "another key (or MEDAI_HOME) gives others.",
            soft_wrap=True,
        )
    return keys


def _write_file_set(out: Path, study_keys: Sequence[str], target: Path) -> None:
    from medai_pipeline.dicom.dicomdir import write_file_set

    files = [file for key in study_keys for file in sorted((out / key / "anonymized").glob("*.dcm"))]
    click.echo(f"{write_file_set(files, target)} files in {target} with a new DICOMDIR")


def _say(outcome: Outcome) -> None:
    key, count = outcome.study_key, len(outcome.paths)
    if outcome.reason:
        _line(f"[red]failed[/] {key} at {outcome.stage}: {plain(outcome.reason)}")
    elif outcome.report:
        content = outcome.report.content
        _line(f"{key}  {content['priority']:<9} {plain('; '.join(content['reasons']))}")
    else:
        _line(f"{key}  de-identified")
    _line(f"    from {plain(shown(outcome.paths[0].parent))} ({count} file{'s' if count > 1 else ''})")
    for problem in outcome.problems:
        path = outcome.subjects.get(problem.subject)
        _line(f"    [yellow]left out[/] {plain(shown(path) if path else problem.subject)}: {plain(problem.reason)}")


def _say_left_out(left: Sequence[LeftOut]) -> None:
    dicom, junk = [file for file in left if file.dicom], [file for file in left if not file.dicom]
    if dicom:
        _line(f"[yellow]left out[/] {len(dicom)} files that belong to no study here:")
    for file in dicom:
        _line(f"    {plain(shown(file.path))}: {plain(file.problem.reason)}")
    if junk:
        names = ", ".join(shown(file.path) for file in junk[:JUNK_SHOWN])
        more = f" and {len(junk) - JUNK_SHOWN} more" if len(junk) > JUNK_SHOWN else ""
        _line(f"passed over {len(junk)} files that are not DICOM: {plain(names)}{more}")


def _line(text: str) -> None:
    console.print(text, soft_wrap=True)
