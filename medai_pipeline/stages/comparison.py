"""model_comparison: what two versions said about the same studies, finding by finding and priority by priority."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai_pipeline.records import Priority

Study = tuple[str, int]  # study key, revision


@dataclass(frozen=True, slots=True)
class Shift:
    """One finding of one study: its probability by both versions, and whether each called it present."""

    study_key: str
    label: str
    old: float
    new: float
    old_present: bool
    new_present: bool

    @property
    def flipped(self) -> bool:
        return self.old_present != self.new_present


@dataclass(frozen=True, slots=True)
class Move:
    """One study's priority by both versions. `rise` is above 0 when the new one is more urgent."""

    study_key: str
    old: Priority
    new: Priority

    @property
    def rise(self) -> int:
        return self.old.rank - self.new.rank


@dataclass(frozen=True, slots=True)
class Summary:
    """One finding over all studies: in how many each version calls it present, how many flipped to present and to absent,
    and by how much its probability moved: in the mean, with its sign, and at most, without."""

    label: str
    studies: int
    old_present: int
    new_present: int
    appeared: int
    vanished: int
    mean_shift: float
    greatest_shift: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions over the studies that both have read."""

    old: str
    new: str
    shifts: tuple[Shift, ...]
    moves: tuple[Move, ...]

    @property
    def flips(self) -> tuple[Shift, ...]:
        """Findings that one version calls present and the other absent, the greatest shift first."""
        return tuple(sorted((s for s in self.shifts if s.flipped), key=lambda s: -abs(s.new - s.old)))

    @property
    def moved(self) -> tuple[Move, ...]:
        """Studies whose priority is another one, those that rose most first."""
        return tuple(sorted((m for m in self.moves if m.rise), key=lambda m: (-m.rise, m.study_key)))

    def by_finding(self) -> list[Summary]:
        """One row a finding, by name."""
        labels = sorted({shift.label for shift in self.shifts})
        return [_summary(label, [s for s in self.shifts if s.label == label]) for label in labels]


def compare(
    old: str,
    new: str,
    said: tuple[Mapping[Study, Mapping[str, Any]], Mapping[Study, Mapping[str, Any]]],
    reported: tuple[Mapping[Study, str], Mapping[Study, str]],
    rules: Path | None = None,
) -> Comparison:
    """`said` are the results of both versions as the database keeps them, `reported` the priorities of their reports.

    Findings that only one version knows are left out. Where one version has no report (a shadow), both priorities follow
    from the numbers alone, so that like is compared with like; `rules` is the site's triage table.
    """
    shifts: list[Shift] = []
    moves: list[Move] = []
    for study in sorted(said[0].keys() & said[1].keys()):
        before, after = (_findings(side[study]) for side in said)
        for label in before.keys() & after.keys():
            a, b = before[label], after[label]
            shifts.append(Shift(study[0], label, a["probability"], b["probability"], _present(a), _present(b)))
        both = all(study in side for side in reported)
        first, second = (
            Priority(reports[study]) if both else _priority(answers[study], rules)
            for reports, answers in zip(reported, said, strict=True)
        )
        moves.append(Move(study[0], first, second))
    return Comparison(old, new, tuple(sorted(shifts, key=lambda s: (s.study_key, s.label))), tuple(moves))


def pictures(found: Comparison) -> dict[str, bytes]:
    """PNG files by name: every probability by both versions, and how many studies went from which priority to which."""
    from medai_pipeline.results.comparison_plots import priorities_plot, probabilities_plot

    points = [(s.label, s.old, s.new, s.flipped) for s in found.shifts]
    ranks = [(move.old.rank, move.new.rank) for move in found.moves]
    return {
        "probabilities": probabilities_plot(found.old, found.new, points),
        "priorities": priorities_plot(found.old, found.new, [p.value for p in Priority], ranks),
    }


def _summary(label: str, shifts: Sequence[Shift]) -> Summary:
    moved = [shift.new - shift.old for shift in shifts]
    return Summary(
        label,
        len(shifts),
        sum(s.old_present for s in shifts),
        sum(s.new_present for s in shifts),
        sum(s.flipped and s.new_present for s in shifts),
        sum(s.flipped and s.old_present for s in shifts),
        sum(moved) / len(moved),
        max(map(abs, moved)),
    )


def _findings(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {finding["label"]: finding for finding in result["findings"]}


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
