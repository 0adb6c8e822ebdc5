"""U-Net against its torch twin, at sizes that halve evenly and at others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from advconv_onnx.runtime.session import open_session
from tests.networks.equality import assert_export_agrees, assert_twin_agrees
from tests.networks.twins.unet import UNet

DECODERS = ["transposed", "upsample"]

SMALL = {"classes": 2, "depth": 3, "base": 8}

SHAPES = [(2, 3, 32, 48), (1, 3, 37, 27)]


def small_twin(decoder: str) -> UNet:
    return UNet(**SMALL, bilinear=decoder == "upsample")


def parameters(model: ir.Model) -> int:
    """As torch counts them: statistics of BatchNormalization and constants are none."""
    return sum(
        value.const_value.size
        for name, value in model.graph.initializers.items()
        if name.endswith((".weight", ".bias"))
    )


@pytest.mark.parametrize("decoder", DECODERS)
def test_equals_its_twin_and_the_twins_export(decoder: str) -> None:
    twin = small_twin(decoder)
    model = assert_twin_agrees("unet", twin, SHAPES, decoder=decoder, **SMALL)
    assert_export_agrees(model, twin, SHAPES)


@pytest.mark.long
@pytest.mark.parametrize("decoder", DECODERS)
def test_full_size_equals_its_twin_and_the_twins_export(decoder: str) -> None:
    twin = UNet(bilinear=decoder == "upsample")
    shapes = [(2, 3, 64, 96), (1, 3, 75, 41)]
    model = assert_twin_agrees("unet", twin, shapes, decoder=decoder)
    assert_export_agrees(model, twin, shapes)


def test_published_parameter_counts() -> None:
    # Widely reported for Pytorch-UNet with transposed convolutions and one class: 31,037,633.
    assert parameters(catalog.build("unet")) == 31_037_633
    assert parameters(catalog.build("unet", classes=2)) == 31_037_698
    # For its bilinear variant with one class 17,267,393 were reported when its convolutions still
    # had biases in front of the BatchNormalizations: one per channel, encoder and decoder.
    biases = 2 * (64 + 128 + 256 + 512 + 512) + (512 + 256) + (256 + 128) + (128 + 64) + (64 + 64)
    assert parameters(catalog.build("unet", decoder="upsample")) == 17_267_393 - biases


@pytest.mark.parametrize("decoder", DECODERS)
def test_only_sizes_that_may_be_odd_are_padded(decoder: str) -> None:
    def padded(height: int | str, width: int | str) -> int:
        model = catalog.build("unet", input_shape=("N", 3, height, width), decoder=decoder, **SMALL)
        return sum(node.op_type == "Pad" for node in model.graph)

    assert padded(64, 24) == padded("8*H", "16*W") == padded(64, "8*W") == 0
    assert padded("H", "W") == padded(64, "W") == 3
    assert padded(63, 64) == 3  # 63 -> 31 -> 15 -> 7
    assert padded(36, 64) == 1  # 36 -> 18 -> 9 -> 4


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(32, 40), (37, 27), (8, 8)])
def test_fixed_and_dynamic_sizes_agree(decoder: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
    found = [
        open_session(
            catalog.build("unet", input_shape=(2, 3, *axes), seed=3, decoder=decoder, **SMALL)
        ).run(None, {"x": images})[0]
        for axes in (size, ("H", "W"), (None, None))
    ]
    assert found[0].shape == (2, 2, *size)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5 * np.ptp(found[0]))


def test_three_dimensions() -> None:
    model = catalog.build("unet", input_shape=(1, 1, 9, 8, 10), **SMALL)
    [y] = open_session(model).run(None, {"x": np.ones((1, 1, 9, 8, 10), np.float32)})
    assert y.shape == (1, 2, 9, 8, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "bilinear"}, "decoder 'bilinear'; use one of transposed, upsample"),
        ({"depth": 0}, "depth=0; halve the image at least once"),
        (
            {"depth": 10, "base": 1},
            "'x' has size 512x512, .* at least 1024 pixels .*, or a smaller depth",
        ),
        ({"input_shape": (1, 3, 15, "W")}, "size 15xW, and depth=4 .* at least 16 pixels"),
        ({"base": 0}, "channels=0; give one integer from 1 up"),
        ({"classes": 0}, "channels=0; give one integer from 1 up"),
        ({"input_shape": ("N", 3)}, "one to three spatial axes"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.build("unet", **options)
