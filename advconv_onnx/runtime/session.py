"""ONNX Runtime sessions on model files and on graphs in memory."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from advconv_onnx.errors import InputError
from advconv_onnx.runtime.engine import create_session

_INLINE_LIMIT = 1 << 27
"""Weights up to this many bytes are serialized in memory, which takes several copies of them; more
go through a file that ONNX Runtime maps."""


def open_session(
    model: ir.Model | os.PathLike[str],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    graph_optimizations: bool = True,
    prepacking: bool = True,
    profile_prefix: str | None = None,
    record_placement: bool = False,
) -> ort.InferenceSession:
    """Open a session on a file, or on a graph of any size with or without external data.

    Args:
        model: the file, or the graph, which stays as it is.
        provider: a name of ``providers.PROVIDERS``; nodes it cannot run go to the CPU.
        threads: intra-op threads; None for one per physical core this process may use.
        graph_optimizations: False runs the graph as it is written.
        prepacking: False runs on the weights as they are, without a copy laid out for speed.
        profile_prefix: where to write ONNX Runtime's profile; None for no profile.
        record_placement: keep which provider each node was given to.

    Raises:
        InputError: no such provider, fewer than one thread, or external data that is missing.
        MissingDependencyError: the provider does not work here; the message says what to install.
        CheckError: ONNX Runtime does not load the model.
    """
    entries = {"session.record_ep_graph_assignment_info": "1"} if record_placement else {}
    if not prepacking:
        entries["session.disable_prepacking"] = "1"
    create = functools.partial(
        create_session,
        provider=provider,
        threads=threads,
        graph_optimizations=graph_optimizations,
        profile_prefix=profile_prefix,
        entries=entries,
    )
    if not isinstance(model, ir.Model):
        return create(os.fspath(model), os.fspath(model))
    label = f"graph {model.graph.name!r}"
    if _fits_in_memory(model):
        return create(ir.to_proto(model).SerializeToString(), label)
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        path = Path(folder, "model.onnx")
        try:
            ir.save(model, path, external_data="model.data")
        except OSError as error:
            raise InputError(f"{label}: cannot copy its external data: {error}") from error
        return create(str(path), label)


def _fits_in_memory(model: ir.Model) -> bool:
    tensors = [
        value.const_value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    inline = not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return inline and sum(tensor.nbytes for tensor in tensors) <= _INLINE_LIMIT
