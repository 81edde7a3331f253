"""The decision for one study: applies a table of rules to what the model said and to what the checks found.

Pure: the same inputs give the same answer. The texts and numbers stand in the table, not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from medai_pipeline.records import Priority, Problem, QualityResult, StudyHeatmaps, Triage
from medai_pipeline.triage.findings import is_finding, lookup
from medai_pipeline.triage.rules import Rules, default_rules
from medai_pipeline.wording import percent

_TINY = 1e-9  # probabilities are float32: a distance equal to a limit must not depend on the last bit


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the model said about one label."""

    label: str
    probability: float
    threshold: float
    uncertainty: float | None
    view: str = ""

    @property
    def present(self) -> bool:
        return self.probability >= self.threshold

    @property
    def margin(self) -> float:
        """0 at the threshold, 1 at probability 1; negative below the threshold."""
        return (self.probability - self.threshold) / max(1 - self.threshold, _TINY)

    @property
    def words(self) -> dict[str, str]:
        return {
            "finding": self.label.replace("_", " "),
            "probability": percent(self.probability),
            "threshold": percent(self.threshold),
            "uncertainty": "not measured" if self.uncertainty is None else f"{self.uncertainty:.2f}",
        }


def triage(
    labels: Sequence[str],
    probabilities: Sequence[float],
    thresholds: Sequence[float],
    uncertainty: Sequence[float | None],
    *,
    quality: Sequence[QualityResult] = (),
    heatmaps: StudyHeatmaps | None = None,
    problems: Sequence[Problem] = (),
    no_model_reason: str = "",
    assumed_body_part: bool = False,
    novelty: float | None = None,
    disagreement: Sequence[float] = (),
    age_years: int | None = None,
    views: Sequence[str] = (),
    rules: Rules | None = None,
) -> Triage:
    """Priority, reasons (most urgent first, then why a review is needed) and the review flag.

    The four sequences have one entry a label; all are empty when no model covers the study, and `no_model_reason` then
    says why: the study is routine and must be reviewed. An uncertainty is None where it was not measured. Without `heatmaps` nothing is said about them.
    `novelty` is how far the study lies from the model's training (`StudyPrediction`), None where nobody knows.
    `disagreement` has one entry a label where several models answered, the standard deviation between them.
    `age_years` of the patient and `views`, the View Position of the image that shows each label best, are what rows of the
    table may ask for; None and "" where nobody knows.
    "normal" means that nothing is present and nothing asks for a review. An unknown finding falls under the row "*".
    """
    rules = rules or default_rules()
    answers = [
        _Answer(label, float(probability), float(threshold), None if deviation is None else float(deviation), view)
        for label, probability, threshold, deviation, view in zip(
            labels, probabilities, thresholds, uncertainty, views or [""] * len(labels), strict=True
        )
    ]
    urgent = sorted(_urgent(answers, age_years, rules), key=lambda found: found[0].rank)
    review = [
        *_no_model(answers, no_model_reason, rules),
        *_unfamiliar(novelty, rules),
        *_unsure(answers, rules),
        *_at_odds(answers, disagreement, rules),
        *_unshown(answers, heatmaps, rules),
        *_incomplete(quality, problems, assumed_body_part, rules),
    ]
    reasons = [reason for _, reason in urgent]
    if not urgent and answers:
        reasons = [rules.texts["nothing_sure" if review else "normal"]]
    priority = _priority([priority for priority, _ in urgent], bool(review))
    return Triage(
        priority=priority,
        reasons=tuple(reasons + review),
        review_required=bool(review),
        rules_version=rules.version,
        acr_category=rules.acr.get(priority),
    )


def _priority(found: Sequence[Priority], review: bool) -> Priority:
    if found:
        return min(found, key=lambda priority: priority.rank)
    return Priority.ROUTINE if review else Priority.NORMAL


def _urgent(answers: Sequence[_Answer], age_years: int | None, rules: Rules) -> Iterator[tuple[Priority, str]]:
    """One (priority, reason) for each present finding, and for each combination of present findings."""
    present = sorted((answer for answer in answers if answer.present), key=lambda answer: -answer.margin)
    present = [answer for answer in present if is_finding(answer.label)]
    for answer in present:
        applies = [r for r in rules.of(answer.label) if r.holds(answer.margin + _TINY, age_years, answer.view)]
        if applies:
            rule = min(applies, key=lambda rule: (-rule.conditions, rule.priority.rank, -rule.min_margin))
            yield rule.priority, rule.reason.format(**answer.words)
    names = {lookup(answer.label).label for answer in present}
    for combination in rules.combinations:
        if combination.findings <= names:
            yield combination.priority, combination.reason


def _no_model(answers: Sequence[_Answer], reason: str, rules: Rules) -> Iterator[str]:
    if reason or not answers:
        yield rules.review_texts["no_model"].format(reason=reason or "no model answered.")


def _unfamiliar(novelty: float | None, rules: Rules) -> Iterator[str]:
    if novelty is not None and not novelty <= rules.novelty:  # also when it is no number
        yield rules.review_texts["unfamiliar"].format(novelty=f"{novelty:.1f}", limit=f"{rules.novelty:.1f}")


def _unsure(answers: Sequence[_Answer], rules: Rules) -> Iterator[str]:
    """Why the numbers themselves ask for a person: close to a threshold, uncertain, or nothing decided."""
    for answer in (answer for answer in answers if is_finding(answer.label)):
        near = min(rules.near_threshold, answer.threshold / 2, (1 - answer.threshold) / 2)
        deviation = answer.uncertainty or 0.0  # where none was measured, the plain distance alone asks for a person
        near = max(near, rules.near_deviations * deviation)
        if abs(answer.probability - answer.threshold) <= near + _TINY:
            yield rules.review_texts["near_threshold"].format(**answer.words)
        elif deviation >= rules.high_uncertainty - _TINY:
            yield rules.review_texts["high_uncertainty"].format(**answer.words)
    normals = [answer for answer in answers if not is_finding(answer.label)]
    lost = not all(isfinite(answer.probability) for answer in answers)
    if lost or (normals and not any(answer.present for answer in answers)):
        yield rules.review_texts["undecided"]


def _at_odds(answers: Sequence[_Answer], disagreement: Sequence[float], rules: Rules) -> Iterator[str]:
    """Findings that the models of an ensemble see differently."""
    for answer, apart in zip(answers, disagreement, strict=bool(disagreement)):
        if is_finding(answer.label) and not apart < rules.disagreement - _TINY:  # also when it is no number
            words = {"finding": answer.words["finding"], "disagreement": f"{apart:.2f}"}
            yield rules.review_texts["disagreement"].format(**words)


def _unshown(answers: Sequence[_Answer], heatmaps: StudyHeatmaps | None, rules: Rules) -> Iterator[str]:
    """Present findings whose map is unreliable; and the surest one when the study has no map at all."""
    present = [answer for answer in answers if answer.present and is_finding(answer.label)]
    if heatmaps is None or not present:
        return
    if not heatmaps.heatmaps:
        yield rules.review_texts["no_map"].format(finding=max(present, key=lambda answer: answer.margin).label)
    for answer in present:
        bad = [found for found in heatmaps.heatmaps if found.label == answer.label and not found.reliable]
        if bad:
            words = {"finding": answer.words["finding"], "reason": bad[0].reason}
            yield rules.review_texts["unreliable_map"].format(**words)


def _incomplete(
    quality: Sequence[QualityResult], problems: Sequence[Problem], assumed_body_part: bool, rules: Rules
) -> Iterator[str]:
    """Why what the model saw may not be the whole study, or not what it was taken for."""
    for check in quality:
        if not check.passed:
            yield rules.review_texts["failed_check"].format(check=check.detail or check.name)
    unreadable = sum(problem.code in rules.unreadable_codes for problem in problems)
    if unreadable:
        yield rules.review_texts["unreadable"].format(count=unreadable)
    unread = Counter(problem.reason for problem in problems if problem.code in rules.unread_codes)
    for reason, count in unread.items():
        yield rules.review_texts["unread"].format(what=f"{reason} ({count} images)" if count > 1 else reason)
    if assumed_body_part:
        yield rules.review_texts["assumed_body_part"]
