"""Convolve what a Concat joins apart, and add up.

    conv(concat(a, resize(b)), w)  =  conv(a, w_a) + conv(resize(b), w_b)

The weight is cut by input channels, the bias goes to one of the parts. The multiplications stay the
same; the Concat's copy is saved, and ONNX Runtime takes the additions into the convolutions. A part
that reads an enlarged image is then a site for forms that compute it at low resolution: what
enlarges, a Resize or a ConvTranspose, is made anew, so that they may take it away. Of a U-Net whose
ConvTranspose enlarges, ``split_concat_pooled`` and ``compose_transposed`` make a step 1.1 to 1.2
times as fast (64 channels at 128x128, 128 at 64x64; one core that others used too).

Most of these forms leave ONNX Runtime's blocked layout, and then the addition and the activation
are passes of their own. An AveragePool of one pixel after the part brings it back into that layout,
one pass instead of several.

Size-free. Refused for a grouped convolution, whose groups would be cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import onnx_ir as ir

from advconv_onnx.algebra.axis import AxisOperator, identity
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.algebra.factor import Factorization
from advconv_onnx.errors import InputError
from advconv_onnx.geometry import RESIZES, resize_scales
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layout import sizes_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.walk import is_only_read_by, maker, producer


@dataclasses.dataclass(frozen=True)
class _Operand:
    """What a Concat joins.

    Attributes:
        channels: of the Concat's output, those that it makes.
        enlarging: the nodes that enlarge it, if any do: a Resize and perhaps a Pad, or a
            ConvTranspose with strides.
    """

    value: ir.Value
    channels: range
    enlarging: tuple[ir.Node, ...]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The convolution, and what it reads; the first of these takes the bias."""

    convolution: Convolution
    operands: tuple[_Operand, ...]


class SplitConcat(Form[_Plan]):
    """Conv(Concat(a, Resize(b))) -> Add(Conv(a), Conv(Resize(b)))."""

    roots = frozenset(("Conv",))
    minimum_opset = 7

    def __init__(self, name: str, *, pooled: bool = False) -> None:
        """Declare a variant.

        Args:
            name: of the form.
            pooled: put an AveragePool of one pixel after the parts that are enlarged.
        """
        self.name = name
        self._pooled = pooled

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        concat = producer(root.inputs[0], "Concat", graph=root.graph)
        if not _joins_channels(concat):
            raise NoSite
        joins, values = _joined(concat)
        operands = sorted(_operands(values, joins), key=lambda o: len(o.enlarging))
        if len(operands) == 1 or (self._pooled and not operands[-1].enlarging):
            raise NoSite
        convolution = Convolution.of(root)
        if convolution.group > 1:
            raise Refused("the groups of the convolution would be cut")
        nodes = [node for operand in operands for node in operand.enlarging]
        once = dict.fromkeys((*nodes, *joins, root))
        return Site(tuple(once), _Plan(convolution, tuple(operands)))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        yield certify(
            "channels: a sum over operands",
            identity(plan.convolution.in_channels),
            _regrouped(plan),
        )

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        first, *others = (self._part(op, plan, operand) for operand in plan.operands)
        for part in others:
            first = op.Add(first, part)
        return first

    def _part(self, op: Builder, plan: _Plan, operand: _Operand) -> ir.Value:
        convolution = plan.convolution
        y = convolution.rebuild(
            op,
            _enlarged(op, operand),
            convolution.weight[:, operand.channels],
            convolution.bias * (operand is plan.operands[0]),
        )
        one = [1] * (convolution.rank - 2)
        return op.AveragePool(y, kernel_shape=one) if self._pooled and operand.enlarging else y


def _joined(concat: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """A Concat after those that only it reads, and what they join."""
    nodes, values = [], []
    for value in concat.inputs:
        assert value is not None
        inner = maker(value, "Concat", graph=concat.graph)
        if inner is not None and _joins_channels(inner) and is_only_read_by(value, concat):
            below, joined = _joined(inner)
            nodes += below
            values += joined
        else:
            values.append(value)
    return [*nodes, concat], values


def _joins_channels(concat: ir.Node) -> bool:
    return concat.attributes.get_int("axis", 1) % len(sizes_of(concat.outputs[0])) == 1


def _operands(values: Iterable[ir.Value], joins: Sequence[ir.Node]) -> Iterator[_Operand]:
    begin = 0
    for value in values:
        size = sizes_of(value)[1]
        if not isinstance(size, int):
            raise Refused(f"it is not known how many channels '{value.name}' has")
        yield _Operand(value, range(begin, begin + size), _enlarging(value, joins))
        begin += size


def _enlarging(value: ir.Value, joins: Sequence[ir.Node]) -> tuple[ir.Node, ...]:
    """What enlarges an image that nothing but these Concats reads: as in ``_Operand``.

    Raises:
        Refused: the Resize is not understood.
    """
    graph = joins[-1].graph
    transposed = maker(value, "ConvTranspose", graph=graph)
    if transposed is not None:
        strided = max(transposed.attributes.get_ints("strides", (1,))) > 1
        return (transposed,) if strided and is_only_read_by(value, *joins) else ()
    pad = maker(value, "Pad", graph=graph)
    resize = maker(pad.inputs[0] if pad else value, *RESIZES, graph=graph)
    if not is_only_read_by(value, *joins):
        return ()
    if pad and resize and not is_only_read_by(resize.outputs[0], pad):
        return ()
    if resize is None:
        return ()
    try:
        scales = resize_scales(resize)
    except InputError as error:
        raise Refused(str(error)) from error
    if not any(scale and scale > 1 for scale in scales):
        return ()
    return (resize, pad) if pad else (resize,)


def _regrouped(plan: _Plan) -> Factorization:
    """A product for each operand, of its channels: the sum of all is each channel once."""
    channels = plan.convolution.in_channels
    cells = identity(channels).rows[0]
    read = [
        tuple(cell if channel in operand.channels else () for channel, cell in enumerate(cells))
        for operand in plan.operands
    ]
    return Factorization(
        ((Fraction(1),),) * len(read),
        AxisOperator(channels, tuple(read)),
        AxisOperator(channels, (cells,) * len(read)),
    )


def _enlarged(op: Builder, operand: _Operand) -> ir.Value:
    """The operand, by nodes of its own where it is enlarged."""
    if not operand.enlarging:
        return operand.value
    x = operand.enlarging[0].inputs[0]
    for node in operand.enlarging:
        x = op.node(node.op_type, [x, *node.inputs[1:]], dict(node.attributes)).outputs[0]
    assert x is not None
    return x


FORMS = (SplitConcat("split_concat"), SplitConcat("split_concat_pooled", pooled=True))


def _model(
    nodes: str,
    channels: int,
    conv: str = "pads = [1, 1, 1, 1]",
    x: str = "2, 4, 6, 4",
    outputs: str = "float[] z",
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(2 * channels * 9))
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x, float[2, 3, 3, 2] p) => ({outputs})
    <float[4] s = {{1, 1, 2, 2}}, float[4] t = {{1, 1, 2, 1}},
     int64[8] q = {{0, 0, 0, 0, 0, 0, 0, 2}},
     float[3, 2, 2, 2] k = {{{", ".join(str(n % 5 - 2) for n in range(24))}}},
     float[2, {channels}, 3, 3] w = {{{numbers}}}, float[2] b = {{1, 2}}>
    {{ {nodes} z = Conv <{conv}> (c, w, b) }}"""


_UP = 'u = Resize <mode = "nearest"> (p, , s)'

EXAMPLES = (
    _model("c = Concat <axis = 1> (x, x)", 8),
    _model(f"{_UP} c = Concat <axis = 1> (x, u)", 7),
    _model(f"{_UP} c = Concat <axis = -3> (u, x)", 7, "strides = [2, 1]"),
    _model(f"{_UP} c = Concat <axis = 1> (x, u)", 7, outputs="float[] z, float[] u"),
    _model(f"{_UP} d = Concat <axis = 1> (x, u) c = Concat <axis = 1> (d, x)", 11),
    _model(f"{_UP} d = Concat <axis = 1> (u, x, u) c = Concat <axis = 1> (d, d)", 20),
    _model(f'{_UP} v = Resize <mode = "linear"> (p, , s) c = Concat <axis = 1> (u, v)', 6),
    _model("u = ConvTranspose <strides = [2, 2]> (p, k) c = Concat <axis = 1> (u, x)", 6),
    _model('v = Resize <mode = "linear"> (p, , t) u = Pad (v, q) c = Concat <axis = 1> (u, x)', 7),
)

NEAR_MISSES = (
    (_model(f"{_UP} c = Concat <axis = 2> (x, x)", 4), ""),
    (_model(f"{_UP} c = Concat <axis = 1> (u)", 3), ""),
    (_model(f"{_UP} c = Concat <axis = 1> (x, u)", 7, x="2, C, 6, 4"), "how many channels"),
    (_model(f"{_UP} c = Concat <axis = 1> (x, u)", 3, "group = 2", x="2, 3, 6, 4"), "groups"),
    (_model(f"{_UP} c = Concat <axis = 1> (x, u)", 7, outputs="float[] z, float[] c"), "also"),
)
