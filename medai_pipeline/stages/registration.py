"""A model version before it may answer: its weights read, asked about fixed phantoms, timed, and its maps put to the test.

Everything is found out here, so that no study finds it out: what does not fit is refused with the reason.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import ModelError, UnsupportedImage, WeightsMissing, WeightsRefused
from medai_pipeline.records import Instance

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry
    from medai_pipeline.models.load import LoadedModel

SEEDS = (1001, 1002)
_KINDS = {"DX": "chest-xray", "CR": "chest-xray", "RG": "chest-xray", "CT": "chest-ct", "MR": "brain-mr"}
_DIGITS = 4  # of a probability that count for the digest: the last bits are the machine's
_BATCH = 8
_LEAST_SECONDS = 0.5  # of measuring
_TOLD = "a study unlike its training is sent to a person"
_NOT_TOLD = (
    "no out-of-distribution score: no .features file beside the weights, so nobody tells a study unlike its training"
)


@dataclass(frozen=True, slots=True)
class Examined:
    """A version that passed. `entry` names its digest; `measured` is for people and for estimates of time:

    `outputs_sha256` of the probabilities for the fixed phantoms, `images_per_second` (of the contract's size, in batches
    of 8, eager), `seconds_to_load`, `weights_mb`, `memory_mb` (what the process grew by), `maps_agreement` (of maps with
    those of shuffled weights; None where it has none), `maps` and `novelty` (a sentence each). `features` are the bytes of
    what its training's features look like, None where nobody knows.
    """

    entry: CatalogEntry
    data: bytes
    measured: Mapping[str, Any]
    features: bytes | None = None


def examine(
    entry: CatalogEntry, weights: Path, features: Path | None = None, accept_maps: bool = False, gpu: bool = False
) -> Examined:
    """Reads, asks and measures a version. `accept_maps` lets one pass whose maps do not depend on what it learned.

    `features` names what its training's features look like, where that does not lie beside the weights.
    Raises WeightsMissing, WeightsRefused (digest, names, shapes, values, class count, answers that are not numbers or not
    the same twice) and ModelError.
    """
    from medai_pipeline.models.familiarity import beside, digest_of
    from medai_pipeline.models.load import load_anew
    from medai_pipeline.models.measure import memory_mb

    if not weights.is_file():
        raise WeightsMissing(f"there is no file {weights.name}: name the weights with --weights")
    features = features or beside(weights, entry)
    data, before, begun = weights.read_bytes(), memory_mb(), time.perf_counter()
    model = load_anew(entry, weights, "cuda" if gpu else "cpu", features)
    loaded = time.perf_counter() - begun
    images = phantom_images(entry)
    first, again = _answers(model, images), _answers(load_anew(entry, weights, model.device, features), images)
    if not np.array_equal(first.round(_DIGITS), again.round(_DIGITS)):
        raise WeightsRefused(
            f"{entry.label} answers the same images differently when loaded twice: its weights are not complete, or it draws "
            "at random; export it in evaluation mode"
        )
    agreement, words = _maps(model, images, accept_maps)
    measured = {
        "device": model.device,
        "outputs_sha256": _digest(first),
        "images_per_second": round(_images_per_second(model, images), 2),
        "seconds_to_load": round(loaded, 2),
        "weights_mb": round(len(data) / 1e6, 2),
        "memory_mb": round(max(memory_mb() - before, 0), 1),
        "maps_agreement": agreement,
        "maps": words,
        "novelty": _TOLD if model.familiarity else _NOT_TOLD,
    }
    known = features.read_bytes() if features else None
    noted = replace(entry, weights_sha256=model.weights_sha256, features_sha256=digest_of(known) if known else None)
    return Examined(noted, data, measured, known)


def examine_ensemble(
    entry: CatalogEntry, members: Sequence[CatalogEntry], models_path: Path, gpu: bool = False
) -> Mapping[str, Any]:
    """Asks all members about the fixed images, one after the other as for a study; what that measured, as `Examined` has it.

    Raises ModelError as `load` does for a member whose weights are not here, and for answers that are not numbers.
    """
    from medai_pipeline.models.ensemble import ranked
    from medai_pipeline.models.load import load, weights_path
    from medai_pipeline.models.measure import memory_mb

    before, begun = memory_mb(), time.perf_counter()
    models = [load(member, models_path, "cuda" if gpu else "cpu", prepared=False) for member in members]
    loaded = time.perf_counter() - begun
    images = phantom_images(entry)
    weights = list(ranked(entry).values())
    answers = np.average([_answers(model, images) for model in models], axis=0, weights=weights).astype(np.float32)
    seconds = sum(1 / _images_per_second(model, images) for model in models)
    return {
        "device": models[0].device,
        "outputs_sha256": _digest(answers),
        "images_per_second": round(1 / seconds, 2),
        "seconds_to_load": round(loaded, 2),
        "weights_mb": round(sum(weights_path(member, models_path).stat().st_size for member in members) / 1e6, 2),
        "memory_mb": round(max(memory_mb() - before, 0), 1),
    }


def _digest(probabilities: np.ndarray) -> str:
    return hashlib.sha256(probabilities.round(_DIGITS).astype("<f4").tobytes()).hexdigest()


def phantom_images(entry: CatalogEntry) -> np.ndarray:
    """Fixed images float32 (N, C, H, W) by the version's contract: phantoms of its first modality, shapes and noise where
    there are none.

    Raises WeightsRefused when images of one of its modalities cannot be brought to its contract: no study of it could be.
    """
    from medai_pipeline.dicom.pixels import prepare
    from medai_pipeline.phantoms.studies import make_study, to_bytes

    kinds = {_KINDS[modality]: modality for modality in reversed(entry.modality) if modality in _KINDS}
    one = Instance("1", "1", "1", "", "", "", "")  # what a tensor comes from does not matter here
    made: dict[str, list[np.ndarray]] = {}
    for kind, modality in reversed(kinds.items()):
        studies = [make_study(kind, seed, slices=None if kind == "chest-xray" else 2) for seed in SEEDS]
        try:
            found = [prepare(to_bytes(file), one, entry.contract) for study in studies for file in study.datasets]
        except UnsupportedImage as error:
            raise WeightsRefused(
                f"{entry.label} could read no {modality} image: its contract (scaling {entry.contract.scaling!r}) does not "
                f"take them ({error.reason}); correct the card"
            ) from error
        made[kind] = [tensor for frames in found for tensor, _ in frames]
    return np.stack(next(iter(made.values()))) if made else _drawn(entry)


def _drawn(entry: CatalogEntry) -> np.ndarray:
    contract, random = entry.contract, np.random.default_rng(SEEDS[0])
    shape = (3, contract.channels, contract.height, contract.width)
    ramp = np.linspace(0, 1, contract.width, dtype=np.float32)
    images = random.random(shape, np.float32) * 0.2 + 0.8 * ramp
    return (images * (contract.high - contract.low) + contract.low).astype(np.float32)


def _answers(model: LoadedModel, images: np.ndarray) -> np.ndarray:
    """Probabilities (N, K), each finite: `predict` refuses others."""
    from medai_pipeline.models.infer import predict

    answers = predict(model, images, _BATCH).probabilities
    if answers.shape != (len(images), len(model.entry.classes)):
        raise WeightsRefused(
            f"{model.entry.label} answers {answers.shape[1]} classes, its card names {len(model.entry.classes)}"
        )
    return answers


def _images_per_second(model: LoadedModel, images: np.ndarray) -> float:
    batch = np.resize(images, (_BATCH, *images.shape[1:]))
    begun, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < _LEAST_SECONDS:
        _answers(model, batch)
        done += _BATCH
    return done / spent


def _maps(model: LoadedModel, images: np.ndarray, accept: bool) -> tuple[float | None, str]:
    """Whether heatmaps follow from what was learned (Adebayo 2018), for the class that the phantoms show most."""
    from medai_pipeline.explain.network import Network
    from medai_pipeline.explain.randomization import MOST_AGREEMENT, randomized_agreement
    from medai_pipeline.models.catalog import PROGRAMS
    from medai_pipeline.models.infer import predict

    if model.entry.kind in PROGRAMS:
        return None, "a program has no heatmaps"

    def answer(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        said = predict(model, batch, _BATCH)
        return said.probabilities, said.logits, said.features

    most = int(_answers(model, images).max(axis=0).argmax())
    try:
        found = randomized_agreement(Network(model.network, answer, model.device), list(images), most)
    except ModelError as error:
        return None, f"no heatmaps: {error.reason}"
    agreement = round(found, 3)
    if agreement <= MOST_AGREEMENT:
        return agreement, "they depend on what was learned"
    words = f"maps of {model.entry.label} hardly change when its weights are shuffled ({agreement:.2f}, limit {MOST_AGREEMENT})"
    if not accept:
        raise ModelError(
            f"{words}: they would show the image, not the finding. Register it with --accept-insensitive-maps if it is worth "
            "having without them"
        )
    return agreement, "accepted although they hardly depend on what was learned"
