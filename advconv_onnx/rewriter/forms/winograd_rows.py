"""Toom-Cook (Winograd) along the rows only: fewer products, all of them in blocked convolutions.

    y[t m + j]  =  sum_r  A[j, r]  conv(v_r, u_r)[t]        v_r[t]  =  sum_i  B[r, i] x[t m + i]

with u_r = sum_k G[r, k] w[k], a kernel of one row that slides over the columns as the site's own
does (same stride, dilation and pads). A tile of m outputs of k taps takes R = m + k - 1 products
instead of m k: F(4, 3) half as many, F(8, 3) 0.42. The columns keep all theirs, unlike in two
dimensions, and so everything that is large stays in the layout ONNX Runtime convolves in: B is R
depthwise convolutions with stride m, the products are one grouped convolution. Only the end leaves
it: A is a matrix product at the speed of memory, then whole rows are moved. On wide maps there is a
product for each row of tiles instead, which ONNX Runtime makes without moving anything.

Rows of any kernel, stride, dilation and pads: stride and dilation make phases that are correlations
of every n-th row, added up or interleaved by A as they are. Phases of the same taps share their
weights. The bias goes into the products as beta with A beta = (1 ... 1), exactly.

The input is read R times, and R / m of its size and of the output's written and moved twice, so it
pays where a pixel is worth many multiplications. Measured on one AVX-512 core as part of 1x1, Relu,
the layer, Relu, 1x1, the time with ONNX Runtime's own convolution over that with F(4, 3): 1.3 for
512 channels of 16 x 16, 1.3 for 256 to 512 of 32 x 32, 1.1 for 128 of 64 x 64, 0.9 for 64 of
128 x 128; dilated by 2, 512 of 33 x 33, 1.2 and F(6, 3) 1.3, dilated by 4 F(5, 3) 1.1. For 128 of
28 x 28 F(6, 5) 1.9 and F(6, 7) 2.4. A stride of 2 leaves more products: 1.1 for 5x5 at best, less
than 1 for 3x3, which is refused. No faster: a convolution for each product instead of the grouped
one (the same), and channels last from there on (0 to 20 % slower, though rows need no Transpose).

Largest error in float32 over the largest output, 128 channels, weights as He draws them, inputs
rectified (not rectified, or weights of a heavy-tailed distribution: up to three times as much):

    rows of kernel    ORT       F(3)      F(4)      F(5)      F(6)      F(7)      F(8)
    2                 1.5e-7    1.6e-7    2.7e-7    3.9e-7    5.2e-7    1.0e-6
    3                 2.0e-7    2.1e-7    2.7e-7    4.5e-7    7.6e-7    1.3e-6    2.3e-6
    5                 2.5e-7    4.4e-7    6.7e-7    1.2e-6    1.8e-6    3.0e-6    5.2e-6
    7                 3.9e-7    1.4e-6    1.9e-6    4.5e-6    6.5e-6

Where the file must not grow, the product that makes u stays in the graph, for ONNX Runtime to fold
when it loads the model. Needs a known height; batch and width may be dynamic. Refused where few
products are saved, for fewer than four channels a group, where a smaller tile covers the map with
as many, and for tiles that read more pixels than ``toom_cook`` has points for.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, NotEqual, certify, certify_all_sizes
from advconv_onnx.algebra.factor import Factorization
from advconv_onnx.algebra.phases import Phase, strided_phases
from advconv_onnx.algebra.toom_cook import MOST_INPUTS, Matrix, toom_cook
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding

_LEAST_CHANNELS = 4
"""Fewer of them in a group are not worth a pass over the image."""

_MOST_PRODUCTS = 0.7
"""Of the layer's own; with more left, the passes over memory were never made up for."""

_TILES = range(3, 9)
"""Rows of a tile; F(2) never won."""

_PLAIN = 4
"""A tile that is always offered: its transforms take few additions, and it is the most exact."""

_WIDE = 48
"""Columns of a row from which a matrix product for each pays."""

_NEARLY = 0.9
"""A tile is offered if its products, less a tenth, are no more than those of any other."""

Vector = tuple[Fraction, ...]


@dataclasses.dataclass(frozen=True)
class _Product:
    """One product r of each tile.

    Attributes:
        reads: row of B as a depthwise kernel, which slides from tile to tile.
        stride: of that kernel, as are ``dilation`` and ``pads``.
        taps: row of G, what it takes of each row of the layer's kernel.
        gives: column of A, what it adds to each row of a tile of outputs.
        bias: entry of beta, what it takes of the bias.
    """

    reads: Vector
    stride: int
    dilation: int
    pads: tuple[int, int]
    taps: Vector
    gives: Vector
    bias: Fraction

    def operator(self, inputs: int) -> AxisOperator:
        """From the image's rows to tiles; one tap."""
        slid = algebra.convolution(
            inputs, len(self.reads), stride=self.stride, dilation=self.dilation, pads=self.pads
        )
        kernel = zip(self.reads, slid.rows, strict=True)
        scaled = [
            [tuple((i, c * b) for i, c in row if b) for row in outputs] for b, outputs in kernel
        ]
        return AxisOperator(inputs, (tuple(sum(rows, ()) for rows in zip(*scaled, strict=True)),))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How a layer is computed.

    Attributes:
        inputs: rows of the image.
        outputs: rows of the result.
        tiles: of outputs, the last of which may be cut.
        stacks: products whose kernels are in one convolution.
    """

    layer: LayerSite
    sliding: Sliding
    inputs: int
    outputs: int
    tiles: int
    stacks: tuple[tuple[_Product, ...], ...]

    @property
    def products(self) -> tuple[_Product, ...]:
        """All of them, in order."""
        return sum(self.stacks, ())

    @property
    def is_wide(self) -> bool:
        """Whether a product by A for each row of tiles takes no longer than one for all."""
        width = self.layer.sizes[1]
        columns = 0 if width is None else self.layer.operator(1, width).outputs
        return self.layer.batch == 1 and columns >= _WIDE

    def factorization(self) -> Factorization:
        """What is computed along the rows."""
        products, rows = self.products, range(self.outputs)
        tile = len(products[0].gives)
        before = (product.operator(self.inputs).rows[0] for product in products)
        after = (
            tuple(((o // tile, a),) if (a := product.gives[o % tile]) else () for o in rows)
            for product in products
        )
        return Factorization(
            tuple(product.taps for product in products),
            AxisOperator(self.inputs, tuple(before)),
            AxisOperator(self.tiles, tuple(after)),
        )


class WinogradRows(Form[_Plan]):
    """Conv -> depthwise Convs, a grouped Conv of one row, and MatMul."""

    roots = frozenset(("Conv",))
    needs_shapes = True
    minimum_opset = 10

    def __init__(self, tile: int, small: bool = False) -> None:
        """Choose a variant.

        Args:
            tile: number of output rows computed together.
            small: whether the weight's transform stays in the graph.
        """
        self.name = f"winograd_rows_{tile}{'_small' if small else ''}"
        self.small = None if small else WinogradRows(tile, small=True)
        self._tile = tile

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        convolution = LayerSite.of(root).convolution
        layer = LayerSite((root,), convolution)  # what comes before may stay
        if convolution.rank != 4 or convolution.kernel[0] == 1:
            raise NoSite
        channels = min(convolution.in_channels, convolution.out_channels) // convolution.group
        if channels < _LEAST_CHANNELS:
            raise Refused("so few channels are not worth a pass over the image")
        size = layer.sizes[0]
        if size is None:
            raise Refused("the form needs static shapes, and the number of rows is dynamic")
        return Site(layer.nodes, self._plan(layer, size))

    def _plan(self, layer: LayerSite, size: int) -> _Plan:
        sliding = Sliding.of(layer.convolution)
        taps, pads = sliding.kernel[0], (sliding.begins[0], sliding.ends[0])
        phases = strided_phases(taps, sliding.strides[0], pads, sliding.dilations[0])
        outputs = layer.operator(0, size).outputs
        if not outputs:
            raise Refused("the output has no rows")
        tiles = _tiles(phases, size, self._tile)
        if tiles == _tiles(phases, size, self._tile - 1):
            raise Refused(f"a tile of {self._tile - 1} rows takes as few")
        if not _is_exact_enough(phases, self._tile):
            raise Refused("such a tile loses too much in float32")
        fewest = min(_work(phases, size, t) for t in _TILES if _is_exact_enough(phases, t))
        if self._tile != _PLAIN and _work(phases, size, self._tile) * _NEARLY > fewest:
            raise Refused("another tile takes fewer products of this many rows")
        stacks = _stacks(phases, size, self._tile, tiles)
        if tiles * sum(map(len, stacks)) > _MOST_PRODUCTS * outputs * taps:
            raise Refused("that saves too few multiplications")
        return _Plan(layer, sliding, size, outputs, tiles, stacks)

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        tile = len(plan.products[0].gives)
        made = {product.operator(plan.inputs).outputs for product in plan.products}
        if made != {plan.tiles}:
            raise NotEqual(f"rows: {made} tiles, not {plan.tiles}")
        yield certify(
            f"rows: {len(plan.products)} products for {tile} outputs on {plan.inputs} pixels",
            plan.layer.operator(0, plan.inputs),
            plan.factorization(),
        )
        constant = [sum(p.gives[j] * p.bias for p in plan.products) for j in range(tile)]
        yield certify(
            "bias: what the products take of it",
            AxisOperator(1, (((((0, Fraction(1)),),) * tile),)),
            AxisOperator(1, (tuple(((0, Fraction(c)),) if c else () for c in constant),)),
        )
        columns = plan.sliding
        yield certify_all_sizes(
            "columns: the same convolution",
            lambda size: plan.layer.operator(1, size),
            lambda size: algebra.convolution(
                size,
                columns.kernel[1],
                stride=columns.strides[1],
                dilation=columns.dilations[1],
                pads=(columns.begins[1], columns.ends[1]),
            ),
            period=columns.strides[1],
            reach=columns.spans[1] + columns.begins[1] + columns.ends[1] + columns.strides[1],
        )

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        products, dtype = plan.products, plan.layer.convolution.weight.dtype
        channels, tile = plan.layer.convolution.out_channels, len(products[0].gives)
        kernels: dict[object, tuple[ir.Value, ir.Value | None]] = {}
        weight = _weight if self.small else _small_weight
        z = _concat(op, [_convolved(op, plan, stack, weight, kernels) for stack in plan.stacks])
        after = np.array([product.gives for product in products], np.float64).T.astype(dtype)
        if plan.is_wide:
            # ONNX Runtime takes the Transpose into the MatMul, if both operands are of one rank.
            z = _reshaped(op, z, [len(products), channels * plan.tiles, -1])
            z = op.Transpose(z, perm=[1, 0, 2])
            y = op.MatMul(op.initializer(after[np.newaxis], "after"), z)
            y = _reshaped(op, y, [1, channels, plan.tiles * tile, -1])
        else:
            z = _reshaped(op, z, [0, len(products), -1])
            y = op.MatMul(op.initializer(after, "after"), z)
            y = _reshaped(op, y, [0, tile, channels, plan.tiles, -1])
            y = op.Transpose(y, perm=[0, 2, 3, 1, 4])
            y = _reshaped(op, y, [0, channels, plan.tiles * tile, -1])
        if plan.tiles * tile == plan.outputs:
            return y
        numbers = {"starts": 0, "ends": plan.outputs, "axes": 2}
        return op.Slice(y, *(op.initializer(_ints([n]), name) for name, n in numbers.items()))


def _tiles(phases: Sequence[Phase], inputs: int, tile: int) -> int:
    return max(-(-phase.outputs(inputs) // tile) for phase in phases)


def _is_exact_enough(phases: Sequence[Phase], tile: int) -> bool:
    return tile + max(len(phase.taps) for phase in phases) - 1 <= MOST_INPUTS


def _work(phases: Sequence[Phase], inputs: int, tile: int) -> int:
    """Products along the rows, to which work and memory are in proportion."""
    each = sum(tile + len(phase.taps) - 1 for phase in phases)
    return _tiles(phases, inputs, tile) * each


def _stacks(
    phases: Sequence[Phase], inputs: int, tile: int, tiles: int
) -> tuple[tuple[_Product, ...], ...]:
    """The products of all phases; those with the same taps in different stacks."""
    seen: Counter[Matrix] = Counter()
    stacks: dict[int, list[_Product]] = defaultdict(list)
    with_bias: set[int] = set()
    for phase in phases:
        products = _products(phase, inputs, tile, tiles, phase.first not in with_bias)
        stacks[seen[phase.taps]] += products
        seen[phase.taps] += 1
        with_bias.add(phase.first)
    return tuple(map(tuple, stacks.values()))


def _products(
    phase: Phase, inputs: int, tile: int, tiles: int, with_bias: bool
) -> Iterable[_Product]:
    after, weights, before = toom_cook(tile, len(phase.taps))
    betas = _constant(after) if with_bias else (Fraction(0),) * len(weights)
    for column, row, reads, beta in zip(
        zip(*after, strict=True), weights, before, betas, strict=True
    ):
        kernel, pads = _kernel(phase, inputs, tile, tiles, reads)
        gives = [Fraction(0)] * tile * phase.step
        gives[phase.first :: phase.step] = column
        yield _Product(
            kernel,
            phase.stride * tile,
            phase.dilation,
            pads,
            tuple(
                sum((g * tap for g, tap in zip(row, of_tap, strict=True)), Fraction(0))
                for of_tap in zip(*phase.taps, strict=True)
            ),
            tuple(gives),
            beta,
        )


def _kernel(
    phase: Phase, inputs: int, tile: int, tiles: int, reads: Vector
) -> tuple[Vector, tuple[int, int]]:
    """A row of B as a kernel without the zeros at its ends, and its pads.

    As many zeros stay, or are added, as keep pads from being negative, which Conv does not have.
    """
    used = [i for i, b in enumerate(reads) if b]
    step, stride = phase.dilation, phase.stride * tile
    first = min(used[0], phase.pads[0] // step)
    begin = phase.pads[0] - first * step

    def end(last: int) -> int:
        return (tiles - 1) * stride + (last - first) * step + 1 - begin - inputs

    # The kernel stops one stride before it would give another tile.
    last = used[-1] + max(0, -((end(used[-1]) + stride - 1) // step))
    kernel = tuple(reads[i] if 0 <= i < len(reads) else Fraction(0) for i in range(first, last + 1))
    return kernel, (begin, max(0, end(last)))


def _constant(after: Matrix) -> Vector:
    """The smallest beta with A beta = (1 ... 1)."""
    size = len(after)
    rows = [
        [sum((a * b for a, b in zip(one, other, strict=True)), Fraction(0)) for other in after]
        + [Fraction(1)]
        for one in after
    ]
    for i in range(size):
        # A has full rank, so that none of these is zero.
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                rows[j] = [b - rows[j][i] * a for a, b in zip(rows[i], rows[j], strict=True)]
    shares = [row[-1] for row in rows]
    return tuple(
        sum((a * share for a, share in zip(column, shares, strict=True)), Fraction(0))
        for column in zip(*after, strict=True)
    )


def _convolved(
    op: Builder,
    plan: _Plan,
    stack: Sequence[_Product],
    weight: Callable[[Builder, Convolution, Array], ir.Value],
    kernels: dict[object, tuple[ir.Value, ir.Value | None]],
) -> ir.Value:
    """The products of all tiles, (N, R * M, tiles, W)."""
    sliding, convolution = plan.sliding, plan.layer.convolution
    key = tuple((product.taps, product.bias) for product in stack)
    if key not in kernels:
        taps = np.array([product.taps for product in stack], np.float64)
        kernels[key] = weight(op, convolution, taps), _bias(op, convolution, stack)
    return op.Conv(
        _concat(op, [_transformed(op, plan, product) for product in stack]),
        *kernels[key],
        group=len(stack) * convolution.group,
        strides=[1, sliding.strides[1]],
        dilations=[1, sliding.dilations[1]],
        pads=[0, sliding.begins[1], 0, sliding.ends[1]],
    )


def _weight(op: Builder, convolution: Convolution, taps: Array) -> ir.Value:
    """Of the products, which take ``taps`` (R, K) of each row of the layer's own."""
    weight = convolution.weight
    outputs, inputs, _, columns = weight.shape

    def transformed() -> Array:
        return np.tensordot(taps, weight.astype(np.float64), (1, 2))

    shape = (len(taps) * outputs, inputs, 1, columns)
    return op.computed(transformed, shape, weight.dtype, "weight")


def _small_weight(op: Builder, convolution: Convolution, taps: Array) -> ir.Value:
    """The same, computed from the layer's own when the model is loaded."""
    weight = convolution.weight
    outputs, inputs, rows, columns = weight.shape
    own = op.initializer(weight.transpose(2, 0, 1, 3).reshape(rows, -1), "weight")
    u = op.MatMul(op.initializer(taps.astype(weight.dtype), "taps"), own)
    return _reshaped(op, u, [len(taps) * outputs, inputs, 1, columns])


def _bias(op: Builder, convolution: Convolution, stack: Sequence[_Product]) -> ir.Value | None:
    shares = [float(product.bias) for product in stack]
    bias = np.outer(shares, convolution.bias).ravel().astype(convolution.weight.dtype)
    return op.initializer(bias, "bias") if bias.any() else None


def _transformed(op: Builder, plan: _Plan, product: _Product) -> ir.Value:
    """What one product reads, by tiles."""
    convolution = plan.layer.convolution
    channels, kernel = convolution.in_channels, np.array(product.reads, np.float64)
    weight = np.tile(kernel.reshape(1, 1, -1, 1), (channels, 1, 1, 1))
    begin, end = product.pads
    return op.Conv(
        plan.layer.x,
        op.initializer(weight.astype(convolution.weight.dtype), "before"),
        group=channels,
        strides=[product.stride, 1],
        dilations=[product.dilation, 1],
        pads=[begin, 0, end, 0],
    )


def _reshaped(op: Builder, y: ir.Value, shape: Sequence[int]) -> ir.Value:
    return op.Reshape(y, op.initializer(_ints(shape), "shape"))


def _ints(numbers: Sequence[int]) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _concat(op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)


FORMS = tuple(WinogradRows(tile) for tile in _TILES)


def _model(conv: str, weight: tuple[int, ...], x: str, inputs: str = "x, w, b") -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    sizes, rank = ", ".join(map(str, weight)), len(weight)
    bias = ", ".join(str(n + 1) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[{", ".join("?" * rank)}] z)
    <float[{sizes}] w = {{{numbers}}}, float[{weight[0]}] b = {{{bias}}}>
    {{ z = Conv <{conv}> ({inputs}) }}"""


EXAMPLES = (
    _model("pads = [1, 1, 1, 1]", (4, 4, 3, 3), "N, 4, 8, W"),
    _model("pads = [1, 1, 1, 1]", (4, 4, 3, 3), "2, 4, 7, 6", "x, w"),
    _model("pads = [0, 2, 3, 0], strides = [1, 2]", (4, 4, 5, 3), "N, 4, 9, 7"),
    _model("pads = [2, 1, 2, 1], dilations = [2, 3], group = 2", (8, 4, 3, 2), "1, 8, 9, W"),
    _model("pads = [2, 0, 2, 0], strides = [2, 1]", (4, 4, 5, 1), "N, 4, 13, 6"),
    _model('auto_pad = "SAME_LOWER"', (4, 4, 2, 3), "3, 4, 6, 5"),
)

NEAR_MISSES = (
    (_model("pads = [1, 1, 1, 1]", (4, 4, 3, 3), "N, 4, H, 8"), "dynamic"),
    (_model("pads = [1, 1, 1, 1], group = 4", (4, 1, 3, 3), "N, 4, 8, 8"), "channels"),
    (_model("pads = [0, 1, 0, 1]", (4, 4, 1, 3), "N, 4, 8, 8"), ""),
    (_model("pads = [1, 1]", (4, 4, 3), "N, 4, 8"), ""),
    (_model("strides = [2, 1]", (4, 4, 2, 3), "N, 4, 8, 8"), "saves too few"),
)
