"""`medai models ...` as its users run it, over a real Postgres: from a card to an active version and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from medai_pipeline.cli import main
from medai_pipeline.registering import models_in_force, register_packaged
from medai_pipeline.services import Services
from medai_pipeline.settings import read_settings
from medai_pipeline.storage.keys import SiteKeys
from medai_pipeline_tests.model_versions import demo_version, write_card


@pytest.fixture
def home(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    SiteKeys.load(None, home / "keys" / "site.key", create=True)
    monkeypatch.setenv("MEDAI_HOME", str(home))
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("GPU_ENABLED", "false")
    return home


def medai(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


def test_a_version_is_registered_shown_promoted_and_retired(home: Path, tmp_path: Path) -> None:
    card, weights = demo_version(tmp_path, "2", shift=0.5, name="demo-brain-mr")
    done = medai("register", card, "--weights", weights)
    assert done.exit_code == 0, done.output
    assert "next: medai models promote demo-brain-mr@2" in done.output
    weights.unlink()  # kept by its digest
    assert "already" not in done.output
    promoted = medai("promote", "demo-brain-mr@2", "--yes")
    assert "demo-brain-mr@2 is active" in promoted.output
    again = medai("promote", "demo-brain-mr@2", "--yes")
    assert again.exit_code == 1 and "is active already; `medai backfill --model demo-brain-mr@2`" in again.output
    assert "older study" not in again.output
    (row,) = json.loads(medai("list", "--json").output)
    assert (row["state"], row["weights"], row["for"]) == ("active", "here", ["MR BRAIN"])
    assert row["measured"]["images_per_second"] > 0
    shown = json.loads(medai("show", "demo-brain-mr", "--json").output)
    (prepared,) = shown["prepared"].values()
    assert prepared["times_eager"] >= 1 and {fact["backend"] for fact in prepared["candidates"]} > {
        "eager",
        "onnxruntime",
    }
    told = medai("show", "demo-brain-mr").output
    assert "images_per_second" in told and "backend onnxruntime" in told and "{" not in told
    assert medai("retire", "demo-brain-mr@2").exit_code == 1  # asked, and nobody answered
    assert "retired" in medai("retire", "demo-brain-mr@2", "--yes").output
    services = Services(read_settings())
    assert services.audit.verify().records == 4  # registered, prepared, promoted, retired


def test_an_ensemble_of_registered_versions_is_registered_by_its_card_alone(home: Path, tmp_path: Path) -> None:
    for version in ("2", "3"):
        card, weights = demo_version(tmp_path, version, shift=float(version), name="demo-brain-mr")
        assert medai("register", card, "--weights", weights).exit_code == 0
    facts = tomllib.loads(card.read_text())
    members = {"demo-brain-mr@2": 1.0, "demo-brain-mr@3": 2.0}
    own = ("temperature", "dropout", "aggregation", "architecture", "options", "calibration")  # a member's
    facts = {name: value for name, value in facts.items() if name not in own}
    both = write_card(tmp_path, {**facts, "name": "both", "version": "1", "members": members}, "both.toml")
    assert "--weights" in medai("register", card).output
    beyond = write_card(tmp_path, {**facts, "name": "y", "members": members, "modality": ["MR", "CT"]}, "y.toml")
    assert "demo-brain-mr@3 is not made for CT BRAIN" in medai("register", beyond).output
    done = medai("register", both)
    assert done.exit_code == 0, done.output
    measured = json.loads(medai("show", "both@1", "--json").output)["measured"]
    assert measured["images_per_second"] > 0 and len(measured["outputs_sha256"]) == 64
    assert "both@1 is active" in medai("promote", "both@1", "--yes").output
    services = Services(read_settings())
    chosen = models_in_force(services.registry).choose("MR", "BRAIN").entry
    assert chosen is not None and dict(chosen.members) == members
    missing = write_card(tmp_path, {**facts, "name": "x", "members": {**members, "gone@1": 1.0}}, "x.toml")
    assert "gone@1 is registered" in medai("register", missing).output
    (
        home / "models" / "objects" / f"{services.registry.version('demo-brain-mr', '2').weights_sha256}.safetensors"
    ).unlink()
    assert medai("promote", "both@1", "--yes").exit_code == 1  # a member's weights are gone


def test_only_what_was_not_prepared_for_this_machine_is_prepared_and_the_registry_is_told(
    home: Path, tmp_path: Path
) -> None:
    services = Services(read_settings())
    path = services.settings.models_path
    register_packaged(services.registry, ("demo-brain-mr",), path, services.now())
    for row in services.registry.versions():
        if row.name != "demo-brain-mr":
            services.registry.retire(row.name, row.version, "ann")
    first = medai("prepare", "--missing", "--backend", "channels-last")
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[-1].startswith("models measured on this machine: demo-brain-mr@1 by ")
    (folder,) = (path / "prepared").iterdir()
    (kept,) = services.registry.version("demo-brain-mr").prepared.values()
    assert kept["backend"] == json.loads((folder / "prepared.json").read_text())["backend"]
    again = medai("prepare", "--missing")
    assert (again.exit_code, again.output) == (0, "every model is prepared for this machine\n")


def test_one_that_cannot_be_prepared_is_named_and_does_not_keep_the_others_from_it(home: Path, tmp_path: Path) -> None:
    services = Services(read_settings())
    register_packaged(services.registry, (), services.settings.models_path, services.now())
    (services.settings.models_path).mkdir(parents=True, exist_ok=True)
    (services.settings.models_path / "prepared").write_text("a file where a folder should be")
    done = medai("prepare", "--missing", "--backend", "channels-last")
    assert done.exit_code == 1
    assert "demo-brain-mr@1 is not prepared: cannot keep what was prepared" in done.output
    assert done.output.splitlines()[-1] == "3 models could not be prepared"


def test_a_version_whose_weights_are_gone_or_changed_is_not_promoted(home: Path, tmp_path: Path) -> None:
    card, weights = demo_version(tmp_path, "2", shift=0.5, name="demo-brain-mr")
    assert medai("register", card, "--weights", weights).exit_code == 0
    (kept,) = (home / "models" / "objects").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\x00")
    refused = medai("promote", "demo-brain-mr@2", "--yes")
    assert refused.exit_code == 1
    assert "restore the file" in refused.output
    assert json.loads(medai("list", "--json").output)[0]["state"] == "registered"


def test_what_a_newcomer_forgets_is_said_in_one_line(home: Path, tmp_path: Path) -> None:
    card, weights = demo_version(tmp_path, "2", shift=0.5)
    card.write_text("\n".join(line for line in card.read_text().splitlines() if not line.startswith("thresholds")))
    assert "thresholds is missing" in medai("register", card, "--weights", weights).output
    assert "write NAME@VERSION" in medai("promote", "demo-chest-xray").output
    assert "no model demo-chest-xray@2 is registered" in medai("promote", "demo-chest-xray@2").output
    assert "no model demo-chest-xray@2 is registered" in medai("compare", "demo-chest-xray@2").output
    assert "name one version, or two" in medai("compare", "a@1", "b@1", "c@1").output
    services = Services(read_settings())
    register_packaged(services.registry, (), services.settings.models_path, services.now())
    assert "medai models compare OLD NEW" in medai("compare", "demo-chest-xray@1").output
    assert "no study was read by both" in medai("compare", "demo-chest-xray@1", "demo-brain-mr@1").output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thresolds": [0.5]}, "thresolds is not known (did you mean thresholds?)"),
        ({"codes": ["SCT:36118009", "", "", "", ""]}, "no such code can exist (form or check digit): SCT:36118009"),
        ({"modality": ["XRAY"]}, "modality XRAY is none of DICOM's for images: choose of CR, CT, DX"),
        ({"architecture": "resnet181"}, "timm knows no architecture 'resnet181': did you mean resnet18"),
        ({"options": {"widht": 3}}, "timm cannot build resnet10t with these options"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_is_wrong_in_a_card_is_said_with_what_is_near(
    home: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    card, weights = demo_version(tmp_path, "2", shift=0.5)
    facts = tomllib.loads(card.read_text())
    refused = medai("register", write_card(tmp_path, {**facts, **changes}, "wrong.toml"), "--weights", weights)
    assert refused.exit_code == 1
    assert said in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"PK\x03\x04", "medai models convert FILE weights.safetensors"),
        (b"\x80\x04K\x01.", "medai models convert FILE weights.safetensors"),
        (b"", "copy it again"),
        (b"version https://git-lfs.github.com/spec/v1", "copy it again"),
    ],
    ids=["archive", "pickle", "empty", "pointer"],
)
def test_what_is_no_safetensors_file_is_told_by_its_first_bytes(
    home: Path, tmp_path: Path, given: bytes, said: str
) -> None:
    card, _ = demo_version(tmp_path, "2", shift=0.5)
    (tmp_path / "given").write_bytes(given)
    assert said in " ".join(medai("register", card, "--weights", tmp_path / "given").output.split())
    if given[:2] != b"PK":
        assert medai("convert", tmp_path / "given", tmp_path / "out").exit_code == 1
        assert "unexpected" not in medai("convert", tmp_path / "given", tmp_path / "out").output


def test_without_a_stack_the_packaged_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDAI_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    rows = json.loads(medai("list", "--json").output)
    assert {row["state"] for row in rows} == {"packaged"}
    assert "DATABASE_URL is not set" in medai("promote", "demo-chest-xray@1").output
