"""Which models there are, what each expects, and which one a study gets. Data lies in `catalog.toml`. No torch here."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from medai_pipeline.errors import ModelNotFound
from medai_pipeline.records import InputContract

PACKAGED_WEIGHTS = Path(__file__).with_name("weights")
_TABLE = Path(__file__).with_name("catalog.toml")


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model version. `architecture` and `options` are timm's; K classes in the order of the head's rows.

    `thresholds` (K,) apply to the study's aggregated probability; `temperature` divides the logits.
    `aggregation` over a study's images: "max", "top3-mean" or "noisy-or".
    `weights_sha256` is None where the site supplies the weights. `dropout` is the head's, also for Monte Carlo sampling.
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

    @property
    def weights_file(self) -> str:
        return f"{self.name}-{self.version}.safetensors"

    @property
    def card(self) -> Path | None:
        """The model card, where there is one."""
        path = PACKAGED_WEIGHTS / f"{self.name}-{self.version}.md"
        return path if path.is_file() else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which model a study gets. `assumed`: the body part was not stated, so a person should look.

    Without a model `entry` is None and `reason` says why, in one line without identity.
    """

    entry: CatalogEntry | None
    reason: str = ""
    assumed: bool = False


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All models, demo ones first, as the table has them."""
    return tuple(_entry(row) for row in _table()["model"])


def entry(name: str) -> CatalogEntry:
    """The model `name`, or `name@version`. Raises ModelNotFound that names the known ones."""
    wanted, _, version = name.partition("@")
    for candidate in catalog():
        if candidate.name == wanted and version in {"", candidate.version}:
            return candidate
    known = ", ".join(f"{known.name}@{known.version}" for known in catalog())
    raise ModelNotFound(f"no model {wanted!r}{' version ' + repr(version) if version else ''}: choose one of {known}")


def choose(modality: str, body_part: str, preferred: Sequence[str] = ()) -> Choice:
    """The model for images of one modality and body part: the first of `preferred` names made for them, else a demo model.

    A clinical model is never chosen because its weights happen to lie there: the site names it (MEDAI_MODELS). A body part
    that is not stated is assumed to be the model's, and the choice says so. Raises ModelNotFound for an unknown name.
    """
    wanted = modality.strip().upper()
    candidates = [*(entry(name) for name in preferred), *(model for model in catalog() if model.demo)]
    of_modality = [model for model in candidates if wanted in model.modality]
    if not of_modality:
        return Choice(None, f"no model for modality {_word(wanted)}")
    part = region(body_part)
    if not part:
        return Choice(of_modality[0], "body part not stated", assumed=True)
    for model in of_modality:
        if part in model.body_parts:
            return Choice(model)
    return Choice(None, f"no model for {_word(wanted)} of {_word(part)}")


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
        **values,
    )


def _fitted(stem: str) -> dict[str, Any]:
    """What training found out about a demo model; nothing before it was trained."""
    path = PACKAGED_WEIGHTS / f"{stem}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
