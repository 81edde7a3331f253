"""The way of a result as a row of links, from the bytes that arrived to the delivery: what report.html draws.

`medai lineage` and the view `medai.lineage` say the same of a report that is stored; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 2  # digests of a link; report.json has all


@dataclass(frozen=True, slots=True)
class Link:
    """One step. `says`: a line of words; `digests`: whole SHA-256s, the first ones; `more`: how many are not among them."""

    title: str
    says: str
    digests: tuple[str, ...] = ()
    more: int = 0
    done: bool = True


def chain(content: Mapping[str, Any]) -> list[Link]:
    """From the content of report.json. A report is made before anybody has reviewed it and before it is delivered."""
    lineage, checks, models = content["lineage"], content["quality"]["checks"], content["models"]
    passed = sum(check["passed"] for check in checks)
    sources = lineage["source_sha256"]
    return [
        _link("Source bytes", f"{len(sources)} file{'' if len(sources) == 1 else 's'} as received", sources),
        Link("De-identified", f"{lineage['profile']}; code {lineage['code_version']}"),
        _tensor(lineage["tensor"]),
        _link("Weights", ", ".join(f"{m['name']} {m['version']}" for m in models) or "no model answered",
              [m["weights_sha256"] for m in models], done=bool(models)),
        Link("Checks", f"{passed} of {len(checks)} passed"),
        Link("Triage rules", f"version {content['rules_version']}: {content['priority']}"),
        Link("Review", "none yet when this report was made", done=False),
        Link("Delivery", "none yet when this report was made", done=False),
    ]  # fmt: skip


def _tensor(tensor: Mapping[str, Any] | None) -> Link:
    if tensor is None:
        return Link("Tensor", "no image was given to a model", done=False)
    images, *shape = tensor["shape"]
    size = " x ".join(map(str, shape))
    return Link(
        "Tensor", f"{images} image{'' if images == 1 else 's'} of {size}, {tensor['scaling']}", (tensor["sha256"],)
    )


def _link(title: str, says: str, digests: Sequence[str], done: bool = True) -> Link:
    return Link(title, says, tuple(digests[:SHOWN]), max(0, len(digests) - SHOWN), done)
