"""The taps of an axis put together: all at once, or in tiles that read what they need."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import NotEqual, certify
from advconv_onnx.rewriter.assembly import Assembly


def enlarged(size: int, scale: int = 2, mode: str = "nearest", pad: int = 1) -> AxisOperator:
    """A kernel of three taps on an enlarged axis."""
    finer = algebra.resize(size, scale=scale, mode=mode, coordinates="half_pixel")
    return algebra.convolution(finer.outputs, 3, pads=(pad, pad)).after(finer)


def convolved(size: int, dilation: int) -> AxisOperator:
    return algebra.convolution(size, 3, dilation=dilation, pads=(dilation, dilation))


TILED = {
    "nearest": enlarged(40),
    "linear": enlarged(48, mode="linear"),
    "cubic": enlarged(40, scale=4, mode="cubic"),
    "scale 3": enlarged(36, scale=3),
    "tiles that see padding alone": algebra.pad(40, 32, 8),
    "no pixel is seen": algebra.pad(40, -40, 48),
    "dead taps": convolved(48, 50),
}
WHOLE = {
    "short": enlarged(32),
    "no tile fits": enlarged(61),
    "one tile would be all": algebra.resize(64, 16),
    "only small tiles fit": convolved(35, 1),
}


@pytest.mark.parametrize("operator", (TILED | WHOLE).values(), ids=(TILED | WHOLE).keys())
@pytest.mark.parametrize("is_last", [False, True])
def test_assembled_images_are_what_the_operator_says(operator: AxisOperator, is_last: bool) -> None:
    form = Assembly.of(operator, is_last)
    live = operator.dense()[list(operator.live_taps() or (0,))]
    images = np.random.default_rng(0).integers(-9, 9, (form.taps, form.pixels))
    read = images.reshape(-1)[form.rows].reshape(len(form.starts), -1, 1)
    assert (form.taps, form.pixels) == (len(live), operator.inputs)
    assert form.matrices.shape == (len(form.starts), form.tile, form.taps * form.width)
    assert np.allclose((form.matrices @ read).ravel(), np.einsum("koi,ki->o", live, images))
    assert certify("", operator, form.exact)


@pytest.mark.parametrize("operator", TILED.values(), ids=TILED.keys())
def test_long_axes_are_tiled_unless_last_in_memory(operator: AxisOperator) -> None:
    form = Assembly.of(operator, is_last=False)
    assert form.is_tiled
    assert 8 <= form.tile <= 16
    assert form.width < operator.inputs
    assert not Assembly.of(operator, is_last=True).is_tiled


@pytest.mark.parametrize("operator", WHOLE.values(), ids=WHOLE.keys())
def test_others_are_assembled_at_once(operator: AxisOperator) -> None:
    form = Assembly.of(operator, is_last=False)
    assert not form.is_tiled
    assert (form.tile, form.width) == (operator.outputs, operator.inputs)


@pytest.mark.parametrize("operator", [TILED["nearest"], TILED["cubic"]], ids=["nearest", "cubic"])
def test_tiles_that_read_too_little_are_found(operator: AxisOperator) -> None:
    form = Assembly.of(operator, is_last=False)
    moved = (form.starts[0], form.starts[1] + 1, *form.starts[2:])
    for wrong in ({"width": form.width - 1}, {"starts": moved}):
        with pytest.raises(NotEqual):
            certify("", operator, dataclasses.replace(form, **wrong).exact)
