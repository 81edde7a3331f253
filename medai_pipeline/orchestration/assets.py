"""The assets, one a stage: load, one call into `stages`, return. What a person sees of each is in `describe`."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from medai_pipeline import __version__, publish, stages
from medai_pipeline.keeping import made_by
from medai_pipeline.orchestration import describe
from medai_pipeline.orchestration.io_managers import StudyValues
from medai_pipeline.orchestration.partitions import MODEL_CHOICE, STUDIES
from medai_pipeline.orchestration.study_loop import Reuse, Stage
from medai_pipeline.records import DeidentifiedStudy, Manifest, StudyHeatmaps, StudyPrediction, StudyTensors

GPU = {"medai/compute": "gpu"}  # which stages profit from a GPU: a run launcher may route by it
BACKFILL_STUDIES = 16
INSTANCE_CHECK = "instance_table"
TENSOR_CHECK = "tensor_contract"
PREDICTION_CHECK = "probabilities"

_COMMON: dict[str, Any] = {
    "partitions_def": STUDIES,
    # Short enough that a new study does not wait long behind one run of a backfill (docs/adr/0006).
    "backfill_policy": dg.BackfillPolicy.multi_run(max_partitions_per_run=BACKFILL_STUDIES),
    "required_resource_keys": {"session"},
    "code_version": __version__,
    "group_name": "study",
    "io_manager_key": "study_io",
}


def _check(name: str, asset: str, description: str) -> list[dg.AssetCheckSpec]:
    return [dg.AssetCheckSpec(name, asset=asset, description=description, partitions_def=STUDIES)]


@dg.asset(**_COMMON, description="Every file of the study as the PACS holds it, hashed and encrypted.")
def raw_dicom(context: dg.AssetExecutionContext) -> Iterator[Any]:
    stage = Stage(context, context.resources.session)
    services = stage.services

    def fetch(key: str) -> Manifest:
        uid = services.vault.read(key, "pipeline:raw_dicom", "fetch the study").study_instance_uid
        pacs = services.pacs
        found = pacs.find_studies(uid)  # under several Patient IDs several: de-identification refuses them together
        ours = services.ours(key)
        instances = [i for i in pacs.instances(*(study.orthanc_id for study in found)) if not ours(i)]
        files = pacs.fetch(instances, concurrency=services.settings.fetch_concurrency)
        row = stage.rows[key]
        return stages.fetch_study(key, row.revision, row.source_digest, (data for _, data in files), services.objects)

    stage.process(stage.one_by_one(fetch), describe.manifest)
    yield from stage.finish()


@dg.asset(
    **_COMMON,
    description="The study de-identified by DICOM PS3.15 Annex E, and its instance table. Identities go to the vault.",
    check_specs=_check(
        INSTANCE_CHECK, "anonymized_instances", "Required columns, one study, no identity left, plausible spacing."
    ),
)
def anonymized_instances(context: dg.AssetExecutionContext, raw_dicom: StudyValues) -> Iterator[Any]:
    stage = Stage(context, context.resources.session, INSTANCE_CHECK)
    services = stage.services

    def deidentify(key: str) -> DeidentifiedStudy:
        services.audit.append("pipeline:anonymized_instances", "instances.read", key, {"purpose": "de-identify them"})
        study, identity = stages.deidentify_study(raw_dicom[key], services.objects, services.deidentifier)
        services.vault.store(key, identity)
        return study

    def save(study: DeidentifiedStudy) -> None:
        services.results.save_images(study.study_key, study.revision, study.instances)

    stage.process(stage.one_by_one(deidentify), describe.deidentified, [raw_dicom], stages.check_deidentified, save)
    yield from stage.finish()


@dg.asset(
    **_COMMON,
    description="The images a model may see, as float32 arrays by the contract of the model chosen for them.",
    check_specs=_check(TENSOR_CHECK, "normalized_tensors", "Shape, range, finite, not constant."),
)
def normalized_tensors(context: dg.AssetExecutionContext, anonymized_instances: StudyValues) -> Iterator[Any]:
    stage = Stage(context, context.resources.session, TENSOR_CHECK)

    def normalize(key: str) -> StudyTensors:
        return stages.normalize_study(anonymized_instances[key], stage.services.objects, stage.session.inference.models)

    def save(tensors: StudyTensors) -> None:
        stage.services.results.save_reading(
            tensors.study_key, tensors.revision, tensors.modality, tensors.body_part, tensors.kinds
        )

    stage.process(stage.one_by_one(normalize), describe.tensors, [anonymized_instances], stages.check_tensors, save)
    yield from stage.finish()


@dg.asset(
    **_COMMON,
    description="What the model says: probabilities and uncertainty an image and a study; the features for the maps.",
    op_tags=GPU,
    tags=GPU,
    deps=[MODEL_CHOICE],
    check_specs=_check(PREDICTION_CHECK, "predictions", "Probabilities between 0 and 1, none missing."),
)
def predictions(context: dg.AssetExecutionContext, normalized_tensors: StudyValues) -> Iterator[Any]:
    stage = Stage(context, context.resources.session, PREDICTION_CHECK)
    services = stage.services

    shares: dict[str, float] = {}  # study key -> its share of the seconds that its batch took

    def predict(keys: Any) -> Mapping[str, Any]:
        tensors, began = [normalized_tensors[key] for key in keys], time.perf_counter()
        said = stages.predict_studies(tensors, stage.session.inference)
        spent, images = time.perf_counter() - began, sum(len(t.items) for t in tensors)
        shares.update((t.study_key, spent * len(t.items) / max(images, 1)) for t in tensors)
        return said

    def save(prediction: StudyPrediction) -> None:
        share = shares.get(prediction.study_key)
        services.results.save_prediction(prediction, stage.session.run_id, seconds=share)

    def wanted(key: str) -> str:
        tensors = normalized_tensors[key]
        return made_by(stages.model_ref(tensors, stage.session.inference), tensors.revision)

    reuse = Reuse(wanted, lambda said: made_by(said.model, said.revision))
    stage.process(predict, describe.prediction, [normalized_tensors], stages.check_predictions, save, reuse)
    yield from stage.finish()


@dg.asset(
    **_COMMON,
    description="Class activation maps of the top findings, their regions and quality, and the overlay pictures.",
    op_tags=GPU,
    tags=GPU,
)
def gradcam_maps(
    context: dg.AssetExecutionContext,
    predictions: StudyValues,
    normalized_tensors: StudyValues,
    anonymized_instances: StudyValues,
) -> Iterator[Any]:
    stage = Stage(context, context.resources.session)
    services = stage.services

    def explain(key: str) -> StudyHeatmaps:
        return stages.explain_study(
            predictions[key],
            normalized_tensors[key],
            anonymized_instances[key],
            services.objects,
            services.drawing,
            stage.session.inference,
        )

    def shown(maps: StudyHeatmaps) -> Any:
        return describe.heatmaps(maps, anonymized_instances[maps.study_key])

    def wanted(key: str) -> str:
        return made_by(predictions[key].model, predictions[key].revision)

    reuse = Reuse(wanted, lambda maps: made_by(maps.model, maps.revision))
    stage.process(
        stage.one_by_one(explain), shown, [predictions, normalized_tensors, anonymized_instances], reuse=reuse
    )
    yield from stage.finish()


@dg.asset(**_COMMON, description="Priority with reasons, and the report as JSON and HTML: what the worklist shows.")
def triage_reports(
    context: dg.AssetExecutionContext,
    gradcam_maps: StudyValues,
    predictions: StudyValues,
    normalized_tensors: StudyValues,
    anonymized_instances: StudyValues,
) -> Iterator[Any]:
    stage = Stage(context, context.resources.session)
    services = stage.services

    def report(key: str) -> Any:
        run = stages.Run(
            stage.session.run_id,
            services.now(),
            services.settings.triage_rules,
            services.settings.run_page.format(stage.session.run_id),
        )
        study, prediction = anonymized_instances[key], predictions[key]
        made = stages.report_study(study, normalized_tensors[key], prediction, gradcam_maps[key], run)
        inputs = publish.inputs_digest(study, prediction, made.content["rules_version"])
        fhir = stages.bundle_of(made, study, prediction, services.objects, run.at)
        return publish.publish_report(made, inputs, services.objects, services.results, run.run_id, run.at, fhir)

    stage.process(
        stage.one_by_one(report),
        describe.report,
        [gradcam_maps, predictions, normalized_tensors, anonymized_instances],
    )
    yield from stage.finish(last=True)


ASSETS = [raw_dicom, anonymized_instances, normalized_tensors, predictions, gradcam_maps, triage_reports]
