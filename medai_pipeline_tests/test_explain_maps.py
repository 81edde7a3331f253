"""The closed form of class activation maps equals the package grad-cam, and bad maps stay recognisable."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medai_pipeline.errors import SettingsError
from medai_pipeline.explain.cam import METHODS, class_map, scale


@pytest.fixture(scope="module")
def network():
    import timm
    import torch

    torch.manual_seed(7)
    model = timm.create_model("resnet18", pretrained=False, num_classes=3, in_chans=1).eval()
    tensor = torch.rand(1, 1, 96, 80)
    with torch.no_grad():
        model.get_classifier().weight.normal_(mean=0.2)  # so that every class has places that speak for it
        features = model.forward_features(tensor)[0].numpy()
    return model, tensor, features, model.get_classifier().weight.detach().numpy()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("index", [0, 2])
def test_the_closed_form_equals_grad_cam(network, method, index):
    from medai_pipeline.explain.reference import reference_map

    model, tensor, features, head = network
    expected = reference_map(model, tensor, index, method)
    found = scale(cv2.resize(class_map(features, head[index], method), (80, 96)))
    assert expected.shape == (96, 80)
    assert expected.max() > 0.5
    assert np.abs(found - expected).max() < 1e-4


def test_the_reference_explains_the_last_layer_with_feature_maps(network):
    from medai_pipeline.explain.reference import last_feature_layer

    model, tensor, _, _ = network
    assert last_feature_layer(model, tensor) is model.layer4


def test_a_network_without_feature_maps_is_refused_by_name(network):
    import torch

    from medai_pipeline.errors import ModelError
    from medai_pipeline.explain.reference import reference_map

    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(96 * 80, 3))
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
