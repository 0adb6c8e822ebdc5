"""Mutants of dilate_space_to_batch, and the positions that it follows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions import dilate_space_to_batch
from advconv_onnx.rewriter.fusions.dilate_space_to_batch import DilateSpaceToBatch
from advconv_onnx.rewriter.moving import moved
from advconv_onnx.rewriter.rule import NoSite, Site
from advconv_onnx.rewriter.sliding import Sliding
from advconv_onnx.runtime.reference import Reference
from tests.parsing import parse
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _swapped_dilations(sliding: Sliding) -> Sliding:
    return dataclasses.replace(sliding, dilations=sliding.dilations[::-1])


def _swapped_pads(sliding: Sliding) -> Sliding:
    return dataclasses.replace(sliding, begins=sliding.ends, ends=sliding.begins)


def _not_dilated(sliding: Sliding) -> Sliding:
    return dataclasses.replace(sliding, dilations=(1, 1), begins=(1, 1), ends=(1, 1))


@pytest.mark.parametrize(
    ("change", "example"),
    [(_swapped_dilations, 3), (_swapped_pads, 3), (_swapped_pads, 1), (_not_dilated, 0)],
)
def test_another_geometry_is_disproved(change: Any, example: int) -> None:
    def rewrite(self: DilateSpaceToBatch, op: Builder, plan: Any) -> ir.Value:
        x, convolution, sliding = plan
        return DilateSpaceToBatch.rewrite(self, op, (x, convolution, change(sliding)))

    mutant = mutate(DilateSpaceToBatch, rewrite=rewrite)
    assert_disproved(mutant, dilate_space_to_batch.EXAMPLES[example])


@pytest.mark.parametrize("miss", [1, 2])
def test_an_image_put_together_in_another_way_is_disproved(miss: int) -> None:
    def find(self: DilateSpaceToBatch, root: ir.Node, opset: int) -> Site[Any]:
        graph = root.graph
        assert graph is not None
        if root is not list(graph)[-1]:
            raise NoSite
        (conv,) = (node for node in graph if node.op_type == "Conv")
        sliding = Sliding((3, 3), (1, 1), (2, 2), (2, 2), (2, 2))
        return Site(tuple(graph), (graph.inputs[0], Convolution.of(conv), sliding))

    text, _ = dilate_space_to_batch.NEAR_MISSES[miss]
    assert_disproved(mutate(DilateSpaceToBatch, find=find), text)


@pytest.mark.parametrize(
    "node",
    [
        "Transpose <perm = [2, 0, 3, 1]> (x)",
        "Transpose (x)",
        "Reshape (x, shape)",
        "Flatten <axis = 2> (x)",
        "Unsqueeze (x, axes)",
        "Pad (x, pads)",
        "Slice (x, starts, ends, axes, steps)",
        "Slice (x, starts, ends)",
        "SpaceToDepth <blocksize = 2> (x)",
        "DepthToSpace <blocksize = 2> (x)",
        'DepthToSpace <blocksize = 2, mode = "CRD"> (x)',
    ],
)
def test_elements_move_as_in_the_reference(node: str) -> None:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[2, 8, 4, 6] x) => (float[] z)
        {{ z = {node} }}""",
        **{
            name: np.array(values)
            for name, values in {
                "shape": [0, -1, 2, 12],
                "pads": [0, 1, 2, 0, 0, 0, 3, 1],
                "starts": [1, -3],
                "ends": [2**31 - 1, -1],
                "axes": [1, 3],
                "steps": [3, 1],
            }.items()
            if name in node
        },
    )
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 6))
    (wanted,) = Reference(model).run({"x": x}).values()
    assert np.array_equal(moved(model.graph.node(0), x), wanted)
