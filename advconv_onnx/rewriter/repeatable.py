"""Which nodes give the same results whenever they run on the same inputs."""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx import model as files

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        # of ONNX Runtime's own domain
        "BiasDropout",
        "BitmaskBiasDropout",
        "BitmaskDropout",
        "Sampling",
    }
)
"""Operators that draw random numbers; so does a Dropout that trains."""


def is_repeatable(node: ir.Node) -> bool:
    """Whether a node may run once instead of several times.

    That is so if neither it nor a node of its bodies draws random numbers, or is an operator that
    only a library of its author knows.
    """
    if node.domain not in files.RUNNABLE_DOMAINS or node.op_type in RANDOM:
        return False
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return False
    return all(is_repeatable(inner) for _, body in files.bodies(node) for inner in body)
