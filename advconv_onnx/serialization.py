"""Models as protobuf bytes, written weight by weight.

protobuf builds a message in memory, and then all of its bytes once more: two copies of the weights
besides the model's own. Here one weight at a time becomes a message. The bytes are the same.
"""

from __future__ import annotations

from typing import IO, TypeVar

import numpy as np
import onnx_ir as ir
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, TensorProto

_LENGTH_DELIMITED = 2
"""Wire type of messages inside messages."""

_KEPT = 1 << 12
"""Bytes of a message that is kept rather than made twice, once for its size."""

_GRAPH = ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER

_M = TypeVar("_M", bound=Message)


def write(model: ir.Model, file: IO[bytes]) -> None:
    """Write the bytes of ``ir.to_proto(model)``.

    Args:
        model: stays as it is; external weights are named, not copied.
        file: open for writing.
    """
    skeleton = _without_weights(model)
    model_head, model_tail = _split(skeleton, _GRAPH)
    graph_head, graph_tail = _split(skeleton.graph, _INITIALIZER)
    weights = [
        value for value in model.graph.initializers.values() if value.const_value is not None
    ]
    pieces = [_piece(value) for value in weights]
    sizes = [piece if isinstance(piece, int) else len(piece) for piece in pieces]
    framed = sum(len(_frame(_INITIALIZER, size)) + size for size in sizes)
    file.write(model_head)
    file.write(_frame(_GRAPH, len(graph_head) + framed + len(graph_tail)))
    file.write(graph_head)
    for value, piece, size in zip(weights, pieces, sizes, strict=True):
        file.write(_frame(_INITIALIZER, size))
        file.write(_message(value).SerializeToString() if isinstance(piece, int) else piece)
    file.write(graph_tail)
    file.write(model_tail)


def _without_weights(model: ir.Model) -> ModelProto:
    """The model's message but for the initializers of the main graph."""
    values = list(model.graph.initializers.values())
    tensors = [value.const_value for value in values]
    nothing = ir.tensor(np.zeros(0, np.float32))
    try:
        for value in values:
            value.const_value = nothing
        skeleton = ir.to_proto(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    del skeleton.graph.initializer[:]
    return skeleton


def _piece(value: ir.Value) -> bytes | int:
    """A small weight's bytes, only the size of a large one."""
    message = _message(value)
    size = message.ByteSize()
    return message.SerializeToString() if size < _KEPT else size


def _message(value: ir.Value) -> TensorProto:
    """The message of an initializer."""
    assert value.const_value is not None
    message: TensorProto = ir.to_proto(value.const_value)
    message.name = value.name or ""
    return message


def _split(message: Message, number: int) -> tuple[bytes, bytes]:
    """The bytes of the fields before and behind field ``number``: protobuf writes them in order."""
    head, tail = type(message)(), type(message)()
    head.CopyFrom(message)
    tail.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.number >= number:
            head.ClearField(field.name)
        if field.number <= number:
            tail.ClearField(field.name)
    return head.SerializeToString(), tail.SerializeToString()


def _frame(number: int, length: int) -> bytes:
    """What stands before a message of ``length`` bytes in field ``number``."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first; the top bit says that more follow."""
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
