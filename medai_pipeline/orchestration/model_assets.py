"""Assets about models, not studies: what two versions say of the same studies, and what a shadow version says."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from medai_pipeline import DISCLAIMER, __version__, stages
from medai_pipeline.keeping import kept_name, made_by
from medai_pipeline.models.catalog import Kind
from medai_pipeline.orchestration.io_managers import StudyValues
from medai_pipeline.orchestration.model_choice import model_choice
from medai_pipeline.orchestration.partitions import STUDIES
from medai_pipeline.records import StudyPrediction
from medai_pipeline.registering import compared
from medai_pipeline.stages.comparison import Comparison, pictures
from medai_pipeline.storage.codec import encode

PAIRS = dg.DynamicPartitionsDefinition(name="model_pairs")
BETWEEN = ".."  # of a pair: old..new, each name@version
ROWS = 50
COMPARISON_JOB, SHADOW_JOB = "model_comparison_job", "shadow_job"


def pair(old: str, new: str) -> str:
    return f"{old}{BETWEEN}{new}"


@dg.asset(
    partitions_def=PAIRS,
    deps=[dg.AssetDep("predictions", partition_mapping=dg.AllPartitionMapping())],
    required_resource_keys={"session"},
    code_version=__version__,
    group_name="models",
    description="Two versions over the studies that both have read: shifts of probability, findings that flipped, "
    "priorities that rose or fell.",
)
def model_comparison(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    old, _, new = context.partition_key.partition(BETWEEN)
    services = context.resources.session.services
    return dg.MaterializeResult(
        metadata=described(compared(services.changes, old, new, services.settings.triage_rules))
    )


def described(found: Comparison) -> dict[str, Any]:
    """Tables and pictures of a comparison: study keys and numbers, no identity."""
    moved = found.moved.head(ROWS).iter_rows(named=True)
    changes = [{"study": move["study_key"], found.old: move["old"], found.new: move["new"]} for move in moved]
    return {
        "read me": dg.MetadataValue.md(
            f"What **{found.new}** says against **{found.old}**, over {found.moves.height} studies that both have read. "
            f"{DISCLAIMER}"
        ),
        "studies": found.moves.height,
        "findings that flipped": found.flips.height,
        "priorities that rose": found.rose,
        "priorities that fell": found.fell,
        "by finding": _table([_figures(row) for row in found.by_finding().iter_rows(named=True)]),
        "known to one version only": _table([_alone(row) for row in found.alone.iter_rows(named=True)]),
        **{name: dg.MetadataValue.md(_picture(png)) for name, png in pictures(found).items()},
        f"flipped (first {ROWS})": _table([_row(shift) for shift in found.flips.head(ROWS).iter_rows(named=True)]),
        f"priorities that moved (first {ROWS})": _table(changes),
    }


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "finding": row["label"],
        "present, old": row["old_present"],
        "present, new": row["new_present"],
        "now present": row["appeared"],
        "now absent": row["vanished"],
        "mean shift": round(row["mean_shift"], 3),
        "greatest shift": round(row["greatest_shift"], 3),
    }


def _alone(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"finding": row["label"], "version": row["version"], "studies": row["studies"], "present": row["present"]}


def _row(shift: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "study": shift["study_key"],
        "finding": shift["label"],
        "old": round(shift["old"], 3),
        "new": round(shift["new"], 3),
        "now": "present" if shift["new_present"] else "absent",
    }


def _table(rows: Sequence[dict[str, Any]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else dg.MetadataValue.text("none")


def _picture(png: bytes) -> str:
    return f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})"


@dg.asset(
    partitions_def=STUDIES,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=16),
    required_resource_keys={"session"},
    code_version=__version__,
    group_name="models",
    io_manager_key="study_io",
    description="What the shadow versions say of a study that was reported. The worklist does not know it.",
)
def shadow_predictions(
    context: dg.AssetExecutionContext, normalized_tensors: StudyValues, anonymized_instances: StudyValues
) -> Iterator[Any]:
    session = context.resources.session
    told = {key: _ask_shadows(session, normalized_tensors, anonymized_instances, key) for key in normalized_tensors}
    for key, words in told.items():
        context.log_event(
            dg.AssetMaterialization(context.asset_key, partition=key, metadata={"shadows": "; ".join(words) or "none"})
        )
    yield dg.Output(StudyValues(session.services, "shadow_predictions", []))


def _ask_shadows(session: Any, tensors_of: StudyValues, studies: StudyValues, key: str) -> list[str]:
    """Each shadow version about one study: what it said is kept beside, and nothing of the study's state is touched."""
    tensors, services, inference = tensors_of[key], session.services, session.inference
    words = []
    read = Kind(tensors.modality, tensors.body_part)
    kinds = [Kind(*kind) for kind in tensors.kinds] or [read]
    for entry in inference.models.beside(kinds):
        own, models = tensors, inference.models.instead(entry)
        if entry.contract != tensors.contract or models.choose_among(kinds)[0] != read:
            own = stages.normalize_study(studies[key], services.objects, models)
        answer = stages.ask_model(entry, [own], inference, role="shadow")[key]
        if not isinstance(answer, StudyPrediction):
            words.append(f"{entry.label} failed: {answer.reason}")
            continue
        services.results.save_prediction(answer, session.run_id)
        if own is tensors:  # its promotion finds what it has said
            kept = replace(answer, model=replace(answer.model, role="primary"))
            name = kept_name("predictions", key, made_by(kept.model, kept.revision))
            services.objects.put(name, encode(kept))
        words.append(f"{entry.label} answered")
    return words


MODEL_ASSETS: list[Any] = [model_choice, model_comparison, shadow_predictions]
MODEL_JOBS = [
    dg.define_asset_job(
        COMPARISON_JOB,
        selection=[model_comparison],
        executor_def=dg.in_process_executor,
        tags={"dagster/priority": "-5"},
    ),
    dg.define_asset_job(
        SHADOW_JOB, selection=[shadow_predictions], executor_def=dg.in_process_executor, tags={"dagster/priority": "-5"}
    ),
]
