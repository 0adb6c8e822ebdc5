"""One-dimensional regions lifted: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.optimizer.contest import find_choices
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.forms import lift_conv1d
from advconv_onnx.rewriter.forms.lift_conv1d import FORMS
from advconv_onnx.rewriter.proposal import Proposal, Refusal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

(FORM,) = FORMS
PADDED = "Conv <pads = [1, 1]>"


def network(
    nodes: str,
    kernel: int = 3,
    group: int = 1,
    channels: int = 8,
    shape: str = "2, 8, 20",
    out: str = "float[] z",
    opset: int = 18,
) -> ir.Model:
    """Nodes that read an input ``x`` and weights of square convolutions."""
    return parse(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[{shape}] x) => ({out}) {{ {nodes} }}""",
        w=normal(channels, channels // group, kernel),
        v=normal(channels, channels, 3, seed=1),
        b=normal(channels, seed=2),
        c=normal(channels, 1, seed=3),
    )


def proposed(model: ir.Model, opset: int = 18) -> Proposal:
    made = propose(FORM, model.graph[-1], opset)
    assert isinstance(made, Proposal)
    return made


def sites(model: ir.Model) -> list[list[str]]:
    """The operators of each site that is lifted, their order left out."""
    for index, node in enumerate(model.graph):
        node.name = f"n{index}"
    types = {node.name: node.op_type for node in model.graph}
    choices, _ = find_choices(model, FORMS, Prover({"": 18}, 0))
    return [sorted(types[name] for name in choice.nodes) for choice in choices]


def check(data: st.DataObject) -> None:
    kernel = data.draw(st.integers(1, 7), label="kernel")
    stride = data.draw(st.integers(1, 4), label="stride")
    dilation = data.draw(st.integers(1, 24), label="dilation")
    group = data.draw(st.sampled_from((1, 2, 8)), label="group")
    pads = [data.draw(st.integers(0, 5), label="pad") for _ in range(2)]
    slides = data.draw(
        st.sampled_from((f"pads = {pads}", 'auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"'))
    )
    pool = slides if "auto" in slides else "pads = [0, 1]"
    behind = data.draw(
        st.sampled_from(
            (
                "z = LeakyRelu (y)",
                f"a = {PADDED} (y, v, b) z = Add (a, y)",
                f"a = MaxPool <kernel_shape = [2], {pool}> (y) z = {PADDED} (a, v)",
                "a = Mul (y, c) g = GlobalAveragePool (y) z = Sub (g, a)",
                "z = Concat <axis = 1> (y, y)",
            )
        )
    )
    conv = f"group = {group}, strides = [{stride}], dilations = [{dilation}], {slides}"
    size = max(1, dilation * (kernel - 1) + 1 - sum(pads)) + data.draw(st.integers(0, 9))
    channels = 32 if group == 2 else 8  # Other groups are not laid out in blocks.
    batch = data.draw(st.integers(1, 3), label="batch")
    nodes = f"y = Conv <{conv}> (x, w, b) {behind}"
    model = network(nodes, kernel, group, channels, f"{batch}, {channels}, {size}")
    assert "exact" in Prover({"": 18}, 0).certify(proposed(model))
    gap = gap_after(model, lambda node: propose(FORM, node, 18))
    assert gap is None or gap <= 1e-12


test_certified_and_equal, test_certified_and_equal_long = sweep(check, st.data(), 30, 600)


def test_a_map_smaller_than_the_kernel_is_compared() -> None:
    model = network("z = Conv <pads = [4, 3]> (x, w, b)", kernel=7, shape="1, 8, 2")
    gap = gap_after(model, lambda node: propose(FORM, node, 18))
    assert gap is not None
    assert gap <= 1e-12


RESIDUAL = f"y = {PADDED} (x, w, b) r = Relu (y) a = {PADDED} (r, v) z = Add (a, r)"


def test_regions_are_as_large_as_can_be() -> None:
    assert sites(network(RESIDUAL)) == [["Add", "Conv", "Conv", "Relu"]]
    # What comes before the first convolution gains nothing, and what cannot be lifted ends it.
    bounded = "s = Sigmoid (x) y = Conv (s, w) t = Softmax (y) u = Conv (t, v) z = Tanh (u)"
    assert sites(network(bounded)) == [["Conv"], ["Conv", "Tanh"]]
    assert sites(network("y = Conv (x, w) r = Relu (y) z = Flatten (r)")) == [["Conv", "Relu"]]


def test_what_something_else_reads_ends_a_region() -> None:
    returned = network(RESIDUAL, out="float[] z, float[] r")
    assert sites(returned) == [["Conv", "Relu"], ["Add", "Conv"]]
    forked = f"y = {PADDED} (x, w) r = Relu (y) t = Softmax (y) z = Add (r, t)"
    assert sites(network(forked)) == [["Conv"]]
    assert sites(network(f"{RESIDUAL} u = Split <num_outputs = 2> (r)")) == [
        ["Conv", "Relu"],
        ["Add", "Conv"],
    ]


def test_ranks_are_known_from_convolutions() -> None:
    model = network("y = Conv (x, w) r = Relu (y) z = Conv (r, v)")
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        value.shape = None
    assert sites(model) == [["Conv", "Conv", "Relu"]]
    unknown = network("y = Conv (x, w) z = Add (y, u)")
    unknown.graph[-1].replace_input_with(1, ir.Value(name="u"))
    assert sites(unknown) == [["Conv"]]


def test_each_input_gets_the_axis_once_and_the_result_loses_it() -> None:
    made = [
        node.op_type for node in proposed(network(f"y = {PADDED} (x, w) z = Add (y, x)")).new_nodes
    ]
    assert made == ["Unsqueeze", "Conv", "Add", "Squeeze"]
    old = network("z = Conv (x, w)", opset=11)
    assert proposed(old, 11).new_nodes[0].attributes.get_ints("axes") == (2,)


def test_refused_where_nothing_would_be_in_blocks() -> None:
    odd = network("z = Conv (x, w)", channels=9, shape="1, 9, 20")
    made = propose(FORM, odd.graph[-1], 18)
    assert isinstance(made, Refusal)
    assert "blocks" in made.reason
    thin = network("z = Conv <group = 2> (x, w)", group=2)
    assert isinstance(propose(FORM, thin.graph[-1], 18), Refusal)


def changed(**attributes: list[int]) -> Any:
    """A lifting with other attributes wherever a node has them."""
    own = lift_conv1d._lifted

    def lifted(op: Any, node: ir.Node, new: Mapping[ir.Value, ir.Value]) -> ir.Value:
        value = own(op, node, new)
        made = value.producer()
        assert made is not None
        for name, ints in attributes.items():
            if name in made.attributes:
                made.attributes.add(ir.AttrInt64s(name, ints))
        return value

    return lifted


SLIDING = "z = Conv <pads = [2, 1], strides = [2], dilations = [3]> (x, w, b)"


@pytest.mark.parametrize(
    "wrong",
    [
        {"pads": [0, 1, 0, 2]},
        {"pads": [1, 2, 1, 1]},
        {"pads": [0, 2, 0, 0]},
        {"strides": [1, 1]},
        {"dilations": [1, 2]},
    ],
    ids=str,
)
def test_wrong_windows_are_not_certified(
    wrong: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lift_conv1d, "_lifted", changed(**wrong))
    for nodes in (SLIDING, f"y = {PADDED} (x, w) {SLIDING.replace('x, w', 'y, v')}"):
        with pytest.raises(Disproved):
            Prover({"": 18}, 0).certify(proposed(network(nodes)))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_constant", lambda op, value: value),
        ("_NEW", 3),
    ],
)
def test_other_mistakes_are_found(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lift_conv1d, name, wrong)
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).prove(proposed(network("y = Conv (x, w, b) z = Mul (y, c)")))


def test_pools_are_certified_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("y = Conv (x, w) z = MaxPool <kernel_shape = [3], strides = [2]> (y)")
    assert Prover({"": 18}, 0).certify(proposed(model)).count("new axis") == 2
    monkeypatch.setattr(lift_conv1d, "_lifted", changed(strides=[1, 3]))
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).certify(proposed(model))
