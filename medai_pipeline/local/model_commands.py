"""`medai models register, promote, retire, list, show`: the registry for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from medai_pipeline.errors import ModelError, WeightsMissing
from medai_pipeline.local.study_commands import user
from medai_pipeline.models.cards import read_card
from medai_pipeline.models.catalog import CatalogEntry, catalog
from medai_pipeline.models.load import features_path, weights_path
from medai_pipeline.models.measured import is_measured
from medai_pipeline.registering import entry_of, register, register_ensemble
from medai_pipeline.settings import Settings

if TYPE_CHECKING:
    from medai_pipeline.services import Services
    from medai_pipeline.storage.rows import ModelRow


def register_version(
    services: Services, card: Path, weights: Path | None, features: Path | None, accept_maps: bool
) -> tuple[ModelRow, bool, str]:
    """The version as it stands in the registry, examined and prepared for this machine, and whether it is new there.

    Third why it could not be prepared, "" when it was: it is registered all the same, and plain torch serves.
    """
    from medai_pipeline.local.preparing import prepare_row
    from medai_pipeline.stages.registration import examine

    settings = services.settings
    entry = read_card(card)
    if entry.members:
        new = register_ensemble(
            services.registry, entry, settings.models_path, settings.gpu_enabled, user(), services.now()
        )
        return services.registry.version(entry.name, entry.version), new, ""
    if weights is None:
        raise ModelError(f"{entry.label} needs its weights: name the file with --weights")
    examined = examine(entry, weights, features, accept_maps, settings.gpu_enabled)
    new = register(services.registry, examined, settings.models_path, user(), services.now())
    hindrance = ""
    if new:
        try:
            prepare_row(services, services.registry.version(entry.name, entry.version))
        except ModelError as error:
            hindrance = error.reason
    return services.registry.version(entry.name, entry.version), new, hindrance


def require_weights(row: ModelRow, services: Services) -> None:
    """Raises WeightsMissing or WeightsRefused before a version may answer whose weights, or whose training's features, are
    not here, or others."""
    from medai_pipeline.models.familiarity import read
    from medai_pipeline.models.load import checked_digest

    entry, settings = entry_of(row), services.settings
    for member in entry.members:
        require_weights(services.registry.version(*split(member)), services)
    if entry.members:
        return
    weights = weights_path(entry, settings.models_path)
    checked_digest(entry, weights.read_bytes())
    read(features_path(entry, weights, settings.models_path), entry.features_sha256)


def what_follows(services: Services, label: str) -> tuple[int, str]:
    """How many studies another version has read that `label` would read once it is active, and that in words with a time."""
    from medai_pipeline.registering import affected

    read, models = services.changes.read_studies(), services.models
    keys = set(affected(read, models.instead(models.entry(label)), label))
    if not keys:
        return 0, "no older study is affected"
    kept = len(keys & services.changes.answered(*split(label)))
    measured = services.changes.seconds_a_study()
    todo = len(keys) - kept
    words = f"{_studies(len(keys))} read by another version, to be read by this one"
    if kept:
        words += f" ({kept} of them were before: these are only put back)"
    if measured:
        seconds, studies = measured
        words += f", about {_duration(todo * seconds)} at {seconds:.1f} s a study (the whole way, measured over the last {studies})"
    return len(keys), words


def _studies(count: int) -> str:
    return "1 older study was" if count == 1 else f"{count} older studies were"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def split(label: str) -> tuple[str, str]:
    """NAME@VERSION in two. Raises ModelError when the version is not said."""
    name, _, version = label.partition("@")
    if not name or not version:
        raise ModelError(f"{label!r} names no version: write NAME@VERSION, as `medai models list` shows them")
    return name, version


def registry_rows(services: Services) -> list[dict[str, Any]]:
    """What `medai models list --json` prints of a running stack."""
    return [shown(services, row) for row in services.registry.versions()]


def shown(services: Services, row: ModelRow) -> dict[str, Any]:
    """One version with all that is known of it."""
    try:
        require_weights(row, services)
        weights = "here"
    except ModelError as error:
        weights = error.reason
    return {
        "name": row.name,
        "version": row.version,
        "state": row.state,
        "for": [f"{modality} {part}" for modality, part in services.registry.scopes(row.name, row.version)],
        "weights_sha256": row.weights_sha256,
        "weights": weights,
        "registered_by": row.registered_by,
        "registered_at": row.registered_at.isoformat(),
        "promoted_by": row.promoted_by,
        "promoted_at": row.promoted_at.isoformat() if row.promoted_at else None,
        "backfill_since": row.backfill_since.isoformat() if row.backfill_since else None,
        "measured": dict(row.measured),
        "prepared": dict(row.prepared),
        "card": dict(row.card),
    }


def packaged_rows(settings: Settings) -> list[dict[str, Any]]:
    """What is packaged, for `medai models list` without a stack."""
    return [
        {
            "name": entry.name,
            "version": entry.version,
            "state": "packaged",
            "for": [f"{modality} {part}" for modality, part in entry.scopes],
            "weights": _where(entry, settings),
            "card": {"classes": list(entry.classes)},
        }
        for entry in catalog()
    ]


def _where(entry: CatalogEntry, settings: Settings) -> str:
    try:
        weights_path(replace(entry, weights_sha256=None), settings.models_path)
    except WeightsMissing as error:
        return error.reason
    return "synthetic phantoms, in the package" if entry.demo else "here"


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "state", "for", "classes", "images/s", "weights", header_style="bold")
    for row in rows:
        speed = row.get("measured", {}).get("images_per_second")
        table.add_row(
            f"{row['name']}@{row['version']}",
            row["state"],
            ", ".join(row["for"]),
            ", ".join(row["card"]["classes"]),
            f"{speed:.1f}" if speed else "",
            row["weights"],
        )
    return table


def version_lines(values: Mapping[str, Any]) -> list[str]:
    """What `shown` gives, for a person: its calibration at the end, in words."""
    card = dict(values["card"])
    calibration = card.pop("calibration", {})
    return [*as_lines({**values, "card": card}), *calibration_lines(calibration)]


def calibration_lines(calibration: Mapping[str, Any]) -> list[str]:
    """The error over all and of each class, and the bins of the reliability plot; another form as it stands in the card."""
    if not calibration:
        return [f"{'calibration':<20} the card has none: not measured, or registered before it was kept there"]
    if not is_measured(calibration):
        return as_lines({"calibration": calibration})
    errors = [(f"over all ({calibration['over']})", calibration["error"]), *calibration["classes"]]
    width = max(len(str(label)) for label, _ in errors)
    return [
        "calibration",
        f"  expected calibration error on {calibration['images']} held-out images of {calibration['studies']} studies",
        *(f"    {label!s:<{width}}  {error}" for label, error in errors),
        "  reliability: said, observed (95 % interval), answers",
        *(
            f"    {said!s:<6}  {seen!s:<6} ({low} to {high})  {many}"
            for said, seen, low, high, many in calibration["reliability"]
        ),
    ]


def as_lines(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested values as lines "name  value", for `medai models show`."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}", *as_lines(value, f"{indent}  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            rows = [", ".join(f"{key} {of}" for key, of in row.items() if of not in (None, "", [])) for row in value]
            lines += [f"{indent}{name}", *(f"{indent}  {row}" for row in rows)]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(
                f"{indent}{name:<{max(20 - len(indent), 1)}} {text if value not in (None, [], {}, '') else '-'}"
            )
    return lines
