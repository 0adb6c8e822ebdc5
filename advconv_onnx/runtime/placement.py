"""Which execution provider each node of a model is given to."""

from __future__ import annotations

import collections
import os

import onnx_ir as ir

from advconv_onnx.records import Placement
from advconv_onnx.runtime.providers import require
from advconv_onnx.runtime.session import open_session


def placement(model: ir.Model | os.PathLike[str], provider: str) -> Placement:
    """Ask ONNX Runtime where it puts the model's nodes; nothing is run.

    Nodes are those of the file after constant folding and before ONNX Runtime fuses them, bodies
    of If, Loop and Scan included. A node without a name appears as its operator type.

    Raises:
        InputError: no such provider.
        MissingDependencyError: the provider does not work here.
        CheckError: the model does not load.
    """
    session = open_session(model, provider=provider, record_placement=True)
    assigned = [
        (part.ep_name, node.name or node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    return count_nodes(assigned, require(provider).execution_provider)


def count_nodes(assigned: list[tuple[str, str]], wanted: str) -> Placement:
    """Count (execution provider, node name) pairs; name the nodes that are not on ``wanted``."""
    counts = collections.Counter(name for name, _ in assigned)
    return Placement(dict(counts), tuple(node for name, node in assigned if name != wanted))
