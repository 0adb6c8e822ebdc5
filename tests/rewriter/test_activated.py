"""A convolution with the activation behind it: where a site ends, and the same one elsewhere."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.activated import ACTIVATIONS, activate, activated
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite
from tests.parsing import normal, parse


def nodes_of(nodes: str, outputs: str = "float[] z") -> dict[str, ir.Node]:
    """By what they make."""
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4, H, W] x) => ({outputs})
        <float low = {{0}}, float high = {{6}}> {{ {nodes} }}""",
        w=normal(4, 4, 3, 2),
    )
    return {str(node.outputs[0].name): node for node in model.graph}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("kind", sorted(ACTIVATIONS))
def test_activation_that_alone_reads_it(kind: str, op: str) -> None:
    made = nodes_of(f"y = {op}(x, w) z = {kind}(y)")
    assert activated(made["z"]) == (made["y"], made["z"])
    with pytest.raises(NoSite):
        activated(made["y"])


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("y = Conv(x, w)", "float[] y"),
        ("y = Conv(x, w) z = Softmax(y)", "float[] z"),
        ("y = Conv(x, w) a = Relu(y) z = Mul(a, y)", "float[] z"),
        ("y = Conv(x, w) z = Relu(y)", "float[] z, float[] y"),
    ],
)
def test_site_that_ends_in_the_convolution(nodes: str, outputs: str) -> None:
    made = nodes_of(nodes, outputs)
    assert activated(made["y"]) == (made["y"], None)


def test_activation_of_something_else_is_no_site() -> None:
    with pytest.raises(NoSite):
        activated(nodes_of("y = Softmax(x) z = Relu(y)")["z"])


def test_activation_in_a_body_stays_there() -> None:
    body = "z = If (c) <then_branch = t () => (float[] a) { a = Relu(y) }, "
    body += "else_branch = e () => (float[] b) { b = Relu(x) }>"
    made = nodes_of(f"c = Constant <value = bool {{1}}> () y = Conv(x, w) {body}")
    assert activated(made["y"]) == (made["y"], None)
    with pytest.raises(NoSite):
        activated(made["z"].attributes["then_branch"].as_graph().node(0))


@pytest.mark.parametrize("activation", ["LeakyRelu <alpha = 0.3> (y)", "Clip(y, low, high)"])
def test_the_same_activation_of_another_value(activation: str) -> None:
    old = nodes_of(f"y = Conv(x, w) z = {activation}")["z"]
    op, x = Builder(18, []), ir.Value(name="other")
    new = activate(op, x, old).producer()
    assert op.nodes == [new]
    assert new is not None
    assert new.op_type == old.op_type
    assert new.attributes == old.attributes
    assert tuple(new.inputs) == (x, *old.inputs[1:])


def test_no_activation_builds_nothing() -> None:
    op, x = Builder(18, []), ir.Value(name="x")
    assert activate(op, x, None) is x
    assert not op.nodes
