"""Whether the weights of the versions in force are there, without loading them: for a look that costs nothing. No torch."""

from __future__ import annotations

from pathlib import Path

from medai_pipeline.errors import WeightsMissing
from medai_pipeline.models.catalog import ModelSet


def missing_weights(models: ModelSet, models_path: Path) -> list[str]:
    """Labels of active versions whose weights, or those of a member, are not where they belong."""
    return [entry.label for entry in models.active if not has_all(models, entry.label, models_path)]


def has_all(models: ModelSet, label: str, models_path: Path) -> bool:
    """Whether this version could be loaded: its file, or those of an ensemble's members, is there."""
    from medai_pipeline.models.load import weights_path

    entry = models.entry(label)
    try:
        for part in [models.entry(name) for name in entry.members] or [entry]:
            weights_path(part, models_path)
    except WeightsMissing:
        return False
    return True
