"""A model that takes pictures and returns classes: pre- and post-processing inside the graph.

    y = conv((pixels * scale - mean) / std, w)
      = conv(pixels - mean / scale, w * scale / std)

The input becomes (N, height, width, channels) of uint8, in RGB as picture files have it, or grey.
What prepares pixels is put before the model as it is; then the fusions that fold into convolutions
fold it where that is exact, each site proved. So scale and std go into the weights, and so does the
order of channels. The mean goes into the bias where nothing is padded: a padded border stands for
the mean, not for black, which a bias cannot tell apart. Elsewhere it is subtracted from the pixels.
Resizing and cropping stay outside: what libraries mean by them differs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import InputError
from advconv_onnx.exporters import options
from advconv_onnx.optimizer.transaction import Fusing, fuse
from advconv_onnx.preprocessing import Preprocessing
from advconv_onnx.records import Artifact
from advconv_onnx.rewriter.fusions import (
    drop_neutral_constant,
    fold_affine_forward,
    fold_channels,
    fold_pad,
    merge_constants,
    merge_transposes,
    push_transposes,
)
from advconv_onnx.rewriter.simplify import settle
from advconv_onnx.runtime.validate import validate

_RULES = tuple(
    module.RULE
    for module in (
        drop_neutral_constant,
        fold_affine_forward,
        fold_channels,
        fold_pad,
        merge_constants,
        merge_transposes,
        push_transposes,
    )
)
"""Enough to fold what prepares pictures. All fusions could take apart what a clock has chosen."""

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_FLOATS = (*_HALVES, ir.DataType.FLOAT, ir.DataType.DOUBLE)

_MOVING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that change no number."""

_FOLDABLE = {"Sub": "the mean", "Gather": "the order of channels", "Mul": "the scale"}

_PER_AXIS = 13
"""First opset whose Softmax is over one axis, not over all from one on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.Options):
    """Also for what is put into the graph.

    Attributes:
        data: pictures are as the result takes them, uint8.
        preprocessing: what is done to a picture before the model sees it, without resize and crop;
            of a mapping, a layout that is missing follows from the input.
        picture_input: the input that is a picture, where several could be.
        postprocess: "argmax" for the index of the class, int64 whatever their number, or "softmax".
        scores_output: the output that it is done to, where there are several.
    """

    preprocessing: Preprocessing | Mapping[str, Any] | None = None
    picture_input: str | None = None
    postprocess: str | None = None
    scores_output: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be put into a graph.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        if self.preprocessing is None and self.postprocess is None:
            raise InputError(
                "--to onnx puts pre- and post-processing into the model: say which with --scale, "
                "--mean, --std, --channels, or --postprocess"
            )
        if self.postprocess not in (None, "argmax", "softmax"):
            raise InputError(f"--postprocess '{self.postprocess}' is unknown; use argmax, softmax")
        if any(how.resize or how.crop for how in self.ways):
            raise InputError(
                "--resize and --crop: not for --to onnx, which takes pictures of the model's own "
                "size; leave them out, and resize before the model runs"
            )
        for option, name, needed in (
            ("picture-input", self.picture_input, self.preprocessing),
            ("scores-output", self.scores_output, self.postprocess),
        ):
            if name is not None and needed is None:
                raise InputError(f"--{option}: nothing is done to it; leave it out")

    @property
    def ways(self) -> tuple[Preprocessing, ...]:
        """How pictures may be prepared: in one way or, where no layout is given, in one of two."""
        how = self.preprocessing
        if how is None or isinstance(how, Preprocessing):
            return () if how is None else (how,)
        layouts = ("NCHW", "NHWC")
        return tuple(Preprocessing.from_mapping({"layout": each, **how}) for each in layouts)


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    **wanted: Any,
) -> Artifact:
    """Write a model that prepares pictures itself, or says which class its scores mean.

    Args:
        model: path of an ONNX file, which is never modified.
        out: where the result goes; written whole or not at all.
        progress: called with the name of each stage as it begins.
        wanted: the fields of ``Options``.

    Raises:
        InputError: the file cannot be read or written, or has no such input or output.
        CheckError: the result computes something else.
    """
    asked = Options(**wanted)
    announce = progress or (lambda stage: None)
    plain = settle(asked.load(model, out))
    pictures, notes = None, []
    how = _chosen(plain, asked.ways)
    if how is not None:
        x = _picture_input(plain, how, asked.picture_input)
        pictures = x.name
        notes.append(_take_pictures(plain, x, how))
    if asked.postprocess is not None:
        _classify(plain, asked, how)
    announce("folding")
    plain = settle(plain)
    folded = fuse(plain, _RULES, seed=asked.seed)
    notes += _left_before(folded, pictures)
    announce("running in float64")
    evidence = asked.gather(plain)
    announce("validating")
    limits: dict[str, Any] = {"max_error": asked.limit(plain), "threads": asked.threads}
    found = options.accept(validate(plain, folded.model, evidence=evidence, **limits))
    announce("writing")
    written = files.save(folded.model, out)
    return options.artifact("onnx", written, found, notes=tuple(notes))


def _chosen(model: ir.Model, ways: Sequence[Preprocessing]) -> Preprocessing | None:
    """The first way in which some input surely has its channels; the first of all if none has."""
    for how in ways:
        fitting = (x.shape for x in model.graph.inputs if x.shape and _is_picture(x, how))
        if any(shape[_channel_axis(how)] == how.count for shape in fitting):
            return how
    return ways[0] if ways else None


def _picture_input(model: ir.Model, how: Preprocessing, wanted: str | None) -> ir.Value:
    """The input that takes pictures: the one that is asked for, or the only one that could be."""
    inputs = {value.name or "": value for value in model.graph.inputs}
    fitting = [name for name, value in inputs.items() if _is_picture(value, how)]
    if wanted is None and len(fitting) == 1:
        return inputs[fitting[0]]
    if wanted in fitting:
        return inputs[wanted]
    channels = f"{how.count} channel{'s' * (how.count > 1)} ({how.channels}, {how.layout})"
    if wanted in inputs or not fitting:
        which = f"input '{wanted}' is no" if wanted in inputs else "no input is a"
        raise InputError(
            f"{which} float tensor of 4 dimensions with {channels}, and not an output too; change "
            "--channels or --layout"
        )
    given = f"no input '{wanted}'" if wanted is not None else f"several inputs take {channels}"
    raise InputError(f"{given}; choose with --picture-input from {', '.join(fitting)}")


def _is_picture(value: ir.Value, how: Preprocessing) -> bool:
    if value.dtype not in _FLOATS or value.shape is None or len(value.shape) != 4:
        return False
    size = value.shape[_channel_axis(how)]
    return not value.is_graph_output() and (size == how.count or not isinstance(size, int))


def _channel_axis(how: Preprocessing | None) -> int:
    return 3 if how is not None and how.layout == "NHWC" else 1


def _take_pictures(model: ir.Model, x: ir.Value, how: Preprocessing) -> str:
    """Let an input be pictures, and prepare them for what reads it, in place.

    Returns:
        What a caller must know.
    """
    assert x.shape is not None
    is_last = _channel_axis(how) == 3
    sizes = [*(x.shape[:3] if is_last else (x.shape[0], *x.shape[2:])), how.count]
    pictures = ir.Value(name=x.name, shape=ir.Shape(sizes), type=ir.TensorType(ir.DataType.UINT8))
    readers = tuple(x.uses())
    y = _prepared(ir.tape.Tape(model.graph), pictures, how, x)
    for reader, index in readers:
        reader.replace_input_with(index, y)
    model.graph.inputs[model.graph.inputs.index(x)] = pictures
    model.graph.sort()
    order = "grey" if how.channels == "L" else "in RGB"
    return f"'{x.name}' takes pictures as uint8 {files.format_shape(ir.Shape(sizes))}, {order}"


def _prepared(tape: ir.tape.Tape, pictures: ir.Value, how: Preprocessing, x: ir.Value) -> ir.Value:
    """Pictures as what the model was made for, ``x``."""
    assert x.dtype is not None
    # Halves would round the weights that the factor is folded into.
    precise = ir.DataType.FLOAT if x.dtype in _HALVES else x.dtype
    order = np.arange(how.count)[:: -1 if how.channels == "BGR" else 1]
    mean, std = (np.broadcast_to(values, how.count) for values in (how.mean, how.std))

    def constant(array: np.ndarray) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.tensor(array)})

    def each(values: np.ndarray) -> ir.Value:
        return constant(values.reshape(-1, 1, 1).astype(precise.numpy()))

    # Bytes are transposed and not floats: they are fewer.
    y = tape.op("Transpose", [pictures], {"perm": [0, 3, 1, 2]})
    y = tape.op("Cast", [y], {"to": precise})
    y = tape.op("Sub", [y, each(mean[order] / how.scale)])
    if how.channels == "BGR":
        y = tape.op("Gather", [y, constant(order)], {"axis": 1})
    y = tape.op("Mul", [y, each(how.scale / std)])
    if precise != x.dtype:
        y = tape.op("Cast", [y], {"to": x.dtype})
    if how.layout == "NHWC":
        y = tape.op("Transpose", [y], {"perm": [0, 2, 3, 1]})
    return y


def _classify(model: ir.Model, asked: Options, how: Preprocessing | None) -> None:
    """Let an output be the classes or the probabilities that its scores mean, in place."""
    y = _scores(model, asked.scores_output)
    assert y.shape is not None
    tape, index = ir.tape.Tape(model.graph), model.graph.outputs.index(y)
    softmax = _softmax_axis(y, files.opset(model))
    axis = _class_axis(y, softmax, how)
    if asked.postprocess == "softmax" and _are_probabilities(y):
        raise InputError(
            f"--postprocess softmax: a Softmax makes output '{y.name}' already; leave it out"
        )
    if asked.postprocess == "argmax":
        # The largest score has the largest probability; rounding can only make them equal.
        node = y.producer()
        scores = y if node is None or softmax is None else node.inputs[0]
        made = tape.op("ArgMax", [scores], {"axis": axis, "keepdims": 0})
        made.type = ir.TensorType(ir.DataType.INT64)
    else:
        made = _softmax(tape, y, axis)
        made.type, made.shape = y.type, y.shape
    made.name, y.name = y.name, f"{y.name} scores"
    model.graph.outputs[index] = made


def _softmax(tape: ir.tape.Tape, y: ir.Value, axis: int) -> ir.Value:
    """Over one axis in any opset: before 13, Softmax takes all axes from one on together."""
    assert y.shape is not None
    last = len(y.shape) - 1
    swap = list(range(last + 1))
    swap[axis], swap[last] = last, axis
    if axis == last:
        return tape.op("Softmax", [y], {"axis": last})
    y = tape.op("Transpose", [y], {"perm": swap})
    y = tape.op("Softmax", [y], {"axis": last})
    return tape.op("Transpose", [y], {"perm": swap})


def _scores(model: ir.Model, wanted: str | None) -> ir.Value:
    """The output that is asked for, or the only one."""
    outputs = {value.name or "": value for value in model.graph.outputs}
    name = next(iter(outputs)) if wanted is None and len(outputs) == 1 else wanted
    if name not in outputs:
        given = f"no output '{name}'" if name is not None else "there are several outputs"
        raise InputError(f"{given}; choose with --scores-output from {', '.join(outputs)}")
    y = outputs[name]
    if y.dtype not in _FLOATS or y.shape is None or len(y.shape) < 2:
        raise InputError(
            f"--postprocess: output '{name}' is no float tensor of known rank with an axis for "
            "classes; choose another with --scores-output, or fix shapes with --input"
        )
    return y


def _class_axis(y: ir.Value, softmax: int | None, how: Preprocessing | None) -> int:
    """The axis of the classes: that of a Softmax which makes the scores, else that of channels."""
    assert y.shape is not None
    axis = min(_channel_axis(how), len(y.shape) - 1) if softmax is None else softmax
    if y.shape[axis] == 1:
        raise InputError(
            f"--postprocess: output '{y.name}' has only one class, {files.format_shape(y.shape)} "
            f"along axis {axis}; compare it with a threshold instead"
        )
    return axis


def _softmax_axis(y: ir.Value, opset: int) -> int | None:
    """The axis that a value was normalized over, if a Softmax over one axis makes it."""
    node = y.producer()
    if node is None or node.domain or node.op_type not in ("Softmax", "LogSoftmax"):
        return None
    assert y.shape is not None
    last = len(y.shape) - 1
    axis = node.attributes.get_int("axis", 1 if opset < _PER_AXIS else -1) % (last + 1)
    return axis if axis == last or opset >= _PER_AXIS else None


def _are_probabilities(y: ir.Value) -> bool:
    node = y.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def _left_before(folded: Fusing, pictures: str | None) -> Iterator[str]:
    """Say what is still done to the pixels themselves, and why."""
    folding = (fold_affine_forward.RULE.name, fold_channels.RULE.name)
    reasons = {
        name: record.reason
        for record in folded.refused
        if record.rule in folding
        for name in record.nodes
    }
    value = next((x for x in folded.model.graph.inputs if x.name == pictures), None)
    while value is not None and len(readers := value.consumers()) == 1:
        (node,) = readers
        value = node.outputs[0]
        if node.op_type in _FOLDABLE:
            known = (reasons.get(reader.name or "") for reader in value.consumers())
            reason = next(filter(None, known), "what reads it is no convolution")
            yield f"{_FOLDABLE[node.op_type]} stays before the first layer: {reason}"
        elif node.op_type not in ("Cast", "Transpose"):
            return
