"""`medai worklist --export` writes each report for systems that read files: valid FHIR, about nobody, kept in the audit chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from medai_pipeline.cli import main
from medai_pipeline.settings import SETTINGS
from medai_pipeline_tests.fhir_r4b import conforms, of_type
from medai_pipeline_tests.test_logging_in import audited
from medai_pipeline_tests.web import Site


@pytest.fixture
def exported(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the site's reports lie as files."""
    for setting in SETTINGS:
        if setting.attribute in site.pipeline.settings:
            value = site.pipeline.settings[setting.attribute]
            monkeypatch.setenv(setting.variable, "" if value is None else str(value))
    result = CliRunner().invoke(main, ["worklist", "--export", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


def test_fhir_json_is_a_bundle_of_r4b_that_says_what_the_report_says(site: Site, exported: Path) -> None:
    for study in (site.film, site.volume):
        folder = exported / site.key(study)
        made, report = (json.loads((folder / name).read_text()) for name in ("fhir.json", "report.json"))
        conforms(made)
        present = {one["code"]["text"]: one["valueCodeableConcept"]["coding"][0]["display"] == "Present"
                   for one in of_type(made, "Observation")}  # fmt: skip
        assert present == {row["label"]: row["present"] for row in report["findings"]} and any(present.values())
        (said,) = of_type(made, "DiagnosticReport")
        assert said["status"] == "preliminary"
        assert said["conclusion"].startswith(f"Priority: {report['priority']}.")
        assert "Research use only" in said["conclusion"]
        (imaging,) = of_type(made, "ImagingStudy")
        assert imaging["numberOfInstances"] == len(study.datasets)


def test_nobody_is_named_in_what_is_exported_and_the_export_is_in_the_audit_chain(site: Site, exported: Path) -> None:
    """A file has no reader whom one could ask for a right: it never holds an identity, nor an original UID."""
    for study in (site.film, site.volume):
        files = [path for path in (exported / site.key(study)).rglob("*") if path.is_file()]
        assert {"fhir.json", "report.json", "report.html"} <= {path.name for path in files}
        originals = [str(d.SOPInstanceUID) for d in study.datasets] + [str(study.datasets[0].StudyInstanceUID)]
        markers = [m.encode() for m in (*study.markers, *originals) if len(m) >= 6]
        assert len(markers) > 20
        assert [(path.name, m) for path in files for m in markers if m in path.read_bytes()] == []
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)
        (patient,) = of_type(json.loads((exported / site.key(study) / "fhir.json").read_text()), "Patient")
        assert set(patient) == {"resourceType", "id"}
    told = {subject for _, action, subject in audited(site.services) if action == "report.export"}
    assert {site.key(site.film), site.key(site.volume)} <= told
