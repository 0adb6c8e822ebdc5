"""Spell a decomposed GELU as the operator Gelu (opset 20).

    x * (1 + erf(x / sqrt 2)) / 2                             =  Gelu(x)
    x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2     =  Gelu(x; approximate=tanh)

in every order and grouping of the factors; with another factor than 1/2, which a convolution may
have taken already, Gelu(x) is scaled. ONNX Runtime keeps Gelu in its blocked layout after a
convolution. Refused for other constants and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder, scaled
from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import factors, maker, operands, producer, shifted

_TOLERANCE = 1e-4
"""Relative: exporters write 1 / sqrt(2) with as few as four digits (0.7071)."""

_CUBIC = 0.044715

Plan = tuple[ir.Value, str, float]


class SpellGelu(Rule[Plan]):
    """x * (1 + erf(x / sqrt 2)) / 2 -> Gelu(x)."""

    name = "spell_gelu"
    roots = frozenset(("Mul", "Div"))
    affine_in_weights = False
    minimum_opset = 20

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        product = factors(root)
        if len(product.values) != 2:
            raise NoSite
        for x, gate in (product.values, product.values[::-1]):
            core = _core(gate, root.graph)
            if core is None:
                continue
            above = _erf(core, x) if core.op_type == "Erf" else _tanh(core, x)
            _, one, add = shifted(gate, root.graph)
            _check(one, 1)
            plan = x, "none" if core.op_type == "Erf" else "tanh", 2 * product.scale
            return Site((*above, core, add, *product.nodes), plan)
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, approximate, factor = plan
        return scaled(op, op.Gelu(x, approximate=approximate), factor, x)


def _core(gate: ir.Value, graph: ir.Graph | None) -> ir.Node | None:
    """The Erf or Tanh of a sum."""
    add = maker(gate, "Add", graph=graph)
    cores = (maker(value, "Erf", "Tanh", graph=graph) for value in (add.inputs if add else ()))
    return next((core for core in cores if core is not None), None)


def _erf(core: ir.Node, x: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes of x / sqrt 2 above an Erf."""
    argument = factors(producer(core.inputs[0], "Mul", "Div", graph=core.graph))
    if argument.values != (x,):
        raise NoSite
    _check(argument.scale, math.sqrt(0.5))
    return argument.nodes


def _tanh(core: ir.Node, x: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes of sqrt(2 / pi) * (x + 0.044715 x^3) above a Tanh, or of x * (1 + 0.044715 x^2)."""
    argument = factors(producer(core.inputs[0], "Mul", "Div", graph=core.graph))
    *outside, polynomial = sorted(argument.values, key=lambda value: value is not x)
    add = producer(polynomial, "Add", graph=core.graph)
    for value, other in operands(add):
        is_factored = outside == [x] and scalar(other, rank_of(value)) is not None
        if is_factored or (other is x and not outside):
            scale, degree, nodes = _monomial(value, x, add)
            if degree != 3 - len(outside):
                raise NoSite
            _check(scale, _CUBIC)
            _check(argument.scale, math.sqrt(2 / math.pi))
            if is_factored:
                _check(scalar(other, rank_of(value)), 1)
            return (*nodes, add, *argument.nodes)
    raise NoSite


def _monomial(
    value: ir.Value, x: ir.Value, reader: ir.Node
) -> tuple[float, float, tuple[ir.Node, ...]]:
    """Read a * x ** n, spelled with Pow, Mul or both: (a, n, nodes)."""
    if value is x:
        return 1.0, 1.0, ()
    node = producer(value, "Mul", "Div", "Pow", graph=reader.graph)
    if node.op_type == "Pow":
        exponent = scalar(node.inputs[1], rank_of(x))
        if node.inputs[0] is not x or exponent is None:
            raise NoSite
        return 1.0, exponent, (node,)
    product = factors(node)
    if product.values == (value,):
        raise NoSite
    scale, degree, nodes = product.scale, 0.0, product.nodes
    for factor in product.values:
        a, n, above = _monomial(factor, x, node)
        scale, degree, nodes = scale * a, degree + n, (*above, *nodes)
    return scale, degree, tuple(dict.fromkeys(nodes))


def _check(found: float | None, wanted: float) -> None:
    if found is None or not math.isclose(found, wanted, rel_tol=_TOLERANCE):
        raise Refused(f"a constant is {found}, not {wanted:g}")


RULE = SpellGelu()


def _model(nodes: str, half: str = "0.5", opset: int = 20) -> str:
    return f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N, S] x) => (float[N, S] z)
    <float h = {{{half}}}, float one = {{1}}, float root = {{1.41421354}},
     float[1] inv = {{0.7071}},
     float three = {{3}}, float k = {{0.044715}}, float s = {{0.797884583}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)"),
    _model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)", "2"),
    _model("a = Mul(inv, x) b = Erf(a) c = Add(one, b) d = Mul(x, h) z = Mul(d, c)"),
    _model(
        "a = Pow(x, three) b = Mul(k, a) c = Add(x, b) d = Mul(c, s) e = Tanh(d) f = Add(e, one) "
        "i = Mul(h, f) z = Mul(x, i)"
    ),
)

NEAR_MISSES = (
    (_model("a = Div(x, one) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)"), "0.707107"),
    (
        _model("a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) z = Mul(d, h)", opset=19),
        "opset 20",
    ),
)
