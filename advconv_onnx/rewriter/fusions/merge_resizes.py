"""Merge two nearest enlargements in a row into one.

    Resize(Resize(x; a); b)  =  Resize(x; a * b)

for nearest, asymmetric, floor with constant integer scales per axis, since floor(floor(o / b) / a)
is floor(o / (a b)): one pass over memory less. Other spellings of the same wait for
``spell_resize``. Refused when something else reads the first result.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import input_of, producer

_FLOOR = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}

Plan = tuple[ir.Value, tuple[int, ...]]


class MergeResizes(Rule[Plan]):
    """Resize(Resize(x)) -> Resize(x)."""

    name = "merge_resizes"
    roots = frozenset(("Resize",))
    affine_in_weights = False
    minimum_opset = 13  # before, an absent region of interest must be spelled out

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        outer = _scales(root)
        first = producer(root.inputs[0], "Resize", graph=root.graph)
        inner = _scales(first)
        x = first.inputs[0]
        if x is None or len(inner) != len(outer):
            raise NoSite
        product = tuple(a * b for a, b in zip(inner, outer, strict=True))
        return Site((first, root), (x, product))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, scales = plan
        given = op.initializer(np.array(scales, np.float32), "scales")
        return op.Resize(x, None, given, **_FLOOR)


def _scales(resize: ir.Node) -> tuple[int, ...]:
    """The integer scales of a nearest enlargement that rounds down.

    Raises:
        NoSite: it is something else.
    """
    attributes = resize.attributes
    found = {name: attributes.get_string(name, "") for name in _FLOOR}
    scales = constant(input_of(resize, 2))
    # The mode is nearest where none is given.
    if {**found, "mode": found["mode"] or "nearest"} != _FLOOR or "axes" in attributes:
        raise NoSite
    if scales is None or not scales.size or (scales < 1).any() or (scales % 1).any():
        raise NoSite
    return tuple(int(scale) for scale in scales.reshape(-1))


RULE = MergeResizes()

_SPELLING = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def _model(
    first: str = "a", second: str = "b", spelling: str = _SPELLING, out: str = "z", opset: int = 18
) -> str:
    outputs = ", ".join(f"float[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[N, 2, H, W] x) => ({outputs})
    <float[4] a = {{1, 1, 2, 1}}, float[4] b = {{1, 1, 3, 2}}, float[4] c = {{1, 1, 1.5, 2}},
     float[4] d = {{1, 1, 0.5, 1}}> {{
        y = Resize <mode = "nearest", {_SPELLING}> (x, , {first})
        z = Resize <{spelling}> (y, , {second})
    }}"""


EXAMPLES = (
    _model(),
    _model("b", "b"),
    _model("b", "a", f'mode = "nearest", {_SPELLING}', opset=13),
)

NEAR_MISSES = (
    (_model("b", "c"), ""),
    (_model("c", "b"), ""),
    (_model("b", "d"), ""),
    (_model("d", "b"), ""),
    (_model(spelling='mode = "linear", coordinate_transformation_mode = "asymmetric"'), ""),
    (_model(spelling='coordinate_transformation_mode = "asymmetric"'), ""),
    (_model(out="z y"), "also an output"),
    (_model(opset=11), "opset 13"),
)
