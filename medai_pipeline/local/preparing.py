"""`medai models prepare`: what each backend does on this machine, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medai_pipeline.registering import entry_of

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry
    from medai_pipeline.models.prepared import Candidate, Prepared
    from medai_pipeline.services import Services
    from medai_pipeline.storage.rows import ModelRow


def prepare_models(
    services: Services,
    names: Sequence[str],
    candidates: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Table]:
    """Prepares each named model, or every one whose weights are here; a table a model. Raises ModelError as it does.

    With a running stack the registry's versions, which keep what was found; else the packaged models.
    """
    from medai_pipeline.models.catalog import ModelSet, catalog
    from medai_pipeline.models.load import has_weights

    stack = bool(services.settings.database_url)
    rows = {row.label: row for row in services.registry.versions() if row.state != "retired"} if stack else {}
    known = tuple(map(entry_of, rows.values())) if stack else catalog()
    here = [entry for entry in known if has_weights(entry, services.settings.models_path)]
    for entry in [ModelSet((), known=known).entry(name) for name in names] or here:
        made = _prepare(services, entry, candidates, progress)
        if entry.label in rows:
            services.registry.prepare(entry.name, entry.version, {made.machine.digest: made.as_json()})
        yield _table(entry.label, made)


def prepare_row(services: Services, row: ModelRow) -> None:
    """Measures a registered version on this machine, and tells the registry."""
    made = _prepare(services, entry_of(row))
    services.registry.prepare(row.name, row.version, {made.machine.digest: made.as_json()})


def _prepare(
    services: Services,
    entry: CatalogEntry,
    candidates: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Prepared:
    from medai_pipeline.models.prepare import prepare

    def said(line: str) -> None:
        if progress:
            progress(f"{entry.label}: {line}")

    settings = services.settings
    device = "cuda" if settings.gpu_enabled else "cpu"
    return prepare(entry, settings.models_path, device, candidates=candidates, progress=said)


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
