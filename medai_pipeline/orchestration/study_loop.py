"""One stage over the studies of a run: claim, work, check, store, report each partition; a study that fails stops alone.

Two ways a run comes: the sensor's range with `dagster/defer_asset_events`, where each partition is reported here, one by
one, so that a failed study is simply not reported; and a person's run of one partition, where Dagster reports it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from medai_pipeline import __version__
from medai_pipeline.errors import (
    DatabaseUnreachable,
    MedaiError,
    ModelChanged,
    StudyError,
    WeightsMissing,
    WeightsRefused,
)
from medai_pipeline.logs import about
from medai_pipeline.orchestration.io_managers import StudyValues
from medai_pipeline.orchestration.model_choice import choice_tags, input_tags, latest_input_tags
from medai_pipeline.orchestration.partitions import BACKFILL, DEFER_EVENTS
from medai_pipeline.records import QualityResult
from medai_pipeline.services import Services
from medai_pipeline.stages import Inference, batches, refuse_blocked

Many = Callable[[Sequence[str]], Mapping[str, Any]]
Check = Callable[[Sequence[Any]], Mapping[str, Any]]


@dataclass(slots=True)
class RunSession:
    """What the steps of one run share: the services and which studies failed where."""

    services: Services
    run_id: str
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)  # study key -> (stage, reason)
    passed_over: set[str] = field(default_factory=set)  # by a backfill: their own run is to come, or at work
    versions: dict[tuple[str, str], str] = field(default_factory=dict)  # (asset, study key) -> data version
    _inference: Inference | None = None

    @property
    def inference(self) -> Inference:
        """What computes, with the model versions in force when the run first asked: a promotion does not divide a run."""
        if self._inference is None:
            self._inference = self.services.inference
        return self._inference


@dataclass(frozen=True, slots=True)
class Described:
    """How a stored value shows in Dagster: metadata for people, and the version that staleness compares."""

    metadata: Mapping[str, Any]
    data_version: str


@dataclass(frozen=True, slots=True)
class Reuse:
    """How a backfill finds values of the version it wants: `wanted` of a study key, `made_by` of a value."""

    wanted: Callable[[str], str]
    made_by: Callable[[Any], str]


class Stage:
    """One asset's pass over the partitions of its run."""

    def __init__(self, context: dg.AssetExecutionContext, session: RunSession, check_name: str = "") -> None:
        self.context = context
        self.session = session
        self.services = session.services
        self.name = context.asset_key.path[-1]
        self.check_name = check_name
        self.keys = list(context.partition_keys)
        self.deferred = context.run.tags.get(DEFER_EVENTS) == "true"
        self.backfill = bool(context.run.tags.get(BACKFILL))
        self.values = StudyValues(self.services, self.name, self.keys if self.backfill else [])
        self.rows: dict[str, Any] = {}
        self.described: dict[str, Described] = {}
        self.checked: dict[str, tuple[QualityResult, ...]] = {}
        self.inputs: list[str] = []
        self.reuse: Reuse | None = None

    def process(
        self,
        work: Many,
        describe: Callable[[Any], Described],
        upstream: Sequence[StudyValues] = (),
        check: Check | None = None,
        save: Callable[[Any], None] | None = None,
        reuse: Reuse | None = None,
    ) -> None:
        """`work` on every study whose inputs are there, a few at a time; `check` and `save` what comes out, and store it.

        A backfill takes what the wanted model version has said before, and sets aside what its value replaces.
        """
        self.reuse = reuse if self.backfill else None
        self.inputs = [values.asset for values in upstream]
        ready = [key for key in self.keys if self._begin(key, upstream)]
        done = 0
        for chunk in batches(ready, self._images):
            found = {key: value for key in chunk if (value := self._there(key)) is not None}
            there = {key: value for key, value in found.items() if self._good(key, value)}
            todo = [key for key in chunk if key not in found]
            made = self._guarded(work, todo) if todo else {}
            values = {key: value for key, value in made.items() if self._good(key, value)}
            if check and values:
                values = dict(check(list(values.values())))
            for key, value in {**values, **there}.items():
                self._keep(key, value, describe, save)
            done += len(chunk)
            self.context.log.info(f"{self.name}: {done} of {len(ready)} studies")

    def one_by_one(self, work: Callable[[str], Any]) -> Many:
        """`work` on a single study, made to serve several; an error is that study's value."""
        return lambda keys: {key: self._attempt(work, key) for key in keys}

    def finish(self, last: bool = False) -> Iterator[Any]:
        """The output, then the checks; the last asset of a run turns it red when a study failed on the way."""
        failed = {key: reason for key, (stage, reason) in self.session.failures.items() if stage == self.name}
        if failed and not self.deferred:
            yield from self._check_results()
            raise dg.Failure(description="; ".join(failed.values()), allow_retries=False)
        yield self._output()
        yield from self._check_results()
        if last and self.session.failures:
            raise dg.Failure(description=self._summary(), metadata=self._failure_table(), allow_retries=False)

    # one study -----------------------------------------------------------------------------------------------

    def _begin(self, key: str, upstream: Sequence[StudyValues]) -> bool:
        if key in self.session.failures or key in self.session.passed_over:
            return False
        self.services.hold(self.session.run_id)
        row = self.services.lifecycle.claim(key, self.session.run_id, self.services.now(), self.backfill)
        if row is None and self.backfill:
            self.session.passed_over.add(key)
            return False
        if row is None:
            return self._refuse(key, "another run works on this study; it is not touched here")
        self.rows[key] = row
        self.services.lifecycle.advance(key, row.revision, self.session.run_id, self.name, self.services.now())
        if any(key not in values for values in upstream):
            return self._fail(key, StudyError("the stage before has no result: materialize it first"))
        if any(values[key].revision != row.revision for values in upstream):
            return self._fail(key, StudyError("a newer revision has arrived: it is processed from raw_dicom on"), True)
        return True

    def _images(self, key: str) -> int:
        """How many images it will hold: one file may be a clip of hundreds. By files while nobody has looked into them."""
        row = self.rows[key]
        return max(row.instance_count, self.services.results.frames(key, row.revision))

    def _there(self, key: str) -> Any:
        """What the wanted version has said of the study before; None when that is still to be computed."""
        if self.reuse is None:
            return None
        return self._attempt(lambda key: self._before(key), key)

    def _before(self, key: str) -> Any:
        assert self.reuse
        wanted = self.reuse.wanted(key)
        if key in self.values and self.reuse.made_by(value := self.values[key]) == wanted:
            return value
        return self.values.from_aside(key, wanted)

    def _guarded(self, work: Many, keys: Sequence[str]) -> Mapping[str, Any]:
        """The batch; when it breaks as a whole, each study alone, so that only the guilty one fails."""
        named = {"study_key": keys[0]} if len(keys) == 1 else {"studies": str(len(keys))}
        try:
            with about(run_id=self.session.run_id, stage=self.name, **named):
                return work(keys)
        except DatabaseUnreachable:
            raise  # nothing can be recorded: the run fails, and reconciliation takes its studies up again
        except Exception as error:  # noqa: BLE001 - the boundary between one study and its neighbours
            if len(keys) > 1:
                return {key: self._guarded(work, [key])[key] for key in keys}
            return {keys[0]: error}

    def _attempt(self, work: Callable[[str], Any], key: str) -> Any:
        return self._guarded(lambda keys: {keys[0]: work(keys[0])}, [key])[key]

    def _good(self, key: str, value: Any) -> bool:
        return not isinstance(value, Exception) or self._fail(key, value)

    def _keep(self, key: str, value: Any, describe: Callable[[Any], Described], save: Callable | None) -> None:
        checks = getattr(value, "checks", ())
        self.checked[key] = tuple(checks)

        def store(_: str) -> Described:
            refuse_blocked(checks)
            if save:
                save(value)
            self._store(key, value)
            return describe(value)

        described = self._attempt(store, key)
        if self._good(key, described):
            self.described[key] = described
            self.session.versions[self.name, key] = described.data_version
            if self.deferred:
                self._report(key, described)

    def _store(self, key: str, value: Any) -> None:
        """The value in its place; in a backfill what another version made is set aside."""
        if self.reuse and key in self.values:
            before = self.reuse.made_by(self.values[key])
            if before == self.reuse.made_by(value):
                return
            self.values.set_aside(key, before)
        self.values.store(key, value)

    def _fail(self, key: str, error: Exception, retry: bool | None = None) -> bool:
        reason = error.reason if isinstance(error, MedaiError) else _unexpected(error)
        again = retry if retry is not None else getattr(error, "retryable", not isinstance(error, MedaiError))
        if not isinstance(error, MedaiError):
            # Frames only: the message of an unexpected error could hold what it choked on.
            self.context.log.error(f"{key}: {reason}\n" + "".join(traceback.format_tb(error.__traceback__)))
        settings = self.services.settings
        if self.backfill and (again or isinstance(error, (ModelChanged, WeightsMissing, WeightsRefused))):
            # nothing is wrong with the study: its report counts on, and the backfill is asked for again
            row = self.rows[key]
            self.services.lifecycle.keep_report(key, row.revision, self.session.run_id, self.services.now())
            return self._refuse(key, reason)
        self.services.lifecycle.fail(
            key,
            self.rows[key].revision,
            self.session.run_id,
            self.name,
            reason,
            retry=again,
            now=self.services.now(),
            max_attempts=settings.max_attempts,
            retry_seconds=settings.retry_seconds,
        )
        return self._refuse(key, reason)

    def _refuse(self, key: str, reason: str) -> bool:
        self.session.failures[key] = (self.name, reason)
        self.context.log.warning(f"{key} stops at {self.name}: {reason}")
        return False

    # what Dagster is told ------------------------------------------------------------------------------------

    def _report(self, key: str, described: Described) -> None:
        """What Dagster would write itself: also which versions of the inputs it came from, for its view of staleness."""
        tags = {
            "dagster/data_version": described.data_version,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": __version__,
        }
        if self.name == "predictions":
            tags |= choice_tags(self.context.instance, key, described.data_version)
        for asset in self.inputs:
            if version := self.session.versions.get((asset, key)):
                tags |= input_tags(asset, version)
            elif self.backfill:  # made by an earlier run
                tags |= latest_input_tags(self.context.instance, asset, key)
        metadata = dict(described.metadata)
        self.context.log_event(
            dg.AssetMaterialization(asset_key=self.context.asset_key, partition=key, metadata=metadata, tags=tags)
        )

    def _output(self) -> dg.Output:
        if self.deferred or not self.described:
            return dg.Output(self.values)
        (described,) = self.described.values()
        return dg.Output(
            self.values, metadata=dict(described.metadata), data_version=dg.DataVersion(described.data_version)
        )

    def _check_results(self) -> Iterator[dg.AssetCheckResult]:
        """One evaluation a partition for the asset page, and one result for the step."""
        if not self.check_name:
            return
        wrong = {key: checks for key, checks in self.checked.items() if not all(c.passed for c in checks)}
        blocking = any(c.blocking and not c.passed for checks in wrong.values() for c in checks)
        stopped = [key for key, (stage, _) in self.session.failures.items() if stage == self.name]
        if self.deferred:
            for key in {*self.checked, *stopped}:
                self._evaluate(key)
        yield dg.AssetCheckResult(
            check_name=self.check_name,
            passed=not wrong and not stopped,
            severity=dg.AssetCheckSeverity.ERROR if blocking or stopped else dg.AssetCheckSeverity.WARN,
            metadata={"studies": len(self.checked), "stopped": len(stopped), "results": _table(self.checked)},
        )

    def _evaluate(self, key: str) -> None:
        """The check of one partition, as an event of this run: a step itself can give one result a check only."""
        checks = self.checked.get(key, ())
        stage, reason = self.session.failures.get(key, ("", ""))
        failed = stage == self.name
        evaluation = dg.AssetCheckEvaluation(
            asset_key=self.context.asset_key,
            check_name=self.check_name,
            passed=not failed and all(c.passed for c in checks),
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            metadata={"reason": dg.MetadataValue.text(reason if failed else ""), "results": _table({key: checks})},
            partition=key,
        )
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
            job_name=self.context.job_name,
            step_key=self.name,
            event_specific_data=evaluation,
        )
        self.context.instance.report_dagster_event(event, self.session.run_id)

    def _summary(self) -> str:
        failures = self.session.failures
        first = next(f"{key} at {stage}: {reason}" for key, (stage, reason) in failures.items())
        return f"{len(failures)} of {len(self.keys)} studies failed; {first}"

    def _failure_table(self) -> dict[str, Any]:
        rows = [
            dg.TableRecord({"study": key, "stage": stage, "reason": reason})
            for key, (stage, reason) in self.session.failures.items()
        ]
        return {"failed": dg.MetadataValue.table(rows)}


def _table(checked: Mapping[str, Sequence[QualityResult]]) -> dg.MetadataValue:
    rows = [
        dg.TableRecord({"study": key, "check": c.name, "passed": c.passed, "blocking": c.blocking, "detail": c.detail})
        for key, checks in checked.items()
        for c in checks
    ]
    return dg.MetadataValue.table(rows) if rows else dg.MetadataValue.text("no check was reached")


def _unexpected(error: Exception) -> str:
    """An error nobody foresaw: its kind and place, never its words."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}; the run's log has the frames, please report it"
