"""Which layer of a torch module an exported model first differs in."""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from advconv_onnx.exporters.torch_arguments import Tensors
from advconv_onnx.exporters.torch_conversion import spell_layer
from advconv_onnx.runtime.difference import Difference
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter writes the qualified names of the modules that a node belongs to."""


def layers_of(model: ir.Model) -> dict[str, str]:
    """The values that layers return, as far as a model as torch exports it tells.

    Returns:
        Qualified names of submodules by the names of values: of each submodule what its last node
        makes, and of several that end in one node, the innermost.
    """
    last: dict[str, ir.Node] = {}
    for node in model.graph:
        for name in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))[:-1]:
            last[name] = node
    return {value.name or "": name for name, node in last.items() for value in node.outputs}


def first_difference(
    model: ir.Model,
    layers: Mapping[str, str],
    module: torch.nn.Module,
    run_exactly: Callable[[Tensors], object],
    draw: Tensors,
    max_error: float,
) -> str:
    """Name the first layer that differs on one input, and the node of ONNX that computes it.

    Args:
        model: the exported model.
        layers: what ``layers_of`` found before it was made canonical.
        module: what it should be equal to.
        run_exactly: runs the module in float64.
        draw: inputs.
        max_error: largest difference allowed, relative to a tensor's range.

    Returns:
        "" when no layer does that both compute.
    """
    copy = model.clone()
    values = {value.name or "": value for node in copy.graph for value in node.outputs}
    watched = [name for name in values if name in layers]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[name] for name in watched)
    session = open_session(copy, graph_optimizations=False)
    found = run_session(session, {name: x.numpy(force=True) for name, x in draw.items()})
    with _recorded(module, set(layers.values())) as results:
        run_exactly(draw)
    for name in watched:
        errors = _errors(results.get(layers[name], ()), found[name], max_error)
        if errors and not min(errors) <= max_error:
            node = values[name].producer()
            assert node is not None
            layer = spell_layer(layers[name], type(module.get_submodule(layers[name])).__name__)
            return f"{layer}, in ONNX {node.op_type} '{node.name}'"
    return ""


@contextlib.contextmanager
def _recorded(module: torch.nn.Module, names: set[str]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Keep what submodules return, the last time they are called."""
    results: dict[str, list[torch.Tensor]] = {}
    with contextlib.ExitStack() as hooks:
        for name, part in module.named_modules():
            if name in names:
                hooks.enter_context(_hook(part, name, results))
        yield results


def _hook(
    part: torch.nn.Module, name: str, results: dict[str, list[torch.Tensor]]
) -> contextlib.AbstractContextManager[object]:
    def record(module: torch.nn.Module, args: object, result: object) -> None:
        leaves = pytree.tree_leaves(result)
        # Copies, as what follows may work in place.
        results[name] = [leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]

    return part.register_forward_hook(record)


def _errors(wanted: Sequence[torch.Tensor], found: np.ndarray, max_error: float) -> list[float]:
    """How far a value is from each tensor of as many elements; a simplifier may drop axes."""
    errors = []
    for tensor in wanted:
        want = tensor.numpy(force=True)
        if want.size == found.size:
            difference = Difference(bounds=None)
            difference.add(want, found.reshape(want.shape), None, typed=False)
            errors.append(math.inf if difference.problem else difference.error(max_error))
    return errors
