"""What the tests of passes over bodies share: comparing two models in ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.rewriter import simplify
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session


def operators(model: ir.Model, depth: int | None = None) -> Counter[str]:
    """How often each operator occurs, in all graphs or in those nested ``depth`` deep."""
    return Counter(
        node.op_type
        for path, graph in files.graphs(model)
        if depth in (None, (path.count("/") + 1) // 2)  # node/attribute/node/attribute
        for node in graph
    )


def applied(step: ir.passes.PassBase, model: ir.Model) -> ir.Model:
    """The model after one pass, cleaned up and named as every run does."""
    result = step(model.clone()).model
    for other in (simplify._REMOVE_UNUSED, simplify._SORT, simplify.FixNames()):
        other(result)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    return result


def assert_same(model: ir.Model, result: ir.Model, **inputs: np.ndarray) -> None:
    """Both models give the same to the bit, under the same names."""
    wanted, found = (
        run_session(open_session(each, graph_optimizations=False), inputs)
        for each in (model, result)
    )
    assert list(wanted) == list(found)
    for name, array in wanted.items():
        assert np.array_equal(array, found[name], equal_nan=True), name
