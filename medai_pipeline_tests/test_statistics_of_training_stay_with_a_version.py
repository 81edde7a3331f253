"""What a version's training looked like: taken from beside its weights, kept by its digest, checked, and missed aloud."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from medai_pipeline.errors import RegistryRefused, WeightsRefused
from medai_pipeline.local.model_commands import require_weights
from medai_pipeline.models import familiarity
from medai_pipeline.models.cards import from_card
from medai_pipeline.models.catalog import CatalogEntry, entry
from medai_pipeline.models.load import LoadedModel, features_path, keep_only, load, stored_features, weights_path
from medai_pipeline.models.network import build, head_of
from medai_pipeline.registering import entry_of, register, register_packaged
from medai_pipeline.services import Services
from medai_pipeline.stages.registration import Examined, examine
from medai_pipeline_tests.model_versions import CARD, small_network, write_weights

FEATURES = 16  # what the head of the small network sees


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"), small_network(), "small-chest-1.safetensors")


def described(path: Path, size: int = FEATURES, seed: int = 0) -> str:
    """A .features file; its SHA-256."""
    pooled = np.random.default_rng(seed).normal(size=(60, size))
    familiarity.write(familiarity.described([pooled]), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def examined(weights: Path, **changes: object) -> Examined:
    return examine(from_card({**CARD, **changes}), weights, accept_maps=True)


def loaded(known: CatalogEntry, cli_services: Services) -> LoadedModel:
    """As another process would."""
    keep_only(())
    return load(known, cli_services.settings.models_path)


def test_what_training_wrote_beside_the_weights_is_taken_kept_and_checked(
    cli_services: Services, weights: Path
) -> None:
    beside, path = weights.with_suffix(".features"), cli_services.settings.models_path
    digest = described(beside)
    made = examined(weights)
    assert made.measured["novelty"] == "a study unlike its training is sent to a person"
    assert register(cli_services.registry, made, path, "ann", cli_services.now())
    row = cli_services.registry.version("small-chest", "1")
    known = entry_of(row)
    described(beside, seed=1)
    with pytest.raises(RegistryRefused, match="another card"):  # the same version with other statistics
        register(cli_services.registry, examined(weights), path, "ann", cli_services.now())
    beside.unlink()
    model = loaded(known, cli_services)
    assert known.features_sha256 == digest and model.familiarity is not None
    stored_features(path, digest).write_bytes(b"another")
    for ask in (lambda: loaded(known, cli_services), lambda: require_weights(row, cli_services)):
        with pytest.raises(WeightsRefused, match=r"\.features has digest .*, expected .*: restore the file"):
            ask()
    stored_features(path, digest).unlink()
    for ask in (lambda: loaded(known, cli_services), lambda: require_weights(row, cli_services)):
        with pytest.raises(WeightsRefused, match=r"put the \.features file back"):
            ask()


def test_a_version_without_them_says_so_and_those_of_another_network_are_refused(weights: Path, tmp_path: Path) -> None:
    made = examined(weights)
    assert made.measured["novelty"].startswith("no out-of-distribution score") and made.features is None
    with pytest.raises(
        WeightsRefused, match=r"put the \.features file back"
    ):  # training names them: they were left behind
        examined(weights, features_sha256="0" * 64)
    described(tmp_path / "other.features", FEATURES + 1)
    with pytest.raises(WeightsRefused, match="of another network"):
        examine(from_card(CARD), weights, tmp_path / "other.features", accept_maps=True)


def test_a_sites_model_named_in_the_settings_keeps_them_too(cli_services: Services) -> None:
    known, path = entry("brain-mr-densenet121"), cli_services.settings.models_path
    path.mkdir(parents=True)
    network = build(known)
    write_weights(path, network, known.weights_file)
    described(path / familiarity.features_file(known), head_of(network).in_features)
    register_packaged(cli_services.registry, (known.name,), path, cli_services.now())
    for file in path.glob(f"{known.name}-*"):
        file.unlink()  # the copies by digest are left
    kept = entry_of(cli_services.registry.version(known.name))
    found = features_path(kept, weights_path(kept, path), path)
    assert found and familiarity.read(found, kept.features_sha256) is not None
