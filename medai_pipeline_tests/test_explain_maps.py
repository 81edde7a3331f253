"""Class activation maps equal those of the package grad-cam, on any layer and kind of network; bad ones stay recognisable."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.cam import METHODS, class_map, scale
from medai_pipeline.explain.gradients import layer_maps, layer_views
from medai_pipeline.explain.layers import target_layers
from medai_pipeline.explain.methods import BY_GRADIENT

ARCHITECTURES = ("resnet18", "densenet121", "efficientnet_b0")


@lru_cache(maxsize=3)
def made(architecture: str):
    """(network, tensor, features, head): random weights, with a head that gives every class places that speak for it."""
    import timm
    import torch

    torch.manual_seed(7)
    model = timm.create_model(architecture, pretrained=False, num_classes=3, in_chans=1).eval()
    tensor = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        for part in model.modules():  # statistics of this image: untrained batch norms let hardly anything through
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None
        model.train()(tensor.repeat(2, 1, 1, 1) + 0.1 * torch.rand(2, 1, 64, 96))
        model.eval().get_classifier().weight.normal_(mean=0.2)
        features = model.forward_features(tensor)[0].numpy()
    return model, tensor, features, model.get_classifier().weight.detach().numpy()


@pytest.fixture(scope="module")
def network():
    return made("resnet18")


def enlarged(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return scale(cv2.resize(values, shape[::-1]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_closed_form_equals_grad_cam(architecture, method):
    from medai_pipeline.explain.reference import reference_map

    model, tensor, features, head = made(architecture)
    for index in (0, 2):
        expected = reference_map(model, tensor, index, method)
        found = enlarged(class_map(features, head[index], method), expected.shape)
        assert expected.max() > 0.5
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("architecture", "layer"), [("resnet18", "layer3"), ("densenet121", "features.norm5"), ("efficientnet_b0", "bn2")]
)
def test_maps_by_gradient_equal_grad_cam_at_any_layer(architecture, layer, method):
    from medai_pipeline.explain.reference import reference_map

    model, tensor, _, _ = made(architecture)
    views = layer_views(model, tensor, [0, 2], target_layers(model, tensor, [layer]))
    for index, values in zip((0, 2), layer_maps(views, method), strict=True):
        expected = reference_map(model, tensor, index, method, layer=model.get_submodule(layer))
        assert np.abs(enlarged(values, expected.shape) - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "options", "layer", "prefix"),
    [
        ("vit_tiny_patch16_224", {"img_size": 96}, "blocks.11.norm1", 1),
        ("vit_tiny_patch16_224", {"img_size": 96, "global_pool": "avg"}, "norm", 1),
        ("swin_tiny_patch4_window7_224", {"img_size": 112, "depths": (1, 1, 1, 1)}, "norm", 0),
    ],
)
def test_layers_of_tokens_are_found_and_equal_grad_cam(architecture, options, layer, prefix):
    """The library must be told which layer, and how its tokens lie on the image; here both are found."""
    import timm
    import torch
    from pytorch_grad_cam import HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(3)
    model = timm.create_model(architecture, pretrained=False, num_classes=3, in_chans=1, **options).eval()
    tensor = torch.rand(1, 1, options["img_size"], options["img_size"])
    (found,) = target_layers(model, tensor)
    assert (found.name, found.prefix) == (layer, prefix)
    values = layer_maps(layer_views(model, tensor, [1], (found,)), "hirescam")[0]
    assert values.shape == found.grid

    def on_image(output: torch.Tensor) -> torch.Tensor:
        tokens = output[:, prefix:] if output.ndim == 3 else output
        return tokens.reshape(1, *found.grid, -1).permute(0, 3, 1, 2)

    with HiResCAM(model, [model.get_submodule(layer)], reshape_transform=on_image) as explainer:
        expected = explainer(tensor, [ClassifierOutputTarget(1)])[0]
    assert np.abs(enlarged(values, expected.shape) - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [("resnet18", "layer4"), ("densenet121", "features"), ("efficientnet_b0", "bn2"), ("convnext_atto", "norm_pre")],
)
def test_the_layer_of_a_cnn_is_found_by_itself(architecture, layer):
    import timm
    import torch

    model = timm.create_model(architecture, pretrained=False, num_classes=3, in_chans=1).eval()
    assert [found.name for found in target_layers(model, torch.rand(1, 1, 96, 96))] == [layer]


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(network):
    from medai_pipeline.errors import ModelError

    with pytest.raises(ModelError, match=r"called nowhere; .*layer4"):
        target_layers(network[0], network[1], ["layer4", "nowhere"])


def test_several_layers_are_fused_on_the_finest_grid(network):
    model, tensor, _, _ = network
    layers = target_layers(model, tensor, ["layer3", "layer4"])
    views = layer_views(model, tensor, [0], layers)
    both = layer_maps(views, "gradcam")[0]
    fine, coarse = (layer_maps([view], "gradcam")[0] for view in views)
    assert both.shape == fine.shape
    assert np.abs(both - scale((fine + cv2.resize(coarse, fine.shape[::-1])) / 2)).max() < 1e-6


def test_asking_for_gradients_leaves_nothing_behind(network):
    model, tensor, _, _ = network
    model.zero_grad(set_to_none=True)  # the library leaves some
    layer_views(model, tensor, [0], target_layers(model, tensor))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_reference_explains_the_last_layer_with_feature_maps(network):
    from medai_pipeline.explain.reference import last_feature_layer

    model, tensor, _, _ = network
    assert last_feature_layer(model, tensor) is model.layer4


def test_a_network_without_feature_maps_is_refused_by_name(network):
    import torch

    from medai_pipeline.errors import ModelError
    from medai_pipeline.explain.reference import reference_map

    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 96, 3))
    with pytest.raises(ModelError, match="no layer with feature maps"):
        reference_map(flat, network[1], 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_without_heat_stays_zero(method):
    features = np.ones((4, 5, 5), dtype=np.float32)
    assert not class_map(features, np.array([-1, -2, -3, -4], dtype=np.float32), method).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_from_values_that_are_not_finite_is_all_nan(bad):
    features = np.ones((2, 4, 4), dtype=np.float32)
    features[0, 1, 1] = bad
    assert np.isnan(class_map(features, np.ones(2, dtype=np.float32))).all()


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(SettingsError, match=r"gradcam\+\+"):
        class_map(np.ones((1, 2, 2)), np.ones(1), "guesscam")


def test_the_settings_know_every_method():
    assert tuple(METHODS) == BY_GRADIENT
