"""Small model versions for tests: a card and its weights, of the architecture of the demo models but smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from medai_pipeline.models.cards import from_card, to_card
from medai_pipeline.models.catalog import PACKAGED_WEIGHTS, CatalogEntry, entry
from medai_pipeline.models.network import build

CARD: dict[str, Any] = {
    "name": "small-chest",
    "version": "1",
    "architecture": "resnet10t",
    "options": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "classes": ["Pneumothorax", "Effusion"],
    "thresholds": [0.5, 0.6],
    "multi_label": True,
    "contract": {"height": 64, "width": 64, "scaling": "xray"},
    "modality": ["DX", "CR", "RG"],
    "body_parts": ["CHEST"],
    "licence": "Apache-2.0",
}


def write_card(folder: Path, card: dict[str, Any], name: str = "card.toml") -> Path:
    """The card as TOML: values as JSON are TOML too, but for tables, which come inline."""

    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{ " + ", ".join(f"{json.dumps(key)} = {value(inner)}" for key, inner in of.items()) + " }"
        return json.dumps(of)

    path = folder / name
    path.write_text("".join(f"{key} = {value(of)}\n" for key, of in card.items() if of is not None))
    return path


def small_network(seed: int = 0, **changes: Any) -> torch.nn.Module:
    """The card's network with random weights that differ enough for its maps to mean something."""
    torch.manual_seed(seed)
    return build(from_card({**CARD, **changes}))


def write_weights(folder: Path, network: torch.nn.Module, name: str = "weights.safetensors") -> Path:
    path = folder / name
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, str(path))
    return path


def demo_version(folder: Path, version: str, shift: float, name: str = "demo-chest-xray") -> tuple[Path, Path]:
    """A further version of a packaged demo model: the same network, its head's bias shifted. (card, weights)."""
    known = entry(name)
    state = load_file(str(PACKAGED_WEIGHTS / known.weights_file))
    head = next(key for key in state if key.endswith("fc.bias"))
    state[head] = state[head] + shift
    weights = folder / f"{name}-{version}.safetensors"
    save_file(state, str(weights))
    card = {**to_card(known), "version": version, "weights_sha256": None}
    return write_card(folder, card, f"{name}-{version}.toml"), weights


def small_site(folder: Path, **changes: Any) -> CatalogEntry:
    """The card's model as a site has it: its weights lie in `folder` (MODEL_PATH) by their name."""
    known = from_card({**CARD, **changes})
    write_weights(folder, small_network(**changes), known.weights_file)
    return known
