"""Fold a zero Pad into the pads of the convolution that reads it.

    Conv(Pad(x, p), pads=q)           =  Conv(x, pads=q + p)
    ConvTranspose(Pad(x, p), pads=q)  =  ConvTranspose(x, pads=q - p * stride)

because a zero border of p pixels widens the output of a transposed convolution by p * stride on
that side. Refused for other modes and values, for padded batch or channels, negative pads, pads
that are not constant, ``auto_pad`` SAME, and where a ConvTranspose's pads would become negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.constants import constant, required
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused, Rule, Site


class FoldPad(Rule):
    """Conv(Pad(x)) -> Conv(x)."""

    name = "fold_pad"
    needs_any_of = frozenset(("Pad",))

    def patterns(self) -> Iterable[Callable[..., Any]]:
        def before(convolution: str) -> Callable[..., Any]:
            def pattern(op: Any, x: Any, w: Any) -> Any:
                y = op.Pad(
                    x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["y"]
                )
                return getattr(op, convolution)(
                    y, w, _allow_other_inputs=True, _allow_other_attributes=True
                )

            return pattern

        return [before("Conv"), before("ConvTranspose")]

    def check(self, site: Site) -> tuple[Convolution, list[int]]:
        convolution = Convolution.of(site.root)
        padding = _spatial_padding(site["y"].producer(), convolution.rank)
        if convolution.auto_pad.startswith("SAME"):
            raise Refused("the convolution's auto_pad depends on the padded size")
        pads = np.array(convolution.pads).reshape(2, -1)
        if not convolution.transposed:
            return convolution, (pads + padding).ravel().tolist()
        attributes = site.root.attributes
        if attributes.get_ints("output_shape", None):
            raise Refused("the ConvTranspose fixes its output_shape")
        strides = np.array(attributes.get_ints("strides", [1] * (convolution.rank - 2)))
        pads = pads - padding * strides
        if (pads < 0).any():
            found = pads.ravel().tolist()
            raise Refused(f"the ConvTranspose's pads would become negative: {found}")
        return convolution, pads.ravel().tolist()

    def rewrite(self, op: Any, site: Site, plan: tuple[Convolution, list[int]]) -> ir.Value:
        convolution, pads = plan
        return convolution.rebuild(
            op, site["x"], convolution.weight, convolution.bias, pads=pads, auto_pad="NOTSET"
        )


def _spatial_padding(pad: ir.Node, rank: int) -> np.ndarray:
    """Zeros added at the (beginnings, ends) of the spatial axes, shape (2, rank - 2)."""
    mode = pad.attributes.get_string("mode", "constant")
    if mode != "constant":
        raise Refused(f"the Pad's mode is {mode}")
    padding = np.zeros((2, rank), np.int64)
    if "pads" in pad.attributes:  # before opset 11
        value = np.array(pad.attributes.get_float("value", 0.0))
        padding[:] = np.reshape(pad.attributes.get_ints("pads"), (2, rank))
    else:
        value = _optional(pad, 2, "value", np.zeros(()))
        axes = _optional(pad, 3, "axes", np.arange(rank)) % rank
        padding[:, axes] = required(pad.inputs[1], "Pad's pads").reshape(2, -1)
    if value.any():
        raise Refused("the Pad's value is not zero")
    if (padding < 0).any():
        raise Refused("the Pad crops")
    if padding[:, :2].any():
        raise Refused("the Pad widens batch or channels")
    return padding[:, 2:]


def _optional(pad: ir.Node, index: int, role: str, default: np.ndarray) -> np.ndarray:
    given = pad.inputs[index] if len(pad.inputs) > index else None
    if given is None:
        return default
    array = constant(given)
    if array is None:
        raise Refused(f"the Pad's {role} is not constant")
    return array


RULE = FoldPad()


def _model(nodes: str, constants: str, channels: int = 2, opset: int = 18) -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, H, W] x) => (float[N, 4, P, Q] z) <{weight}, {constants}>
    {{ {nodes} }}"""


_PADS = "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 0}"

EXAMPLES = (
    _model("y = Pad(x, p) z = Conv <strides = [2, 1], pads = [0, 1, 1, 0]> (y, w)", _PADS),
    _model(
        'y = Pad(x, p, v, a) z = Conv <auto_pad = "VALID", group = 2> (y, w)',
        "int64[4] p = {1, 2, 0, 1}, float v = {0}, int64[2] a = {-1, 2}",
        channels=4,
    ),
    _model(
        "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 0]> (x) z = Conv(y, w)", "float u = {0}", opset=9
    ),
    _model(
        "y = Pad(x, p) z = ConvTranspose <strides = [2, 1], pads = [3, 2, 6, 1]> (y, w)",
        _PADS,
        channels=4,
    ),
    """<ir_version: 7, opset_import: ["" : 11]> g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[4, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8}, int64[6] p = {0, 0, 2, 0, 0, 1}> {
        y = Pad(x, p)
        z = Conv <group = 2, dilations = [2]> (y, w)
    }""",
)

NEAR_MISSES = (
    (_model("y = Pad(x, p, v) z = Conv(y, w)", f"{_PADS}, float v = {{1}}"), "not zero"),
    (_model('y = Pad <mode = "reflect"> (x, p) z = Conv(y, w)', _PADS), "mode is reflect"),
    (_model("y = Pad(x, p) z = Conv(y, w)", "int64[8] p = {0, 0, 1, 1, 0, 0, -1, 1}"), "crops"),
    (
        _model("y = Pad(x, p) z = Conv(y, w)", "int64[8] p = {0, 1, 1, 1, 0, 0, 1, 1}", channels=1),
        "channels",
    ),
    (_model('y = Pad(x, p) z = Conv <auto_pad = "SAME_LOWER"> (y, w)', _PADS), "auto_pad"),
    (
        _model("y = Pad(x, p) z = ConvTranspose <pads = [0, 0, 0, 0]> (y, w)", _PADS, channels=4),
        "negative",
    ),
    (
        _model("u = Relu(v) y = Pad(x, p, u) z = Conv(y, w)", f"{_PADS}, float v = {{0}}"),
        "constant",
    ),
    (_model("q = Abs(p) y = Pad(x, q) z = Conv(y, w)", _PADS), "pads is not constant"),
    (
        _model("y = Pad(x, p) z = ConvTranspose <output_shape = [9, 9]> (y, w)", _PADS, channels=4),
        "output_shape",
    ),
)
