"""Loading the definitions imports nothing heavy and connects to nothing; the page shows what the design promises."""

import json
import subprocess
import sys

import dagster as dg

from medai_pipeline.definitions import build_definitions

HEAVY = ["torch", "timm", "torchvision", "great_expectations", "highdicom", "pandas", "celery", "pytorch_grad_cam"]


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    code = f"import sys, json, medai_pipeline.definitions; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout.splitlines()[-1]) == []


def test_the_definitions_load_without_any_service() -> None:
    definitions = build_definitions(database_url=None, orthanc_url=None)
    dg.Definitions.validate_loadable(definitions)


def test_the_graph_is_the_designs() -> None:
    graph = build_definitions().resolve_asset_graph()
    parents = {
        key.path[-1]: sorted(p.path[-1] for p in graph.get(key).parent_keys) for key in graph.get_all_asset_keys()
    }
    assert parents["raw_dicom"] == []
    assert parents["anonymized_instances"] == ["raw_dicom"]
    assert parents["normalized_tensors"] == ["anonymized_instances"]
    assert parents["predictions"] == ["model_choice", "normalized_tensors"]
    assert "predictions" in parents["gradcam_maps"]
    assert "gradcam_maps" in parents["triage_reports"]


def test_the_gpu_stages_are_tagged() -> None:
    graph = build_definitions().resolve_asset_graph()
    tagged = {k.path[-1] for k in graph.get_all_asset_keys() if graph.get(k).tags.get("medai/compute") == "gpu"}
    assert tagged == {"predictions", "gradcam_maps"}
