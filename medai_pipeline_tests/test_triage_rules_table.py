"""A table of rules that makes no sense is refused when it is read, and the message names the row."""

from __future__ import annotations

from importlib.resources import files

import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.settings import read_settings
from medai_pipeline.triage.decide import triage
from medai_pipeline.triage.findings import findings, is_finding
from medai_pipeline.triage.rules import default_rules, read_rules, rules_at

TABLE = (files("medai_pipeline.triage") / "rules.toml").read_text(encoding="utf-8")


def test_the_shipped_table_has_a_version_and_a_rule_for_every_finding():
    rules = default_rules()
    assert rules.version
    named = {rule.finding for rule in rules.findings}
    assert {row.label for row in findings() if is_finding(row.label)} <= named


def test_every_finding_has_a_rule_from_its_threshold_on():
    rules = default_rules()
    for row in findings():
        assert any(rule.min_margin == 0 for rule in rules.of(row.label))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'finding = "Pneumothorax"',
            'finding = "Pneumotorax"',
            r"\[\[finding\]\] row 1 \(Pneumotorax\): Pneumotorax is not a finding",
        ),
        ("min_margin = 0.8", "min_margin = 1.8", r"row \d+ \(Effusion\): min_margin must be a number from 0 to 1"),
        ("min_margin = 0.8", 'min_margin = "high"', "min_margin must be a number"),
        ('severity = "life_threatening"', 'severity = "bad"', "unknown severity bad; use one of"),
        ('life_threatening = "critical"', 'life_threatening = "panic"', r"\[severity\].*panic"),
        (
            "({probability}): look for tension",
            "({chance}): look for tension",
            r"row 1 \(Pneumothorax\): reason uses unknown fields",
        ),
        ("({probability}): look for tension", "({probability): look for tension", "unbalanced braces"),
        ('findings = ["Cardiomegaly", "Effusion"]', 'findings = ["Cardiomegaly"]', "at least two findings"),
        ('findings = ["Cardiomegaly", "Effusion"]', 'findings = "Cardiomegaly"', "must be a list of texts"),
        ('finding = "*"', 'finding = "Nodule"', 'need a row with finding "\\*"'),
        ("near_threshold = 0.1", "near_threshold = 5", r"\[review\]: near_threshold must be"),
        ('version = "2026.2"', "version = 7", "version must be a text"),
        ("[review.texts]", "[review.words]", r"section \[review\.texts\] is missing"),
        ('version = "2026.2"', "version = ", "not valid TOML"),
        ("max_age = 34", "maxage = 34", r"row \d+ \(Nodule\): maxage is not known here; known: .*max_age"),
        ("max_age = 34", "min_age = 40\nmax_age = 34", r"\(Nodule\): min_age 40 is above max_age 34"),
        ("max_age = 34\n", "", "2 rows for Nodule ask for the same"),
        ('views = ["AP"]', "views = []", r"\(Cardiomegaly\): views must name values of View Position"),
        ('views = ["AP"]', 'views = ["ap"]', "in capitals"),
        (
            "min_margin = 0.0",
            "min_margin = 0.3",
            "need a row for Pneumothorax with min_margin 0 and without conditions",
        ),
        ("({probability}): look for tension", "({probability:.2f}): look for tension", "write {name} alone"),
        ("near_threshold = 0.1", "near_treshold = 0.1", r"\[review\]: near_treshold is not known here"),
        ("[acr]", "[arc]", "the table: arc is not known here"),
        ("[[combination]]\n", "[[combination]]\nwhen = 1\n", r"\[\[combination\]\] row 1: when is not known here"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(old, new, message):
    assert old in TABLE
    with pytest.raises(SettingsError, match=message) as refused:
        read_rules(TABLE.replace(old, new, 1))
    assert "\n" not in str(refused.value)


def test_a_site_can_change_an_urgency_in_its_own_table():
    own = read_rules(TABLE.replace('follow_up = "routine"', 'follow_up = "urgent"'))
    assert triage(["Nodule"], [0.9], [0.5], [0.0], rules=own).priority == "urgent"


def test_a_sites_table_is_read_again_when_it_changes_and_its_digest_shows(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(TABLE, encoding="utf-8")
    first = rules_at(path)
    assert first.version.startswith("2026.2 [") and rules_at(path) is first
    path.write_text(TABLE.replace('follow_up = "routine"', 'follow_up = "urgent"'), encoding="utf-8")
    assert rules_at(path).version != first.version
    assert triage(["Nodule"], [0.9], [0.5], [0.0], rules=rules_at(path)).priority == "urgent"


def test_a_sites_table_that_cannot_be_used_is_refused_when_settings_are_read(tmp_path):
    path = tmp_path / "rules.toml"
    with pytest.raises(SettingsError, match="MEDAI_TRIAGE_RULES cannot be read"):
        read_settings({"MEDAI_TRIAGE_RULES": str(path)})
    path.write_text(TABLE.replace("urgent = 2", "urgent = 5"), encoding="utf-8")
    with pytest.raises(SettingsError, match="a category is 1, 2 or 3"):
        read_settings({"MEDAI_TRIAGE_RULES": str(path)})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TABLE.encode("utf-16"), "not UTF-8 from byte 0"),
        (b"# \xe4\n" + TABLE.encode(), "not UTF-8 from byte 2"),
        (None, "directory"),
    ],
)
def test_a_file_that_is_no_such_text_is_refused_by_what_it_is(tmp_path, data, message):
    path = tmp_path / "rules.toml"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(SettingsError, match=message):
        rules_at(path)


def test_a_byte_order_mark_is_harmless(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    assert rules_at(path).findings == default_rules().findings


def test_the_category_of_actionable_findings_stands_beside_the_priority():
    said = {label: triage([label], [0.9], [0.5], [0.0]).acr_category for label in ("Pneumothorax", "Tumour", "Nodule")}
    assert said == {"Pneumothorax": 1, "Tumour": 2, "Nodule": 3}
    assert triage(["Nodule"], [0.01], [0.5], [0.0]).acr_category is None
