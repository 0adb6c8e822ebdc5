"""Convolve the small image, one tap at a time, and enlarge what each tap gives: taps first.

    sum_k,l (C_k R) X[c] (C_l R)^T w[m, c, k, l]  =  sum_k A_k (sum_l (w X)[m, k, l] A'_l^T)

with R what enlarges or pads an axis, C_k the shift by tap k, and A_k = C_k R. One convolution makes
an image of the input's size for each tap; a matrix multiplication per axis with the constant
[A_0 A_1 ...] enlarges them, shifts them and adds them up. Any mode, coordinates and scale will do.

For scale 2 the convolution has a quarter of the multiplications where both axes are assembled, and
the assembly adds ``taps * pixels`` per output pixel and axis: little beside many channels.
Assembling the rows alone halves the multiplications, with no Transpose in between; the columns are
enlarged as before. Rows of large maps are assembled in tiles, from overlapping copies of the rows
that each reads.

Nothing is gained for a ConvTranspose, whose own kernel does just this. Refused for dynamic sizes,
and where the assembly multiplies more than the layer itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator, Row
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.geometry import resize_scale
from advconv_onnx.rewriter.assembly import Assembly
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite, operator_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What happens to each spatial axis.

    Attributes:
        resized: axes that are still enlarged before the convolution.
        assembly: by axis; None where the convolution slides.
    """

    layer: LayerSite
    sliding: Sliding
    resized: tuple[int, ...]
    assembly: tuple[Assembly | None, ...]

    @property
    def assembled(self) -> list[tuple[int, Assembly]]:
        """Axes that are assembled."""
        return [(axis, form) for axis, form in enumerate(self.assembly) if form is not None]

    def slide(self, axis: int) -> AxisOperator:
        """What happens to an axis that is not assembled."""
        step = self.enlarged(axis)
        return algebra.convolution(
            step.outputs,
            self.sliding.kernel[axis],
            stride=self.sliding.strides[axis],
            dilation=self.sliding.dilations[axis],
            pads=(self.sliding.begins[axis], self.sliding.ends[axis]),
        ).after(step)

    def enlarged(self, axis: int) -> AxisOperator:
        """What the nodes before the convolution do along an axis."""
        return operator_of(self.layer.nodes[:-1], axis, self.layer.fixed_sizes[axis])

    def constant(self, op: Builder, array: Array, name: str) -> ir.Value:
        """A constant of the type of the layer's weight."""
        return op.initializer(array.astype(self.layer.convolution.weight.dtype), name)

    @property
    def bias(self) -> Array | None:
        """The bias, given to taps that see a full pixel everywhere; None if there are none."""
        bias = self.layer.convolution.bias
        for _, form in reversed(self.assembled):
            full = [all(map(_is_full, rows)) for rows in form.factorization.after.rows]
            if True not in full:
                return None
            bias = np.multiply.outer(bias, np.eye(len(full))[full.index(True)])
        return bias.reshape(-1)


class AssembleRows(Form[_Plan]):
    """Conv(Resize(x)) -> MatMul(A, Conv(x)) along some of the axes."""

    roots = frozenset(("Conv",))
    needs_shapes = True
    minimum_opset = 11

    def __init__(self, name: str, most_axes: int | None) -> None:
        """Declare a variant.

        Args:
            name: of the form.
            most_axes: how many axes are assembled; None for all that change.
        """
        self.name = name
        self._most_axes = most_axes

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        layer = LayerSite.of(root)
        return Site(layer.nodes, self.plan_of(layer))

    def plan_of(self, layer: LayerSite) -> _Plan:
        """How to compute a layer, whatever site it is part of.

        Raises:
            NoSite: it enlarges nothing, or another variant does the same.
            Refused: it cannot be done, or cannot be faster.
        """
        if layer.resize is None:
            raise NoSite
        steps = [
            operator_of(layer.nodes[:-1], axis, size) for axis, size in enumerate(layer.fixed_sizes)
        ]
        if all(step.outputs <= step.inputs for step in steps):
            raise NoSite
        changed = [a for a, step in enumerate(steps) if step != algebra.identity(step.inputs)]
        assembled = changed[: self._most_axes]
        resized = tuple(axis for axis in changed if axis not in assembled)
        if self._most_axes is not None and not resized:
            raise NoSite
        if resized and len(layer.nodes) > 2:
            raise Refused("there is a Pad between Resize and Conv")
        operators = [layer.operator(axis, step.inputs) for axis, step in enumerate(steps)]
        if any(operator.outputs == 0 for operator in operators):
            raise Refused("the layer has no output")
        assembly = tuple(
            Assembly.of(operator, axis == len(steps) - 1) if axis in assembled else None
            for axis, operator in enumerate(operators)
        )
        plan = _Plan(layer, Sliding.of(layer.convolution), resized, assembly)
        _check_costs(plan)
        return plan

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis, form in enumerate(plan.assembly):
            want = plan.layer.operator(axis, plan.layer.fixed_sizes[axis])
            how = "taps first" if form else "as it was"
            yield certify(f"axis {axis}: {how}", want, form.exact if form else plan.slide(axis))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        x = _resized(op, plan) if plan.resized else plan.layer.x
        return _assembled(op, plan, _convolved(op, plan, x))


def _is_full(row: Row) -> bool:
    return sum(coefficient for _, coefficient in row) == 1


def _check_costs(plan: _Plan) -> None:
    _, last = plan.assembled[-1]
    own = math.prod(plan.layer.convolution.weight.shape[1:])
    if last.taps * last.width >= own:
        raise Refused(
            f"assembling takes {last.taps * last.width} multiplications per output, "
            f"the convolution itself {own}"
        )


def _resized(op: Builder, plan: _Plan) -> ir.Value:
    """The Resize without the axes that are assembled.

    Raises:
        Refused: a scale as float32 gives another size.
    """
    resize = plan.layer.resize
    assert resize is not None
    scales = np.ones(plan.layer.convolution.rank, np.float32)
    for axis in plan.resized:
        step = plan.enlarged(axis)
        scale = scales[2 + axis] = resize_scale(resize, axis)
        if math.floor(np.float32(step.inputs) * scales[2 + axis]) != step.outputs:
            raise Refused(f"the scale {scale} does not give {step.outputs} pixels in float32")
    left_out = ("axes", "keep_aspect_ratio_policy")
    kept = {name: a for name, a in resize.attributes.items() if name not in left_out}
    return op.Resize(plan.layer.x, resize.inputs[1], op.initializer(scales, "scales"), **kept)


def _convolved(op: Builder, plan: _Plan, x: ir.Value) -> ir.Value:
    """The convolution by each tap of the assembled axes; channels (m, ..., l, k)."""
    convolution, sliding = plan.layer.convolution, plan.sliding
    weight, bias = convolution.weight.astype(np.float64), plan.bias
    for axis, form in plan.assembled:
        taps = np.array(form.factorization.weights, np.float64)
        weight = np.moveaxis(np.tensordot(taps, weight, (1, 2 + axis)), 0, 2 + axis)
    kernel, strides, dilations = list(weight.shape[2:]), [*sliding.strides], [*sliding.dilations]
    begins, ends = [*sliding.begins], [*sliding.ends]
    for axis, _ in plan.assembled:
        kernel[axis] = strides[axis] = dilations[axis] = 1
        begins[axis] = ends[axis] = 0
    front = [0, *(2 + axis for axis, _ in reversed(plan.assembled))]
    behind = [axis for axis in range(1, weight.ndim) if axis not in front]
    weight = weight.transpose(*front, *behind)
    return op.Conv(
        x,
        plan.constant(op, weight.reshape(-1, convolution.weight.shape[1], *kernel), "weight"),
        None if bias is None else plan.constant(op, bias, "bias"),
        group=convolution.group,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=[*begins, *ends],
    )


def _assembled(op: Builder, plan: _Plan, z: ir.Value) -> ir.Value:
    """Enlarge, shift and add up the images of the taps, axis by axis."""
    bias = plan.layer.convolution.bias
    sizes = [
        form.pixels if form else plan.slide(axis).outputs for axis, form in enumerate(plan.assembly)
    ]
    channels = len(bias) * math.prod(form.taps for _, form in plan.assembled)
    for axis, form in plan.assembled:
        channels //= form.taps
        before, behind = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        if axis:  # the taps come to lie next to the pixels they belong to, rows being copied
            z = _reshape(op, z, channels, form.taps, before, form.pixels * behind)
            z = op.Transpose(z, perm=[0, 1, 3, 2, 4])
        z = _multiplied(op, plan, form, z, (channels * before, behind))
        sizes[axis] = form.factorization.after.outputs
    y = _reshape(op, z, channels, *sizes)
    if plan.bias is not None or not bias.any():
        return y
    return op.Add(y, plan.constant(op, bias.reshape(-1, *[1] * len(sizes)), "bias"))


def _multiplied(
    op: Builder, plan: _Plan, form: Assembly, z: ir.Value, around: tuple[int, int]
) -> ir.Value:
    """The assembly of ``z``, which is (batch, before, taps * pixels, behind) in memory."""
    (before, behind), matrices = around, form.matrices
    rows = form.taps * form.pixels
    if behind == 1 and not form.is_tiled:
        z = _reshape(op, z, before, rows)
        return op.MatMul(z, plan.constant(op, matrices[0].T, "assembly"))
    z = _reshape(op, z, before, rows, behind)
    if not form.is_tiled:
        return op.MatMul(plan.constant(op, matrices[0], "assembly"), z)
    z = op.Gather(z, op.initializer(np.array(form.rows, np.int64), "rows"), axis=2)
    z = _reshape(op, z, before, len(matrices), matrices.shape[2], behind)
    return op.MatMul(plan.constant(op, matrices, "assembly"), z)


def _reshape(op: Builder, x: ir.Value, *shape: int) -> ir.Value:
    return op.Reshape(x, op.initializer(np.array([0, *shape], np.int64), "shape"))


FORMS = (
    AssembleRows("assemble_rows", 1),
    AssembleRows("assemble_rows_and_columns", None),
)


def _model(
    resize: str,
    conv: str,
    weight: tuple[int, ...],
    scales: str = "2, 2",
    x: str = "N, 8, 3, 4",
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    rank, sizes = len(weight), ", ".join(map(str, weight))
    bias = ", ".join(str(n + 1) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[] z)
    <float[{rank}] s = {{1, 1, {scales}}}, float[{sizes}] w = {{{numbers}}},
     float[{weight[0]}] b = {{{bias}}}>
    {{ u = Resize <{resize}> (x, , s) z = Conv <{conv}> (u, w, b) }}"""


_ALIGNED = 'mode = "linear", coordinate_transformation_mode = "align_corners"'

EXAMPLES = (
    _model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 8, 3, 3)),
    _model('mode = "linear"', "pads = [1, 1, 1, 1]", (3, 8, 3, 3), "2, 3", x="2, 8, 4, 3"),
    _model('mode = "cubic"', "pads = [0, 1, 2, 0]", (2, 8, 3, 2), "1.5, 2", x="1, 8, 4, 3"),
    _model('mode = "nearest"', "pads = [3, 3, 0, 0]", (2, 8, 2, 3)),
    _model(
        _ALIGNED, "strides = [2, 1], dilations = [1, 2], group = 2", (4, 8, 3, 3), x="1, 16, 3, 4"
    ),
    _model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 8, 3, 3), "2, 1"),
    _model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 8, 3, 3), "1, 2"),
    _model('mode = "linear"', "pads = [1, 1]", (3, 8, 3), "2", x="N, 8, 4"),
    _model(_ALIGNED, 'auto_pad = "SAME_LOWER"', (2, 8, 2, 1, 3), "2, 2, 2", x="1, 8, 2, 3, 4"),
)

NEAR_MISSES = (
    (_model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 8, 3, 3), x="N, 8, H, 4"), "static shapes"),
    (_model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 2, 3, 3), x="1, 2, 6, 7"), "multiplications"),
    (_model("antialias = 1, " + _ALIGNED, "group = 1", (3, 8, 3, 3)), "antialias"),
    (_model(_ALIGNED, "group = 1", (3, 8, 3, 3), "0.5, 1", x="1, 8, 6, 7"), ""),
    (
        _model(_ALIGNED, "pads = [1, 1, 1, 1]", (3, 8, 3, 3))
        .replace("z =", "k =")
        .replace("b) }", "b) z = Concat <axis = 1> (k, u) }"),
        "also",
    ),
)
