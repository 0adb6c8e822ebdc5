"""Toom-Cook (Winograd) along all axes at once, as matrix products of constants, channels last.

    V[r q, t u, c] = sum_h,w  B[r, t, h] B'[q, u, w] X[h, w, c]
    Z[r q, t u, m] = sum_c    V[r q, t u, c] U[r q, c, m]          one matrix product per pair r, q
    Y[o p, t u, m] = sum_r,q  A[o, r] A'[p, q] Z[r q, t u, m]      then pixels o, p into tiles t, u

    U[r q, c, m]   = sum_k,l  G[r, k] w[m, c, k, l] G'[q, l]       folded into the weights

B, A and G belong to any layer that has a factorization: dilated, strided (a sum over the phases of
the input), transposed and enlarged layers (their classes stack along r). A Resize or Pad of any
kind before the convolution is folded into B and costs nothing. Where not all tiles give the same
run of outputs (a dilation's are spread), A keeps its tiles, one dense matrix per axis.

F(4, 3) leaves 2.25 of 9 multiplications. Against that stand about four passes over memory and the
products with B, which is dense: its cost grows with the size of the map. U takes more room than the
weights, (R / K)^2 times as much, 4 for F(4, 3), and is read once: on maps of fewer than about 20
pixels that is what takes the time. So it can pay from about 128 channels on maps between 20 and 64,
most for 5x5 and behind a Resize; not for strides. Where the forms that stay in the blocked layout
apply (winograd_rows, assemble_rows, split_phases) they are mostly faster still. Tiles of 6 were
never faster than those of 4, and less exact.

Where the file must not grow, the product that makes U stays in the graph, for ONNX Runtime to fold
when it loads the model. An activation behind the layer goes with it, so that a convolution behind
that takes in the last Transpose.

Refused for dynamic sizes, for fewer than 16 channels a group, and where all products together
multiply more than the layer itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra.axis import AxisOperator, identity
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.algebra.factor import Factorization, folded, tiled
from advconv_onnx.algebra.phases import nearest_phases, strided_phases, transposed_phases
from advconv_onnx.rewriter.activated import ACTIVATIONS, activate, activated
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite, operator_of
from advconv_onnx.rewriter.resizing import nearest_scales
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding

_LEAST_CHANNELS = 16
"""Fewer do not fill a matrix product."""


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A matrix A that is the same in every tile, each tile giving the next run of outputs.

    Attributes:
        tile: A (outputs of a tile, R).
        outputs: of the layer; the last tile may have more.
    """

    tile: tuple[tuple[Fraction, ...], ...]
    outputs: int

    @classmethod
    def of(cls, after: AxisOperator) -> Repeated | None:
        """Find the matrix of one tile; None where tiles differ."""
        runs = [o + 1 for rows in after.rows for o, row in enumerate(rows) if dict(row).get(0)]
        zero = Fraction(0)
        tile = tuple(
            tuple(dict(rows[o]).get(0, zero) for rows in after.rows)
            for o in range(max(runs, default=0))
        )
        found = cls(tile, after.outputs)
        return found if tile and found.operator(after.inputs) == after else None

    def operator(self, tiles: int) -> AxisOperator:
        """A with its tiles, which must not end before the outputs do."""
        run = len(self.tile)
        places = [divmod(o, run) for o in range(min(self.outputs, run * tiles))]
        columns = zip(*self.tile, strict=True)
        rows = (
            tuple(((t, column[o]),) if column[o] else () for t, o in places) for column in columns
        )
        return AxisOperator(tiles, tuple(rows))


@dataclasses.dataclass(frozen=True)
class TiledAxis:
    """One spatial axis.

    Attributes:
        form: its factorization.
        repeated: A of one tile, where all are alike.
    """

    form: Factorization
    repeated: Repeated | None

    @property
    def products(self) -> int:
        """R."""
        return len(self.form.weights)

    @property
    def tiles(self) -> int:
        """Tiles along the axis."""
        return self.form.before.outputs


@dataclasses.dataclass(frozen=True)
class _Plan:
    layer: LayerSite
    axes: tuple[TiledAxis, ...]
    activation: ir.Node | None

    @property
    def repeated(self) -> tuple[Repeated, ...] | None:
        """A of one tile of each axis, None where tiles of one axis differ."""
        found = tuple(axis.repeated for axis in self.axes if axis.repeated is not None)
        return found if len(found) == len(self.axes) else None

    @property
    def products(self) -> int:
        return math.prod(axis.products for axis in self.axes)

    @property
    def tiles(self) -> list[int]:
        return [axis.tiles for axis in self.axes]

    @property
    def groups(self) -> list[int]:
        """The number of groups as a dimension of its own, none for one group."""
        group = self.layer.convolution.group
        return [group] if group > 1 else []

    def constant(self, op: Builder, array: Array, name: str) -> ir.Value:
        """A constant of the type of the layer's weight."""
        return op.initializer(array.astype(self.layer.convolution.weight.dtype), name)


class WinogradMatmul(Form[_Plan]):
    """A layer -> MatMul(B), MatMul(U), MatMul(A)."""

    roots = frozenset(("Conv", "ConvTranspose")) | ACTIVATIONS
    needs_shapes = True
    minimum_opset = 13

    def __init__(self, tile: int, small: bool = False) -> None:
        """Choose a variant.

        Args:
            tile: outputs computed together, along each axis.
            small: whether the weight's transform stays in the graph.
        """
        self.name = f"winograd_matmul_{tile}{'_small' if small else ''}"
        self.small = None if small else WinogradMatmul(tile, small=True)
        self._tile = tile

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        convolution, activation = activated(root)
        layer = LayerSite.of(convolution)
        kernel = layer.convolution.kernel
        if math.prod(kernel) == 1 and len(layer.nodes) == 1:
            raise NoSite
        _check_channels(layer)
        axes = []
        for axis in range(len(kernel)):
            form = _factorization(layer, axis, self._tile)
            axes.append(TiledAxis(form, Repeated.of(form.after)))
        plan = _Plan(layer, tuple(axes), activation)
        _check_costs(plan)
        return Site((*layer.nodes, activation) if activation else layer.nodes, plan)

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        sizes = plan.layer.fixed_sizes
        for index, (axis, size) in enumerate(zip(plan.axes, sizes, strict=True)):
            form = axis.form
            if plan.repeated:
                after = plan.repeated[index].operator(axis.tiles)
                form = dataclasses.replace(form, after=after)
            identity = f"axis {index}: {axis.products} products of {axis.tiles} tiles"
            yield certify(identity, plan.layer.operator(index, size), form)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        rank = len(plan.axes)
        x = op.Transpose(plan.layer.x, perm=[0, *range(2, rank + 2), 1])
        u = _weights(op, plan) if self.small else _small_weights(op, plan)
        z = op.MatMul(_before(op, plan, x), u)
        y = _after_repeated(op, plan, z, plan.repeated) if plan.repeated else _after(op, plan, z)
        bias = plan.layer.convolution.bias
        if bias.any():
            y = op.Add(y, plan.constant(op, bias, "bias"))
        y = activate(op, y, plan.activation)  # before the Transpose, which a Conv behind takes in
        return op.Transpose(y, perm=[0, rank + 1, *range(1, rank + 1)])


def _check_channels(layer: LayerSite) -> None:
    convolution = layer.convolution
    least = min(convolution.in_channels, convolution.out_channels) // convolution.group
    if least < _LEAST_CHANNELS:
        raise Refused(f"{least} channels a group are too few for matrix products")


def _factorization(layer: LayerSite, axis: int, tile: int) -> Factorization:
    """Of the layer along one axis, in tiles.

    Raises:
        Refused: pads or sizes are not known.
    """
    size, sliding = layer.fixed_sizes[axis], Sliding.of(layer.convolution)
    outputs = layer.operator(axis, size).outputs
    if not outputs:
        raise Refused("the layer has no output")
    taps, pads = sliding.kernel[axis], (sliding.begins[axis], sliding.ends[axis])
    stride, dilation = sliding.strides[axis], sliding.dilations[axis]
    if layer.convolution.transposed:
        if layer.convolution.node.attributes.get_ints("output_shape", None):
            raise Refused("the ConvTranspose fixes its output_shape")
        extra = layer.convolution.output_padding[axis]
        phases = transposed_phases(taps, stride, dilation, pads, extra)
        return tiled(phases, size, outputs, tile)
    scales = _repeated_pixels(layer)
    if scales:
        phases = nearest_phases(taps, scales[axis], pads, stride, dilation)
        return tiled(phases, size, outputs, tile)
    earlier = layer.nodes[:-1]
    grid = operator_of(earlier, axis, size) if earlier else identity(size)
    phases = strided_phases(taps, stride, pads, dilation)
    return folded(tiled(phases, grid.outputs, outputs, tile), grid)


def _repeated_pixels(layer: LayerSite) -> tuple[int, ...] | None:
    """How often a Resize right before the convolution repeats each pixel; None if it does not."""
    if layer.resize is None or len(layer.nodes) > 2:
        return None
    try:
        return nearest_scales(layer.resize)
    except (Refused, NoSite):
        return None


def _check_costs(plan: _Plan) -> None:
    """Refuse what multiplies no less than the layer itself."""
    convolution, sizes = plan.layer.convolution, list(plan.layer.fixed_sizes)
    outputs = [axis.form.after.outputs for axis in plan.axes]
    pairs = convolution.in_channels // convolution.group * convolution.out_channels
    pixels = math.prod(sizes if convolution.transposed else outputs)
    own = math.prod(convolution.kernel) * pairs * pixels
    cost = plan.products * math.prod(plan.tiles) * pairs
    for index, axis in enumerate(plan.axes):
        cost += (
            axis.form.before.inputs
            * axis.form.multiplications
            * convolution.in_channels
            * (
                math.prod(other.form.multiplications for other in plan.axes[:index])
                * math.prod(sizes[index + 1 :])
            )
        )
    cost += _cost_after(plan, outputs) * convolution.out_channels
    if cost >= own:
        raise Refused(f"it takes {cost:,} multiplications, the layer itself {own:,}")


def _cost_after(plan: _Plan, outputs: Sequence[int]) -> int:
    """Multiplications by A for each output channel."""
    if plan.repeated:
        runs = math.prod(len(repeated.tile) for repeated in plan.repeated)
        return runs * plan.products * math.prod(plan.tiles)
    return sum(
        math.prod(axis.form.multiplications for axis in plan.axes[: index + 1])
        * math.prod(outputs[index:])
        for index in range(len(outputs))
    )


def _before(op: Builder, plan: _Plan, x: ir.Value) -> ir.Value:
    """From (N, H, W, C) to V (R Q, [groups,] N tiles, C/groups)."""
    channels = plan.layer.convolution.in_channels
    outer, inner = 1, channels * math.prod(plan.layer.fixed_sizes)
    for axis in plan.axes:
        matrix = np.concatenate(axis.form.before.dense())
        inner //= axis.form.before.inputs
        x = _times(op, plan, matrix, _reshape(op, x, 0, outer, -1, inner))
        outer *= len(matrix)
    pairs = itertools.chain(*((axis.products, axis.tiles) for axis in plan.axes))
    own = channels // plan.layer.convolution.group
    x = _reshape(op, x, 0, *pairs, *plan.groups, own)
    rank, last = len(plan.axes), 2 * len(plan.axes) + len(plan.groups)
    products, tiles = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    x = op.Transpose(x, perm=[*products, *range(2 * rank + 1, last + 1), 0, *tiles, last + 1])
    return _reshape(op, x, plan.products, *plan.groups, -1, own)


def _weights(op: Builder, plan: _Plan) -> ir.Value:
    """U (R Q, [groups,] C/groups, M/groups)."""
    convolution = plan.layer.convolution

    def transformed() -> Array:
        u = _taps_first(convolution)
        for axis in plan.axes:
            u = np.tensordot(u, np.array(axis.form.weights, np.float64), (0, 1))
        return np.moveaxis(u, range(3, u.ndim), range(u.ndim - 3))

    channels = convolution.in_channels, convolution.out_channels
    shape = [plan.products, *plan.groups, *(c // convolution.group for c in channels)]
    return op.computed(transformed, shape, convolution.weight.dtype, "weight")


def _small_weights(op: Builder, plan: _Plan) -> ir.Value:
    """The same, computed from the weight when the model is loaded."""
    weight = _taps_first(plan.layer.convolution)
    u, products = plan.constant(op, weight, "weight"), 1
    for index, axis in enumerate(plan.axes):
        u = _reshape(op, u, products, weight.shape[index], -1)
        u = _times(op, plan, np.array(axis.form.weights, np.float64), u)
        products *= axis.products
    return _reshape(op, u, products, *plan.groups, *weight.shape[-2:])


def _taps_first(convolution: Convolution) -> Array:
    """The weight as (K, L, groups, C/groups, M/groups)."""
    blocks = convolution.blocks(convolution.group)
    return blocks.transpose(*range(3, blocks.ndim), 0, 2, 1)


def _after_repeated(
    op: Builder, plan: _Plan, z: ir.Value, repeated: Sequence[Repeated]
) -> ir.Value:
    """From Z (R Q, [groups,] N tiles, M/groups) to (N, H, W, M), all tiles by one matrix."""
    matrix: Array = np.ones((1, 1))
    for axis in repeated:
        matrix = np.kron(matrix, np.array(axis.tile, np.float64))
    y = _times(op, plan, matrix, _reshape(op, z, plan.products, -1))
    runs = [len(axis.tile) for axis in repeated]
    y = _image(op, plan, y, runs, tiles_first=True)
    sizes = [run * tiles for run, tiles in zip(runs, plan.tiles, strict=True)]
    y = _reshape(op, y, -1, *sizes, plan.layer.convolution.out_channels)
    return _cropped(op, y, sizes, [axis.outputs for axis in repeated])


def _after(op: Builder, plan: _Plan, z: ir.Value) -> ir.Value:
    """The same by one matrix for each axis, from the last to the first."""
    y = _image(op, plan, z, [axis.products for axis in plan.axes], tiles_first=False)
    outer, inner = plan.products * math.prod(plan.tiles), plan.layer.convolution.out_channels
    for axis in reversed(plan.axes):
        matrix = np.concatenate(axis.form.after.dense(), axis=1)
        outer //= matrix.shape[1]
        y = _times(op, plan, matrix, _reshape(op, y, -1, outer, matrix.shape[1], inner))
        inner *= len(matrix)
    sizes = [axis.form.after.outputs for axis in plan.axes]
    return _reshape(op, y, -1, *sizes, plan.layer.convolution.out_channels)


def _image(
    op: Builder, plan: _Plan, y: ir.Value, places: Sequence[int], *, tiles_first: bool
) -> ir.Value:
    """Bring together what belongs to each axis: its tiles, and places (or products) in a tile."""
    rank, first = len(plan.axes), len(plan.axes) + len(plan.groups)
    channels = plan.layer.convolution.out_channels // plan.layer.convolution.group
    y = _reshape(op, y, *places, *plan.groups, -1, *plan.tiles, channels)
    pairs = zip(range(rank), range(first + 1, first + 1 + rank), strict=True)
    order = (n for pair in pairs for n in (reversed(pair) if tiles_first else pair))
    return op.Transpose(y, perm=[first, *order, *range(rank, first), first + 1 + rank])


def _times(op: Builder, plan: _Plan, matrix: Array, x: ir.Value) -> ir.Value:
    return op.MatMul(plan.constant(op, matrix, "transform"), x)


def _cropped(op: Builder, y: ir.Value, sizes: Sequence[int], wanted: Sequence[int]) -> ir.Value:
    """Without what the last tiles have too much."""
    axes = [n for n, (size, own) in enumerate(zip(sizes, wanted, strict=True)) if size > own]
    if not axes:
        return y
    numbers = {
        "starts": [0] * len(axes),
        "ends": [wanted[n] for n in axes],
        "axes": [n + 1 for n in axes],
    }
    return op.Slice(
        y, *(op.initializer(np.array(n, np.int64), name) for name, n in numbers.items())
    )


def _reshape(op: Builder, x: ir.Value, *shape: int) -> ir.Value:
    return op.Reshape(x, op.initializer(np.array(shape, np.int64), "shape"))


FORMS = (WinogradMatmul(2), WinogradMatmul(4))


def _model(
    node: str,
    weight: tuple[int, ...],
    x: str,
    before: str = "",
    constants: str = "",
    bias: int | None = None,
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    channels = bias or weight[0]
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[] z)
    <float[{", ".join(map(str, weight))}] w = {{{numbers}}}, {constants}
     float[{channels}] b = {{{", ".join(str(n + 1) for n in range(channels))}}}>
    {{ {before} z = {node} ({"u" if before else "x"}, w, b) }}"""


_SCALES = "float[4] s = {1, 1, 2, 2},"
_PADS = "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 2},"
_SAME = "Conv <pads = [1, 1, 1, 1]>"
_THREE = (16, 16, 3, 3)

EXAMPLES = (
    _model(_SAME, _THREE, "N, 16, 8, 8"),
    _model("Conv <pads = [1, 0, 2, 1]>", (17, 32, 3, 2), "2, 32, 9, 7"),
    _model(_SAME, _THREE, "N, 16, 8, 7")
    .replace("z =", "y =")
    .replace("b) }", "b) z = LeakyRelu <alpha = 0.25> (y) }"),
    _model("Conv <dilations = [2, 3], pads = [2, 3, 2, 3]>", _THREE, "1, 16, 8, 9"),
    _model("Conv <strides = [2, 1], pads = [2, 2, 2, 2]>", (16, 32, 5, 5), "1, 32, 12, 8"),
    _model("Conv <group = 2, pads = [1, 1, 1, 1]>", (64, 32, 3, 3), "2, 64, 8, 8"),
    _model("Conv <group = 2, dilations = [2, 2]>", (64, 32, 3, 3), "2, 64, 12, 12"),
    _model("Conv <pads = [1, 1]>", (32, 32, 3), "N, 32, 8"),
    _model(_SAME, _THREE, "N, 16, 4, 4", 'u = Resize <mode = "linear"> (x, , s)', _SCALES),
    _model(_SAME, _THREE, "1, 16, 5, 4", 'u = Resize <mode = "nearest"> (x, , s)', _SCALES),
    _model("Conv", _THREE, "1, 16, 6, 7", 'u = Pad <mode = "reflect"> (x, p)', _PADS),
    _model("Conv", _THREE, "1, 16, 7, 6", 'u = Pad <mode = "edge"> (x, p)', _PADS),
    _model(
        "ConvTranspose <strides = [2, 2], pads = [2, 2, 2, 2], output_padding = [1, 0]>",
        (64, 64, 6, 6),
        "1, 64, 6, 6",
        bias=64,
    ),
)

NEAR_MISSES = (
    (_model(_SAME, _THREE, "N, 16, H, 8"), "static shapes"),
    (_model(_SAME, (8, 16, 3, 3), "N, 16, 8, 8"), "8 channels a group"),
    (_model("Conv <group = 16>", (16, 1, 3, 3), "N, 16, 8, 8"), "1 channels a group"),
    (_model(_SAME, _THREE, "1, 16, 256, 256"), "multiplications"),
    (_model("Conv", (16, 16, 1, 1), "N, 16, 8, 8"), ""),
    (
        _model('Conv <auto_pad = "SAME_UPPER", strides = [2, 2]>', _THREE, "1, 16, 8, 8"),
        "auto_pad",
    ),
    (
        _model("ConvTranspose <strides = [2, 2], output_shape = [16, 16]>", _THREE, "1, 16, 8, 8"),
        "output_shape",
    ),
)
