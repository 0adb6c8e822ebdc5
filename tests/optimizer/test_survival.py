"""What optimizing must not lose: operators nobody knows, names, metadata, doc strings, types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import advconv_onnx
from advconv_onnx import model as files
from advconv_onnx.errors import AdvconvError
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.records import Report
from advconv_onnx.rewriter import simplify
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal

Optimized = tuple[onnx.ModelProto, Report]


@pytest.fixture
def optimized(tmp_path: Path) -> Callable[[onnx.ModelProto], Optimized]:
    def run(model: onnx.ModelProto) -> Optimized:
        source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
        onnx.save(model, source)
        report = advconv_onnx.optimize(source, target, level="fuse")
        result = onnx.load(target)
        onnx.checker.check_model(result, full_check=True)
        return result, report

    return run


def read(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    )
    return model


def note(item: onnx.NodeProto | onnx.ValueInfoProto | onnx.GraphProto, text: str) -> None:
    """A doc string and metadata."""
    item.doc_string = f"about {text}"
    entry = item.metadata_props.add()
    entry.key, entry.value = "origin", text


def metadata(item: onnx.NodeProto | onnx.ValueInfoProto | onnx.GraphProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in item.metadata_props}


FOLDED = """<ir_version: 10, opset_import: ["" : 18],
             producer_name: "maker", producer_version: "1.2",
             domain: "org.example", model_version: 7, doc_string: "of the model">
    net (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] score, float[N, 4, 8, 8] other) {
        c = Conv <pads = [1, 1, 1, 1]> (image, w)
        n = BatchNormalization (c, s, s, s, s)
        score = Relu (n)
        e = Sigmoid (score)
        other = Identity (e)
    }"""


@pytest.fixture
def noted() -> onnx.ModelProto:
    model = read(FOLDED, w=normal(4, 3, 3, 3), s=np.abs(normal(4)) + 1)
    for name, node in zip(("conv", "norm", "act", "gate", "copy"), model.graph.node, strict=True):
        node.name = name
        note(node, name)
    for value in (*model.graph.input, *model.graph.output):
        note(value, value.name)
    note(model.graph, "net")
    entry = model.metadata_props.add()
    entry.key, entry.value = "classes", "cat,dog"
    annotation = model.graph.quantization_annotation.add()
    annotation.tensor_name = "score"
    parameter = annotation.quant_parameter_tensor_names.add()
    parameter.key, parameter.value = "SCALE_TENSOR", "w"
    return model


def test_the_model_its_graph_inputs_and_outputs_keep_what_is_noted_on_them(
    optimized: Callable[[onnx.ModelProto], Optimized], noted: onnx.ModelProto
) -> None:
    result, _ = optimized(noted)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(result, field) == getattr(noted, field), field
    assert [(e.key, e.value) for e in result.metadata_props] == [("classes", "cat,dog")]
    graph = result.graph
    assert (graph.name, graph.doc_string) == ("net", "about net")
    assert metadata(graph) == {"origin": "net"}
    values = {value.name: value for value in (*graph.input, *graph.output)}
    assert list(values) == ["image", "score", "other"]
    for name, value in values.items():
        assert value.doc_string == f"about {name}"
        assert metadata(value) == {"origin": name}
    assert noted.graph.quantization_annotation[0] in graph.quantization_annotation


def test_nodes_keep_names_metadata_and_doc_strings_merged_ones_those_of_all(
    optimized: Callable[[onnx.ModelProto], Optimized], noted: onnx.ModelProto
) -> None:
    noted.graph.node[0].metadata_props.add(key="namespace", value="backbone")
    result, report = optimized(noted)
    assert [r.rule for r in report.rewrites if r.nodes and r.status == "applied"] == [
        "fold_batchnorm"
    ]
    merged, act, gate = result.graph.node
    assert metadata(merged) == {
        "advconv_onnx.merged_nodes": "conv,norm",
        "advconv_onnx.rule": "fold_batchnorm",
        "origin": "norm",
        "namespace": "backbone",
    }
    assert merged.doc_string == "about norm"
    for node, name in ((act, "act"), (gate, "gate")):
        assert (node.name, node.doc_string) == (name, f"about {name}")
        assert metadata(node) == {"origin": name}


CUSTOM = """<ir_version: 8, opset_import: ["" : 17, "org.example" : 3]>
    net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        n = BatchNormalization (c, s, s, s, s)
        a = org.example.Attend <heads = 2, mode = "fast"> (n, k)
        b = org.example.Attend <heads = 2, mode = "fast"> (n, k)
        t = Add (a, b)
        y = Relu (t)
    }"""


def test_operators_nobody_knows_survive_and_the_others_are_still_rewritten(
    optimized: Callable[[onnx.ModelProto], Optimized],
) -> None:
    model = read(CUSTOM, w=normal(4, 3, 3, 3), s=np.abs(normal(4)) + 1, k=normal(4))
    for index in (2, 3):
        model.graph.node[index].name = f"attend.{index}"
        note(model.graph.node[index], f"attend.{index}")
    result, report = optimized(model)
    assert {"fold_batchnorm"} <= {r.rule for r in report.rewrites if r.status == "applied"}
    assert ("org.example", 3) in {(o.domain, o.version) for o in result.opset_import}
    kept = [node for node in result.graph.node if node.domain == "org.example"]
    for node, old in zip(kept, model.graph.node[2:4], strict=True):
        assert (node.name, node.op_type, node.doc_string) == (old.name, old.op_type, old.doc_string)
        assert list(node.attribute) == list(old.attribute)
        assert metadata(node) == metadata(old)


FUNCTION = """<ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
    net (float[2, 3, 4] x) => (float[2, 3, 4] y) {
        a = Identity (x)
        [gate] b = com.microsoft.SwishOfTheAuthor (a)
        y = Relu (b)
    }
    <opset_import: ["" : 18], domain: "com.microsoft", doc_string: "x * Sigmoid(x)">
    SwishOfTheAuthor (u) => (v) { w = Sigmoid (u) v = Mul (u, w) }"""


def test_a_function_that_cannot_be_inlined_survives(
    optimized: Callable[[onnx.ModelProto], Optimized],
) -> None:
    """In its own domain, ONNX Runtime may have a faster kernel than the function's body."""
    model = read(FUNCTION)
    result, _ = optimized(model)
    assert [node.op_type for node in result.graph.node] == ["SwishOfTheAuthor", "Relu"]
    assert result.graph.node[0].name == "gate"
    (function,), (old,) = result.functions, model.functions
    assert (function.name, function.doc_string) == (old.name, old.doc_string)
    assert [node.op_type for node in function.node] == ["Sigmoid", "Mul"]
    assert list(result.opset_import) == list(model.opset_import)


TYPES: dict[str, tuple[str, object]] = {
    "a sequence": (
        """(seq(float[3]) v, float[3] x) => (float[3] y, seq(float[3]) t) {
        i = Identity (x) n = Constant <value_int = 0> () a = SequenceAt (v, n) y = Add (a, i)
        t = SequenceInsert (v, y) }""",
        [normal(3), normal(3, seed=1)],
    ),
    "an optional": (
        """(optional(float[3]) v, float[3] x) => (float[3] y, bool h) {
        i = Identity (x) h = OptionalHasElement (v) e = OptionalGetElement (v) y = Add (e, i) }""",
        normal(3),
    ),
    "strings": (
        """(string[3] v, float[3] x) => (float[3] y, string[3] t) {
        i = Identity (x) y = Exp (i) u = Identity (v) t = Identity (u) }""",
        np.array(["a", "b", "c"], object),
    ),
}


@pytest.mark.parametrize("kind", TYPES)
def test_values_that_are_no_tensors_of_numbers_survive(kind: str, tmp_path: Path) -> None:
    """Passes and rules leave them as they are; as a whole only what can be compared is written."""
    text, value = TYPES[kind]
    proto = read(f'<ir_version: 8, opset_import: ["" : 18]> net {text}')
    model = ir.from_proto(proto)
    settled = simplify.fold_constants(simplify.settle(model), 1 << 10)
    result = fuse(settled, all_rules(), seed=0).model
    assert files.count_nodes(result) < files.count_nodes(model)
    for values, wanted in (
        (result.graph.inputs, model.graph.inputs),
        (result.graph.outputs, model.graph.outputs),
    ):
        assert [(v.name, v.type) for v in values] == [(v.name, v.type) for v in wanted]
    inputs = {"v": value, "x": normal(3, seed=2)}
    wanted, found = (onnx_reference(m).run(None, inputs) for m in (model, result))
    for one, other in zip(wanted, found, strict=True):
        assert np.array_equal(one, other)
    onnx.save(proto, tmp_path / "in.onnx")
    with pytest.raises(AdvconvError, match="--data"):
        advconv_onnx.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", level="fuse")


def onnx_reference(model: ir.Model) -> ReferenceEvaluator:
    return ReferenceEvaluator(ir.to_proto(model))


def test_names_of_inputs_and_outputs_that_look_like_ours_are_kept(
    optimized: Callable[[onnx.ModelProto], Optimized],
) -> None:
    """New weights and values are called ``w_bias``, ``w_2`` and so on: all are taken here."""
    text = FOLDED.replace("image", "w_bias").replace("score", "w_2").replace("other", "w_bias_2")
    model = read(text, w=normal(4, 3, 3, 3), s=np.abs(normal(4)) + 1)
    result, _ = optimized(model)
    assert [value.name for value in result.graph.input] == ["w_bias"]
    assert [value.name for value in result.graph.output] == ["w_2", "w_bias_2"]
    x = normal(1, 3, 8, 8)
    wanted, found = (
        run_session(open_session(ir.from_proto(m)), {"w_bias": x}) for m in (model, result)
    )
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)
