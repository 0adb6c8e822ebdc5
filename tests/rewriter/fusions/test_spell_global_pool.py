"""Mutants of spell_global_pool: other axes, other ranks, the other pool."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.rewriter.blocked import is_blocked
from advconv_onnx.rewriter.fusions import spell_global_pool
from advconv_onnx.rewriter.fusions.spell_global_pool import SpellGlobalPool
from advconv_onnx.rewriter.rule import Site
from tests.parsing import normal, parse
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellGlobalPool()


@pytest.mark.parametrize("example", range(len(spell_global_pool.EXAMPLES)))
def test_the_other_pool_is_disproved(example: int) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        x, pool, keeps = plan
        other = "GlobalMaxPool" if pool == "GlobalAveragePool" else "GlobalAveragePool"
        return _REAL.rewrite(op, (x, other, keeps))

    assert_disproved(mutate(SpellGlobalPool, rewrite=rewrite), spell_global_pool.EXAMPLES[example])


@pytest.mark.parametrize("example", range(len(spell_global_pool.EXAMPLES)))
def test_the_wrong_rank_is_disproved(example: int) -> None:
    def rewrite(self: Any, op: Any, plan: Any) -> Any:
        x, pool, keeps = plan
        return _REAL.rewrite(op, (x, pool, not keeps))

    assert_disproved(mutate(SpellGlobalPool, rewrite=rewrite), spell_global_pool.EXAMPLES[example])


@pytest.mark.parametrize(
    "nodes",
    [
        "z = ReduceMean <axes = [1, 2]> (x)",
        "z = ReduceMean <axes = [3]> (x)",
        "z = ReduceMean (x)",
        "z = ReduceSum (x, a)",
        "z = ReduceL1 <axes = [2, 3]> (x)",
        "m = ReduceMean <axes = [2]> (x) z = ReduceMean <axes = [1]> (m)",
        "m = ReduceMean <axes = [2], keepdims = 0> (x) z = ReduceMean <axes = [2]> (m)",
        "m = ReduceMax <axes = [2]> (x) z = ReduceMean <axes = [3]> (m)",
    ],
)
def test_other_reductions_are_disproved(nodes: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        return Site(tuple(root.graph), (root.graph.inputs[0], "GlobalAveragePool", True))

    last = nodes.split("z = ")[1].split(" ")[0]
    assert_disproved(
        mutate(SpellGlobalPool, find=find, roots=frozenset((last,))),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4, H, W] x) => (float[] z)
        <int64[2] a = {{2, 3}}> {{ {nodes} }}""",
    )


@pytest.mark.parametrize(
    ("nodes", "shape", "expected"),
    [
        ("z = Conv(x, w)", (8, 4, 3, 3), True),
        ("z = Conv(x, w)", (8, 6, 3, 3), True),
        ("z = Conv(x, w)", (8, 10, 3, 3), False),
        ("z = Conv <group = 4> (x, w)", (4, 1, 3, 3), True),
        ("z = Conv <group = 6> (x, w)", (6, 1, 3, 3), False),
        ("z = Conv <group = 2> (x, w)", (16, 8, 3, 3), True),
        ("z = Conv <group = 2> (x, w)", (8, 4, 3, 3), False),
        ("z = Conv(x, w)", (8, 4, 3), False),
        ("z = ConvTranspose(x, w)", (8, 4, 3, 3), False),
        ("z = Relu(x)", (1,), False),
        ("y = Conv(x, w) z = Relu(y)", (8, 4, 3, 3), True),
        ("y = Conv(x, w) z = Elu(y)", (8, 4, 3, 3), False),
        ("y = Conv(x, w) z = Mul(y, w)", (8, 4, 3, 3), False),
    ],
)
def test_what_is_in_the_blocked_layout(nodes: str, shape: tuple[int, ...], expected: bool) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[] x) => (float[] z) {{ {nodes} }}'
    model = parse(text, w=normal(*shape))
    assert is_blocked(model.graph.outputs[0]) is expected


def test_a_long_chain_of_sums_is_looked_at_in_no_time() -> None:
    nodes = "a0 = Conv(x, w) " + " ".join(f"a{i + 1} = Add(a{i}, a{i})" for i in range(3000))
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[] x) => (float[] z) {{ {nodes} }}'
    text = text.replace("a3000", "z")
    assert is_blocked(parse(text, w=normal(8, 4, 1, 1)).graph.outputs[0])
