"""`medai models compare`: what two versions say of the same studies, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from medai_pipeline.errors import ModelError
from medai_pipeline.registering import compared, pairs_of
from medai_pipeline.stages.comparison import Comparison, pictures

if TYPE_CHECKING:
    from medai_pipeline.services import Services
    from medai_pipeline.storage.changes import Changes

SHOWN = 20  # studies a table


def comparison(services: Services, one: str, other: str = "") -> Comparison:
    """`one` against `other` (name@version each); without `other` against the version that it replaced, or is to replace.

    Raises ModelNotFound for what is not registered, ModelError when there is nothing to compare with.
    """
    rows = services.registry.versions()
    for label in filter(None, (one, other)):
        services.registry.version(*_parts(label))
    old, new = (one, other) if other else _pair(services.changes, one, pairs_of(rows))
    found = compared(services.changes, old, new, services.settings.triage_rules)
    if found.moves.is_empty():
        raise ModelError(
            f"no study was read by both {old} and {new}: a shadow reads new studies, a promotion the older ones as well"
        )
    return found


def _parts(label: str) -> tuple[str, str]:
    from medai_pipeline.local.model_commands import split

    return split(label)


def _pair(changes: Changes, label: str, pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """Of its pairs the one with the most studies that both have read."""
    mine = [pair for pair in pairs if label == pair[1]]
    if not mine:
        raise ModelError(
            f"{label} is no shadow, and no active version that took the place of another: name both, "
            "`medai models compare OLD NEW`"
        )
    return max(mine, key=lambda pair: changes.in_common(*pair))


def as_tables(found: Comparison) -> Iterator[Table]:
    """Findings, then the studies whose priority moved, then the findings that flipped."""
    table = Table(
        "finding", "studies", "present", "", "now present", "now absent", "mean shift", "greatest",
        title=f"{found.old} -> {found.new}", title_justify="left", header_style="bold",
    )  # fmt: skip
    for row in found.by_finding().iter_rows(named=True):
        old, new = row["old_present"], row["new_present"]
        shifts = f"{row['mean_shift']:+.3f}", f"{row['greatest_shift']:.3f}"
        turned = str(row["appeared"]), str(row["vanished"])
        share = f"{new - old:+d}" if new != old else ""
        table.add_row(row["label"], str(row["studies"]), f"{old} -> {new}", share, *turned, *shifts)
    yield table
    if not found.alone.is_empty():
        table = Table("finding", "known to", "studies", "present", title="known to one version only", title_justify="left",
                      header_style="bold")  # fmt: skip
        for label, *others in found.alone.rows():
            table.add_row(label, *map(str, others))
        yield table
    moved, flips = found.moved, found.flips
    if not moved.is_empty():
        yield _studies(
            f"priorities that moved{_of(moved.height)}",
            ("study", found.old, found.new),
            moved.head(SHOWN).select("study_key", "old", "new").rows(),
        )
    if not flips.is_empty():
        yield _studies(
            f"findings that flipped{_of(flips.height)}",
            ("study", "finding", found.old, found.new),
            [(key, label, f"{old:.3f}", f"{new:.3f}") for key, label, old, new, *_ in flips.head(SHOWN).rows()],
        )


def in_words(found: Comparison) -> str:
    """The whole in one sentence."""
    flipped = f"{found.flips.height} findings flipped"
    alone = f"; {found.alone.height} findings are known to one version only" if not found.alone.is_empty() else ""
    return (
        f"{found.moves.height} studies read by both: {flipped}, {found.rose} priorities rose, {found.fell} fell{alone}"
    )


def as_json(found: Comparison) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "old": found.old,
        "new": found.new,
        "findings": found.shifts.rename({"study_key": "study", "label": "finding"}).to_dicts(),
        "known_to_one": found.alone.rename({"label": "finding"}).to_dicts(),
        "priorities": found.moves.select(study="study_key", old="old", new="new").to_dicts(),
    }


def write_plots(found: Comparison, folder: Path) -> list[Path]:
    """probabilities.png and priorities.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, png in pictures(found).items():
        path = folder / f"{name}.png"
        path.write_bytes(png)
        paths.append(path)
    return paths


def _of(count: int) -> str:
    return f" (first {SHOWN} of {count})" if count > SHOWN else ""


def _studies(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*heads, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table
