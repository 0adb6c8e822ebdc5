"""Convolve what a Concat joins apart where a part of it was enlarged, and add up.

    conv(concat(a, resize(b)), w)  =  conv(a, w_a) + conv(resize(b), w_b)

The weight is cut by input channels, and the bias goes to one of the parts. This saves nothing by
itself and costs an addition, which ONNX Runtime takes into a convolution if it can; but the part
that reads the enlarged image is then a site for forms that compute it at low resolution. The nodes
that enlarge are made anew, so that those forms may take them away.

Size-free. Refused for a grouped convolution, whose groups would be cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
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
        enlarging: the nodes that enlarge it, if any do: a Resize and perhaps a Pad.
    """

    value: ir.Value
    channels: range
    enlarging: tuple[ir.Node, ...]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Operands that one convolution reads: one that is enlarged, or all that are not."""

    operands: tuple[_Operand, ...]

    @property
    def channels(self) -> list[int]:
        """Of the Concat's output."""
        return [channel for operand in self.operands for channel in operand.channels]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Attributes: parts: the first takes the bias."""

    convolution: Convolution
    parts: tuple[_Part, ...]


class SplitConcat(Form[_Plan]):
    """Conv(Concat(a, Resize(b))) -> Add(Conv(a), Conv(Resize(b)))."""

    name = "split_concat"
    roots = frozenset(("Conv",))
    minimum_opset = 7

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        concat = producer(root.inputs[0], "Concat", graph=root.graph)
        if not _joins_channels(concat):
            raise NoSite
        joins, values = _joined(concat)
        operands = tuple(_operands(values, root.graph))
        enlarged = [operand for operand in operands if operand.enlarging]
        if not enlarged or len(operands) == 1:
            raise NoSite
        convolution = Convolution.of(root)
        if convolution.group > 1:
            raise Refused("the groups of the convolution would be cut")
        rest = tuple(operand for operand in operands if not operand.enlarging)
        parts = [_Part(rest)] if rest else []
        parts += [_Part((operand,)) for operand in enlarged]
        nodes = [node for operand in enlarged for node in operand.enlarging]
        return Site((*nodes, *joins, root), _Plan(convolution, tuple(parts)))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        channels = plan.convolution.in_channels
        want = identity(channels)
        yield certify("channels: a sum over parts", want, _regrouped(plan.parts, channels))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        first, *others = (_convolved(op, plan, part) for part in plan.parts)
        for other in others:
            first = op.Add(first, other)
        return first


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


def _operands(values: Iterable[ir.Value], graph: ir.Graph | None) -> Iterator[_Operand]:
    begin = 0
    for value in values:
        size = sizes_of(value)[1]
        if not isinstance(size, int):
            raise Refused(f"it is not known how many channels '{value.name}' has")
        yield _Operand(value, range(begin, begin + size), _enlarging(value, graph))
        begin += size


def _enlarging(value: ir.Value, graph: ir.Graph | None) -> tuple[ir.Node, ...]:
    """A Resize that enlarges, and perhaps a Pad, that make a value; empty if it is made otherwise.

    Raises:
        Refused: the Resize is not understood.
    """
    pad = maker(value, "Pad", graph=graph)
    resize = maker(pad.inputs[0] if pad else value, *RESIZES, graph=graph)
    if resize is None:
        return ()
    try:
        scales = resize_scales(resize)
    except InputError as error:
        raise Refused(str(error)) from error
    if not any(scale and scale > 1 for scale in scales):
        return ()
    return (resize, pad) if pad else (resize,)


def _regrouped(parts: Iterable[_Part], channels: int) -> Factorization:
    """A product for each part, of the channels it reads: the sum of all is each channel once."""
    cells, one = identity(channels).rows[0], ((Fraction(1),),)
    read = [
        tuple(cell if channel in own else () for channel, cell in enumerate(cells))
        for own in (frozenset(part.channels) for part in parts)
    ]
    return Factorization(
        one * len(read),
        AxisOperator(channels, tuple(read)),
        AxisOperator(channels, (cells,) * len(read)),
    )


def _convolved(op: Builder, plan: _Plan, part: _Part) -> ir.Value:
    convolution = plan.convolution
    x = [_enlarged(op, operand) for operand in part.operands]
    return convolution.rebuild(
        op,
        x[0] if len(x) == 1 else op.Concat(*x, axis=1),
        convolution.weight[:, part.channels],
        convolution.bias * (part is plan.parts[0]),
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


FORMS = (SplitConcat(),)


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
    <float[4] s = {{1, 1, 2, 2}}, float[4] t = {{1, 1, 2, 1}}, float[4] o = {{1, 1, 1, 1}},
     int64[8] q = {{0, 0, 0, 0, 0, 0, 0, 2}},
     float[2, {channels}, 3, 3] w = {{{numbers}}}, float[2] b = {{1, 2}}>
    {{ {nodes} z = Conv <{conv}> (c, w, b) }}"""


_UP = 'u = Resize <mode = "nearest"> (p, , s)'

EXAMPLES = (
    _model(f"{_UP} c = Concat <axis = 1> (x, u)", 7),
    _model(f"{_UP} c = Concat <axis = -3> (u, x)", 7, "strides = [2, 1]"),
    _model(f"{_UP} d = Concat <axis = 1> (x, u) c = Concat <axis = 1> (d, x)", 11),
    _model(
        f'{_UP} v = Resize <mode = "linear"> (p, , s) c = Concat <axis = 1> (u, v)',
        6,
    ),
    _model(
        'v = Resize <mode = "linear"> (p, , t) u = Pad (v, q) c = Concat <axis = 1> (u, x)',
        7,
    ),
)

NEAR_MISSES = (
    (_model(f"{_UP} c = Concat <axis = 2> (x, x)", 4), ""),
    (_model("c = Concat <axis = 1> (x, x)", 8), ""),
    (_model(f"{_UP} c = Concat <axis = 1> (u)", 3), ""),
    (_model("u = Resize (p, , o) c = Concat <axis = 1> (x, u)", 7, x="2, 4, 3, 2"), ""),
    (_model(f"{_UP} c = Concat <axis = 1> (x, u)", 7, x="2, C, 6, 4"), "how many channels"),
    (_model(f"{_UP} c = Concat <axis = 1> (x, u)", 3, "group = 2", x="2, 3, 6, 4"), "groups"),
    (
        _model(f"{_UP} c = Concat <axis = 1> (x, u)", 7, outputs="float[] z, float[] u"),
        "also an output",
    ),
)
