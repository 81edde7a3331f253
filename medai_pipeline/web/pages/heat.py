"""The heat of a report's finding, resampled onto its image: small, in the site's colours, only where it may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medai_pipeline.dicom.viewing import packed
from medai_pipeline.errors import NotFound, ObjectMissing
from medai_pipeline.keeping import kept_name, made_by, object_name
from medai_pipeline.records import Heatmap, ModelRef, StudyHeatmaps
from medai_pipeline.services import Services
from medai_pipeline.storage.codec import decode

if TYPE_CHECKING:
    from medai_pipeline.storage.history import StoredReport

LONG_SIDE = 384  # of the picture that is sent: a map has 7 to 32 cells a side
_ASSET = "gradcam_maps"


def packed_heat(services: Services, study_key: str, report: StoredReport, number: int) -> bytes:
    """Header, 256 colours (RGB) and heat 0 to 255 (rows, columns). Raises NotFound with the reason why there is none."""
    from medai_pipeline.explain.geometry import heat_on_image
    from medai_pipeline.explain.overlay import CLEAR, color_table

    found = _heatmap(services, study_key, report, number)
    place = found.item.placement
    scale = min(1.0, LONG_SIDE / max(place.source_rows, place.source_columns))
    size = max(1, round(place.source_rows * scale)), max(1, round(place.source_columns * scale))
    heat = np.rint(heat_on_image(found.values, place, found.tensor_size, size) * 255).astype(np.uint8)
    settings = services.settings
    header = {"rows": size[0], "columns": size[1], "alpha": settings.gradcam_alpha, "clear": CLEAR}
    colours = np.ascontiguousarray(color_table(settings.gradcam_colormap)[:, ::-1])
    return packed(header, colours.tobytes(), heat.tobytes())


def _heatmap(services: Services, study_key: str, report: StoredReport, number: int) -> Heatmap:
    rows = report.content["quality"]["heatmaps"]
    if number >= len(rows):
        raise NotFound("this report has no such heatmap: load the study page again")
    if not rows[number]["drawn"]:
        raise NotFound(f"this heatmap is withheld: {rows[number]['reason'] or 'its finding is below the threshold'}")
    maps = _maps(services, study_key, report)
    found = maps.heatmaps[number] if number < len(maps.heatmaps) else None
    if found is None or found.withheld or found.label != rows[number]["label"] or not all(found.tensor_size):
        raise NotFound("this report's heatmap was not kept: materialize gradcam_maps of the study again")
    return found


def _maps(services: Services, study_key: str, report: StoredReport) -> StudyHeatmaps:
    """Those that this very report was made of: the present ones, or what another model version's have replaced."""
    told = report.content["models"][0] if report.content["models"] else {}
    ref = ModelRef(told.get("name", ""), told.get("version", ""), told.get("weights_sha256", ""))
    made = made_by(ref, report.revision, report.content["lineage"]["code_version"])
    for name in (object_name(_ASSET, study_key), kept_name(_ASSET, study_key, made)):
        try:
            maps = decode(services.objects.get(name))
        except ObjectMissing:
            continue
        same = isinstance(maps, StudyHeatmaps) and maps.revision == report.revision and maps.model is not None
        if same and (maps.model.name, maps.model.weights_sha256) == (ref.name, ref.weights_sha256):
            return maps
    raise NotFound("the heatmaps of this report were replaced by a newer one's: the report page has their pictures")
