"""A checkpoint from elsewhere brought to the names an architecture has: wrappers taken off, prefixes recognised, heads compared.

Safetensors are read as they are. A pickle is read only by `convert`, which a person calls, and then as tensors alone
(`weights_only`). Nothing is ever loaded in part: what differs is listed and refused.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai_pipeline.errors import WeightsRefused

if TYPE_CHECKING:
    import torch

# What training frameworks put a state dict into, and before its names.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema", "model_ema")
_COUNTERS = "num_batches_tracked"
_SHOWN = 4  # names of a kind in a message


def convert(source: Path, target: Path) -> tuple[str, ...]:
    """A .pt, .pth or .ckpt of tensors as safetensors: what was done, a line each. Only tensors are unpickled.

    Raises WeightsRefused when the file holds more than tensors and plain containers, or no state dict.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        held = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsRefused(
            f"{source.name} is not a checkpoint of tensors alone ({type(error).__name__}): save its state_dict() where it"
            " was made, and convert that"
        ) from error
    wrapper, state = unwrapped(held)
    shared = {name: value.detach().clone().contiguous() for name, value in state.items()}
    try:
        save_file(shared, str(target))
    except (OSError, SafetensorError) as error:
        raise WeightsRefused(f"{target} cannot be written: name a file in a folder that is there") from error
    taken = [f"taken out of {wrapper!r}"] if wrapper else []
    return (*taken, f"{len(state)} tensors written")


def unwrapped(held: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """The state dict inside of what was saved, and the way to it ("" when it was saved bare). Raises WeightsRefused."""
    way: list[str] = []
    while isinstance(held, Mapping):
        tensors = {str(name): value for name, value in held.items() if hasattr(value, "shape")}
        if tensors:
            return ".".join(way), tensors
        inner = next((key for key in WRAPPERS if isinstance(held.get(key), Mapping)), None)
        if inner is None:
            raise WeightsRefused(
                f"no state dict found: the file holds {', '.join(map(str, list(held)[:_SHOWN])) or 'nothing'}"
            )
        way.append(inner)
        held = held[inner]
    raise WeightsRefused("no state dict found: the file holds a whole object, not its weights")


def matched(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> tuple[dict[str, torch.Tensor], str]:
    """The state under the architecture's own names, and the prefix that was taken off ("" for none).

    Complete, of the right shapes and finite, or WeightsRefused with a list of what differs; a head of another size is
    named as such.
    """
    prefix = max(_prefixes(state, expected), key=lambda found: (found[1], -len(found[0])), default=("", 0))[0]
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if prefix:
        own.update({name: value for name, value in state.items() if not name.startswith(prefix)})
    needed = {name for name in expected if not name.endswith(_COUNTERS)}
    differs = {
        "missing": sorted(needed - set(own)),
        "unknown": sorted(set(own) - set(expected)),
        "of another shape": sorted(
            f"{name} {tuple(own[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in needed & set(own)
            if own[name].shape != expected[name].shape
        ),
        "not finite": sorted(name for name, value in own.items() if not bool(value.isfinite().all())),
    }
    found = [f"{kind}: {_some(names)}" for kind, names in differs.items() if names]
    if found:
        raise WeightsRefused(f"weights of {what} do not fit ({'; '.join(found)}){_head(own, expected)}")
    return own, prefix


def from_torchxrayvision(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """TorchXRayVision's names as torchvision's and timm's: its operating points are taken off (they are the card's
    thresholds), and the dotted names of the oldest DenseNet files (norm.1) are written as today (norm1)."""
    import re

    dotted = re.compile(r"((?:norm|relu|conv))\.(\d\.)")
    return {dotted.sub(r"\1\2", name): value for name, value in state.items() if name.split(".")[-1] != "op_threshs"}


def _prefixes(state: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every beginning after which a name is one of the architecture's, with how many names it brings home."""
    ends = {name.rsplit(".", 2)[-1]: None for name in expected}
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for at in range(len(parts)):
            if parts[-1] in ends and ".".join(parts[at:]) in expected:
                counts[".".join(parts[:at]) + ("." if at else "")] += 1
    yield from counts.items()


def _head(own: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Says it when all that differs is the number of classes."""
    wrong = [n for n in expected if n in own and own[n].shape != expected[n].shape]
    if wrong and all(own[n].shape[1:] == expected[n].shape[1:] for n in wrong) and len(wrong) <= 2:
        theirs, ours = own[wrong[0]].shape[0], expected[wrong[0]].shape[0]
        return f": it was made for {theirs} classes, not {ours}"
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
