"""`medai lineage`: from any result back to the bytes, code and weights that made it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from uuid import uuid4

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from medai_pipeline.cli import main
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.results.chain import chain
from medai_pipeline.results.report import report_json
from medai_pipeline.settings import SETTINGS
from medai_pipeline.storage.tables import deliveries, reviews
from medai_pipeline_tests.pipeline import Pipeline
from medai_pipeline_tests.test_report_content import make


@pytest.fixture
def medai(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    for setting in SETTINGS:
        if setting.attribute in pipeline.settings:
            monkeypatch.setenv(setting.variable, str(pipeline.settings[setting.attribute]))

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, ["lineage", *arguments])
        assert "unexpected" not in result.output, result.output
        return result

    return run


def test_the_chain_leads_from_every_name_to_the_bytes_that_arrived(pipeline: Pipeline, medai) -> None:
    study = make_study("chest-xray", 301, findings=("Pneumothorax",))
    key, other = pipeline.send(study, make_study("chest-xray", 302, findings=()))
    pipeline.work()
    (chain,) = json.loads(medai(key, "--json").stdout)
    assert {row["study_key"] for row in chain} == {key} and len(chain) == 2
    assert {row["source_sha256"] for row in chain} == {hashlib.sha256(to_bytes(d)).hexdigest() for d in study.datasets}
    first = chain[0]
    (report,) = pipeline.reports(key)
    content = pipeline.services.results.report(report.report_id)
    assert first["report_id"] == str(report.report_id) and first["counts"] is True
    assert first["profile"] == content["lineage"]["profile"] and first["rules_version"] == content["rules_version"]
    assert first["weights_sha256"] == content["models"][0]["weights_sha256"]
    assert first["checks"] == first["checks_passed"] == len(content["quality"]["checks"])
    names = (
        key.lower(), first["report_id"][:8], str(first["inference_id"]), first["sop_instance_uid"],
        first["series_instance_uid"], first["source_sha256"][:8].upper(), first["anonymized_sha256"],
        first["tensor_sha256"][:12],
    )  # fmt: skip
    for name in names:
        assert json.loads(medai(name, "--json").stdout) == [chain], name
    for shared in (first["weights_sha256"][:12], first["run_id"], first["inference_run_id"]):
        found = json.loads(medai(shared, "--json").stdout)
        assert {rows[0]["study_key"] for rows in found} == {key, other}, shared
    shown = medai(key).output
    assert f"/runs/{first['run_id']}" in shown and first["source_sha256"] in shown and first["profile"] in shown
    assert "review         none yet" in shown and "delivery       none yet" in shown


def test_the_chain_that_the_report_draws_is_the_one_of_the_view(pipeline: Pipeline, medai) -> None:
    (key,) = pipeline.send(make_study("chest-xray", 305, findings=("Pneumothorax",)))
    pipeline.work()
    (report,) = pipeline.reports(key)
    (rows,) = json.loads(medai(key, "--json").stdout)
    first = rows[0]
    links = {link.title: link for link in chain(pipeline.services.results.report(report.report_id))}
    sources, weights = links["Source bytes"], links["Weights"]
    assert set(sources.digests) == {row["source_sha256"] for row in rows} and sources.more == 0
    assert first["profile"] in links["De-identified"].says and first["code_version"] in links["De-identified"].says
    assert links["Tensor"].digests == (first["tensor_sha256"],)
    assert set(weights.digests) == {row["weights_sha256"] for row in rows}
    assert f"{first['model_name']} {first['model_version']}" in weights.says
    assert links["Checks"].says == f"{first['checks_passed']} of {first['checks']} passed"
    assert first["rules_version"] in links["Triage rules"].says and first["priority"] in links["Triage rules"].says
    page = pipeline.services.objects.get(f"{report.object_prefix}/report.html").decode()
    assert all(digest[:12] in page for link in links.values() for digest in link.digests)
    assert f'href="{pipeline.services.settings.run_page.format(first["run_id"])}"' in page


def test_review_and_delivery_stand_in_the_chain_and_a_delivered_object_leads_to_it(pipeline: Pipeline, medai) -> None:
    (key,) = pipeline.send(make_study("chest-xray", 303, findings=()))
    pipeline.work()
    (report,) = pipeline.reports(key)
    now = pipeline.services.now()
    with pipeline.services.engine.begin() as connection:
        connection.execute(
            sa.insert(reviews).values(
                id=uuid4(), report_id=report.report_id, reviewer="user:reader", decision="accepted", created_at=now
            )
        )
        connection.execute(
            sa.insert(deliveries).values(
                id=uuid4(), report_id=report.report_id, destination="orthanc", sop_instance_uids=["2.25.77", "2.25.78"],
                state="sent", created_at=now, updated_at=now,
            )
        )  # fmt: skip
    shown = medai("2.25.78").output
    assert key in shown and "accepted by user:reader" in shown and "orthanc: sent, 2 objects" in shown


def test_a_superseded_report_is_called_so(pipeline: Pipeline, medai) -> None:
    study = make_study("chest-xray", 304, findings=())
    (key,) = pipeline.send(replace(study, datasets=study.datasets[:1]))
    pipeline.work()
    pipeline.send(replace(study, datasets=study.datasets[1:]))
    pipeline.work()
    newest, oldest = json.loads(medai(key, "--json").stdout)
    assert (newest[0]["counts"], oldest[0]["counts"]) == (True, False)
    assert ", superseded" in medai(oldest[0]["report_id"][:8]).output
    assert (newest[0]["revision"], oldest[0]["revision"]) == (2, 1)
    assert len(newest) == 2 and len(oldest) == 1


def test_a_report_of_analyze_tells_its_own_lineage_without_any_server(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    path = tmp_path / "report.json"
    path.write_bytes(report_json(make()))
    said = CliRunner().invoke(main, ["lineage", "report.json"])
    assert said.exit_code == 0 and "a" * 64 in said.output and "Tensor" in said.output
    assert json.loads(CliRunner().invoke(main, ["lineage", "report.json", "--json"]).stdout)["run_id"] == "run-1"
    for wrong in (b"[]", b"{", b'{"study_key": 1}'):
        path.write_bytes(wrong)
        refused = CliRunner().invoke(main, ["lineage", "report.json"])
        assert refused.exit_code == 1 and "no report.json" in refused.output
    assert "no report.json" in CliRunner().invoke(main, ["lineage", "missing.json"]).output


@pytest.mark.parametrize("name", ["NOSUCHSTUDY", "%", "a' OR 1=1 --", "abc"])
def test_an_unknown_name_is_one_line(medai, name: str) -> None:
    result = medai(name)
    assert result.exit_code == 1 and len(result.output.strip().splitlines()) == 1
