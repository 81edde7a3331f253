"""Values of a study that another model version's have replaced: under which name they are kept, and for how long.

They let a promotion of the version before put back what it has said instead of computing it. Their results in Postgres are
not touched here: those stay for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from medai_pipeline import __version__
from medai_pipeline.errors import ObjectMissing
from medai_pipeline.records import ModelRef

if TYPE_CHECKING:
    from medai_pipeline.storage.audit import Audit
    from medai_pipeline.storage.objects import ObjectStore
    from medai_pipeline.storage.rows import ModelRow

KEPT = "kept/"
MOST_AT_ONCE = 20_000


def made_by(model: ModelRef | None, revision: int, code_version: str = __version__) -> str:
    """Who made a value: the study's revision, the version, its weights, and this code."""
    told = model or ModelRef("", "", "")
    return f"{revision}-{told.name}@{told.version}-{told.weights_sha256[:16]}-{code_version}"


def object_name(asset: str, study_key: str) -> str:
    """Where the present value of a stage lies."""
    return f"assets/{asset}/{study_key}"


def kept_name(asset: str, study_key: str, made: str) -> str:
    """Where a value lies that another model version's has replaced."""
    return f"{KEPT}{asset}/{study_key}/{made}"


@dataclass(frozen=True, slots=True)
class Purged:
    """How many kept values were deleted and their bytes; `left` when there are more than one pass takes."""

    values: int
    size: int
    left: bool


def needed_refs(rows: Iterable[ModelRow]) -> list[ModelRef]:
    """Versions whose values stay whatever their age: active ones, those they took the place of, and shadows."""
    rows = list(rows)
    replaced = {label for row in rows if row.state == "active" for label in row.replaced.split(",")}
    wanted = [row for row in rows if row.state in {"active", "shadow"} or row.label in replaced]
    return [ModelRef(row.name, row.version, row.weights_sha256) for row in wanted if row.state != "retired"]


def purge_kept(
    objects: ObjectStore, audit: Audit, rows: Iterable[ModelRow], revisions: Mapping[str, int], now: datetime,
    days: float,
) -> Purged:  # fmt: skip
    """Deletes what was set aside more than `days` ago and no promotion that is near would put back.

    That is: of any version but those of `needed_refs`, of an earlier revision of its study, or of other code. `rows` is
    the registry, `revisions` the latest revision of each study. One audit record says how many went.
    """
    gone, left = _too_old(objects, rows, revisions, (now - timedelta(days=days)).timestamp())
    purged = _noted(audit, Purged(len(gone), sum(gone.values()), left), days)  # first: nothing goes without a record
    for name in gone:
        objects.delete(name)
    return purged


def _too_old(
    objects: ObjectStore, rows: Iterable[ModelRow], revisions: Mapping[str, int], until: float
) -> tuple[dict[str, int], bool]:
    """Bytes of what goes, by name, and whether there is more than one pass takes."""
    refs, gone = needed_refs(rows), dict[str, int]()
    for name in objects.names(KEPT):
        study_key, made = name.split("/")[-2:]
        revision = revisions.get(study_key)
        if revision is not None and made in {made_by(ref, revision) for ref in refs}:
            continue
        try:
            facts = objects.facts(name)
        except ObjectMissing:  # another process was here, too
            continue
        if facts.written_at > until:
            continue
        if len(gone) == MOST_AT_ONCE:
            return gone, True
        gone[name] = facts.size
    return gone, False


def _noted(audit: Audit, purged: Purged, days: float) -> Purged:
    if purged.values:
        detail = {"values": purged.values, "bytes": purged.size, "older_than_days": days}
        audit.append("system", "objects.purge", KEPT.rstrip("/"), detail)
    return purged
