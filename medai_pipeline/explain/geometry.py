"""From the field of view of a heatmap to the original image. Nothing here looks at what the heat means.

Coordinates are those of pixel edges: column x of an image covers [x, x + 1), as `Placement` has it.
"""

from __future__ import annotations

import numpy as np

from medai_pipeline.records import Placement


def heat_on_image(
    values: np.ndarray, placement: Placement, tensor_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Heat (h, w) over a tensor of `tensor_size` (H, W), as it lies on the source image drawn at `size` (rows, columns).

    Bicubic (a coarse grid drawn bilinearly shows diamonds that are not there), held in [0, 1]; float32 (rows, columns).
    Heat over the tensor's padding falls outside and is gone; a part of the image that the tensor does not show has none.
    """
    down = _resampling(
        values.shape[0] / tensor_size[0],
        placement.source_rows,
        placement.scale_y,
        placement.offset_y,
        values.shape[0],
        size[0],
    )
    across = _resampling(
        values.shape[1] / tensor_size[1],
        placement.source_columns,
        placement.scale_x,
        placement.offset_x,
        values.shape[1],
        size[1],
    )
    return np.clip(down @ np.asarray(values, dtype=np.float32) @ across.T, 0, 1)


def _resampling(cells_per_pixel: float, source: int, scale: float, offset: float, cells: int, drawn: int) -> np.ndarray:
    """The weight of each heat cell at the centre of each drawn pixel along one axis: float32 (drawn, cells).

    An exact matrix, as OpenCV's warp rounds positions to 1/32 of a cell, which many drawn pixels then share.
    Beyond the outermost cells' centres their values go on, up to the edge of the map and not farther.
    """
    in_source = (np.arange(drawn) + 0.5) * source / drawn
    position = (in_source * scale + offset) * cells_per_pixel - 0.5
    first = np.floor(position).astype(int) - 1
    weights = np.zeros((drawn, cells), dtype=np.float32)
    for step in range(4):
        cell = first + step
        np.add.at(weights, (np.arange(drawn), np.clip(cell, 0, cells - 1)), _cubic(np.abs(position - cell)))
    weights[(position < -0.5) | (position > cells - 0.5)] = 0
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -0.5 (Keys 1981), for distances 0 to 2 in cells."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
