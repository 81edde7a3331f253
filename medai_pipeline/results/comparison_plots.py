"""Two model versions side by side as pictures: PNG bytes, numbers only, each marked as for research."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

_POINTS = 6000  # more than these lie over each other
_SIDE_INCHES, _DPI = 4.4, 80  # Dagster keeps the pictures for ever: they stay small


def probabilities_plot(old: str, new: str, shifts: pl.DataFrame, size: float = _SIDE_INCHES) -> bytes:
    """A point a finding of a study: on the diagonal nothing changed.

    `shifts`: columns label, old and new (probabilities 0..1), old_present and new_present. Of very many points those that
    flipped are drawn first, and the title says how many there are.
    """
    import polars as pl
    from matplotlib.figure import Figure

    drawn, count = _drawn(shifts.with_columns(flipped=pl.col("old_present") != pl.col("new_present")))
    figure = Figure(figsize=(size, size), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=1)
    for number, label in enumerate(drawn["label"].unique().sort()):
        mine = drawn.filter(pl.col("label") == label)
        rings = ["black" if flipped else "none" for flipped in mine["flipped"]]
        kind = "osD^"[number // 10 % 4]  # ten colours are all there are
        axes.scatter(
            mine["old"].to_numpy(), mine["new"].to_numpy(), s=22, marker=kind, color=f"C{number % 10}", edgecolors=rings,
            linewidths=1.2, label=label, zorder=2,
        )  # fmt: skip
    some = f", {drawn.height:,} of {count:,}" if drawn.height < count else ""
    axes.set(
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=old, ylabel=new, title=f"Probabilities; ringed: flipped{some}"
    )
    axes.set_aspect("equal")
    if count:
        axes.legend(fontsize=7, loc="upper left")
    return _png(figure)


def _drawn(points: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """At most _POINTS of them, half of them flipped ones if there are so many, each kind evenly spaced; and how many there are."""
    import polars as pl

    parts: list[pl.DataFrame] = []
    for flipped in (True, False):
        left = _POINTS // 2 if flipped else _POINTS - sum(part.height for part in parts)
        these = points.filter(pl.col("flipped") == flipped)
        parts.append(these.gather_every(max(1, -(-these.height // max(left, 1)))))
    return pl.concat(parts), points.height


def priorities_plot(old: str, new: str, names: Sequence[str], table: Sequence[Sequence[int]]) -> bytes:
    """`table`: how many studies went from which priority (row, `old`) to which (column, `new`), both by `names`."""
    from matplotlib.figure import Figure

    counts = np.array(table)
    figure = Figure(figsize=(_SIDE_INCHES, _SIDE_INCHES * 0.9), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, int(counts.max())))
    for row, column in np.ndindex(counts.shape):
        shade = "white" if counts[row, column] > counts.max() * 0.6 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade)
    places = range(len(names))
    axes.set(xlabel=new, ylabel=old, title="Studies; below the diagonal more urgent now")
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    return _png(figure)


def _png(figure: object) -> bytes:
    figure.supxlabel("Research use only", fontsize=7, color="0.35")  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")  # type: ignore[attr-defined]
    return buffer.getvalue()
