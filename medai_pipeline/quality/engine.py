"""Great Expectations for many studies in one pass: one table, one validation, and each study its own results.

A validation costs about 0.1 s however many rows it has, so the studies of a run share it: every row carries its study key,
and unexpected rows are told apart by it. What is expected stands as rows of `Check` in the modules beside this one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import polars as pl

from medai_pipeline.records import QualityResult

STUDY = "study_key"
_CONTEXT = threading.Lock()  # one context a process, and it is not made for threads


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation on one column: `expectation` is the name of a Great Expectations class that looks at each row.

    `detail` tells a person what is wrong, without identity; {count} is the number of rows of the study that fail.
    """

    name: str
    expectation: str
    column: str
    detail: str
    blocking: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


def validate(name: str, table: pl.DataFrame, checks: Sequence[Check]) -> dict[str, tuple[QualityResult, ...]]:
    """Study key -> one result a check, in their order, for every study that has a row in the table.

    The table has the column "study_key" and each column a check names. A check that Great Expectations cannot carry out
    fails for every study: what was not checked has not passed.
    """
    keys = table[STUDY].unique(maintain_order=True).to_list()
    if not keys:
        return {}
    found = [_unexpected(outcome) for outcome in _outcomes(name, table, checks)]
    return {key: tuple(_result(check, bad, key) for check, bad in zip(checks, found, strict=True)) for key in keys}


def blocking_failures(results: Iterable[QualityResult]) -> tuple[QualityResult, ...]:
    """The results that stop a study."""
    return tuple(result for result in results if result.blocking and not result.passed)


def _result(check: Check, bad: Counter[str] | None, key: str) -> QualityResult:
    if bad is None:
        return QualityResult(check.name, False, check.blocking, "the check could not be carried out; see the log")
    count = bad[key]
    return QualityResult(check.name, count == 0, check.blocking, check.detail.format(count=count) if count else "")


def _outcomes(name: str, table: pl.DataFrame, checks: Sequence[Check]) -> list[Any]:
    """The outcome of each check, in their order."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    with _CONTEXT:
        expectations = [
            getattr(gxe, check.expectation)(column=check.column, meta={"check": number}, **check.options)
            for number, check in enumerate(checks)
        ]
        source = _context().data_sources.add_pandas(name)
        try:
            whole = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
            batch = whole.get_batch({"dataframe": table.to_pandas()})
            outcome = batch.validate(
                gx.ExpectationSuite(name=name, expectations=expectations),
                result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [STUDY]},
            )
        finally:
            _context().data_sources.delete(name)  # a source keeps each table it has seen
    return sorted(outcome.results, key=lambda result: result.expectation_config.meta["check"])


def _unexpected(outcome: Any) -> Counter[str] | None:
    """How many rows of each study are not as expected; None when the expectation raised an error."""
    if outcome.success:
        return Counter()
    rows = (outcome.result or {}).get("unexpected_index_list")
    return Counter(row[STUDY] for row in rows) if rows else None


@cache
def _context() -> Any:
    """An ephemeral context that prints nothing and reports to nobody."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(project_config=config, mode="ephemeral")
