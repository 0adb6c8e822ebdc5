"""The least time of a graph counts what cannot be hidden, and nothing else."""

from __future__ import annotations

import pytest

from advconv_onnx.optimizer.roofline import least_ms
from advconv_onnx.runtime.peak import Peak
from tests.rewriter.test_fusions import parse

PEAK = Peak(macs_per_ms=1000.0, bytes_per_ms=100.0)


def least(nodes: str, weight: str = "4, 2, 3, 3", x: str = "1, 2, 5, 5") -> float:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{x}] x, float[{weight}] w) => (float[] z) {{ {nodes} }}"""
    )
    return least_ms(model, PEAK)


@pytest.mark.parametrize(
    ("nodes", "weight", "ms"),
    [
        ("z = Conv (x, w)", "4, 2, 3, 3", 4 * 2 * 9 * 3 * 3 / 1000),
        ("z = ConvTranspose (x, w)", "2, 4, 3, 3", 2 * 4 * 9 * 5 * 5 / 1000),
        ("z = Conv <group = 2> (x, w)", "4, 1, 3, 3", 4 * 9 * 3 * 3 / 1000),
        ("z = Transpose <perm = [0, 2, 3, 1]> (x)", "1", 4 * 50 / 100),
        # Multiplications and writing overlap: the longer of the two counts.
        ("z = MatMul (x, w)", "5, 7", 4 * 70 / 100),
        ("a = Relu (x) z = Add (a, x)", "1", 0.0),
    ],
)
def test_least_time(nodes: str, weight: str, ms: float) -> None:
    assert least(nodes, weight) == pytest.approx(ms)


def test_nodes_run_one_after_the_other() -> None:
    twice = least("a = Transpose <perm = [0, 1, 3, 2]> (x) z = Transpose <perm = [1, 0, 2, 3]> (a)")
    assert twice == pytest.approx(2 * 4 * 50 / 100)


def test_what_is_not_known_counts_nothing() -> None:
    assert least("z = Conv (x, w)", x="N, 2, H, W") == 0
