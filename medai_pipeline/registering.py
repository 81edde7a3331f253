"""The registry beside the models: which versions are in force, and how a new one comes in. Joins storage, models and stages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medai_pipeline.errors import ModelError, WeightsMissing

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry, Kind, ModelSet
    from medai_pipeline.stages.comparison import Comparison
    from medai_pipeline.stages.registration import Examined
    from medai_pipeline.storage.changes import Changes, ReadStudy
    from medai_pipeline.storage.registry import NewModel, Registry
    from medai_pipeline.storage.rows import ModelRow

log = logging.getLogger(__name__)
SYSTEM = "system"


def models_in_force(registry: Registry, preferred: Sequence[str] = ()) -> ModelSet:
    """The registry's versions as they are now; the packaged ones (`preferred` first) while it knows none at all."""
    from medai_pipeline.models.catalog import ModelSet, packaged

    rows = registry.versions()
    if not rows:
        return packaged(preferred)
    by_state = {state: tuple(entry_of(row) for row in rows if row.state == state) for state in ("active", "shadow")}
    return ModelSet(by_state["active"], by_state["shadow"], tuple(map(entry_of, rows)))


def entry_of(row: ModelRow) -> CatalogEntry:
    """A registry row as what a stage takes."""
    from medai_pipeline.models.cards import from_registry

    return replace(from_registry(row.card), prepared=row.prepared)


def register(registry: Registry, examined: Examined, models_path: Path, actor: str, now: datetime) -> bool:
    """The files by their digests under MODEL_PATH, then the row: a crash between, or a version that is refused, leaves files
    that nothing names, and no file takes the place of another version's.

    False when the version is there already.
    """
    entry = examined.entry
    _keep_files(entry, models_path, examined.data, examined.features)
    return registry.register(_new(entry, examined), actor, now)


def register_ensemble(
    registry: Registry, entry: CatalogEntry, models_path: Path, gpu: bool, actor: str, now: datetime
) -> bool:
    """An ensemble of versions that are registered, after all of them have answered together. Its digest follows from theirs.

    False when it is there already. Raises ModelNotFound for a member that is not registered, ModelError for one that does
    not fit or does not answer.
    """
    from medai_pipeline.models.ensemble import check_members, digest_of, ranked
    from medai_pipeline.records import ModelRef
    from medai_pipeline.stages.registration import examine_ensemble

    rows = [registry.version(*label.split("@", 1)) for label in ranked(entry)]
    members = [entry_of(row) for row in rows]
    check_members(entry, members, new=True)
    measured = examine_ensemble(entry, members, models_path, gpu)
    digest = digest_of([ModelRef(row.name, row.version, row.weights_sha256) for row in rows])
    return registry.register(replace(_new(replace(entry, weights_sha256=digest)), measured=measured), actor, now)


def register_packaged(registry: Registry, preferred: Sequence[str], models_path: Path, now: datetime) -> list[str]:
    """At the start of a stack: what is packaged, and what MEDAI_MODELS names and has weights, is registered where the
    registry knows no version of that name, and active where nothing else is; a model of MEDAI_MODELS also in the place of
    demo models, for new studies. Returns the labels of those registered."""
    from medai_pipeline.models.catalog import packaged
    from medai_pipeline.models.load import checked_digest, weights_path

    known = {row.name for row in registry.versions()}
    added = []
    for model in packaged(preferred).active:
        if model.name in known:
            continue
        known.add(model.name)
        try:
            data = weights_path(model, models_path).read_bytes()
        except WeightsMissing as error:
            log.warning("%s", error.reason)
            continue
        model = replace(model, weights_sha256=checked_digest(model, data))
        if not model.demo:  # packaged files stay where they are
            model = _kept_by_digest(model, models_path, data)
        registry.register(_new(model), SYSTEM, now)
        try:
            others = _in_its_place(registry, model)
            if not others or (not model.demo and all(other.demo for other in others)):
                registry.promote(model.name, model.version, SYSTEM, now, backfill=False)
        except ModelError as error:
            log.warning("%s", error.reason)
        added.append(model.label)
    return added


def _kept_by_digest(entry: CatalogEntry, models_path: Path, data: bytes) -> CatalogEntry:
    """A site's files by their digests, so that those with the version's name may be replaced; the entry that names both."""
    from medai_pipeline.models.familiarity import beside, digest_of

    known = beside(models_path / entry.weights_file, entry)
    features = known.read_bytes() if known else None
    if features is None:
        log.warning("%s has no out-of-distribution score: no .features file lies beside its weights", entry.label)
    entry = replace(entry, features_sha256=digest_of(features) if features else None)
    _keep_files(entry, models_path, data, features)
    return entry


def _keep_files(entry: CatalogEntry, models_path: Path, weights: bytes, features: bytes | None) -> None:
    from medai_pipeline.models.load import stored_features, stored_path

    write_whole(stored_path(models_path, entry.weights_sha256 or "", entry.kind), weights)
    if features:
        write_whole(stored_features(models_path, entry.features_sha256 or ""), features)


def write_whole(path: Path, data: bytes) -> None:
    """A file under MODEL_PATH that is whole or not there. Raises StorageFull or StorageError with what to do."""
    from medai_pipeline.models.whole_file import not_written, replace_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, data)
    except OSError as error:
        remedy = "make MODEL_PATH a folder that this user may write to, or name another one there"
        raise not_written("the weights under MODEL_PATH", error, remedy) from error


def _in_its_place(registry: Registry, entry: CatalogEntry) -> list[CatalogEntry]:
    """Active versions for some of what this one is made for."""
    mine = set(entry.scopes)
    active = (entry_of(row) for row in registry.versions() if row.state == "active")
    return [other for other in active if mine & set(other.scopes)]


def _new(entry: CatalogEntry, examined: Examined | None = None) -> NewModel:
    from medai_pipeline.models.cards import to_card
    from medai_pipeline.storage.registry import NewModel

    return NewModel(
        name=entry.name,
        version=entry.version,
        architecture=entry.architecture or ("ensemble" if entry.members else entry.kind),
        weights_sha256=entry.weights_sha256 or "",
        card=to_card(entry),
        scopes=entry.scopes,
        measured=examined.measured if examined else {},
        prepared=entry.prepared,
    )


def affected(read: Sequence[ReadStudy], models: ModelSet, label: str, since: datetime | None = None) -> list[str]:
    """Keys of the studies that `label` would read today and another version, or none, has read: those and no others.

    Without those that failed after `since`: what was tried since then in vain waits for a person, or for another version.
    """
    wanted = models.entry(label)
    chosen: dict[tuple[tuple[str, str], ...], bool] = {}
    for study in read:
        if study.kinds not in chosen:
            found = _would_read(models, study)[1]
            chosen[study.kinds] = found is not None and found.label == label
    return [
        study.study_key
        for study in read
        if chosen[study.kinds]
        and (study.model, study.weights_sha256) != (label, wanted.weights_sha256)
        and not (since and study.failed_at and study.failed_at >= since)
    ]


def needs_other_tensors(study: ReadStudy, models: ModelSet) -> bool:
    """Whether the version that reads a study today takes other images than the one before, or takes them otherwise."""
    kind, wanted = _would_read(models, study)
    before = next((entry for entry in models.known if entry.label == study.model), None)
    return not (wanted and before and wanted.contract == before.contract and kind == (study.modality, study.body_part))


def _would_read(models: ModelSet, study: ReadStudy) -> tuple[Kind, CatalogEntry | None]:
    """Which of a study's kinds of images is read today, and by which version."""
    from medai_pipeline.models.catalog import Kind

    kind, choice = models.choose_among([Kind(*kind) for kind in study.kinds])
    return kind, choice.entry


def pairs_of(rows: Sequence[ModelRow]) -> list[tuple[str, str]]:
    """(old, new): each active version against those whose reports it replaced, once its backfill is over, and each shadow
    against the active versions in whose place it would be."""
    active = [(row, entry_of(row)) for row in rows if row.state == "active"]
    found = [
        (old, row.label)
        for row, _ in active
        if not row.backfill_since
        for old in filter(None, f"{row.replaced},{row.behind}".split(","))
    ]
    for row in rows:
        if row.state == "shadow":
            mine = set(entry_of(row).scopes)
            found += [(other.label, row.label) for other, entry in active if mine & set(entry.scopes)]
    return found


def compared(changes: Changes, old: str, new: str, rules: Path | None) -> Comparison:
    """Both versions' (name@version) answers and priorities from the database, side by side."""
    from medai_pipeline.stages.comparison import compare

    return compare(old, new, changes.in_both(old, new), (changes.priorities(old), changes.priorities(new)), rules)
