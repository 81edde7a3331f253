"""What a model version is, and which one a study gets out of a set. No torch here.

The packaged versions lie in `catalog.toml`; those of a site's registry come as cards (`cards`).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from medai_pipeline.errors import ModelNotFound
from medai_pipeline.models.measured import calibration_of
from medai_pipeline.records import InputContract

PROGRAMS = ("torchscript", "export")  # kinds that bring a graph of their own
PACKAGED_WEIGHTS = Path(__file__).with_name("weights")
_TABLE = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model version. `architecture` and `options` are timm's; K classes in the order of the head's rows.

    `kind`: "timm", "torchxrayvision" (its state dicts), or a whole program, "torchscript" or "export" (`programs`).
    `codes` (K,) are "scheme:value", "" where a class has none; () leaves them to the table of findings.
    `prepared` is what registration found out about how this version is best computed, by machine kind.
    `thresholds` (K,) apply to the study's aggregated probability; `temperature` divides the logits.
    `aggregation` over a study's images: see `aggregation`. `members` makes it an ensemble: name@version -> weight.
    `weights_sha256` is None where the site supplies the weights, `features_sha256` where nobody has noted the file of what
    its training's features look like (`familiarity`). `dropout` is the head's, also for Monte Carlo sampling.
    `calibration` is what training measured on held-out images (`measured`), {} where nobody has.
    """

    name: str
    version: str
    architecture: str
    classes: tuple[str, ...]
    multi_label: bool
    contract: InputContract
    modality: tuple[str, ...]
    body_parts: tuple[str, ...]
    thresholds: tuple[float, ...]
    temperature: float = 1.0
    weights_sha256: str | None = None
    aggregation: str = "max"
    dropout: float = 0.2
    demo: bool = False
    licence: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "timm"
    codes: tuple[str, ...] = ()
    notes: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, float] = field(default_factory=dict)
    features_sha256: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def scopes(self) -> list[tuple[str, str]]:
        """(modality, body part) pairs that it is made for."""
        return [(modality, part) for modality in self.modality for part in self.body_parts]

    @property
    def weights_file(self) -> str:
        return f"{self.name}-{self.version}.safetensors"

    @property
    def card(self) -> Path | None:
        """The model card, where there is one."""
        path = PACKAGED_WEIGHTS / f"{self.name}-{self.version}.md"
        return path if path.is_file() else None


class Kind(NamedTuple):
    """What a model is chosen by: Modality, and the region of Body Part Examined ("" where it is not stated)."""

    modality: str
    body_part: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which model a study gets. `assumed`: the body part was not stated, so a person should look.

    Without a model `entry` is None and `reason` says why, in one line without identity.
    """

    entry: CatalogEntry | None
    reason: str = ""
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The versions in force at one moment. `active` ones answer, the first that is made for a study; `shadow` ones are
    asked beside them. `known` are all that may be named, those of older results too."""

    active: tuple[CatalogEntry, ...]
    shadow: tuple[CatalogEntry, ...] = ()
    known: tuple[CatalogEntry, ...] = ()

    def entry(self, name: str) -> CatalogEntry:
        """The model `name@version`; of a bare name the active version, else the first. Raises ModelNotFound."""
        wanted, _, version = name.partition("@")
        every = (*self.active, *self.shadow, *self.known)
        for candidate in every:
            if candidate.name == wanted and version in {"", candidate.version}:
                return candidate
        known = ", ".join(dict.fromkeys(candidate.label for candidate in every))
        raise ModelNotFound(
            f"no model {wanted!r}{' version ' + repr(version) if version else ''}: choose one of {known}"
        )

    def choose(self, modality: str, body_part: str) -> Choice:
        """The active version for images of one modality and body part.

        A body part that is not stated is assumed to be the model's, and the choice says so; where the modality has models of
        several body parts none is chosen: a chest must not be read as a head.
        """
        wanted = modality.strip().upper()
        of_modality = [model for model in self.active if wanted in model.modality]
        if not of_modality:
            return Choice(None, f"no model for modality {_word(wanted)}")
        part = region(body_part)
        if not part:
            if any(set(model.body_parts) - set(of_modality[0].body_parts) for model in of_modality):
                return Choice(None, f"body part not stated, and models for {_word(wanted)} of several are in force")
            return Choice(of_modality[0], "body part not stated", assumed=True)
        for model in of_modality:
            if part in model.body_parts:
                return Choice(model)
        return Choice(None, f"no model for {_word(wanted)} of {_word(part)}")

    def choose_among(self, kinds: Sequence[Kind]) -> tuple[Kind, Choice]:
        """Of a study's kinds of images, the most frequent first: the first that an active version covers, else the first;
        and what is chosen for it."""
        choices = [(kind, self.choose(*kind)) for kind in kinds]
        return next(((kind, choice) for kind, choice in choices if choice.entry), choices[0])

    def instead(self, entry: CatalogEntry) -> ModelSet:
        """These versions with `entry` active, in the place of those that are made for some of what it is made for."""
        mine = set(entry.scopes)
        return replace(self, active=(entry, *(other for other in self.active if not mine & set(other.scopes))))

    def beside(self, kinds: Sequence[Kind]) -> tuple[CatalogEntry, ...]:
        """The shadow versions that would read a study of these kinds of images (the most frequent first), were they active."""
        return tuple(model for model in self.shadow if self.instead(model).choose_among(kinds)[1].entry == model)


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All packaged models, demo ones first, as the table has them."""
    return tuple(_entry(row) for row in _table()["model"])


def entry(name: str) -> CatalogEntry:
    """The packaged model `name`, or `name@version`. Raises ModelNotFound that names the known ones."""
    return ModelSet((), known=catalog()).entry(name)


def packaged(preferred: Sequence[str] = ()) -> ModelSet:
    """The packaged models: `preferred` names first, then the demo ones.

    A clinical model is never chosen because its weights happen to lie there: the site names it (MEDAI_MODELS).
    Raises ModelNotFound for an unknown name.
    """
    return ModelSet((*(entry(name) for name in preferred), *(m for m in catalog() if m.demo)), known=catalog())


def region(body_part: str) -> str:
    """The body part as models name it (CHEST, BRAIN), or the word itself; "" when nothing is stated."""
    word = "".join(body_part.upper().split())
    synonyms = {synonym: part for part, words in _table()["body_parts"].items() for synonym in words}
    return synonyms.get(word, word)


def _word(text: str) -> str:
    """A code word fit for a reason: a defined term is short and of letters; anything else may be free text."""
    return text if text.isalnum() and len(text) <= 16 else "an unknown kind"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


def _entry(row: Mapping[str, Any]) -> CatalogEntry:
    values = dict(row)
    contract = InputContract(**values.pop("contract"))
    for key in ("classes", "modality", "body_parts"):
        values[key] = tuple(values[key])
    fitted = _fitted(f"{values['name']}-{values['version']}") if values.get("demo") else {}
    thresholds = tuple(fitted.get("thresholds") or values.pop("thresholds", None) or [0.5] * len(values["classes"]))
    return CatalogEntry(
        contract=contract,
        thresholds=thresholds,
        temperature=float(fitted.get("temperature", values.pop("temperature", 1.0))),
        weights_sha256=fitted.get("weights_sha256"),
        calibration=calibration_of(fitted["held_out"], values["multi_label"]) if fitted else {},
        **values,
    )


def _fitted(stem: str) -> dict[str, Any]:
    """What training found out about a demo model; nothing before it was trained."""
    path = PACKAGED_WEIGHTS / f"{stem}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
