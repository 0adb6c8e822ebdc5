"""Clean-up with other packages: what it keeps, and what happens when it fails, hangs or dies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError, MissingDependencyError
from advconv_onnx.rewriter import simplify
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

W, X = normal(4, 3, 3, 3), normal(2, 3, 6, 7, seed=1)
LARGEST = 1 << 20


def run(model: ir.Model, **inputs: Any) -> np.ndarray:
    session = open_session(model, graph_optimizations=False, threads=1)
    (result, *_) = run_session(session, inputs or {"x": X}).values()
    return np.asarray(result)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for _, graph in files.graphs(model) for node in graph]


# tidy

UNTIDY = """<ir_version: 8, opset_import: ["" : 17, "unused" : 1]>
    g (float[N, 3, H, W] x) => (float[] z) {
        k = Constant <value = float[1] {2}> ()
        l = Constant <value = float[1] {2}> ()
        a = Identity(x)
        b = Mul(a, k)
        d = Mul(x, l)
        e = Relu(d)
        unused = Neg(e)
        z = Add(b, e)
    }"""


def test_tidy_brings_a_graph_into_its_shortest_spelling() -> None:
    model = parse(UNTIDY)
    tidied, failures = simplify.tidy(model)
    assert not failures
    assert operators(tidied) == ["Mul", "Relu", "Add"]
    assert len(tidied.graph.initializers) == 1
    assert tidied.opset_imports == {"": 17}
    assert all(node.name for node in tidied.graph)
    assert len(model.graph) == 8, "the model given stays as it is"
    assert np.array_equal(run(tidied), run(model))


def test_tidy_keeps_the_names_of_inputs_and_outputs() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y, float[N] z)'
        "{ y = Identity(x) z = Identity(w) }",
        w=normal(1),
    )
    tidied, _ = simplify.tidy(model)
    assert [value.name for value in tidied.graph.outputs] == ["y", "z"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)


def test_tidy_keeps_random_numbers_apart() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1000] x) => (float[1000] z)'
        "{ a = RandomNormalLike(x) b = RandomNormalLike(x) z = Sub(a, b) }"
    )
    tidied, _ = simplify.tidy(model)
    assert run(tidied, x=np.zeros(1000, np.float32)).any()


def test_tidy_keeps_an_output_that_is_returned_under_two_names() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y, float[N] z)'
        "{ y = Relu(x) z = Identity(y) }"
    )
    tidied, _ = simplify.tidy(model)
    assert [value.name for value in tidied.graph.outputs] == ["y", "z"]
    assert operators(tidied) == ["Relu", "Identity"]


BODY = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, H, W] x, bool p) => (float[] z) {
        y = Relu(x)
        i = Identity(y)
        z = If (p) <then_branch = t () => (float[] a) { a = Identity(y) },
                    else_branch = e () => (float[] b) { b = Neg(i) }>
    }"""


def test_an_identity_that_hands_an_outer_value_out_of_a_body_stays() -> None:
    model = parse(BODY)
    tidied, failures = simplify.tidy(model)
    assert not failures
    assert sorted(operators(tidied)) == ["Identity", "If", "Neg", "Relu"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)
    for choice in (True, False):
        inputs = {"x": X, "p": np.array(choice)}
        assert np.array_equal(run(tidied, **inputs), run(model, **inputs))


def test_an_identity_inside_a_body_or_a_function_goes() -> None:
    text = BODY.replace("a = Identity(y)", "h = Sigmoid(y) a = Identity(h)")
    tidied, _ = simplify.tidy(parse(text))
    assert sorted(operators(tidied)) == ["If", "Neg", "Relu", "Sigmoid"]
    onnx.checker.check_model(ir.to_proto(tidied), full_check=True)


class Failing(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph.remove(model.graph.node(-1))
        raise self.error

    error: Exception = IndexError("out of\nrange")


def test_a_pass_that_fails_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_TIDYING", (Failing(), *simplify._TIDYING))
    model, failures = simplify.tidy(parse(UNTIDY))
    assert failures == ("Failing: out of range",)
    assert operators(model) == ["Mul", "Relu", "Add"]


# fold_constants


def test_constant_expressions_are_computed_where_small() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, H, W] x) => (float[] z) {'
        "  a = Add(c, c) b = Mul(x, a) s = Shape(a) e = ConstantOfShape(big) f = ReduceMax(e) "
        "  h = Add(b, f) z = Identity(h) }",
        c=normal(3, 1, 1), big=np.array([1 << 11, 1 << 11]),
    )  # fmt: skip
    wanted = run(model)
    simplify.fold_constants(model, LARGEST)
    model, _ = simplify.tidy(model)
    assert "ConstantOfShape" in operators(model), "16 MB would bloat the file"
    assert operators(model).count("Add") == 1
    assert np.array_equal(run(model), wanted)


# raise_opset

OLD = """<ir_version: 4, opset_import: ["" : 9]>
    g (float[2, 3, 6, 7] x) => (float[] z, float[] v) {
        a = Conv(x, w)
        b = BatchNormalization(a, s, s, s, s)
        c = Clip <min = -0.5, max = 0.5> (b)
        d = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (c)
        e = Upsample <mode = "nearest"> (d, scales)
        f = Squeeze <axes = [0]> (row)
        h = Mul(e, f)
        i = ReduceMean <axes = [2, 3], keepdims = 1> (h)
        j = Softmax <axis = 1> (i)
        z, rest = Split <axis = 1, split = [1, 3]> (j)
        v = Dropout(h)
    }"""


@pytest.mark.parametrize("target", [14, 20])
def test_a_raised_opset_keeps_results(target: int) -> None:
    model = parse(
        OLD, w=W, s=abs(normal(4)), row=normal(1, 1), scales=np.array([1, 1, 2, 2], np.float32)
    )
    before = ir.to_proto(model).SerializeToString()
    raised = simplify.raise_opset(model, target)
    assert ir.to_proto(model).SerializeToString() == before
    assert files.opset(raised) == target
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    np.testing.assert_allclose(run(raised), run(model), rtol=1e-6)
    again = simplify.raise_opset(raised, 21)
    np.testing.assert_allclose(run(again), run(model), rtol=1e-6)


def test_an_operator_that_cannot_be_converted_is_an_error() -> None:
    model = parse(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[N] x) => (float[N] z) { z = Gelu(x) }'
    )
    with pytest.raises(CheckError, match="cannot be converted"):
        simplify.raise_opset(model, 9)


# onnxsim in a process of its own


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3, H, W] x) => (float[] z) {'
        "  a = Conv(x, w) b = BatchNormalization(a, s, s, s, s) d = Identity(b) z = Relu(d) }",
        w=W, s=abs(normal(4)),
    )  # fmt: skip


def test_onnxsim_simplifies_and_leaves_fusions_to_the_rules(model: ir.Model) -> None:
    simplified = simplify.simplify_apart(model, 60, None, LARGEST)
    assert operators(simplified) == ["Conv", "BatchNormalization", "Relu"]
    assert np.array_equal(run(simplified), run(model))


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.CompletedProcess[str]]:
    """Have the child run ``code``, with the source and target paths in ``sys.argv``."""
    done: list[subprocess.CompletedProcess[str]] = []
    original = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        done.append(
            original(
                [command[0], "-c", code, *command[command.index(simplify.__name__) + 1 :]],
                **options,
            )
        )
        return done[-1]

    monkeypatch.setattr(subprocess, "run", run)
    return done


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "ended with status -6: no message"),
        ("import sys; print('one\\ntwo', file=sys.stderr); sys.exit(3)", "status 3: two"),
        ("raise ValueError('bad graph')", "status 1: ValueError: bad graph"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9"),
        ("", "onnxsim wrote no model that loads: cannot read"),
        ("import sys; open(sys.argv[2], 'wb').write(b'no model')", "no ONNX model"),
    ],
)
def test_a_child_that_dies_or_writes_rubbish_is_an_error_of_one_line(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    child(monkeypatch, code)
    with pytest.raises(CheckError, match=reason) as error:
        simplify.simplify_apart(model, 60, None, LARGEST)
    assert "\n" not in str(error.value)


def test_a_child_that_hangs_is_killed(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    child(
        monkeypatch,
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)",
    )
    with pytest.raises(CheckError, match="took longer than 1 s and was stopped"):
        simplify.simplify_apart(model, 1, None, LARGEST)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_child_that_needs_more_memory_than_allowed_is_an_error(model: ir.Model) -> None:
    with pytest.raises(CheckError, match="onnxsim ended with status") as error:
        simplify.simplify_apart(model, 60, 0.05, LARGEST)
    assert "\n" not in str(error.value)


def test_a_missing_onnxsim_is_an_error_that_says_what_to_install(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxsim.py").write_text("raise ImportError('no module named onnxsim')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(MissingDependencyError, match="pip install onnxsim"):
        simplify.simplify_apart(model, 60, None, LARGEST)


def test_the_child_is_the_same_package_wherever_it_is_started(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in the current folder must not shadow what the child imports."""
    (tmp_path / "onnx.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert operators(simplify.simplify_apart(model, 60, None, LARGEST))


def test_weights_in_external_files_come_back_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = ir.to_proto(
        parse(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3, 6, 7] x) => (float[] z) '
            "{ a = Conv(x, w) b = Relu(a) z = Relu(b) }",
            w=W,
        )
    )
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    loaded = files.load(path)
    simplified = simplify.simplify_apart(loaded, 60, None, LARGEST)
    assert np.array_equal(run(simplified), run(loaded))


def test_onnxsim_neither_loses_nor_adds_metadata() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) <float[4] c = {1, 2, 3, 4}> {
            a = Relu(x)
            b = Transpose <perm = [1, 0]> (a)
            d = Transpose <perm = [1, 0]> (b)
            y = Mul(d, c)
        }"""
    )
    model.metadata_props["character"] = "a\nb"
    model.doc_string = "what it reads"
    relu = model.graph[0]
    relu.name, relu.doc_string, relu.metadata_props["from"] = "first", "kept", "a module"
    result = simplify.simplify_apart(model, 60, None, LARGEST)
    assert len(result.graph) == 2
    assert dict(result.metadata_props) == {"character": "a\nb"}
    assert result.doc_string == "what it reads"
    (found,) = [node for node in result.graph if node.op_type == "Relu"]
    assert (found.doc_string, found.metadata_props["from"]) == ("kept", "a module")


def test_onnxsim_is_not_run_where_it_would_merge_random_draws() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 4] y) {
            r = RandomNormalLike(x)
            q = RandomNormalLike(x)
            y = Sub(r, q)
        }"""
    )
    with pytest.raises(CheckError, match="independent draws of RandomNormalLike"):
        simplify.simplify_apart(model, 60, None, LARGEST)
    simplify.fold_constants(model, LARGEST)
    model, _ = simplify.tidy(model)
    assert [node.op_type for node in model.graph].count("RandomNormalLike") == 2
