"""Two model versions side by side as pictures: PNG bytes, numbers only, each marked as for research."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

_SIDE_INCHES, _DPI = 4.4, 80  # Dagster keeps the pictures for ever: they stay small


def probabilities_plot(
    old: str, new: str, points: Sequence[tuple[str, float, float, bool]], size: float = _SIDE_INCHES
) -> bytes:
    """A point a finding of a study, (label, old, new, flipped), probabilities 0..1: on the diagonal nothing changed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size, size), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=1)
    for number, label in enumerate(sorted({point[0] for point in points})):
        mine = [point for point in points if point[0] == label]
        rings = ["black" if point[3] else "none" for point in mine]
        x, y = [point[1] for point in mine], [point[2] for point in mine]
        kind = "osD^"[number // 10 % 4]  # ten colours are all there are
        axes.scatter(
            x, y, s=22, marker=kind, color=f"C{number % 10}", edgecolors=rings, linewidths=1.2, label=label, zorder=2
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=old, ylabel=new, title="Probabilities; ringed: flipped")
    axes.set_aspect("equal")
    if points:
        axes.legend(fontsize=7, loc="upper left")
    return _png(figure)


def priorities_plot(old: str, new: str, names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> bytes:
    """How many studies went from which priority (row, `old`) to which (column, `new`); ranks into `names`."""
    from matplotlib.figure import Figure

    counts = np.zeros((len(names), len(names)), int)
    for before, after in pairs:
        counts[before, after] += 1
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
