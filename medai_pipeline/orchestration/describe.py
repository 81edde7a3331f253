"""What a person sees of each stored value in the Dagster page: counts, tables, pictures. Never an identity or a source UID."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from typing import Any

import cv2
import dagster as dg
import numpy as np

from medai_pipeline.orchestration.study_loop import Described
from medai_pipeline.records import (
    DeidentifiedStudy,
    Manifest,
    Problem,
    Report,
    StudyHeatmaps,
    StudyPrediction,
    StudyTensors,
)

THUMBNAIL_PX = 360  # long side of the picture in the asset's metadata: Dagster keeps it for ever, so it stays small


def manifest(value: Manifest) -> Described:
    size = sum(i.size_bytes for i in value.instances)
    return Described(
        {"files": len(value.instances), "megabytes": round(size / 1e6, 2), "revision": value.revision},
        value.source_digest,
    )


def deidentified(value: DeidentifiedStudy) -> Described:
    usable = [i for i in value.instances if i.usable]
    reasons = Counter(i.reason for i in value.instances if not i.usable)
    rows = [
        {
            "modality": i.modality,
            "body part": i.body_part,
            "view": i.view_position,
            "rows": i.rows,
            "columns": i.columns,
            "frames": i.frames,
            "used": i.usable,
            "why not": i.reason,
        }
        for i in value.instances[:20]
    ]
    return Described(
        {
            "revision": value.revision,
            "images": len(value.instances),
            "usable": len(usable),
            "left out": dict(reasons),
            "unreadable": _problems(value.problems),
            "warnings": dict(Counter(warning.reason for warning in value.warnings).most_common(20)),
            "profile": value.profile,
            "instances (first 20)": _table(rows),
        },
        _digest(value.profile, *(i.sha256 for i in value.instances)),
    )


def tensors(value: StudyTensors) -> Described:
    metadata: dict[str, Any] = {
        "revision": value.revision,
        "modality": value.modality,
        "body part": value.body_part or "not stated",
        "model": value.model or value.no_model_reason,
        "images": len(value.items),
        "problems": _problems(value.problems),
    }
    if value.pixels.size:
        metadata["shape"] = " x ".join(map(str, value.pixels.shape))
        metadata["mean"] = float(value.pixels.mean())
    return Described(metadata, _digest(value.model, value.pixels.tobytes()))


def prediction(value: StudyPrediction) -> Described:
    rows = [
        {
            "finding": label,
            "probability": round(float(value.probabilities[k]), 3),
            "uncertainty": "not measured" if value.uncertainty is None else round(float(value.uncertainty[k]), 3),
            "threshold": round(float(value.thresholds[k]), 3),
            "present": bool(value.probabilities[k] >= value.thresholds[k]),
        }
        for k, label in enumerate(value.labels)
    ]
    model = value.model
    metadata = {
        "revision": value.revision,
        "model": f"{model.name}@{model.version}" if model.name else "no model covers this study",
        "weights": model.weights_sha256[:12],
        "demo model (synthetic phantoms)": value.demo,
        "findings": _table(rows),
        "distance from training (limit 1)": "not known" if value.novelty is None else round(value.novelty, 2),
    }
    return Described(metadata, f"{model.name}@{model.version}:{model.weights_sha256[:16]}" if model.name else "none")


def heatmaps(value: StudyHeatmaps, study: DeidentifiedStudy) -> Described:
    rows = [
        {
            "finding": m.label,
            "method": m.method,
            "regions": len(m.regions),
            "reliable": m.reliable,
            "why not": m.reason,
        }
        for m in value.heatmaps
    ]
    metadata: dict[str, Any] = {"revision": value.revision, "maps": _table(rows)}
    pictures = list(value.overlays.values())
    if pictures and not any(i.burned_in_annotation == "YES" for i in study.instances):
        # Pixels with burned-in text may identify; Dagster has no access control and keeps everything.
        metadata["overlay"] = dg.MetadataValue.md(_picture(pictures[0]))
    values = (np.ascontiguousarray(m.values).tobytes() for m in value.heatmaps)
    return Described(metadata, _digest(*values))


def report(value: Report) -> Described:
    content = value.content
    present = [f"{f['label']} {f['probability']:.2f}" for f in content["findings"] if f["present"]]
    metadata = {
        "priority": content["priority"],
        "review required": content["review_required"],
        "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in content["reasons"])),
        "present": ", ".join(present) or "nothing",
        "revision": value.revision,
        "disclaimer": content["disclaimer"],
    }
    stable = {key: content[key] for key in ("priority", "reasons", "findings", "models")}
    return Described(metadata, _digest(repr(stable)))


def _problems(problems: tuple[Problem, ...]) -> dg.MetadataValue:
    return _table([{"subject": p.subject[:16], "code": p.code, "reason": p.reason} for p in problems[:20]])


def _table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else dg.MetadataValue.text("none")


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()[:32]


def _picture(png: bytes) -> str:
    image = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
    scale = THUMBNAIL_PX / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return f"![overlay](data:image/jpeg;base64,{base64.b64encode(encoded).decode()})"
