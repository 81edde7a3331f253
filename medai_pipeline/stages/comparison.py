"""model_comparison: what two versions said about the same studies, finding by finding and priority by priority.

Columns, not objects: a site that promotes a version compares it over every study it has, 15 findings each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai_pipeline.records import Priority

if TYPE_CHECKING:
    import polars as pl

Study = tuple[str, int]  # study key, revision
Both = tuple[Study, Mapping[str, Any], Mapping[str, Any]]  # and what either version said of it
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two versions over the studies that both have read.

    `shifts`, a row a finding of a study: study_key, label, old and new (probabilities by both versions), old_present and
    new_present (whether each called it present). `moves`, a row a study: study_key, old and new (priorities by both), rise
    (above 0 when the new one is more urgent). Both in the order of study keys. `alone`, a row a finding that one version
    alone knows: label, version, studies, present (in how many of them it was called present).
    """

    old: str
    new: str
    shifts: pl.DataFrame
    moves: pl.DataFrame
    alone: pl.DataFrame

    @property
    def flips(self) -> pl.DataFrame:
        """Findings that one version calls present and the other absent, the greatest shift first."""
        import polars as pl

        flipped = self.shifts.filter(pl.col("old_present") != pl.col("new_present"))
        return flipped.sort((pl.col("new") - pl.col("old")).abs(), descending=True, maintain_order=True)

    @property
    def moved(self) -> pl.DataFrame:
        """Studies whose priority is another one, those that rose most first."""
        import polars as pl

        return self.moves.filter(pl.col("rise") != 0).sort("rise", descending=True, maintain_order=True)

    @property
    def rose(self) -> int:
        """How many studies are more urgent by the new version."""
        return int((self.moves["rise"] > 0).sum())

    @property
    def fell(self) -> int:
        """How many are less urgent."""
        return int((self.moves["rise"] < 0).sum())

    def by_finding(self) -> pl.DataFrame:
        """A row a finding, by name: label, studies; old_present and new_present, in how many each version calls it present;
        appeared and vanished, how many flipped to present and to absent; mean_shift and greatest_shift, by how much its
        probability moved in the mean, with its sign, and at most, without."""
        import polars as pl

        shift, old, new = pl.col("new") - pl.col("old"), pl.col("old_present"), pl.col("new_present")
        return (
            self.shifts.group_by("label")
            .agg(
                studies=pl.len(),
                old_present=old.sum(),
                new_present=new.sum(),
                appeared=(new & ~old).sum(),
                vanished=(old & ~new).sum(),
                mean_shift=shift.mean(),
                greatest_shift=shift.abs().max(),
            )
            .sort("label")
        )


def compare(
    old: str,
    new: str,
    said: Iterable[Both],
    reported: tuple[Mapping[Study, str], Mapping[Study, str]],
    rules: Path | None = None,
) -> Comparison:
    """`said` are the results of both versions as the database keeps them, in the order of study keys; taken one by one, so
    that they need not all be in memory. `reported`: the priorities of their reports.

    Findings that only one version knows have no shift, and are counted apart. Where one version has no report (a shadow), both priorities follow
    from the numbers alone, so that like is compared with like; `rules` is the site's triage table.
    """
    import polars as pl

    probability = dict.fromkeys(("old", "new"), pl.Float64) | dict.fromkeys(("old_present", "new_present"), pl.Boolean)
    shifts = _Columns({"study_key": pl.String, "label": pl.String, **probability})
    moves = _Columns({"study_key": pl.String, "old": pl.String, "new": pl.String, "rise": pl.Int8})
    alone: dict[tuple[str, str], list[int]] = {}  # label, version -> studies, present
    for study, *answers in said:
        before, after = ({finding["label"]: finding for finding in answer["findings"]} for answer in answers)
        for label in sorted(before.keys() & after.keys()):
            a, b = before[label], after[label]
            shifts.add((study[0], label, a["probability"], b["probability"], _present(a), _present(b)))
        for version, mine, other in ((old, before, after), (new, after, before)):
            for label in mine.keys() - other.keys():
                counts = alone.setdefault((label, version), [0, 0])
                counts[0] += 1
                counts[1] += _present(mine[label])
        both = all(study in side for side in reported)
        first, second = (
            Priority(reports[study]) if both else _priority(answer, rules)
            for reports, answer in zip(reported, answers, strict=True)
        )
        moves.add((study[0], first.value, second.value, first.rank - second.rank))
    rows = [(label, version, *counts) for (label, version), counts in sorted(alone.items())]
    counted = {"label": pl.String, "version": pl.String, "studies": pl.Int64, "present": pl.Int64}
    return Comparison(old, new, shifts.frame(), moves.frame(), pl.DataFrame(rows, schema=counted, orient="row"))


class _Columns:
    """Rows that become columns, some at a time: as Python objects a million of them would not fit."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema, self._rows = dict(schema), list[tuple[Any, ...]]()
        self._frames: list[pl.DataFrame] = []

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) == _ROWS_AT_ONCE:
            self._pack()

    def frame(self) -> pl.DataFrame:
        import polars as pl

        self._pack()
        return pl.concat(self._frames)

    def _pack(self) -> None:
        import polars as pl

        self._frames.append(pl.DataFrame(self._rows, schema=self._schema, orient="row"))
        self._rows.clear()


def pictures(found: Comparison) -> dict[str, bytes]:
    """PNG files by name: every probability by both versions, and how many studies went from which priority to which."""
    from medai_pipeline.results.comparison_plots import priorities_plot, probabilities_plot

    names = [p.value for p in Priority]
    counts = {(old, new): n for old, new, n in found.moves.group_by("old", "new").len().iter_rows()}
    table = [[counts.get((old, new), 0) for new in names] for old in names]
    return {
        "probabilities": probabilities_plot(found.old, found.new, found.shifts),
        "priorities": priorities_plot(found.old, found.new, names, table),
    }


def _present(finding: Mapping[str, Any]) -> bool:
    return bool(finding["probability"] >= finding["threshold"])


def _priority(result: Mapping[str, Any], rules: Path | None) -> Priority:
    from medai_pipeline.triage.decide import triage
    from medai_pipeline.triage.rules import rules_at

    columns = ("label", "probability", "threshold", "uncertainty")
    labels, probabilities, thresholds, uncertainty = ([f[name] for f in result["findings"]] for name in columns)
    decided = triage(
        labels, probabilities, thresholds, uncertainty, novelty=result.get("novelty"), rules=rules_at(rules)
    )
    return decided.priority
