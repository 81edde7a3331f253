"""`medai models prepare`: what each backend does on this machine, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medai_pipeline.settings import Settings

if TYPE_CHECKING:
    from medai_pipeline.models.prepared import Candidate, Prepared


def prepare_models(
    settings: Settings,
    names: Sequence[str],
    candidates: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Table]:
    """Prepares each named model, or every one whose weights are here; a table a model. Raises ModelError as it does."""
    from medai_pipeline.models.catalog import catalog, entry
    from medai_pipeline.models.load import has_weights
    from medai_pipeline.models.prepare import prepare

    wanted = [entry(name) for name in names] or [
        known for known in catalog() if has_weights(known, settings.models_path)
    ]
    device = "cuda" if settings.gpu_enabled else "cpu"
    for known in wanted:

        def said(line: str, name: str = known.name) -> None:
            if progress:
                progress(f"{name}: {line}")

        made = prepare(known, settings.models_path, device, candidates=candidates, progress=said)
        yield _table(f"{known.name}@{known.version}", made)


def _table(title: str, made: Prepared) -> Table:
    where = f"{made.machine.processor}, {', '.join(made.machine.units)}; {made.threads} thread(s)"
    heads = ("backend", "ms an image", "in a batch", "error", "")
    table = Table(*heads, title=title, caption=where, header_style="bold", title_justify="left")
    for candidate in made.candidates:
        table.add_row(candidate.backend, *_figures(candidate), _words(candidate, made))
    return table


def _figures(candidate: Candidate) -> tuple[str, str, str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        number(candidate.single_ms, ".1f"),
        number(candidate.batch_ms, ".1f"),
        number(candidate.probability_error, ".1g"),
    )


def _words(candidate: Candidate, made: Prepared) -> str:
    if candidate.backend == made.backend:
        return f"serves ({made.times_eager:.1f} times plain torch)"
    return escape(candidate.refused)
