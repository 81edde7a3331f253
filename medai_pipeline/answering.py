"""An answer to what a caller asked of one image: from the report that is there, where that says it, else computed.

A computed answer stands beside the report and changes nothing: which model counts is decided in the registry alone.
Both the web, which asks, and orchestration, which computes, look here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medai_pipeline import DISCLAIMER, stages
from medai_pipeline.errors import MedaiError, ModelNotFound, StudyError

if TYPE_CHECKING:
    from medai_pipeline.models.catalog import CatalogEntry
    from medai_pipeline.records import DeidentifiedStudy, StudyTensors
    from medai_pipeline.services import Services
    from medai_pipeline.stages import Inference
    from medai_pipeline.storage.requests import Request

ANALYSIS, UNCERTAINTY = "analysis", "uncertainty"
LEAST_SAMPLES, MOST_SAMPLES = 2, 500


def from_report(services: Services, request: Request) -> bool:
    """Ends the request with what the report that counts says already. False when it does not say that, or is not there."""
    report = services.catalogue.counting_report(request.study_key)
    image = services.catalogue.image(request.sop_instance_uid)
    if report is None or image is None or image["revision"] != report["revision"]:
        return False  # newer images are on their way, or the report is about the study without this one
    if not _was_read(report["content"], request.sop_instance_uid):
        return False
    told = (_uncertainty_told if request.kind == UNCERTAINTY else _analysis_told)(services, request, report)
    if told is None:
        return False
    result = {"source": "report", "scope": "study", "report_id": str(report["id"]), **told, "disclaimer": DISCLAIMER}
    places = {"report_id": report["id"], "object_prefix": report["object_prefix"]}
    return services.requests.finish(request, result, services.now(), revision=report["revision"], **places)


def compute(services: Services, inference: Inference, request: Request, run_id: str) -> None:
    """Computes the answer and ends the request with it, or with the reason why there is none."""
    began = time.perf_counter()
    try:
        study = _study_of(services, request)
        entry = _entry(services, inference, request, study)
        tensors = stages.normalize_study(study, services.objects, replace(inference.models, active=(entry,), shadow=()))
        if not tensors.model:
            raise StudyError(f"{entry.label} does not read this image: {tensors.no_model_reason}")
        work = _sampled if request.kind == UNCERTAINTY else _analyzed
        told, prefix = work(services, inference, request, (study, tensors, entry), run_id)
    except MedaiError as error:
        services.requests.fail(request, error.reason, services.now())
        return
    result = {
        "source": "computed",
        "scope": "image",
        **told,
        "seconds": round(time.perf_counter() - began, 3),
        "disclaimer": DISCLAIMER,
    }
    services.requests.finish(request, result, services.now(), revision=study.revision, object_prefix=prefix)


# what a report says ------------------------------------------------------------------------------------------


def _was_read(content: Mapping[str, Any], image: str) -> bool:
    """Whether the model saw this image. Where images were sampled only those that the report names are known to be seen."""
    told = (*content["quality"]["heatmaps"], *({"image": uid} for row in content["findings"] for uid in row["images"]))
    if any(one["image"] == image for one in told):
        return True
    return all(one["subject"] != image and one["code"] != "sampled" for one in content["images"]["excluded"])


def _analysis_told(services: Services, request: Request, report: Mapping[str, Any]) -> dict[str, Any] | None:
    asked, content = request.asked, report["content"]
    model = next(iter(content["models"]), None)
    if model is None or not _same_model(services, asked["model_name"], model):
        return None
    mine = [told for told in content["quality"]["heatmaps"] if told["image"] == request.sop_instance_uid]
    if asked["generate_gradcam"]:
        method = asked["gradcam_method"] or services.settings.gradcam_method
        if not mine or any(told["method"] != method for told in mine):
            return None
    return {
        "model": model,
        "gradcam_method": mine[0]["method"] if mine and asked["generate_gradcam"] else None,
        "findings": content["findings"],
        "priority": content["priority"],
        "reasons": content["reasons"],
        "review_required": content["review_required"],
        "heatmaps": mine if asked["generate_gradcam"] else [],
        "demo_model": content["demo_model"],
    }


def _uncertainty_told(services: Services, request: Request, report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The numbers that were kept with the prediction; none of them when the caller wants samples of their own."""
    asked, model = request.asked, next(iter(report["content"]["models"]), None)
    if asked["samples"] or model is None or not _same_model(services, asked["model_name"], model):
        return None
    said = services.catalogue.result_in(report)
    if said is None:
        return None
    names = ("label", "probability", "uncertainty", "entropy", "information", "disagreement")
    findings = [{name: found.get(name) for name in names} for found in said["result"]["findings"]]
    return {"model": model, "samples": None, "findings": findings, "novelty": said["result"].get("novelty")}


def _same_model(services: Services, wanted: str, told: Mapping[str, Any]) -> bool:
    """Whether the report's model is the one wanted: by name the version in force, by name@version exactly that one."""
    if not wanted:
        return True
    try:
        entry = services.models.entry(wanted)
    except ModelNotFound:
        return False
    return (entry.name, entry.version) == (told["name"], told["version"])


# what is computed --------------------------------------------------------------------------------------------


def _study_of(services: Services, request: Request) -> DeidentifiedStudy:
    """The study as it is stored, with the one image."""
    study: DeidentifiedStudy = services.value("anonymized_instances", request.study_key)
    mine = [i for i in study.instances if i.sop_instance_uid == request.sop_instance_uid]
    if not mine:
        raise StudyError("the image is not part of its study any more: ask for another one")
    if not mine[0].usable:
        raise StudyError(f"the image cannot be read by a model: {mine[0].reason}")
    return replace(study, instances=(mine[0],), problems=(), warnings=())


def _entry(services: Services, inference: Inference, request: Request, study: DeidentifiedStudy) -> CatalogEntry:
    """The model that was asked for, else the one that counts for such images."""
    if request.asked["model_name"]:
        return inference.models.entry(request.asked["model_name"])
    image = study.instances[0]
    choice = inference.models.choose(image.modality, image.body_part)
    if choice.entry is None:
        raise StudyError(f"{choice.reason}: name one with model_name, or promote one")
    return choice.entry


Ready = tuple["DeidentifiedStudy", "StudyTensors", "CatalogEntry"]


def _analyzed(
    services: Services, inference: Inference, request: Request, ready: Ready, run_id: str
) -> tuple[dict[str, Any], str]:
    from medai_pipeline.publish import report_files
    from medai_pipeline.records import StudyHeatmaps

    study, tensors, entry = ready
    asked, known = request.asked, services.settings
    answer = stages.ask_model(entry, [tensors], inference, role="asked")[study.study_key]
    if isinstance(answer, MedaiError):
        raise answer
    drawing = replace(services.drawing, method=asked["gradcam_method"] or known.gradcam_method)
    maps = StudyHeatmaps(study.study_key, study.revision, (), model=answer.model)
    if asked["generate_gradcam"]:
        maps = stages.explain_study(answer, tensors, study, services.objects, drawing, inference)
    run = stages.Run(run_id, services.now(), known.triage_rules)
    report = stages.report_study(study, tensors, answer, maps, run)
    prefix = f"analyses/{study.study_key}/{request.id}"
    for name, data in report_files(report).items():
        services.objects.put(f"{prefix}/{name}", data)
    content = report.content
    return {
        "model": content["models"][0],
        "gradcam_method": drawing.method if asked["generate_gradcam"] else None,
        "findings": content["findings"],
        "priority": content["priority"],
        "reasons": content["reasons"],
        "review_required": content["review_required"],
        "heatmaps": content["quality"]["heatmaps"],
        "demo_model": content["demo_model"],
        "lineage": content["lineage"],
    }, prefix


def _sampled(
    services: Services, inference: Inference, request: Request, ready: Ready, run_id: str
) -> tuple[dict[str, Any], str]:
    study, tensors, entry = ready
    samples = request.asked["samples"]
    findings = stages.sample_images(entry, tensors, inference, samples or MOST_SAMPLES // 10)
    model = {"name": entry.name, "version": entry.version, "weights_sha256": entry.weights_sha256, "role": "asked"}
    return {"model": model, "samples": samples or MOST_SAMPLES // 10, "findings": findings}, ""
