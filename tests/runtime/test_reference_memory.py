"""Large weights are neither copied nor widened all at once."""

from __future__ import annotations

import tracemalloc

import numpy as np

from advconv_onnx.runtime.reference import Reference
from tests.parsing import normal, parse

LAYERS = 32
TEXT = (
    '<ir_version: 8, opset_import: ["" : 18]> g (float[1,192,2,2] v0) => (float[1,192,2,2] y) {'
    + " ".join(f"v{i + 1} = Conv (v{i}, w{i})" for i in range(LAYERS))
    + f" y = Identity (v{LAYERS}) }}"
)
WEIGHTS = {f"w{i}": normal(192, 192, 1, 1, seed=i) / 8 for i in range(LAYERS)}


def test_memory_stays_below_that_of_the_weights() -> None:
    model = parse(TEXT, **WEIGHTS)
    x = {"v0": normal(1, 192, 2, 2, seed=99)}
    tracemalloc.start()
    Reference(model).run(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < sum(weight.nbytes for weight in WEIGHTS.values()) / 2


def test_large_weights_give_the_same_numbers() -> None:
    x = normal(1, 192, 2, 2, seed=99)
    expected = x.astype(np.float64)
    for weight in WEIGHTS.values():
        expected = np.einsum("mc,nchw->nmhw", weight[:, :, 0, 0].astype(np.float64), expected)
    found = Reference(parse(TEXT, **WEIGHTS)).run({"v0": x})["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_a_large_weight_can_be_asked_for_and_read_by_a_body() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (bool flag, float[256,256] x)
        => (float[256,256] y) { y = If (flag) <
            then_branch = then () => (float[256,256] t) { t = Add (x, w) },
            else_branch = other () => (float[256,256] u) { u = Sub (x, w) }> }"""
    x, w = normal(256, 256), normal(256, 256, seed=1)
    reference = Reference(parse(text, w=w))
    found = reference.run({"flag": np.array(True), "x": x}, ["y", "w"])
    assert found["y"].dtype == found["w"].dtype == np.float64
    np.testing.assert_array_equal(found["y"], x.astype(np.float64) + w)
    np.testing.assert_array_equal(found["w"], w.astype(np.float64))
