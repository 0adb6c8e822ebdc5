"""ResNeXt and ResNet against their torch twin, their published sizes, and atrous features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder
from advconv_onnx.networks.resnext import features
from advconv_onnx.runtime.session import open_session
from tests.networks.equality import (
    BOUND,
    assert_export_agrees,
    assert_twin_agrees,
    randomize,
)
from tests.networks.twins.resnext import ResNeXt

SHAPES = [(2, 3, 64, 64), (1, 3, 97, 65)]

RESNET_50 = {"groups": 1, "width_per_group": 64}
SMALL = {"depths": (1, 2, 1, 1), "groups": 8, "width_per_group": 5, "classes": 30}


@pytest.mark.parametrize(
    ("parameters", "published"),
    # num_params of torchvision's ResNeXt50_32X4D_Weights, ResNet50_Weights and
    # ResNeXt101_32X8D_Weights
    [
        ({}, 25_028_904),
        (RESNET_50, 25_557_032),
        ({"depths": (3, 4, 23, 3), "width_per_group": 8}, 88_791_336),
    ],
)
def test_has_the_published_size(parameters: dict[str, Any], published: int) -> None:
    assert catalog.count_parameters(catalog.build("resnext", **parameters)) == published


@pytest.mark.parametrize("parameters", [{}, RESNET_50, SMALL])
def test_equals_the_twin(parameters: dict[str, Any]) -> None:
    assert_twin_agrees("resnext", ResNeXt(**parameters), SHAPES, **parameters)


@pytest.mark.parametrize("parameters", [SMALL, pytest.param({}, marks=pytest.mark.long)])
def test_equals_the_export_of_the_twin(parameters: dict[str, Any]) -> None:
    twin = ResNeXt(**parameters)
    model = assert_twin_agrees("resnext", twin, SHAPES[:1], **parameters)
    assert_export_agrees(model, twin, SHAPES[:1])


@pytest.mark.parametrize(
    ("output_stride", "dilate"), [(16, (False, False, True)), (8, (False, True, True))]
)
def test_features_keep_the_resolution(output_stride: int, dilate: tuple[bool, ...]) -> None:
    layout = {"depths": (1, 1, 2, 2), "groups": 4, "width_per_group": 4}
    twin = randomize(ResNeXt(**layout, dilate=dilate))
    weights = {name: array.numpy() for name, array in twin.state_dict().items() if "fc" not in name}
    b = Builder(weights={k: v for k, v in weights.items() if "num_batches" not in k})
    x = b.input("x", ("N", 3, "H", "W"))
    b.output(features(b, x, **layout, output_stride=output_stride))
    session = open_session(b.model())
    images = torch.randn(1, 3, 65, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = twin.double().features(images.double()).numpy()
    [found] = session.run(None, {"x": images.numpy()})
    assert found.shape[2:] == (-(-65 // output_stride), 80 // output_stride)
    assert abs(found - wanted).max() < BOUND * np.ptp(wanted)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"depths": ()}, r"depths=\(\); give each stage at least one block"),
        ({"depths": (3, 0)}, r"depths=\(3, 0\); give each stage"),
        ({"groups": 0}, r"layer1\.0\.conv1': channels=0; give one integer from 1 up"),
        ({"classes": 0}, "features=0"),
    ],
)
def test_refuses_with_a_remedy(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.build("resnext", **parameters)
