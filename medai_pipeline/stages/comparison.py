"""model_comparison: what two versions said about the same studies, finding by finding and priority by priority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
class Comparison:
    """Two versions over the studies that both have read."""

    old: str
    new: str
    shifts: tuple[Shift, ...]
    moves: tuple[Move, ...]

    @property
    def flips(self) -> tuple[Shift, ...]:
        return tuple(sorted((s for s in self.shifts if s.flipped), key=lambda s: -abs(s.new - s.old)))


def compare(
    old: str,
    new: str,
    said: tuple[Mapping[Study, Mapping[str, Any]], Mapping[Study, Mapping[str, Any]]],
    reported: tuple[Mapping[Study, str], Mapping[Study, str]],
) -> Comparison:
    """`said` are the results of both versions as the database keeps them, `reported` the priorities of their reports.

    Findings that only one version knows are left out. Where one version has no report (a shadow), both priorities follow
    from the numbers alone, so that like is compared with like.
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
            Priority(reports[study]) if both else _priority(answers[study])
            for reports, answers in zip(reported, said, strict=True)
        )
        moves.append(Move(study[0], first, second))
    return Comparison(old, new, tuple(sorted(shifts, key=lambda s: (s.study_key, s.label))), tuple(moves))


def _findings(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {finding["label"]: finding for finding in result["findings"]}


def _present(finding: Mapping[str, Any]) -> bool:
    return bool(finding["probability"] >= finding["threshold"])


def _priority(result: Mapping[str, Any]) -> Priority:
    from medai_pipeline.triage.decide import triage
    from medai_pipeline.triage.rules import default_rules

    columns = ("label", "probability", "threshold", "uncertainty")
    labels, probabilities, thresholds, uncertainty = ([f[name] for f in result["findings"]] for name in columns)
    decided = triage(
        labels, probabilities, thresholds, uncertainty, novelty=result.get("novelty"), rules=default_rules()
    )
    return decided.priority
