"""DCGAN's generator against its torch twin."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from advconv_onnx.runtime.session import open_session
from tests.networks.equality import assert_export_agrees, assert_twin_agrees
from tests.networks.twins.dcgan import Generator

SHAPES = [(1, 100, 1, 1), (3, 100, 1, 1)]


def count(size: int, latent: int = 100, base: int = 64, channels: int = 3) -> int:
    """16 taps between all channels of neighbouring layers, and two per normalized channel."""
    widths = [base * 2**power for power in range(size.bit_length() - 3)]
    pairs = zip([channels, *widths], [*widths, latent], strict=True)
    return sum(16 * outputs * inputs for outputs, inputs in pairs) + 2 * sum(widths)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("base", [16, pytest.param(64, marks=pytest.mark.long)])
def test_equals_its_twin_and_the_twins_export(size: int, base: int) -> None:
    twin = Generator(base=base, doublings=size.bit_length() - 3)
    model = assert_twin_agrees("dcgan", twin, SHAPES, size=size, base=base)
    assert_export_agrees(model, twin, SHAPES)


def test_published_parameter_count() -> None:
    def built(size: int) -> int:
        model = catalog.build("dcgan", size=size)
        weights = {k: v for k, v in model.graph.initializers.items() if "running" not in k}
        return sum(value.const_value.size for value in weights.values())

    # Widely reported for the generator of pytorch/examples/dcgan.
    assert built(64) == count(64) == 3_576_704
    assert built(128) == count(128)


@pytest.mark.parametrize("size", [8, 16, 64])
def test_draws_images(size: int) -> None:
    model = catalog.build("dcgan", size=size, base=8, channels=1)
    noise = np.random.default_rng(0).standard_normal((4, 100, 1, 1), np.float32)
    [images] = open_session(model).run(None, {"x": noise})
    assert images.shape == (4, 1, size, size)
    assert abs(images).max() <= 1
    # However many layers, the values neither fade nor saturate.
    assert 0.01 < images.std() < 0.1


def test_initial_weights_follow_the_paper() -> None:
    weights = {
        name: value.const_value.numpy()
        for name, value in catalog.build("dcgan").graph.initializers.items()
    }
    for name, mean in (("main.0.weight", 0), ("main.12.weight", 0), ("main.1.weight", 1)):
        assert weights[name].mean() == pytest.approx(mean, abs=0.004)
        assert weights[name].std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 100}, "size=100; use a power of two from 8 up"),
        ({"size": 4}, "size=4; use a power of two from 8 up"),
        ({"size": -64}, "size=-64; use a power of two"),
        ({"base": 0}, "channels=0; give one integer from 1 up"),
        ({"channels": 0}, "channels=0; give one integer from 1 up"),
        ({"input_shape": (1, 100)}, "one to three spatial axes"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.build("dcgan", **options)
