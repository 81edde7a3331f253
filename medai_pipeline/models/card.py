"""The model card as Markdown, from what training measured. Text only."""

from __future__ import annotations

from typing import Any

from medai_pipeline.models.calibration import reliability_file
from medai_pipeline.models.catalog import CatalogEntry
from medai_pipeline.models.metrics import temperature_warning

_CARD = """# {name} {version}

**{headline}**

| | |
|---|---|
| Architecture | timm `{architecture}` {options}, pooled linear head, random start (no pretrained weights) |
| Input | {channels} x {height} x {width}, intensity rule `{scaling}` |
| Modalities, body part | {modalities}; {body_parts} |
| Findings | {classes} |
| A study's probability | {aggregation} over its images, temperature {temperature} |
| Weights | {weights_file}, {megabytes:.1f} MB, SHA-256 `{digest}` |
| Licence | {licence} |

## Data

{data}
Seed {seed}, {epochs} epochs.

## Held-out results ({test_studies} test studies, {test_images} images)

| finding | AUC images | AUC studies | sensitivity | specificity | pointing | threshold | calibration error |
|---|---|---|---|---|---|---|---|
{rows}

Sensitivity and specificity are of studies at the threshold. Pointing: share of images rightly called positive whose
class activation map has its maximum inside a true box grown by one map cell. Calibration error: how far probabilities of
images lie from frequencies on the average (ECE, 15 bins); {over} {calibration_error}.{normals}{warning}

![How often a finding was there, by predicted probability]({reliability})

## Limits

{limits}
"""

_PHANTOMS = {
    "headline": "Synthetic phantoms; no clinical value. Research use only.",
    "data": """Rendered by `medai_pipeline.phantoms`: {training_images} images of {training_studies} studies for training,
{held_out_studies} studies each for validation (temperature, thresholds) and test. Seeds of the three never meet.
No picture of a person was used. `medai models train --demo --model {name}` reproduces it.""",
    "limits": """It has seen drawings alone. On pictures of people its output means nothing; it exists so that the pipeline can be tried
out and tested from end to end.""",
}
_MANIFEST = {
    "headline": "Trained on a manifest of images; not validated for clinical use. Research use only.",
    "data": """{data}
{training_images} images of {training_studies} patients for training; the test split holds {held_out_studies} patients.""",
    "limits": """Its figures hold for images like those of the manifest, from the same sources. Whoever uses it must test it on their own.""",
}

_OVER = {True: "over all findings", False: "of the most probable class (top label)"}


def write_card(entry: CatalogEntry, facts: dict[str, Any], size_bytes: int) -> str:
    """`facts` as `evaluate.report` writes them into the JSON file beside the weights."""
    held, training = facts["held_out"], facts["training"]
    keys = (
        "auc_images",
        "auc_studies",
        "sensitivity_studies",
        "specificity_studies",
        "pointing",
        "threshold",
        "calibration_error",
    )
    rows = "\n".join(
        f"| {label} | " + " | ".join("none" if figures[key] is None else f"{figures[key]:.3f}" for key in keys) + " |"
        for label, figures in held["classes"].items()
    )
    kind = _PHANTOMS if entry.demo else _MANIFEST
    normals, warning = held["normal_studies_called_normal"], temperature_warning(facts["temperature"])
    return _CARD.format(
        headline=kind["headline"],
        data=kind["data"].format(name=entry.name, **training),
        limits=kind["limits"],
        name=entry.name,
        version=entry.version,
        architecture=entry.architecture,
        options=", ".join(f"{key}={value}" for key, value in entry.options.items()),
        channels=entry.contract.channels,
        height=entry.contract.height,
        width=entry.contract.width,
        scaling=entry.contract.scaling,
        modalities=", ".join(entry.modality),
        body_parts=", ".join(entry.body_parts),
        classes=", ".join(entry.classes),
        aggregation=entry.aggregation,
        temperature=facts["temperature"],
        weights_file=entry.weights_file,
        megabytes=size_bytes / 1e6,
        digest=facts["weights_sha256"],
        licence=entry.licence,
        rows=rows,
        reliability=reliability_file(entry),
        over=_OVER[entry.multi_label],
        calibration_error=held["calibration_error"],
        normals="" if normals is None else f" Normal studies called normal: {normals:.1%}.",
        warning=f"\n\n**{warning}**" if warning else "",
        test_studies=held["studies"],
        test_images=held["images"],
        seed=training["seed"],
        epochs=training["epochs"],
    )
