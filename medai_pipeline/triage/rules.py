"""From probabilities to a place on the worklist: priority, reasons, and whether a person must look in any case.

The rules are the table `rules.toml`; here is only how a table is read, checked and applied.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from medai_pipeline.errors import SettingsError
from medai_pipeline.records import Priority
from medai_pipeline.triage.findings import lookup

OTHER = "*"
OLDEST = 200  # years: no limit
REVIEW_TEXTS: Mapping[str, frozenset[str]] = {
    "near_threshold": frozenset({"finding", "probability", "threshold", "uncertainty"}),
    "high_uncertainty": frozenset({"finding", "probability", "threshold", "uncertainty"}),
    "disagreement": frozenset({"finding", "disagreement"}),
    "unfamiliar": frozenset({"novelty", "limit"}),
    "failed_check": frozenset({"check"}),
    "unreliable_map": frozenset({"finding", "reason"}),
    "no_map": frozenset({"finding"}),
    "unreadable": frozenset({"count"}),
    "unread": frozenset({"what"}),
    "no_model": frozenset({"reason"}),
    "assumed_body_part": frozenset(),
    "undecided": frozenset(),
}
_FINDING_FIELDS = frozenset({"finding", "probability", "threshold", "uncertainty"})
# What each part of the table may hold: a misspelt condition must not make a row unconditional
_KEYS: Mapping[str, frozenset[str]] = {
    "": frozenset({"version", "severity", "acr", "review", "texts", "finding", "combination"}),
    "[review]": frozenset({
        "near_threshold", "near_deviations", "novelty", "high_uncertainty", "disagreement", "unreadable_codes",
        "unread_codes", "texts",
    }),
    "[review.texts]": frozenset(REVIEW_TEXTS),
    "[texts]": frozenset({"normal", "nothing_sure"}),
    "[[finding]]": frozenset({"finding", "min_margin", "severity", "reason", "min_age", "max_age", "views"}),
    "[[combination]]": frozenset({"findings", "severity", "reason"}),
}  # fmt: skip
_VIEW = re.compile(r"[A-Z0-9 _]{1,16}")  # CS, PS3.5 6.2


@dataclass(frozen=True, slots=True)
class FindingRule:
    """A present finding whose margin (0 at the threshold, 1 at probability 1) is at least `min_margin`.

    `min_age` and `max_age` in years, inclusive, and `views` (View Position) are conditions; what is not known meets none.
    """

    finding: str
    min_margin: float
    priority: Priority
    reason: str
    min_age: int | None = None
    max_age: int | None = None
    views: frozenset[str] = frozenset()

    @property
    def conditions(self) -> int:
        return (self.min_age is not None) + (self.max_age is not None) + bool(self.views)

    def holds(self, margin: float, age_years: int | None, view: str) -> bool:
        aged = self.min_age is None and self.max_age is None
        if not aged and age_years is not None:
            aged = (self.min_age or 0) <= age_years <= (OLDEST if self.max_age is None else self.max_age)
        return margin >= self.min_margin and aged and (not self.views or view in self.views)


@dataclass(frozen=True, slots=True)
class Combination:
    findings: frozenset[str]
    priority: Priority
    reason: str


@dataclass(frozen=True, slots=True)
class Rules:
    """One version of the table. `review_texts` and `texts` are formats of the reasons."""

    version: str
    acr: Mapping[Priority, int]
    findings: tuple[FindingRule, ...]
    combinations: tuple[Combination, ...]
    near_threshold: float
    near_deviations: float
    novelty: float
    high_uncertainty: float
    disagreement: float
    unreadable_codes: frozenset[str]
    unread_codes: frozenset[str]
    review_texts: Mapping[str, str]
    texts: Mapping[str, str]

    def of(self, label: str) -> tuple[FindingRule, ...]:
        """The rules of a finding, else those of "*"."""
        name = lookup(label).label
        own = tuple(rule for rule in self.findings if rule.finding == name)
        return own or tuple(rule for rule in self.findings if rule.finding == OTHER)


@cache
def default_rules() -> Rules:
    """The table of the package."""
    return read_rules((files("medai_pipeline.triage") / "rules.toml").read_text(encoding="utf-8"))


def rules_at(path: Path | None) -> Rules:
    """A site's own table as it is now, else the package's. Its version carries its digest: a forgotten number shows.

    Raises SettingsError when it cannot be read or makes no sense.
    """
    if path is None:
        return default_rules()
    try:
        stat = path.stat()
        return _read_once(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise SettingsError(
            f"the triage rules of MEDAI_TRIAGE_RULES cannot be read ({error.strerror}): name a text file that can"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"the triage rules of MEDAI_TRIAGE_RULES are not UTF-8 from byte {error.start} on: save the file as UTF-8"
        ) from error


@lru_cache(maxsize=4)
def _read_once(path: Path, modified_ns: int, size: int) -> Rules:
    data = path.read_bytes()
    rules = read_rules(data.decode("utf-8-sig"))
    return replace(rules, version=f"{rules.version} [{hashlib.sha256(data).hexdigest()[:12]}]")


def read_rules(text: str) -> Rules:
    """Rules from TOML. Raises SettingsError that names the row that makes no sense, and why."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the triage rules are not valid TOML: {error}") from error
    _no_others(table, "", "the table")
    severity = _severities(_section(table, "severity"))
    review, texts = _section(table, "review"), _section(table, "texts")
    review_texts = _section(review, "texts", "review.texts")
    for section, name in ((review, "[review]"), (review_texts, "[review.texts]"), (texts, "[texts]")):
        _no_others(section, name, name)
    rules = Rules(
        version=_text(table, "version", "the table"),
        acr=_categories(_section(table, "acr")),
        findings=tuple(_finding(row, number, severity) for number, row in enumerate(_rows(table, "finding"), 1)),
        combinations=tuple(
            _combination(row, number, severity) for number, row in enumerate(_rows(table, "combination"), 1)
        ),
        near_threshold=_number(review, "near_threshold", "[review]", 0.5),
        near_deviations=_number(review, "near_deviations", "[review]", 5.0),
        novelty=_number(review, "novelty", "[review]", 10.0),
        high_uncertainty=_number(review, "high_uncertainty", "[review]", 0.5),
        disagreement=_number(review, "disagreement", "[review]", 0.5),
        unreadable_codes=frozenset(_strings(review, "unreadable_codes", "[review]")),
        unread_codes=frozenset(_strings(review, "unread_codes", "[review]")),
        review_texts={key: _format(review_texts, key, "[review.texts]", known) for key, known in REVIEW_TEXTS.items()},
        texts={key: _format(texts, key, "[texts]", frozenset()) for key in ("normal", "nothing_sure")},
    )
    _serves_every_study(rules.findings)
    return rules


def _serves_every_study(rows: Sequence[FindingRule]) -> None:
    """A finding that is present must never be without a row, nor two rows be in each other's way."""
    always = {row.finding for row in rows if row.min_margin == 0 and not row.conditions}
    if OTHER not in always:
        raise SettingsError(
            'the triage rules need a row with finding "*" and min_margin 0 for all other findings, without conditions'
        )
    for name in dict.fromkeys(row.finding for row in rows):
        if name not in always:
            raise SettingsError(
                f"the triage rules need a row for {name} with min_margin 0 and without conditions: "
                "one that is present would else be called normal where no other row applies"
            )
    seen = Counter((row.finding, row.min_margin, row.min_age, row.max_age, row.views) for row in rows)
    for (name, *_), count in seen.items():
        if count > 1:
            raise SettingsError(f"triage rules: {count} rows for {name} ask for the same; leave one")


def _no_others(section: Mapping[str, Any], name: str, where: str) -> None:
    unknown = sorted(set(section) - _KEYS[name])
    if unknown:
        raise SettingsError(
            f"triage rules, {where}: {unknown[0]} is not known here; known: {', '.join(sorted(_KEYS[name]))}"
        )


def _severities(section: Mapping[str, Any]) -> dict[str, Priority]:
    try:
        return {name: Priority(value) for name, value in section.items()}
    except ValueError as error:
        raise SettingsError(f"triage rules, [severity]: {error}; use {', '.join(Priority)}") from error


def _categories(section: Mapping[str, Any]) -> dict[Priority, int]:
    if unknown := set(section) - set(Priority):
        raise SettingsError(f"triage rules, [acr]: {sorted(unknown)[0]} is no priority; use {', '.join(Priority)}")
    if any(value not in (1, 2, 3) for value in section.values()):
        raise SettingsError("triage rules, [acr]: a category is 1, 2 or 3")
    return {Priority(name): int(value) for name, value in section.items()}


def _finding(row: Mapping[str, Any], number: int, severity: Mapping[str, Priority]) -> FindingRule:
    where = f"[[finding]] row {number}"
    name = _text(row, "finding", where)
    where += f" ({name})"
    _no_others(row, "[[finding]]", where)
    least, most = _age(row, "min_age", where), _age(row, "max_age", where)
    if least is not None and most is not None and least > most:
        raise SettingsError(f"triage rules, {where}: min_age {least} is above max_age {most}: nobody is of that age")
    return FindingRule(
        finding=name if name == OTHER else _known(name, where),
        min_margin=_number(row, "min_margin", where, 1.0),
        priority=_priority(row, where, severity),
        reason=_format(row, "reason", where, _FINDING_FIELDS),
        min_age=least,
        max_age=most,
        views=_views(row, where) if "views" in row else frozenset(),
    )


def _views(row: Mapping[str, Any], where: str) -> frozenset[str]:
    views = _strings(row, "views", where)
    if not views or not all(map(_VIEW.fullmatch, views)):
        raise SettingsError(
            f'triage rules, {where}: views must name values of View Position in capitals, as ["AP"]; leave it out for all'
        )
    return frozenset(views)


def _age(row: Mapping[str, Any], key: str, where: str) -> int | None:
    value = row.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= OLDEST):
        raise SettingsError(f"triage rules, {where}: {key} must be a whole number of years")
    return value


def _combination(row: Mapping[str, Any], number: int, severity: Mapping[str, Priority]) -> Combination:
    where = f"[[combination]] row {number}"
    _no_others(row, "[[combination]]", where)
    names = frozenset(_known(name, where) for name in _strings(row, "findings", where))
    if len(names) < 2:
        raise SettingsError(f"triage rules, {where}: a combination needs at least two findings")
    return Combination(names, _priority(row, where, severity), _format(row, "reason", where, frozenset()))


def _known(name: str, where: str) -> str:
    entry = lookup(name)
    if entry.label != name or not entry.is_finding or not entry.is_listed:
        raise SettingsError(f"triage rules, {where}: {name} is not a finding of findings.csv")
    return name


def _priority(row: Mapping[str, Any], where: str, severity: Mapping[str, Priority]) -> Priority:
    name = _text(row, "severity", where)
    if name not in severity:
        raise SettingsError(f"triage rules, {where}: unknown severity {name}; use one of {', '.join(severity)}")
    return severity[name]


def _section(table: Mapping[str, Any], key: str, name: str = "") -> Mapping[str, Any]:
    section = table.get(key)
    if not isinstance(section, dict):
        raise SettingsError(f"triage rules: the section [{name or key}] is missing")
    return section


def _rows(table: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SettingsError(f"triage rules: {key} must be rows, each begun by [[{key}]]")
    return rows


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"triage rules, {where}: {key} must be a text")
    return value


def _strings(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise SettingsError(f"triage rules, {where}: {key} must be a list of texts")
    return value


def _number(row: Mapping[str, Any], key: str, where: str, most: float) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise SettingsError(f"triage rules, {where}: {key} must be a number from 0 to {most:g}")
    return float(value)


def _format(row: Mapping[str, Any], key: str, where: str, known: frozenset[str]) -> str:
    """A text whose {fields} are all known, so that it cannot fail when a study needs it."""
    text = _text(row, key, where)
    try:
        used = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise SettingsError(f"triage rules, {where}: {key} has unbalanced braces") from error
    if used - known:
        offered = ", ".join(sorted(known)) or "none"
        raise SettingsError(f"triage rules, {where}: {key} uses unknown fields; known: {offered}")
    try:
        text.format(**dict.fromkeys(known, "text"))
    except (ValueError, KeyError, IndexError) as error:
        raise SettingsError(
            f"triage rules, {where}: {key} cannot be filled in ({error}); fields are texts, write {{name}} alone"
        ) from error
    return text
