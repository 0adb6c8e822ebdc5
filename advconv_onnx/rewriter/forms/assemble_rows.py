"""Convolve the small image, one tap at a time, and enlarge what each tap gives: taps first.

    sum_k,l (C_k R) X[c] (C_l R)^T w[m, c, k, l]  =  sum_k A_k (sum_l (w X)[m, k, l] A'_l^T)

with R what enlarges or pads an axis, C_k the shift by tap k, and A_k = C_k R. One convolution makes
an image of the input's size for each tap; a matrix multiplication per axis with the constant
[A_0 A_1 ...] enlarges them, shifts them and adds them up. Any mode, coordinates and scale will do.

For scale 2 the convolution has a quarter of the multiplications where both axes are assembled, and
the assembly adds ``taps * pixels`` per output pixel: little beside many channels, too much on large
maps. Assembling one axis halves the multiplications instead, and needs no Transpose in between; the
other axis is enlarged before the convolution, by a matrix too.

Equal numbers of multiplications make it no faster for a ConvTranspose, whose own kernel does just
this. Refused for dynamic sizes, and where the assembly multiplies more than the layer itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator, Row
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.algebra.factor import Factorization, by_taps
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite, operator_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One entry of ``before`` and ``assembly`` per spatial axis.

    Attributes:
        before: what enlarges or pads an axis before the convolution; None if nothing does.
        assembly: the taps, and what puts them together; None where the convolution slides.
    """

    layer: LayerSite
    sliding: Sliding
    before: tuple[AxisOperator | None, ...]
    assembly: tuple[Factorization | None, ...]

    @property
    def assembled(self) -> list[tuple[int, Factorization]]:
        """Axes that are assembled."""
        return [(axis, form) for axis, form in enumerate(self.assembly) if form is not None]

    @property
    def slides(self) -> list[AxisOperator]:
        """What the new convolution does along each axis of its input."""
        sliding, steps = self.sliding, []
        for axis, (step, form) in enumerate(zip(self.before, self.assembly, strict=True)):
            size = self.layer.fixed_sizes[axis] if step is None else step.outputs
            steps.append(
                algebra.identity(size)
                if form
                else algebra.convolution(
                    size,
                    sliding.kernel[axis],
                    stride=sliding.strides[axis],
                    dilation=sliding.dilations[axis],
                    pads=(sliding.begins[axis], sliding.ends[axis]),
                )
            )
        return steps

    def constant(self, op: Builder, array: Array, name: str) -> ir.Value:
        """A constant of the type of the layer's weight."""
        return op.initializer(array.astype(self.layer.convolution.weight.dtype), name)

    @property
    def bias(self) -> Array | None:
        """The bias, given to taps that see a full pixel everywhere; None if there are none."""
        bias = self.layer.convolution.bias
        for _, form in reversed(self.assembled):
            full = [all(map(_is_full, rows)) for rows in form.after.rows]
            if True not in full:
                return None
            bias = np.multiply.outer(bias, np.eye(len(full))[full.index(True)])
        return bias.reshape(-1)


class AssembleRows(Form[_Plan]):
    """Conv(Resize(x)) -> MatMul(A, Conv(x)) along some of the axes."""

    roots = frozenset(("Conv",))
    needs_shapes = True
    minimum_opset = 5

    def __init__(self, name: str, most_axes: int | None) -> None:
        """Declare a variant.

        Args:
            name: of the form.
            most_axes: how many axes are assembled; None for all that change their size.
        """
        self.name = name
        self._most_axes = most_axes

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        layer = LayerSite.of(root)
        return Site(layer.nodes, self.plan_of(layer))

    def plan_of(self, layer: LayerSite) -> _Plan:
        """How to compute a layer, whatever site it is part of.

        Raises:
            NoSite: it enlarges nothing.
            Refused: it cannot be done, or not be faster.
        """
        if layer.resize is None:
            raise NoSite
        sizes = layer.fixed_sizes
        steps = [operator_of(layer.nodes[:-1], axis, size) for axis, size in enumerate(sizes)]
        changed = [a for a, step in enumerate(steps) if step != algebra.identity(step.inputs)]
        if all(step.outputs <= step.inputs for step in steps):
            raise NoSite
        assembled = changed[: self._most_axes]
        if self._most_axes is not None and assembled == changed:
            raise NoSite  # the variant without a limit does the same
        plan = _Plan(
            layer,
            Sliding.of(layer.convolution),
            tuple(
                step if axis in changed and axis not in assembled else None
                for axis, step in enumerate(steps)
            ),
            tuple(
                by_taps(layer.operator(axis, size)) if axis in assembled else None
                for axis, size in enumerate(sizes)
            ),
        )
        _check_costs(plan)
        return plan

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis, slide in enumerate(plan.slides):
            form, before = plan.assembly[axis], plan.before[axis]
            want = plan.layer.operator(axis, plan.layer.fixed_sizes[axis])
            got = form or (slide.after(before) if before else slide)
            yield certify(f"axis {axis}: {'taps first' if form else 'resized first'}", want, got)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        x = plan.layer.x
        sizes = list(plan.layer.fixed_sizes)
        channels = plan.layer.convolution.in_channels
        for axis, step in enumerate(plan.before):
            if step is not None:
                x = _times(op, plan, step, x, (channels, *sizes), axis)
                sizes[axis] = step.outputs
                x = _reshape(op, x, channels, *sizes)
        return _assembled(op, plan, _convolved(op, plan, x))


def _is_full(row: Row) -> bool:
    return sum(coefficient for _, coefficient in row) == 1


def _check_costs(plan: _Plan) -> None:
    _, last = plan.assembled[-1]
    own = math.prod(plan.layer.convolution.weight.shape[1:])
    if last.multiplications >= own:
        raise Refused(
            f"assembling takes {last.multiplications} multiplications per output, "
            f"the convolution itself {own}"
        )


def _convolved(op: Builder, plan: _Plan, x: ir.Value) -> ir.Value:
    """The convolution by each tap of the assembled axes; channels (m, ..., l, k)."""
    convolution, sliding = plan.layer.convolution, plan.sliding
    weight, bias = convolution.weight.astype(np.float64), plan.bias
    for axis, form in plan.assembled:
        taps = np.tensordot(np.array(form.weights, np.float64), weight, (1, 2 + axis))
        weight = np.moveaxis(taps, 0, 2 + axis)
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
    sizes = [slide.outputs for slide in plan.slides]
    channels = len(bias) * math.prod(len(form.weights) for _, form in plan.assembled)
    for axis, form in plan.assembled:
        taps = len(form.weights)
        channels //= taps
        if axis:  # the taps come to lie next to the pixels they belong to, rows being copied
            split = channels, taps, math.prod(sizes[:axis]), math.prod(sizes[axis:])
            z = op.Transpose(_reshape(op, z, *split), perm=[0, 1, 3, 2, 4])
        sizes[axis] *= taps
        z = _times(op, plan, form.after, z, (channels, *sizes), axis)
        sizes[axis] = form.after.outputs
    y = _reshape(op, z, channels, *sizes)
    if plan.bias is not None or not bias.any():
        return y
    return op.Add(y, plan.constant(op, bias.reshape(-1, *[1] * len(sizes)), "bias"))


def _times(
    op: Builder,
    plan: _Plan,
    step: AxisOperator,
    x: ir.Value,
    shape: Sequence[int],
    axis: int,
) -> ir.Value:
    """Apply a step to a spatial axis of ``x``, whose shape without the batch is ``shape``."""
    matrix = np.concatenate(step.dense(), axis=1)
    outer, rows = math.prod(shape[: axis + 1]), shape[axis + 1]
    inner = math.prod(shape[axis + 2 :])
    if inner == 1:
        return op.MatMul(_reshape(op, x, outer, rows), plan.constant(op, matrix.T, "assembly"))
    x = _reshape(op, x, outer, rows, inner)
    return op.MatMul(plan.constant(op, matrix, "assembly"), x)


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
