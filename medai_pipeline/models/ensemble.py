"""Several models that answer together: the weighted mean of their probabilities, and how far they disagree.

An ensemble is a catalog entry with `members` and without weights of its own. Its members see the same tensor and name the
same classes in the same order. The member of most weight explains: its features and key images are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medai_pipeline.errors import ModelError
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.uncertainty import spread_of
from medai_pipeline.records import ModelRef, StudyPrediction


def check_members(known: CatalogEntry, members: Sequence[CatalogEntry], new: bool = False) -> None:
    """Raises ModelError that names the member that does not fit the ensemble, and why. A `new` one may be for no more than
    what each of its members is made for."""
    if len(members) < 2 or min(known.members.values(), default=0) <= 0:
        raise ModelError(f"{known.name}: an ensemble needs two members or more, each of a weight above 0")
    for member in members:
        for what in ("contract", "classes", "multi_label"):
            if getattr(member, what) != getattr(known, what):
                raise ModelError(f"{known.name}: its member {member.name}@{member.version} has another {what}")
        beyond = sorted(set(known.scopes) - set(member.scopes))
        if new and beyond:
            words = ", ".join(f"{modality} {part}" for modality, part in beyond)
            raise ModelError(f"{known.name}: its member {member.name}@{member.version} is not made for {words}")
        if member.members:
            raise ModelError(f"{known.name}: its member {member.name} is an ensemble itself; name the models in it")


def ranked(known: CatalogEntry) -> dict[str, float]:
    """The members by weight, the greatest first, and by name: an order that storage cannot change."""
    return dict(sorted(known.members.items(), key=lambda member: (-member[1], member[0])))


def combine(known: CatalogEntry, answers: Sequence[StudyPrediction]) -> StudyPrediction:
    """What the members said about one study, in the order of `ranked`, as one prediction.

    `uncertainty` is the standard deviation of the mixture: what each member is unsure of, as far as it was sampled, and
    where they lie apart.
    `disagreement` is the second part alone; `information` what they disagree about in nats (see `Spread`).
    """
    weights = np.array(list(ranked(known).values()), np.float64)
    weights /= weights.sum()
    study = np.stack([answer.probabilities for answer in answers]).astype(np.float64)
    apart = spread_of(study[:, None], known.multi_label, weights)
    inner = np.average([_variance(answer) for answer in answers], axis=0, weights=weights)
    deviation = np.minimum(np.sqrt(inner + apart.deviation[0].astype(np.float64) ** 2), 0.5)
    images = np.average([answer.image_probabilities for answer in answers], axis=0, weights=weights)
    novelties = [answer.novelty for answer in answers if answer.novelty is not None]
    return replace(
        answers[0],
        model=ModelRef(known.name, known.version, digest_of([answer.model for answer in answers])),
        members=tuple(replace(answer.model, role="ensemble") for answer in answers),
        image_probabilities=images.astype(np.float32),
        probabilities=np.average(study, axis=0, weights=weights).astype(np.float32),
        uncertainty=deviation.astype(np.float32),
        entropy=apart.entropy[0],
        information=apart.information[0],
        disagreement=apart.deviation[0],
        thresholds=np.asarray(known.thresholds, np.float32),
        novelty=max(novelties, default=None),
        demo=any(answer.demo for answer in answers),
    )


def _variance(answer: StudyPrediction) -> np.ndarray:
    """(K,); none that is known of a member that was not sampled."""
    if answer.uncertainty is None:
        return np.zeros(len(answer.labels))
    return answer.uncertainty.astype(np.float64) ** 2


def digest_of(members: Sequence[ModelRef]) -> str:
    """SHA-256 over the members' weights: another member is another ensemble."""
    return hashlib.sha256("\n".join(member.weights_sha256 for member in members).encode()).hexdigest()
