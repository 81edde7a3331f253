"""Class activation maps by the package grad-cam: for networks whose head is not pooled and linear, and as the measure.

It costs a forward and a backward pass for each class; `cam` costs neither. Only this module imports torch, and late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medai_pipeline.errors import ModelError, SettingsError

if TYPE_CHECKING:
    import torch

_CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "scorecam": "ScoreCAM",
}


def reference_map(
    model: torch.nn.Module,
    tensor: torch.Tensor,
    class_index: int,
    method: str = "gradcam",
    layer: torch.nn.Module | None = None,
) -> np.ndarray:
    """Heat of one class on one input: tensor (1, C, H, W) -> float32 (H, W) in [0, 1].

    `layer` is whose output is explained; by default the last one that gives feature maps, found by a forward pass.

    Raises SettingsError for an unknown method, ModelError when the network has no layer with feature maps.
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if method not in _CLASSES:
        raise SettingsError(f"unknown explanation method {method}; use one of {', '.join(_CLASSES)}")
    layer = layer if layer is not None else last_feature_layer(model, tensor)
    with getattr(pytorch_grad_cam, _CLASSES[method])(model=model, target_layers=[layer]) as explainer:
        heat = explainer(input_tensor=tensor, targets=[ClassifierOutputTarget(class_index)])
    return np.asarray(heat[0], dtype=np.float32)


def last_feature_layer(model: torch.nn.Module, tensor: torch.Tensor) -> torch.nn.Module:
    """The last module, in order of execution, that returns feature maps (N, D, h, w) larger than one place.

    Raises ModelError when there is none.
    """
    import torch

    seen: list[torch.nn.Module] = []

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] * output.shape[-2] > 1:
            seen.append(module)

    hooks = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        with torch.no_grad():
            model(tensor)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ModelError("the network has no layer with feature maps; name the layer to explain in its catalog entry")
    return seen[-1]
