"""DeepLabV3 against its torch twin, with both backbones and output strides."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from advconv_onnx.runtime.session import open_session
from tests.networks.equality import assert_export_agrees, assert_twin_agrees
from tests.networks.twins.deeplabv3 import DeepLabV3, auxiliary_classifier

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


@pytest.mark.parametrize(
    ("backbone", "output_stride", "rates"),
    # In small images large rates see nothing but padding.
    [("resnet50", 8, None), ("mobilenet_v2", 16, (1, 2, 4))],
)
def test_equals_its_twin(backbone: str, output_stride: int, rates: tuple[int, ...] | None) -> None:
    twin = DeepLabV3(5, backbone, output_stride, rates or RATES[output_stride])
    assert_twin_agrees(
        "deeplabv3",
        twin,
        [(2, 3, 64, 64), (1, 3, 49, 75)],
        classes=5,
        backbone=backbone,
        output_stride=output_stride,
        rates=rates,
    )


@pytest.mark.long
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_full_size_equals_its_twin_and_the_twins_export(backbone: str, output_stride: int) -> None:
    twin = DeepLabV3(21, backbone, output_stride, RATES[output_stride])
    shapes = [(2, 3, 64, 64), (1, 3, 209, 225)]
    model = assert_twin_agrees(
        "deeplabv3", twin, shapes, backbone=backbone, output_stride=output_stride
    )
    assert_export_agrees(model, twin, shapes)


def test_fixed_and_dynamic_sizes_agree() -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 49, 75), np.float32)
    options = {"backbone": "mobilenet_v2", "output_stride": 16, "classes": 2}
    fixed, *others = [
        open_session(catalog.build("deeplabv3", input_shape=(2, 3, *size), seed=3, **options)).run(
            None, {"x": images}
        )[0]
        for size in ((49, 75), ("H", "W"), (None, None))
    ]
    assert fixed.shape == (2, 2, 49, 75)
    for other in others:
        np.testing.assert_allclose(other, fixed, atol=1e-5 * np.ptp(fixed))


def test_weights_of_torchvision_fit_and_their_count_is_the_published_one() -> None:
    twin, auxiliary = DeepLabV3(), auxiliary_classifier()
    trained = twin.state_dict() | {
        f"aux_classifier.{name}": array for name, array in auxiliary.state_dict().items()
    }
    built = catalog.from_state_dict("deeplabv3", trained).graph.initializers
    assert not any(name.startswith("aux_classifier") for name in built)
    inference = sum(built[name].const_value.size for name, _ in twin.named_parameters())
    assert inference == 39_638_869
    # torchvision's documentation of DeepLabV3_ResNet50_Weights, the auxiliary classifier included.
    assert inference + sum(p.numel() for p in auxiliary.parameters()) == 42_004_074


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v2"])
def test_rates_of_the_paper(backbone: str, output_stride: int) -> None:
    model = catalog.build("deeplabv3", backbone=backbone, output_stride=output_stride)
    nodes = {node.name: node for node in model.graph}
    levels = [nodes[f"classifier.0.convs.{level}.0"] for level in (1, 2, 3)]
    found = [tuple(level.attributes["dilations"].as_ints()) for level in levels]
    assert found == [(rate, rate) for rate in RATES[output_stride]]
    assert nodes["classifier.4"].outputs[0].shape[2:] == (-(-513 // output_stride),) * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "backbone 'vgg'; use one of resnet50, mobilenet_v2"),
        ({"output_stride": 32}, "output_stride=32; use 8 or 16"),
        ({"classes": 0}, "channels=0; give one integer from 1 up"),
        ({"rates": (6, 0)}, "dilations=0; give one integer from 1 up"),
        ({"input_shape": ("N", "C", "H", "W")}, "the channels of 'x' .* are unknown"),
        ({"input_shape": (1, 3)}, "one to three spatial axes"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.build("deeplabv3", **options)
