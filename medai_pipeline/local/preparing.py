"""`medai models prepare`: what each backend does on this machine, as tables for a terminal or as lines for a log."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medai_pipeline.errors import ModelError
from medai_pipeline.local.study_commands import user
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
    for entry in _wanted(services, names):
        yield _table(entry.label, _noted(services, entry, candidates, progress))


def prepare_missing(
    services: Services, names: Sequence[str], candidates: Sequence[str] | None, say: Callable[[str], None]
) -> int:
    """Prepares what was not for this machine yet, a line each, and one over all at the end. One that cannot be prepared
    does not keep the others from it; returns 1 then, else 0."""
    end_by_signal()
    told, failed = [], 0
    for entry in _wanted(services, names):
        try:
            if _is_prepared(services, entry):
                continue
            made = _noted(services, entry, candidates, None)
        except ModelError as error:
            failed += 1
            say(f"{entry.label} is not prepared: {error.reason}")
            continue
        told.append(f"{entry.label} by {made.backend} ({made.times_eager:.1f} times plain torch)")
        say(told[-1])
    say(_summary(told, failed))
    return 1 if failed else 0


def end_by_signal() -> None:
    """SIGTERM ends this process as an exception does, so that what is half made is cleared away."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _summary(told: Sequence[str], failed: int) -> str:
    words = (
        f"models measured on this machine: {', '.join(told)}" if told else "every model is prepared for this machine"
    )
    return f"{failed} models could not be prepared" + (f"; {words}" if told else "") if failed else words


def _wanted(services: Services, names: Sequence[str]) -> list[CatalogEntry]:
    """The named models, or every one whose weights are here: the registry's with a running stack, else the packaged."""
    from medai_pipeline.models.catalog import ModelSet, catalog
    from medai_pipeline.models.load import has_weights

    if services.settings.database_url:
        known = tuple(entry_of(row) for row in services.registry.versions() if row.state != "retired")
    else:
        known = catalog()
    here = [entry for entry in known if has_weights(entry, services.settings.models_path)]
    return [ModelSet((), known=known).entry(name) for name in names] or here


def _is_prepared(services: Services, entry: CatalogEntry) -> bool:
    from medai_pipeline.models.load import available, checked_digest, weights_path
    from medai_pipeline.models.machine import this_machine
    from medai_pipeline.models.prepared import folder_of, stamp

    settings = services.settings
    digest = checked_digest(entry, weights_path(entry, settings.models_path).read_bytes())
    machine = this_machine(available("cuda" if settings.gpu_enabled else "cpu"))
    return bool(stamp(folder_of(entry, digest, machine, settings.models_path)))


def _noted(
    services: Services,
    entry: CatalogEntry,
    candidates: Sequence[str] | None,
    progress: Callable[[str], None] | None,
) -> Prepared:
    """Prepared, and told to the registry where there is one."""
    made = _prepare(services, entry, candidates, progress)
    if services.settings.database_url:
        services.registry.prepare(entry.name, entry.version, {made.machine.digest: made.as_json()}, user())
    return made


def prepare_row(services: Services, row: ModelRow) -> None:
    """Measures a registered version on this machine, and tells the registry."""
    _noted(services, entry_of(row), None, None)


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
