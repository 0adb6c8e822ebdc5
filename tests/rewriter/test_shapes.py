"""What is known of the numbers of shape expressions."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.rule import NoSite
from advconv_onnx.rewriter.shapes import Number, numbers_of
from tests.parsing import parse

_CONSTANTS = """<int64 first = {0}, int64 third = {2}, int64[1] zero = {0}, int64[1] one = {1},
    int64[1] two = {2}, int64[1] three = {3}, int64[1] rest = {-1}, int64[1] most = {1000},
    int64[4] four = {-1, 4, 1, -1}, bool[1] yes = {1}>"""


def items(nodes: str, x: str = "N, 3, H, H") -> tuple[Number, ...]:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{x}] x, int64[1] i) => (int64[] z)
        {_CONSTANTS} {{ s = Shape(x) {nodes} }}"""
    )
    return numbers_of(model.graph.node(-1).outputs[0], model.graph).items


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("z = Cast <to = 6> (s)", ("N", 3, "H", "H")),
        ("z = Gather(s, first)", ("N",)),
        ("z = Gather(s, rest)", ("H",)),
        ("z = Slice(s, one, rest)", (3, "H")),
        ("z = Slice(s, rest, most)", ("H",)),
        ("z = Slice(s, zero, most, zero, two)", ("N", "H")),
        ("z = Concat <axis = 0> (two, s)", (2, "N", 3, "H", "H")),
        ("y = Gather(s, third) z = Unsqueeze(y, zero)", ("H",)),
        ("y = Slice(s, two, three) z = Squeeze(y, zero)", ("H",)),
        ("y = Gather(s, third) z = Reshape(y, rest)", ("H",)),
        ("z = Add(s, two)", (None, 5, None, None)),
        ("z = Sub(s, zero)", ("N", 3, "H", "H")),
        ("z = Sub(zero, s)", (None, -3, None, None)),
        ("z = Mul(one, s)", ("N", 3, "H", "H")),
        ("z = Mul(s, s)", (None, 9, None, None)),
        ("z = Div(s, two)", (None, 1, None, None)),
        ("z = Div(s, one)", ("N", 3, "H", "H")),
        ("y = Sub(zero, s) z = Div(y, two)", (None, None, None, None)),
        ("z = Equal(s, rest)", (False, False, False, False)),
        ("z = Equal(s, three)", (None, True, None, None)),
        ("y = Gather(s, two) z = Equal(s, y)", (None, None, True, True)),
        ("o = Equal(four, rest) z = Where(o, s, four)", ("N", 4, 1, "H")),
        ("o = Equal(s, three) z = Where(o, s, s)", ("N", 3, "H", "H")),
        ("o = Equal(s, three) z = Where(o, two, s)", (None, 2, None, None)),
        ("y = Shape(s) z = ConstantOfShape <value = int64[1] {7}> (y)", (7, 7, 7, 7)),
        ("z = Size(x)", (None,)),
    ],
)
def test_numbers_of_an_expression(nodes: str, expected: tuple[Number, ...]) -> None:
    assert items(nodes) == expected


def test_sizes_without_a_name_are_equal_to_themselves_only() -> None:
    known = items("z = Concat <axis = 0> (s, s)", "?, ?")
    assert known[0] == known[2] != known[1] == known[3]
    both = items("y = Abs(x) t = Shape(y) z = Concat <axis = 0> (s, t)", "?, ?")
    assert len(set(both)) >= 2


@pytest.mark.parametrize(
    "nodes",
    [
        "z = Gather(s, most)",
        "z = Slice(s, most, zero, zero, rest)",
        "z = Gather(s, i)",
        "z = Add(s, i)",
        "z = Concat <axis = 0> (s, i)",
        "y = Cast <to = 1> (s) z = Cast <to = 7> (y)",
        "z = NonZero(s)",
    ],
)
def test_other_expressions_are_left_alone(nodes: str) -> None:
    with pytest.raises(NoSite):
        items(nodes)


def test_an_expression_that_uses_its_parts_again_is_read_once() -> None:
    doublings = " ".join(f"y{k + 1} = Add(y{k}, y{k})" for k in range(40))
    assert items(f"y0 = Gather(s, one) {doublings}") == (3 << 40,)


def test_a_long_chain_is_no_shape() -> None:
    chain = " ".join(f"y{k + 1} = Add(y{k}, one)" for k in range(3000))
    with pytest.raises(NoSite):
        items(f"y0 = Gather(s, one) {chain}")
