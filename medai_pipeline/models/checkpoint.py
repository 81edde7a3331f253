"""A checkpoint from elsewhere brought to the names an architecture has: wrappers taken off, prefixes recognised, heads compared.

Safetensors are read as they are. A pickle is read only by `convert`, which a person calls, and then as tensors alone
(`weights_only`). Nothing is ever loaded in part: what differs is listed and refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai_pipeline.errors import WeightsRefused

if TYPE_CHECKING:
    import torch

# What training frameworks put a state dict into, and before its names. Where a file holds several, the first is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema", "model_ema")
_COUNTERS = "num_batches_tracked"
_DEEPEST = 4  # wrappers in one another
_SHOWN = 4  # names of a kind in a message
_LISTED = 24  # names of what was left out


def convert(source: Path, target: Path, overwrite: bool = False) -> tuple[str, ...]:
    """A .pt, .pth or .ckpt of tensors as safetensors: what was done and what was left out, a line each. Only tensors are
    unpickled, and the target is whole or as it was.

    Raises WeightsRefused when the target is the source, or is there without `overwrite`; when the file holds more than
    tensors and plain containers, or no state dict. Raises StorageFull or StorageError when it cannot be written.
    """
    from medai_pipeline.models.whole_file import not_written, replace_whole

    try:
        _require_new(source, target, overwrite)
        wrapper, state, left = unwrapped(_opened(source))
        replace_whole(target, _as_safetensors(state, source.name))
    except OSError as error:
        raise not_written(str(target), error, "name a file in a folder that is there and may be written to") from error
    taken = [f"taken out of {wrapper!r}"] if wrapper else []
    return (*taken, f"{_many(len(state), 'tensor')} written", *_left_out(left))


def _left_out(left: Mapping[str, int]) -> Iterator[str]:
    """A line, with what holds most tensors first; none where nothing was left out."""
    by_tensors = sorted(left.items(), key=lambda one: -one[1])
    names = [f"{name} ({_many(many, 'tensor')})" if many else name for name, many in by_tensors]
    if names:
        yield f"left out, {_many(len(names), 'name')}: {_some(names, _LISTED)}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _require_new(source: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and target.samefile(source):
        raise WeightsRefused(f"{target} is the checkpoint itself: name another file for the result")
    if not overwrite and (target.exists() or target.is_symlink()):
        raise WeightsRefused(f"{target} is there already: name another file, or say --overwrite to replace it")


def _opened(source: Path) -> Any:
    import torch

    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # of bytes that are no checkpoint torch raises whatever they lead it into
        raise WeightsRefused(
            f"{source.name} is not a checkpoint of tensors alone, or it is damaged ({type(error).__name__}): save its"
            " state_dict() where it was made, and convert that"
        ) from error


def _as_safetensors(state: Mapping[str, torch.Tensor], where: str) -> bytes:
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        return save({name: value.detach().clone().contiguous() for name, value in state.items()})
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:  # sparse, quantized, without data, ...
        raise WeightsRefused(
            f"{where} holds tensors that safetensors has no form for ({type(error).__name__}): save plain, dense ones"
        ) from error


def unwrapped(held: Any) -> tuple[str, dict[str, torch.Tensor], dict[str, int]]:
    """The state dict inside of what was saved, and the way to it ("" when it was saved bare); then what else lies on that
    way, by name, with how many tensors it holds. A wrapper goes before tensors beside it. Raises WeightsRefused."""
    import torch

    if not isinstance(held, Mapping):
        raise WeightsRefused(
            "no state dict found (the file holds a whole object, not its weights): save the network's state_dict() alone,"
            " and convert that"
        )
    way, left = _way(held), {}
    if way is None:
        raise WeightsRefused(
            f"no state dict found (the file holds {_some([str(name) for name in held]) or 'nothing'}): save the"
            " network's state_dict() alone, and convert that"
        )
    for deep, key in enumerate(way):
        left.update(_counted({name: value for name, value in held.items() if name != key}, way[:deep]))
        held = held[key]
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    beside = _counted({name: value for name, value in held.items() if name not in tensors}, way)
    if len({str(name) for name in tensors}) < len(tensors) or max(beside.values(), default=0) > len(tensors):
        raise WeightsRefused(
            f"it is not clear which tensors are the weights ({_some([str(name) for name in held])}): save the network's"
            " state_dict() alone, and convert that"
        )
    return ".".join(way), {str(name): value for name, value in tensors.items()}, left | beside


def _way(held: Any, within: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The wrappers around a state dict, from the outside; None where there is none. Figures such as a best accuracy, which
    have no dimension, make no state dict."""
    if not isinstance(held, Mapping) or len(within) > _DEEPEST:
        return None
    inside = (_way(held.get(key), (*within, key)) for key in WRAPPERS)
    found = next((way for way in inside if way is not None), None)
    bare = any(getattr(value, "ndim", 0) for value in held.values())
    return found or (within if bare else None)


def _counted(held: Mapping[Any, Any], way: tuple[str, ...]) -> dict[str, int]:
    return {".".join([*way, str(name)]): _tensors_in(value) for name, value in held.items()}


def _tensors_in(held: Any) -> int:
    """However deep they lie. Each container is looked into once: a pickle may hold itself."""
    import torch

    count, seen, todo = 0, set(), [held]
    while todo:
        one = todo.pop()
        if isinstance(one, torch.Tensor):
            count += 1
        elif isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            todo += one.values() if isinstance(one, Mapping) else one
    return count


def matched(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str
) -> tuple[dict[str, torch.Tensor], str]:
    """The state under the architecture's own names, and the prefix that was taken off ("" for none).

    Complete and nothing besides, of the right shapes, floating point where the architecture is, and finite there; or
    WeightsRefused with a list of what differs. A head of another size is named as such.
    """
    prefix = max(_prefixes(state, expected), key=lambda found: (found[1], -len(found[0])), default=("", 0))[0]
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = sorted(name for name in state if not name.startswith(prefix))
    needed = {name for name in expected if not name.endswith(_COUNTERS)}
    shared = sorted(set(expected) & set(own))
    kin = [name for name in shared if _same_kind(name, own[name], expected[name])]
    differs = {
        f"outside of {prefix!r}": outside,
        "missing": sorted(needed - set(own)),
        "unknown": sorted(set(own) - set(expected)),
        "of another shape": [
            f"{name} {tuple(own[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in shared
            if own[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name} {_type(own[name])} instead of {_type(expected[name])}" for name in shared if name not in kin
        ],
        "not finite": [name for name in kin if not _finite(own[name], expected[name])],
    }
    found = [f"{kind}: {_some(names)}" for kind, names in differs.items() if names]
    if found:
        remedy = "; save the state_dict() of that network alone" if outside else ""
        raise WeightsRefused(f"weights of {what} do not fit ({'; '.join(found)}){_head(own, expected)}{remedy}")
    return own, prefix


def _same_kind(name: str, value: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Numbers that stay what they are when they are copied. A batch counter may be either: no answer depends on it."""
    if value.is_complex():
        return False
    return name.endswith(_COUNTERS) or value.is_floating_point() == wanted.is_floating_point()


def _finite(value: torch.Tensor, wanted: torch.Tensor) -> bool:
    """As it will be used: 1e300 is a number in float64 and none in float32."""
    used = value.to(wanted.dtype) if wanted.is_floating_point() else value
    return bool(used.isfinite().all())


def _type(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def from_torchxrayvision(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """TorchXRayVision's names as torchvision's and timm's: its operating points are taken off (they are the card's
    thresholds), and the dotted names of the oldest DenseNet files (norm.1) are written as today (norm1)."""
    import re

    dotted = re.compile(r"((?:norm|relu|conv))\.(\d\.)")
    kept = {name: value for name, value in state.items() if name.split(".")[-1] != "op_threshs"}
    renamed = {dotted.sub(r"\1\2", name): value for name, value in kept.items()}
    return renamed if len(renamed) == len(kept) else kept  # two of one name: `matched` lists them


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


def _some(names: list[str], shown: int = _SHOWN) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
